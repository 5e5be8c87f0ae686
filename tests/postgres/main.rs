//! The PostgreSQL pool against a PostgreSQL server of the test's own, behind a front that
//! checks tokens as Azure does.
#![cfg(all(unix, feature = "postgres"))]
#![allow(clippy::disallowed_methods)] // A server lives in real time.

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

/// One server for all tests here; each has roles of its own.
async fn server() -> &'static PostgresService {
    static SERVER: OnceCell<PostgresService> = OnceCell::const_new();
    SERVER.get_or_init(PostgresService::start).await
}

/// A credential for `role`, whose token the server takes.
async fn let_in(role: &str) -> TestCredential {
    let credential = TestCredential::new(role, 2_000);
    server().await.create_principal(credential.principal()).await;
    credential
}

async fn identity_of(role: &str) -> Identity {
    let credential = let_in(role).await;
    server().await.sql(&format!("GRANT ALL ON SCHEMA public TO \"{role}\"")).await;
    Identity::new(credential)
}

async fn url_of(role: &str) -> String {
    server().await.url(role)
}

/// A pool of one connection, so that the next borrower gets the last one's.
async fn pool_of_one(role: &str) -> Pool {
    pool_of(role, 1).await
}

async fn pool_of(role: &str, size: usize) -> Pool {
    let identity = Identity::new(let_in(role).await);
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
        Ok(_) => panic!("a connection where none should be"),
        Err(error) => error.into(),
    }
}
