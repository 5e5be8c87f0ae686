//! The Azure SQL pool against the emulator, with a manual clock.
#![cfg(all(feature = "azure-sql", feature = "postgres"))]
#![allow(clippy::disallowed_methods)] // Servers run in real time.

mod acknowledgements;
mod bad_input;
#[path = "../../emulator/tests/front_azure_sql/borders.rs"]
mod borders;
mod cancellation;
mod config;
#[cfg(target_os = "linux")]
mod endurance;
mod engine;
mod faults;
mod front;
mod hostile;
mod isolation;
mod login;
mod logs;
mod outages;
mod pools;
mod recycling;
mod retries;
mod returns;
mod server_errors;
mod sessions;
mod splits;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod transactions;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use engine::Engine;
use entra_pool::{
    azure_sql::{Client, Config, Connection, Connector, Error, Pool, Recycling, tiberius},
    clock::ManualClock,
    connect::RetireReason,
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::{Identity, Scope, TokenCredential},
};
use entra_pool_emulator::{
    azure_sql::{AzureSqlOptions, AzureSqlServer, Counters, ServerError},
    database::Database,
    emulator::Emulator,
};

/// The resource of tokens for Azure SQL.
const RESOURCE: &str = "https://database.windows.net";

/// The emulator, an identity that it knows, and the identity's clock.
struct Shop {
    emulator: Emulator,
    /// Replaces the emulator's own server.
    engine: Option<Engine>,
    clock: ManualClock,
    identity: Identity,
}

impl Shop {
    async fn open() -> Self {
        let emulator = Emulator::start().await.unwrap();
        let clock = ManualClock::at(SystemTime::now());
        let credential = credential(&emulator);
        let identity = Identity::builder(credential).clock(clock.clone()).build();
        let engine = Engine::start(&emulator).await;
        let shop = Self { emulator, engine, clock, identity };
        if shop.engine.as_ref().is_some_and(Engine::is_sql_server) {
            engine::create_database(&shop).await;
        }
        shop
    }

    /// The same shop with another identity.
    fn with_identity(mut self, credential: impl TokenCredential) -> Self {
        self.identity = Identity::builder(credential).clock(self.clock.clone()).build();
        self
    }

    fn server(&self) -> &AzureSqlServer {
        self.engine.as_ref().map_or(self.emulator.azure_sql(), Engine::front)
    }

    /// The connection string of the server.
    fn string(&self) -> String {
        let port = |server: &AzureSqlServer| format!("localhost,{}", server.addr().port());
        let (own, used) = (port(self.emulator.azure_sql()), port(self.server()));
        self.emulator.azure_sql_string().replace(&own, &used)
    }

    fn counters(&self) -> Counters {
        let mut counters = self.server().counters();
        if self.engine.is_some() {
            // Only the engine counts resets. The pool checks their acknowledgements.
            counters.resets = counters.reset_bits;
        }
        counters
    }

    fn token_requests(&self) -> u64 {
        self.emulator.identity().requests_for(RESOURCE)
    }

    /// A connector to the emulator, with `more` keywords.
    fn connector(&self, more: &str) -> Connector {
        self.connector_of(&format!("{};{more}", self.string()))
    }

    /// A connector to any server that has a certificate of the emulator's authority.
    fn connector_to(&self, host: &str, port: u16, more: &str) -> Connector {
        self.connector_of(&format!(
            "Server=tcp:{host},{port};Database=orders;TrustServerCertificateCA={};Entra Scope={};{more}",
            self.emulator.ca_path().display(),
            Scope::AZURE_SQL,
        ))
    }

    /// Like [`connector`](Self::connector), but with pool maintenance, whose task is one more
    /// sleeper on the clock.
    fn maintained(&self, more: &str) -> Connector {
        let connector = self.connector(more);
        let config = connector.config().clone().maintenance(true);
        Connector::new(config, connector.tokens().clone()).unwrap()
    }

    fn connector_of(&self, string: &str) -> Connector {
        let config = string.parse::<Config>().unwrap().maintenance(false);
        let tokens = self.identity.tokens(config.token_scope().unwrap());
        Connector::new(config, tokens).unwrap()
    }

    /// A pool of one connection, so that a borrower gets that of the previous one.
    fn pool_of_one(&self, recycling: Recycling) -> (Pool, Connector) {
        let connector = recycled(&self.connector(""), recycling);
        (pool(&connector, 1), connector)
    }

    /// A second server, with a certificate for `name` and its own settings.
    async fn another_server(
        &self,
        name: &str,
        change: impl FnOnce(&mut AzureSqlOptions),
    ) -> AzureSqlServer {
        let mut options = AzureSqlOptions::new(
            Arc::clone(self.emulator.issuer()),
            Arc::clone(self.emulator.directory()),
            Arc::new(Database::new().unwrap()),
            self.emulator.authority().issue(&[name]).unwrap().server_config().unwrap(),
        );
        change(&mut options);
        AzureSqlServer::start(options).await.unwrap()
    }
}

/// The emulator's user-assigned identity.
fn credential(emulator: &Emulator) -> ManagedIdentity {
    let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
    let environment = Environment::from_pairs(emulator.identity().app_service_env());
    ManagedIdentity::user_assigned(id).environment(environment).build().unwrap()
}

/// A copy of `connector` with another recycling.
fn recycled(connector: &Connector, recycling: Recycling) -> Connector {
    let config = connector.config().clone().recycling(recycling);
    Connector::new(config, connector.tokens().clone()).unwrap()
}

fn pool(connector: &Connector, size: usize) -> Pool {
    connector.pool_builder().max_size(size).build()
}

/// The error of a connect. It and its sources contain no token.
async fn refused(connector: &Connector) -> Error {
    let error = connector.connect().await.expect_err("the connect must fail");
    logs::assert_no_token(&support::credential::said(&error));
    error
}

/// Connects, and skips the pauses between attempts.
async fn without_pauses(shop: &Shop, connector: &Connector) -> Result<Connection, Error> {
    let connecting = connector.connect();
    tokio::pin!(connecting);
    let mut skipped = connector.report().retried;
    loop {
        // The time limit is also a sleeper.
        let pausing = until(|| connector.report().retried > skipped && shop.clock.sleepers() > 1);
        tokio::select! {
            biased;
            result = &mut connecting => return result,
            () = pausing => {}
        }
        skipped = connector.report().retried;
        shop.clock.advance(shop.clock.next_wake().unwrap());
    }
}

/// Like `refused`; the texts of the error and its sources contain all `facts`.
async fn refused_saying(connector: &Connector, facts: &[&str]) -> Error {
    let error = refused(connector).await;
    let said = support::credential::said(&error);
    for fact in facts {
        assert!(said.contains(fact), "{fact} is missing: {said}");
    }
    error
}

fn login_failed() -> ServerError {
    ServerError::new(18456, 14, "Login failed for user '<token-identified principal>'.")
}

async fn number(client: &mut Client, sql: &str) -> i32 {
    let row = client.simple_query(sql).await.unwrap().into_row().await.unwrap().unwrap();
    row.get(0).unwrap_or_else(|| panic!("{sql}: NULL"))
}

async fn text(client: &mut Client, sql: &str) -> Option<String> {
    let row = client.simple_query(sql).await.unwrap().into_row().await.unwrap().unwrap();
    row.get::<&str, _>(0).map(str::to_owned)
}

async fn run(client: &mut Client, sql: &str) {
    client.simple_query(sql).await.unwrap().into_results().await.unwrap();
}

/// The error of SQL that must fail.
async fn failure(client: &mut Client, sql: &str) -> tiberius::error::Error {
    match client.simple_query(sql).await {
        Ok(stream) => stream.into_results().await.expect_err(sql),
        Err(error) => error,
    }
}

/// The ID of the connection's session.
async fn session(connection: &mut Connection) -> i32 {
    number(connection, "SELECT CAST(@@SPID AS int)").await
}

fn retired(connector: &Connector) -> Vec<(RetireReason, u64)> {
    connector.report().retired
}

/// Runs other tasks until `done` is true.
async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    // In real time, so that a condition that is never met fails the test.
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, waiting).await.expect("the condition is met within a minute");
}
