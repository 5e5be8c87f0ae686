//! The adapters: for Azure SQL against the emulator, for PostgreSQL against a server that the
//! tests start.
#![cfg(unix)]
#![allow(clippy::disallowed_methods)] // The servers run in real time.

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

/// One server for all of these tests; each test has its own roles.
async fn server() -> &'static PostgresService {
    static SERVER: OnceCell<PostgresService> = OnceCell::const_new();
    SERVER.get_or_init(PostgresService::start).await
}

/// A role with a credential, a clock and a connector.
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
        let guest = Self::unregistered(role, change).await;
        server().await.create_principal(guest.credential.principal()).await;
        guest
    }

    /// Creates a guest whose role does not exist.
    async fn unregistered(role: &str, change: impl FnOnce(Config) -> Config) -> Self {
        let credential = TestCredential::new(role, 2_000);
        let clock = ManualClock::at(SystemTime::now());
        let identity = Identity::builder(credential.clone()).clock(clock.clone()).build();
        let config: Config = change(server().await.url(role).parse().unwrap());
        let tokens = identity.tokens(config.token_scope().unwrap());
        Self { credential, clock, connector: Connector::new(config, tokens).unwrap() }
    }

    /// From now on, the server accepts only the next token.
    fn rotate(&self) {
        self.credential.rotate();
    }

    /// Returns the number of retired connections.
    fn retired(&self) -> u64 {
        self.connector.report().retired.iter().map(|(_, count)| count).sum()
    }
}

/// Session state of one caller, which the next caller must not see.
const TRACES: &str = "CREATE TEMP TABLE bill (total int); SET work_mem = '1MB'; \
                      SET app.tenant = 'a'; SELECT pg_advisory_lock(4711)";

/// Selects the remaining traces as one text column.
const TRACES_LEFT: &str = "SELECT concat_ws(',', to_regclass('bill')::text, \
     nullif(current_setting('work_mem'), '4MB'), nullif(current_setting('app.tenant', true), ''), \
     (SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()))";

fn assert_send_and_sync<T: Send + Sync + 'static>() {}

#[test]
fn public_types_can_be_shared_between_threads() {
    use entra_pool::adapters::{bb8, sqlx};

    assert_send_and_sync::<bb8::azure_sql::Pool>();
    assert_send_and_sync::<bb8::postgres::Pool>();
    assert_send_and_sync::<bb8::postgres::Manager>();
    assert_send_and_sync::<bb8::postgres::Connection>();
    assert_send_and_sync::<sqlx::Pool>();
}

/// Lets other tasks run until `done`.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

/// Waits until the server returns true.
async fn until_true(sql: &str) {
    while server().await.value(sql).await.as_deref() != Some("t") {}
}
