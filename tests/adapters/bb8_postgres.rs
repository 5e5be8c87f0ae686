//! bb8's pool on PostgreSQL.

use std::time::Duration;

use entra_pool::{
    adapters::bb8::{
        self,
        bb8::ErrorSink,
        postgres::{Manager, Pool},
    },
    connect::RetireReason,
    postgres::{Error, Recycling, tokio_postgres},
};

use crate::{Guest, TRACES, TRACES_LEFT, server, until, until_true};

/// A pool of one connection, so that each checkout gets the same one.
fn pool_of_one(guest: &Guest) -> Pool {
    let manager = Manager::new(guest.connector.clone());
    bb8::postgres::builder(&manager).max_size(1).build_unchecked(manager)
}

async fn text(client: &tokio_postgres::Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn backend(client: &tokio_postgres::Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_session_is_clean_for_the_next_caller() {
    let guest = Guest::new("bb8-clean").await;
    let pool = pool_of_one(&guest);
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    let cached = a.prepare_cached("SELECT 1").await.unwrap();
    a.batch_execute(TRACES).await.unwrap();
    assert_ne!(text(&a, TRACES_LEFT).await, "");
    a.batch_execute("BEGIN; SELECT 1").await.unwrap();
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(backend(&b).await, pid, "the same session");
    assert_eq!(text(&b, TRACES_LEFT).await, "");
    b.batch_execute("VACUUM").await.expect("VACUUM fails in a transaction");
    assert_eq!(b.query_one(&cached, &[]).await.unwrap().get::<_, i32>(0), 1);
    assert_eq!(guest.retired(), 0);
}

#[tokio::test]
async fn a_pool_without_test_on_check_out_uses_each_connection_once() {
    let guest = Guest::new("bb8-careless").await;
    let manager = Manager::new(guest.connector.clone());
    let builder = bb8::postgres::builder(&manager).max_size(1);
    let pool = builder.test_on_check_out(false).build_unchecked(manager);
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    a.batch_execute(TRACES).await.unwrap();
    drop(a);
    let b = pool.get().await.unwrap();
    assert_ne!(backend(&b).await, pid, "another session");
    assert_eq!(text(&b, TRACES_LEFT).await, "");

    // With `Fast` there is nothing to clean.
    let guest = Guest::with("bb8-fast", |config| config.recycling(Recycling::Fast)).await;
    let manager = Manager::new(guest.connector.clone());
    let builder = bb8::postgres::builder(&manager).max_size(1);
    let pool = builder.test_on_check_out(false).build_unchecked(manager);
    let pid = backend(&pool.get().await.unwrap()).await;
    assert_eq!(backend(&pool.get().await.unwrap()).await, pid);
    let client = pool.get().await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    drop(client);
    assert_ne!(backend(&pool.get().await.unwrap()).await, pid, "a transaction was open");
}

#[tokio::test]
async fn a_healthy_connection_can_be_added() {
    let guest = Guest::new("bb8-added").await;
    let manager = Manager::new(guest.connector.clone());
    let pool = bb8::postgres::builder(&manager).max_size(2).build_unchecked(manager);
    let dedicated = pool.dedicated_connection().await.unwrap();
    pool.add(dedicated).unwrap();
    assert_eq!(pool.state().idle_connections, 1);
}

#[tokio::test]
async fn a_dropped_query_that_keeps_running_is_cancelled_and_its_connection_retired() {
    let guest = Guest::new("bb8-stuck").await;
    let pool = pool_of_one(&guest);
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    let asleep = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep')"
    );
    tokio::select! {
        answer = a.batch_execute("SELECT pg_sleep(3600)") => panic!("{answer:?}"),
        () = async {
            while server().await.value(&asleep).await.as_deref() != Some("t") {}
        } => {}
    }
    drop(a);
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { backend(&pool.get().await.unwrap()).await }
    });
    // The timer of an earlier checkout may still be running.
    while guest.retired() == 0 {
        guest.clock.advance(Duration::from_secs(2));
        tokio::task::yield_now().await;
    }
    assert_ne!(next.await.unwrap(), pid, "another session");
    assert_eq!(guest.connector.report().retired, [(RetireReason::Unsettled, 1)]);
}

#[tokio::test]
async fn an_open_transaction_or_a_dropped_query_ends_without_a_checkout() {
    for recycling in [Recycling::Clean, Recycling::Fast] {
        for leaves_query in [false, true] {
            let guest = Guest::with("bb8-left", |config| config.recycling(recycling.clone())).await;
            let pool = pool_of_one(&guest);
            let a = pool.get().await.unwrap();
            let pid = backend(&a).await;
            let session = format!("(SELECT FROM pg_stat_activity WHERE pid = {pid})");
            if leaves_query {
                let session = session.trim_end_matches(')');
                let asleep = format!("SELECT EXISTS {session} AND wait_event = 'PgSleep')");
                tokio::select! {
                    answer = a.batch_execute("SELECT pg_sleep(3600)") => panic!("{answer:?}"),
                    () = until_true(&asleep) => {}
                }
            } else {
                a.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1805)").await.unwrap();
            }
            drop(a);
            until(|| guest.clock.sleepers() > 0).await;
            guest.clock.advance(Duration::from_millis(500));
            until_true(&format!("SELECT NOT EXISTS {session}")).await;
            assert_ne!(backend(&pool.get().await.unwrap()).await, pid, "another session");
            let reason =
                if leaves_query { RetireReason::Unsettled } else { RetireReason::TransactionOpen };
            assert_eq!(guest.connector.report().retired, [(reason, 1)]);
        }
    }
}

#[tokio::test]
async fn a_dropped_transaction_or_statement_does_not_retire_the_connection() {
    let guest = Guest::new("bb8-rollback").await;
    let pool = pool_of_one(&guest);
    for _ in 0..20 {
        let mut client = pool.get().await.unwrap();
        drop(client.transaction().await.unwrap());
        drop(client);
        drop(pool.get().await.unwrap().prepare("SELECT 1").await.unwrap());
    }
    assert_eq!((guest.connector.report().logins, guest.retired()), (1, 0));
}

#[tokio::test]
async fn a_statement_with_a_stale_plan_is_prepared_again() {
    let guest = Guest::with("bb8-altered", |config| config.recycling(Recycling::Fast)).await;
    let pool = pool_of_one(&guest);
    let client = pool.get().await.unwrap();
    client.batch_execute("CREATE TEMP TABLE altered (id int)").await.unwrap();
    let query = "SELECT * FROM altered";
    let statement = client.prepare_cached(query).await.unwrap();
    client.batch_execute("ALTER TABLE altered ADD name text").await.unwrap();
    let error = client.query(&statement, &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "0A000");
    drop((statement, client));
    let client = pool.get().await.unwrap();
    let statement = client.prepare_cached(query).await.unwrap();
    client.query(&statement, &[]).await.unwrap();
    assert_eq!(guest.connector.report().logins, 1);
}

#[tokio::test]
async fn connections_are_retired_when_they_are_old_or_closed() {
    let old = Guest::with("bb8-old", |config| config.max_lifetime(Duration::from_nanos(1))).await;
    let pool = pool_of_one(&old);
    // Each connection is too old before its first checkout, so no checkout succeeds.
    tokio::select! {
        connection = pool.get() => panic!("{:?}", connection.map(drop)),
        () = until(|| old.retired() > 1) => {}
    }

    let cut = Guest::new("bb8-cut").await;
    let pool = pool_of_one(&cut);
    let pid = backend(&pool.get().await.unwrap()).await;
    server().await.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)")).await;
    assert_ne!(backend(&pool.get().await.unwrap()).await, pid);
}

#[tokio::test]
async fn a_refused_login_is_retried_once_with_a_newer_token() {
    let guest = Guest::new("bb8-renewed").await;
    let manager = Manager::new(guest.connector.clone());
    let pool = bb8::postgres::builder(&manager).max_size(2).build_unchecked(manager);
    let first = pool.get().await.unwrap();
    guest.rotate();
    let second = pool.get().await.unwrap();
    assert_ne!(backend(&first).await, backend(&second).await);
    assert_eq!((guest.connector.report().renewed, guest.credential.requests()), (1, 2));
}

#[derive(Debug, Clone)]
struct Sent(tokio::sync::mpsc::UnboundedSender<Error>);

impl ErrorSink<Error> for Sent {
    fn sink(&self, error: Error) {
        self.0.send(error).unwrap();
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<Error>> {
        Box::new(self.clone())
    }
}

#[tokio::test]
async fn a_refused_login_is_reported_to_the_error_sink_and_not_retried() {
    let guest = Guest::unregistered("bb8-stranger", |config| config).await;
    let (sender, mut errors) = tokio::sync::mpsc::unbounded_channel();
    let manager = Manager::new(guest.connector.clone());
    let pool = bb8::postgres::builder(&manager)
        .error_sink(Box::new(Sent(sender)))
        .build_unchecked(manager);
    let error = tokio::select! {
        connection = pool.get() => panic!("{:?}", connection.map(drop)),
        error = errors.recv() => error.unwrap(),
    };
    assert!(matches!(error, Error::LoginRefused { .. }), "{error:?}");
    assert_eq!(guest.connector.report().refused, 1);
}
