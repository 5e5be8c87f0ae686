//! The adapter for Microsoft's driver, against the emulator and against Microsoft's server.
#![allow(clippy::disallowed_methods)] // The servers run in real time.

mod cancellation;
#[path = "../../../support/credential.rs"]
#[allow(dead_code)] // Other tests use the rest.
mod credential;
mod faults;
mod isolation;
mod logins;
#[path = "../../../support/logs.rs"]
mod logs;
mod mock;
mod sessions;
mod trust;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool::{
    adapters::mssql_tds::{
        Connector, Pool,
        mssql_tds::{
            connection::tds_client::{ResultSet, TdsClient},
            core::TdsResult,
            datatypes::column_values::ColumnValues,
            error::Error as DriverError,
        },
    },
    azure_sql::Config,
    clock::ManualClock,
    connect::RetireReason,
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::{Identity, Scope},
};
use entra_pool_emulator::{
    azure_sql::{AzureSqlOptions, AzureSqlServer, Counters},
    database::Database,
    emulator::Emulator,
};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3_600);

/// The emulator, and a server with a pinned certificate: the driver does not accept other roots.
struct Shop {
    emulator: Emulator,
    server: AzureSqlServer,
    folder: TempDir,
    clock: ManualClock,
    identity: Identity,
}

impl Shop {
    async fn open() -> Self {
        let emulator = Emulator::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = emulator.authority().issue(&["localhost"]).unwrap();
        certificate.write_to(folder.path()).unwrap();
        let options = AzureSqlOptions::new(
            Arc::clone(emulator.issuer()),
            Arc::clone(emulator.directory()),
            Arc::new(Database::new().unwrap()),
            certificate.server_config().unwrap(),
        );
        let server = AzureSqlServer::start(options).await.unwrap();
        let clock = ManualClock::at(SystemTime::now());
        let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
        let environment = Environment::from_pairs(emulator.identity().app_service_env());
        let credential = ManagedIdentity::user_assigned(id).environment(environment).build();
        let identity = Identity::builder(credential.unwrap()).clock(clock.clone()).build();
        Self { emulator, server, folder, clock, identity }
    }

    fn counters(&self) -> Counters {
        self.server.counters()
    }

    fn connector(&self, more: &str) -> Connector {
        self.connector_to(self.server.addr().port(), more, |config| config)
    }

    fn connector_to(
        &self,
        port: u16,
        more: &str,
        change: impl FnOnce(Config) -> Config,
    ) -> Connector {
        let pinned = self.folder.path().join("server.crt");
        let config: Config = format!(
            "Server=tcp:localhost,{port};Database=orders;ServerCertificate={};Entra Scope={};{more}",
            pinned.display(),
            Scope::AZURE_SQL,
        )
        .parse()
        .unwrap();
        let tokens = self.identity.tokens(config.token_scope().unwrap());
        Connector::new(change(config.maintenance(false)), tokens).unwrap()
    }

    /// A pool of one connection, so that each checkout gets the same one.
    fn pool_of_one(&self) -> (Pool, Connector) {
        let connector = self.connector("");
        (connector.pool_builder().max_size(1).build(), connector)
    }
}

async fn rows(client: &mut TdsClient, sql: &str) -> TdsResult<Vec<Vec<ColumnValues>>> {
    client.execute(sql.to_owned(), ()).await?;
    let mut found = Vec::new();
    let mut on_rows = client.on_rows() || client.advance_to_rows().await?;
    while on_rows {
        while let Some(row) = client.next_row().await? {
            found.push(row);
        }
        on_rows = client.advance_to_rows().await?;
    }
    client.close_query().await?;
    Ok(found)
}

async fn run(client: &mut TdsClient, sql: &str) {
    rows(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn value(client: &mut TdsClient, sql: &str) -> ColumnValues {
    let found = rows(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    found.into_iter().flatten().next().unwrap_or_else(|| panic!("{sql}: no row"))
}

async fn number(client: &mut TdsClient, sql: &str) -> i32 {
    match value(client, sql).await {
        ColumnValues::Int(number) => number,
        other => panic!("{sql}: {other:?}"),
    }
}

async fn text(client: &mut TdsClient, sql: &str) -> Option<String> {
    as_text(&value(client, sql).await)
}

fn as_text(value: &ColumnValues) -> Option<String> {
    match value {
        ColumnValues::String(text) => Some(text.to_utf8_string()),
        ColumnValues::Null => None,
        other => panic!("{other:?}"),
    }
}

/// Returns the number of the server's error.
fn code(error: &DriverError) -> Option<u32> {
    match error {
        DriverError::SqlServerError { diagnostics } => {
            diagnostics.errors.first().map(|error| error.number)
        }
        _ => None,
    }
}

/// Returns the ID of the session.
async fn session(client: &mut TdsClient) -> i32 {
    number(client, "SELECT CAST(@@SPID AS int)").await
}

fn retired(connector: &Connector) -> Vec<(RetireReason, u64)> {
    connector.report().retired
}

/// Lets other tasks run until `done`.
async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    // In real time, so that the test fails if the condition is never met.
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, waiting).await.expect("the condition is met within a minute");
}
