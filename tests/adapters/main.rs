//! The adapters: Azure SQL's against the emulator, PostgreSQL's against a server
//! of the test's own.
#![cfg(unix)]
#![allow(clippy::disallowed_methods)] // A server lives in real time.

mod bb8_azure_sql;
mod bb8_postgres;
mod diesel;
mod silent;
mod sqlx;
#[path = "../support/mod.rs"]
mod support;

use std::time::SystemTime;

use entra_pool::{
    clock::ManualClock,
    postgres::{Config, Connector},
    token::Identity,
};
use support::{credential::TestCredential, front::PostgresService};
use tokio::sync::OnceCell;

/// One server for all tests here; each has roles of its own.
async fn server() -> &'static PostgresService {
    static SERVER: OnceCell<PostgresService> = OnceCell::const_new();
    SERVER.get_or_init(PostgresService::start).await
}

/// A role that the server lets in, and the time it lives in.
struct Guest {
    credential: TestCredential,
    clock: ManualClock,
    connector: Connector,
}

impl Guest {
    async fn new(role: &str) -> Self {
        Self::with(role, |config| config).await
    }

    async fn with(role: &str, change: impl FnOnce(Config) -> Config) -> Self {
        let guest = Self::stranger(role, change).await;
        server().await.create_principal(guest.credential.principal()).await;
        guest
    }

    /// A role that the server does not know.
    async fn stranger(role: &str, change: impl FnOnce(Config) -> Config) -> Self {
        let credential = TestCredential::new(role, 2_000);
        let clock = ManualClock::at(SystemTime::now());
        let identity = Identity::builder(credential.clone()).clock(clock.clone()).build();
        let config: Config = change(server().await.url(role).parse().unwrap());
        let tokens = identity.tokens(config.token_scope().unwrap());
        Self { credential, clock, connector: Connector::new(config, tokens).unwrap() }
    }

    /// The server takes the next token only, which nobody has yet.
    fn rotate(&self) {
        self.credential.rotate();
    }

    /// Whom its connections were not lent again, in numbers.
    fn retired(&self) -> u64 {
        self.connector.report().retired.iter().map(|(_, times)| times).sum()
    }
}

/// What one borrower leaves behind, all of which the next must not see.
const TRACES: &str = "CREATE TEMP TABLE bill (total int); SET work_mem = '1MB'; \
                      SET app.tenant = 'a'; SELECT pg_advisory_lock(4711)";

/// The traces that are left, for a row of one column of text.
const TRACES_LEFT: &str = "SELECT concat_ws(',', to_regclass('bill')::text, \
     nullif(current_setting('work_mem'), '4MB'), nullif(current_setting('app.tenant', true), ''), \
     (SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()))";

fn shared<T: Send + Sync + 'static>() {}

#[test]
fn what_is_public_goes_between_threads() {
    use entra_pool::adapters::{bb8, sqlx};

    shared::<bb8::azure_sql::Pool>();
    shared::<bb8::postgres::Pool>();
    shared::<bb8::postgres::Manager>();
    shared::<bb8::postgres::Connection>();
    shared::<sqlx::Pool>();
}

/// Lets everything else run until `done`.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

/// Lets everything else run until the server says so.
async fn until_true(sql: &str) {
    while server().await.value(sql).await.as_deref() != Some("t") {}
}
