//! A connection that is returned in a bad state is cleaned or retired without waiting for the
//! next checkout; a connection that only looks unsettled is kept.

use std::{sync::Arc, time::Duration};

use entra_pool::{
    clock::ManualClock,
    connect::RetireReason,
    postgres::{Config, Connector, Pool, Recycling, deadpool_postgres::Client},
    token::Identity,
};
use futures_util::SinkExt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    backend, connector, credential_for, server,
    support::{pgbouncer::PgBouncer, storm::served_in_a_storm},
};

const SECOND: Duration = Duration::from_secs(1);

async fn until_true(sql: &str, limit: Duration) {
    let becomes_true = async {
        while server().await.value(sql).await.as_deref() != Some("t") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(limit, becomes_true).await.unwrap_or_else(|_| panic!("not within {limit:?}: {sql}"));
}

async fn connector_of(role: &str) -> Connector {
    connector(&Identity::new(credential_for(role).await), &server().await.url(role))
}

#[tokio::test]
async fn the_locks_of_a_returned_transaction_are_released_without_a_checkout() {
    for (role, recycling) in [("locker", Recycling::Clean), ("quick", Recycling::Fast)] {
        let connector = connector_of(role).await;
        let config = connector.config().clone().recycling(recycling);
        let connector = Connector::new(config, connector.tokens().clone()).unwrap();
        let pool = connector.pool_builder().max_size(1).build();
        let client = pool.get().await.unwrap();
        client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1801)").await.unwrap();
        drop(client);
        let free =
            "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1801)";
        until_true(free, 2 * SECOND).await;
        assert_eq!(connector.report().retired, [(RetireReason::TransactionOpen, 1)], "{role}");
    }
}

/// The end of a query that counts the role's running queries.
fn running(role: &str) -> String {
    format!("FROM pg_stat_activity WHERE usename = '{role}' AND state = 'active'")
}

/// Drops running queries of `count` clients and returns the clients.
async fn drop_queries(pool: &Pool, count: usize) {
    let mut dropped = JoinSet::new();
    for _ in 0..count {
        let client = pool.get().await.unwrap();
        dropped.spawn(async move {
            let query = client.batch_execute("SELECT pg_sleep(600)");
            timeout(SECOND / 5, query).await.unwrap_err();
        });
    }
    dropped.join_all().await;
}

#[tokio::test]
async fn dropped_queries_are_cancelled_at_the_server_without_a_checkout() {
    let connector = connector_of("dropper").await;
    let pool = connector.pool_builder().max_size(20).build();
    drop_queries(&pool, 20).await;
    until_true(&format!("SELECT count(*) = 0 {}", running("dropper")), 3 * SECOND).await;
    assert_eq!(connector.report().retired, [(RetireReason::Unsettled, 20)]);
}

#[tokio::test]
async fn dropped_queries_are_cancelled_through_pgbouncer() {
    let server = server().await;
    for mode in ["session", "transaction"] {
        let role = format!("bounced-{mode}");
        let credential = credential_for(&role).await;
        let secret = credential.secret();
        let settings = format!("default_pool_size = 30\npool_mode = {mode}");
        let bouncer = PgBouncer::start_with(&settings, server, &[(&role, &secret)]).await;
        let config: Config = server.url_at(bouncer.port(), &role, "").parse().unwrap();
        let tokens = Identity::new(credential).tokens(config.token_scope().unwrap());
        let connector = Connector::new(config, tokens).unwrap();
        let pool = connector.pool_builder().max_size(20).build();
        drop_queries(&pool, 20).await;
        until_true(&format!("SELECT count(*) = 0 {}", running(&role)), 3 * SECOND).await;
        // PgBouncer still works.
        let client = pool.get().await.unwrap();
        client.batch_execute("SELECT 'there'").await.unwrap();
    }
}

#[tokio::test]
async fn dropped_queries_on_other_connections_do_not_close_healthy_ones() {
    let connector = connector_of("sixteen").await;
    let pool = connector.pool_builder().max_size(16).build();
    connector.warm_up(&pool, 16).await.unwrap();
    drop_queries(&pool, 2).await;
    let mut lent = Vec::new();
    let mut slowest = Duration::ZERO;
    for _ in 0..14 {
        let began = Instant::now();
        lent.push(pool.get().await.unwrap());
        slowest = slowest.max(began.elapsed());
    }
    let retired: u64 = connector.report().retired.iter().map(|(_, count)| count).sum();
    assert!(retired <= 2 && connector.report().logins == 16, "{:?}", connector.report());
    println!("slowest of 14 checkouts: {slowest:?}");
    assert!(slowest < 3 * SECOND / 10, "{slowest:?}");
}

#[tokio::test]
async fn checkouts_that_time_out_do_not_retire_more_connections() {
    let connector = connector_of("hasty").await;
    let pool = connector.pool_builder().max_size(1).build();
    drop_queries(&pool, 1).await;
    for _ in 0..5 {
        let _ = timeout(3 * SECOND / 10, pool.get()).await;
    }
    until_true(&format!("SELECT count(*) = 0 {}", running("hasty")), 3 * SECOND).await;
    assert_eq!(connector.report().retired, [(RetireReason::Unsettled, 1)]);
}

#[tokio::test]
async fn a_statement_with_a_stale_plan_is_prepared_again_after_the_next_checkout() {
    let identity = crate::identity_of("altering").await;
    let connector = connector(&identity, &server().await.url("altering"));
    let custom = Recycling::Custom("SELECT 'tidy'".to_owned());
    for recycling in [Recycling::Clean, Recycling::Verified, Recycling::Fast, custom] {
        let config = connector.config().clone().recycling(recycling.clone());
        let connector = Connector::new(config, connector.tokens().clone()).unwrap();
        let pool = connector.pool_builder().max_size(1).build();
        let client = pool.get().await.unwrap();
        client.batch_execute("CREATE TABLE altered (id int)").await.unwrap();
        let query = "SELECT * FROM altered";
        let statement = client.prepare_cached(query).await.unwrap();
        client.query(&statement, &[]).await.unwrap();
        client.batch_execute("ALTER TABLE altered ADD name text").await.unwrap();
        let pid = backend(&client).await;
        let error = client.query(&statement, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "0A000");
        drop((statement, client));
        let client = pool.get().await.unwrap();
        assert_eq!(backend(&client).await, pid, "the same connection");
        let statement = client.prepare_cached(query).await.unwrap();
        client
            .query(&statement, &[])
            .await
            .unwrap_or_else(|error| panic!("{recycling:?}: {error}"));
        client.batch_execute("DROP TABLE altered").await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_that_outlives_its_client_does_not_keep_the_connection() {
    let identity = crate::identity_of("copying").await;
    let connector = connector(&identity, &server().await.url("copying"));
    let pool = connector.pool_builder().max_size(1).build();
    let client = pool.get().await.unwrap();
    client.batch_execute("CREATE TABLE copied (n int)").await.unwrap();
    let sink = client.copy_in::<_, bytes::Bytes>("COPY copied FROM STDIN").await.unwrap();
    drop(client);
    let retired = async {
        while connector.report().retired != [(RetireReason::Unsettled, 1)] {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(3 * SECOND, retired).await.unwrap();
    drop(sink);
    drop(pool.get().await.unwrap());
}

#[tokio::test]
async fn a_connection_without_a_pool_cancels_its_query_when_it_is_dropped() {
    let connector = connector_of("loner").await;
    let (client, connection) = connector.connect().await.unwrap();
    let driver = tokio::spawn(connection);
    let query = client.batch_execute("SELECT pg_sleep(600)");
    timeout(SECOND / 5, query).await.unwrap_err();
    driver.abort();
    until_true(&format!("SELECT count(*) = 0 {}", running("loner")), 3 * SECOND).await;
}

/// Dropping a runtime drops its connections, even during a query.
#[test]
fn a_runtime_may_be_dropped_during_queries() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (servers, ending) = (runtime(), runtime());
    let connector = servers.block_on(connector_of("ending"));
    let pool = connector.pool_builder().max_size(2).build();
    ending.block_on(drop_queries(&pool, 2));
    drop(ending);
    drop(pool);
}

/// Leaves messages pending that are harmless when the client is returned.
async fn harmless(client: &mut Client, way: usize) {
    match way {
        0 => drop(client.prepare("SELECT 1").await.unwrap()),
        1 => {
            let transaction = client.transaction().await.unwrap();
            transaction.batch_execute("SELECT 1").await.unwrap();
            drop(transaction);
        }
        2 => {
            let sink = client.copy_in("COPY pending FROM STDIN").await.unwrap();
            tokio::pin!(sink);
            sink.send(bytes::Bytes::from_static(b"1\n")).await.unwrap();
            sink.as_mut().finish().await.unwrap();
        }
        3 => {
            let sink = client.copy_in("COPY pending FROM STDIN").await.unwrap();
            tokio::pin!(sink);
            sink.send(bytes::Bytes::from_static(b"no number\n")).await.unwrap();
            sink.as_mut().finish().await.unwrap_err();
        }
        4 => {
            let sink = client.copy_in::<_, bytes::Bytes>("COPY pending FROM STDIN").await.unwrap();
            drop(sink);
        }
        5 => {
            let transaction = client.transaction().await.unwrap();
            let portal = transaction.bind("SELECT generate_series(1, 9)", &[]).await.unwrap();
            transaction.query_portal(&portal, 2).await.unwrap();
            drop(portal);
            transaction.commit().await.unwrap();
        }
        6 => client.batch_execute("LISTEN news").await.unwrap(),
        _ => {
            let queries = (0..100).map(|_| client.query_one("SELECT 1", &[]));
            futures_util::future::try_join_all(queries).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_only_look_unsettled_are_kept() {
    const WAYS: usize = 8;
    const ROUNDS: usize = 1_000;
    // The clock does not advance: on a busy machine, no time limit closes a healthy connection.
    let clock = ManualClock::at(std::time::SystemTime::now());
    let credential = credential_for("harmless").await;
    server().await.sql("GRANT ALL ON SCHEMA public TO harmless").await;
    let identity = Identity::builder(credential).clock(clock.clone()).build();
    let connector = connector(&identity, &server().await.url("harmless"));
    let pool = Arc::new(connector.pool_builder().max_size(4).build());
    pool.get().await.unwrap().batch_execute("CREATE TABLE pending (n int)").await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                harmless(&mut pool.get().await.unwrap(), (task + round) % WAYS).await;
            }
        });
    }
    timeout(120 * SECOND, tasks.join_all()).await.expect("every connection settles");
    let quiet =
        "SELECT count(*) = 4 FROM pg_stat_activity WHERE usename = 'harmless' AND state = 'idle'";
    until_true(quiet, 10 * SECOND).await;
    // The pool's maintenance checks them.
    for _ in 0..4 {
        sleep(SECOND / 10).await;
        clock.advance(SECOND / 2);
    }
    sleep(SECOND / 10).await;
    assert_eq!(
        connector.report().retired.iter().filter(|(_, count)| *count > 0).count(),
        0,
        "{:?}",
        connector.report()
    );
    assert!(connector.report().logins <= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_with_short_timeouts_leave_few_queries_running_through_pgbouncer() {
    const SIZE: usize = 4;
    let (server, credential) = (server().await, credential_for("stormy").await);
    let secret = credential.secret();
    let settings = "default_pool_size = 40\npool_mode = session";
    let bouncer = PgBouncer::start_with(settings, server, &[("stormy", &secret)]).await;
    let config: Config = server.url_at(bouncer.port(), "stormy", "").parse().unwrap();
    let tokens = Identity::new(credential).tokens(config.token_scope().unwrap());
    let connector = Connector::new(config, tokens).unwrap();
    let pool = connector.pool_builder().max_size(SIZE).build();
    let end = Instant::now() + 12 * SECOND;
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let pool = pool.clone();
        callers.spawn(async move {
            while Instant::now() < end {
                let asking = async {
                    let client = pool.get().await.ok()?;
                    client.batch_execute("SELECT pg_sleep(60)").await.ok()
                };
                let _ = timeout(SECOND / 10, asking).await;
            }
        });
    }
    let mut most = 0;
    while Instant::now() < end {
        let count = format!("SELECT count(*) {}", running("stormy"));
        most = most.max(server.value(&count).await.unwrap().parse::<usize>().unwrap());
        sleep(SECOND / 5).await;
    }
    callers.join_all().await;
    println!("{most} queries at most; {}", connector.report());
    assert!(most <= 2 * SIZE, "{most}");
    until_true(&format!("SELECT count(*) = 0 {}", running("stormy")), 3 * SECOND).await;
}

/// A login takes a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_with_less_time_than_a_login_takes_get_connections() {
    let identity = Identity::new(credential_for("hasty").await);
    let slow = server().await.url("hasty") + "&options=-c%20post_auth_delay%3D1";
    let connector = connector(&identity, &slow);
    let pool = connector.pool_builder().max_size(4).build();
    let open = async || {
        let open = "SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'hasty'";
        server().await.value(open).await.unwrap().parse().unwrap()
    };
    let get = {
        let pool = pool.clone();
        move || {
            let pool = pool.clone();
            async move { pool.get().await.is_ok() }
        }
    };
    let (served, most) = served_in_a_storm(60, get, open).await;
    let report = connector.report();
    println!("{served} served, {most} open, {report}");
    assert!(served > 400 && most <= 8, "{served} served, {most} open, {report}");
}
