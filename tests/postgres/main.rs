//! The PostgreSQL pool against a PostgreSQL server that the tests start, behind a proxy that
//! checks tokens as Azure does.
#![cfg(all(unix, feature = "postgres"))]
#![allow(clippy::disallowed_methods)] // The server runs in real time.

mod bad_input;
mod config;
mod drivers;
mod elsewhere;
mod hostile;
mod isolation;
mod leftovers;
mod login;
mod logs;
mod pgbouncer;
mod restarts;
mod retries;
mod returns;
mod rotation;
mod server_errors;
mod sessions;
mod stand_in;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod unchanged;

use deadpool_postgres::GenericClient;
use entra_pool::{
    postgres::{Config, Connector, Error, Pool, deadpool_postgres},
    token::Identity,
};
use support::{credential::TestCredential, front::PostgresService};
use tokio::sync::OnceCell;

/// One server for all of these tests; each test has its own roles.
async fn server() -> &'static PostgresService {
    static SERVER: OnceCell<PostgresService> = OnceCell::const_new();
    SERVER.get_or_init(PostgresService::start).await
}

/// Creates `role` and returns a credential whose tokens the server accepts.
async fn credential_for(role: &str) -> TestCredential {
    let credential = TestCredential::new(role, 2_000);
    server().await.create_principal(credential.principal()).await;
    credential
}

async fn identity_of(role: &str) -> Identity {
    let credential = credential_for(role).await;
    server().await.sql(&format!("GRANT ALL ON SCHEMA public TO \"{role}\"")).await;
    Identity::new(credential)
}

async fn url_of(role: &str) -> String {
    server().await.url(role)
}

/// A pool of one connection, so that each checkout gets the same one.
async fn pool_of_one(role: &str) -> Pool {
    pool_of(role, 1).await
}

async fn pool_of(role: &str, size: usize) -> Pool {
    let identity = Identity::new(credential_for(role).await);
    let connector = connector(&identity, &server().await.url(role));
    connector.pool_builder().max_size(size).build()
}

fn connector(identity: &Identity, url: &str) -> Connector {
    let config: Config = url.parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    Connector::new(config, tokens).unwrap()
}

async fn text(client: &impl GenericClient, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get::<_, String>(0)
}

async fn backend(client: &impl GenericClient) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

fn failure(outcome: Result<deadpool_postgres::Client, deadpool_postgres::PoolError>) -> Error {
    match outcome {
        Ok(_) => panic!("the checkout succeeded"),
        Err(error) => error.into(),
    }
}
