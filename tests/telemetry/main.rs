//! Spans, events and metrics, against the emulator, with a manual clock.
#![allow(clippy::disallowed_methods)] // Servers run in real time.

mod checkouts;
mod measured;
mod measuring;
mod spans;
#[path = "../support/mod.rs"]
mod support;
mod watching;

use std::time::{Duration, SystemTime};

use entra_pool::{
    azure_sql,
    clock::ManualClock,
    credential::{Environment, ManagedIdentity, UserAssignedId},
    postgres,
    token::Identity,
};
use entra_pool_emulator::{
    azure_sql::ServerError, emulator::Emulator, front::postgres::LoginError,
};

/// The emulator, an identity that it knows, and the identity's clock.
struct Shop {
    emulator: Emulator,
    clock: ManualClock,
    identity: Identity,
}

impl Shop {
    async fn open() -> Self {
        let emulator = Emulator::start().await.unwrap();
        let clock = ManualClock::at(SystemTime::now());
        let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
        let environment = Environment::from_pairs(emulator.identity().app_service_env());
        let credential =
            ManagedIdentity::user_assigned(id).environment(environment).build().unwrap();
        let identity = Identity::builder(credential).clock(clock.clone()).build();
        Self { emulator, clock, identity }
    }

    fn azure_sql(&self) -> azure_sql::Connector {
        self.azure_sql_recycled(azure_sql::Recycling::default())
    }

    fn azure_sql_recycled(&self, recycling: azure_sql::Recycling) -> azure_sql::Connector {
        let config: azure_sql::Config = self.emulator.azure_sql_string().parse().unwrap();
        let tokens = self.identity.tokens(config.token_scope().unwrap());
        azure_sql::Connector::new(config.recycling(recycling), tokens).unwrap()
    }

    fn azure_sql_pool(&self, recycling: azure_sql::Recycling) -> azure_sql::Pool {
        self.azure_sql_recycled(recycling).pool_builder().max_size(1).build()
    }

    /// From now on, PostgreSQL refuses every login.
    fn refuse_postgres(&self, sqlstate: &str, message: &str) {
        let refusal = LoginError::new(sqlstate, message);
        self.emulator.postgres().behaviour().fail_logins(usize::MAX, refusal);
    }

    fn postgres(&self) -> postgres::Connector {
        let config: postgres::Config = self.emulator.postgres_url().parse().unwrap();
        let tokens = self.identity.tokens(config.token_scope().unwrap());
        postgres::Connector::new(config, tokens).unwrap()
    }
}

fn refused() -> ServerError {
    ServerError::new(18456, 14, "Login failed for user '<token-identified principal>'.")
}

fn paused() -> ServerError {
    ServerError::new(40613, 14, "Database 'orders' on server 'shop' is not currently available.")
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
