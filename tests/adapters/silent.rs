//! Sixteen idle connections stop responding, while the server accepts new ones: how long the next
//! checkout takes, in the real time that pools measure.

use std::{process::Command, time::Duration};

use entra_pool::{
    adapters::{bb8, diesel, sqlx},
    connect::RetireReason,
    postgres::{Config, Connector},
    token::Identity,
};
use tokio::time::{Instant, timeout};

use crate::{server, support::credential::TestCredential, until};

const IDLE: usize = 16;

async fn connector(role: &str) -> Connector {
    let credential = TestCredential::new(role, 2_000);
    server().await.create_principal(credential.principal()).await;
    let config: Config = server().await.url(role).parse().unwrap();
    let tokens = Identity::new(credential).tokens(config.token_scope().unwrap());
    Connector::new(config, tokens).unwrap()
}

/// The stopped server processes of a role's sessions. They continue when this is dropped.
struct Stopped(Vec<String>);

impl Stopped {
    async fn sessions_of(role: &str) -> Self {
        let pids = format!(
            "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE usename = '{role}'"
        );
        let pids = server().await.value(&pids).await.unwrap();
        let stopped = Self(pids.split(' ').map(str::to_owned).collect());
        assert_eq!(stopped.0.len(), IDLE);
        stopped.signal("-STOP");
        stopped
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").arg(signal).args(&self.0).status().unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

fn assert_retired_as_silent(connector: &Connector, took: Duration) {
    println!("{took:?}: {}", connector.report());
    assert!(took < Duration::from_millis(4_200), "{took:?}");
    let retired = connector.report().retired;
    assert!(retired.iter().any(|(reason, _)| *reason == RetireReason::Silent), "{retired:?}");
}

#[tokio::test]
async fn in_deadpool() {
    let connector = connector("silent-deadpool").await;
    let pool = connector.pool_builder().max_size(IDLE).build();
    connector.warm_up(&pool, IDLE).await.unwrap();
    let _stopped = Stopped::sessions_of("silent-deadpool").await;
    let began = Instant::now();
    let client = pool.get().await.unwrap();
    let took = began.elapsed();
    client.batch_execute("SELECT 1").await.unwrap();
    assert_retired_as_silent(&connector, took);
}

#[tokio::test]
async fn in_bb8() {
    let connector = connector("silent-bb8").await;
    let manager = bb8::postgres::Manager::new(connector.clone());
    let pool = bb8::postgres::builder(&manager).max_size(16).build(manager).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..IDLE {
        connections.push(pool.get().await.unwrap());
    }
    drop(connections);
    let _stopped = Stopped::sessions_of("silent-bb8").await;
    let began = Instant::now();
    let client = pool.get().await.unwrap();
    let took = began.elapsed();
    client.batch_execute("SELECT 1").await.unwrap();
    assert_retired_as_silent(&connector, took);
}

#[tokio::test]
async fn in_diesels_deadpool() {
    use diesel::diesel_async::{RunQueryDsl, pooled_connection::deadpool::Pool};

    let connector = connector("silent-diesel").await;
    let pool = Pool::builder(diesel::manager(connector.clone())).max_size(IDLE).build().unwrap();
    let mut connections = Vec::new();
    for _ in 0..IDLE {
        connections.push(pool.get().await.unwrap());
    }
    drop(connections);
    let _stopped = Stopped::sessions_of("silent-diesel").await;
    let began = Instant::now();
    let mut client = pool.get().await.unwrap();
    let took = began.elapsed();
    diesel::diesel::sql_query("SELECT 1").execute(&mut client).await.unwrap();
    assert_retired_as_silent(&connector, took);
}

#[tokio::test]
async fn in_sqlx() {
    let connector = connector("silent-sqlx").await;
    let config = connector.config().clone().connect_timeout(Duration::from_secs(5));
    let connector = Connector::new(config, connector.tokens().clone()).unwrap();
    let options = sqlx::options(&connector).max_connections(16);
    let pool = sqlx::Pool::new(&connector, options).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..IDLE {
        connections.push(pool.acquire().await.unwrap());
    }
    drop(connections);
    until(|| pool.num_idle() == IDLE).await;
    let stopped = Stopped::sessions_of("silent-sqlx").await;
    // Two cleanings of 2 s each, and a connect.
    let began = Instant::now();
    let client = pool.acquire().await.unwrap();
    println!("{:?}: {}", began.elapsed(), connector.report());
    drop(client);
    drop(pool.acquire().await.unwrap());
    timeout(Duration::from_secs(10), pool.close()).await.unwrap();
    drop(stopped);
}
