//! Several checkouts of the same connection.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use entra_pool::{
    clock::ManualClock,
    connect::RetireReason,
    postgres::{self, Config, Connector, Error, Recycling, deadpool_postgres},
    token::Identity,
};

use crate::{
    backend, connector, credential_for, pool_of_one, server, support::logs::capture, text,
};

#[tokio::test]
async fn a_session_is_clean_for_the_next_caller() {
    let pool = pool_of_one("clean").await;
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    let before = text(&a, "SELECT current_setting('work_mem')").await;
    server().await.sql("CREATE ROLE waiter; GRANT waiter TO clean").await;
    a.batch_execute(
        "CREATE TEMP TABLE bill (total int);
         SET work_mem = '1MB';
         SET app.tenant = 'a';
         SET ROLE waiter;
         LISTEN kitchen;
         DECLARE menu CURSOR WITH HOLD FOR SELECT 1;
         SELECT pg_advisory_lock(4711);",
    )
    .await
    .unwrap();
    drop(a);

    let b = pool.get().await.unwrap();
    assert_eq!(backend(&b).await, pid, "the same session");
    let gone = b.query_one("SELECT to_regclass('bill') IS NULL", &[]).await.unwrap();
    assert!(gone.get::<_, bool>(0), "the temporary table is gone");
    assert_eq!(text(&b, "SELECT current_setting('work_mem')").await, before);
    assert_eq!(text(&b, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
    assert_eq!(text(&b, "SELECT current_user::text").await, "clean");
    for nothing in [
        "SELECT count(*) FROM pg_listening_channels()",
        "SELECT count(*) FROM pg_cursors WHERE name = 'menu'",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ] {
        assert_eq!(b.query_one(nothing, &[]).await.unwrap().get::<_, i64>(0), 0, "{nothing}");
    }
}

#[tokio::test]
async fn an_open_or_failed_transaction_is_rolled_back_before_the_next_checkout() {
    let pool = pool_of_one("rollback").await;
    server().await.sql("CREATE TABLE orders (id int); GRANT ALL ON orders TO rollback").await;
    let mut pids = Vec::new();
    for trouble in ["SELECT 1", "SELECT 1/0", "SELECT pg_advisory_lock(1); SELECT 1/0"] {
        let a = pool.get().await.unwrap();
        pids.push(backend(&a).await);
        a.batch_execute("BEGIN; INSERT INTO orders VALUES (1); SET LOCAL app.tenant = 'a'")
            .await
            .unwrap();
        let failed = a.batch_execute(trouble).await.is_err();
        assert_eq!(failed, trouble.contains("1/0"));
        drop(a);

        let b = pool.get().await.unwrap();
        pids.push(backend(&b).await);
        let orders = b.query_one("SELECT count(*) FROM orders", &[]).await.unwrap();
        assert_eq!(orders.get::<_, i64>(0), 0, "after {trouble}");
        assert_eq!(text(&b, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
        // Refused in a transaction.
        b.batch_execute("DISCARD ALL").await.unwrap();
    }
    assert!(pids.iter().all(|pid| *pid == pids[0]), "the same session: {pids:?}");
}

#[tokio::test]
async fn a_forgotten_transaction_is_rolled_back_before_the_next_checkout() {
    let pool = pool_of_one("dropped").await;
    server().await.sql("CREATE TABLE drinks (id int); GRANT ALL ON drinks TO dropped").await;
    let mut a = pool.get().await.unwrap();
    let transaction = a.transaction().await.unwrap();
    transaction.execute("INSERT INTO drinks VALUES (1)", &[]).await.unwrap();
    std::mem::forget(transaction);
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(b.query_one("SELECT count(*) FROM drinks", &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn checkouts_of_a_clean_session_leave_no_warning_in_the_servers_log() {
    let pool = pool_of_one("quiet").await;
    let pid = backend(&pool.get().await.unwrap()).await;
    for _ in 0..3 {
        assert_eq!(backend(&pool.get().await.unwrap()).await, pid);
    }
    // The test of open and failed transactions causes other warnings.
    let log = server().await.log();
    assert!(log.contains("quiet"), "the log has this session: {log}");
    assert!(!log.contains("no transaction in progress"), "{log}");
}

#[tokio::test]
async fn prepared_statements_survive_the_cleaning() {
    let pool = pool_of_one("prepared").await;
    let a = pool.get().await.unwrap();
    let statement = a.prepare_cached("SELECT $1::int + 1").await.unwrap();
    assert_eq!(a.query_one(&statement, &[&1]).await.unwrap().get::<_, i32>(0), 2);
    assert_eq!(a.statement_cache.size(), 1);
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(b.statement_cache.size(), 1);
    let again = b.prepare_cached("SELECT $1::int + 1").await.unwrap();
    assert_eq!(b.query_one(&again, &[&2]).await.unwrap().get::<_, i32>(0), 3);
    let row = b.query_one("SELECT count(*) FROM pg_prepared_statements", &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) >= 1);
}

#[tokio::test]
async fn fast_recycling_leaves_a_session_as_it_is() {
    let identity = Identity::new(credential_for("fast").await);
    let config: Config = server().await.url("fast").parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    let connector = Connector::new(config.recycling(Recycling::Fast), tokens).unwrap();
    let pool = connector.pool_builder().max_size(1).build();
    pool.get().await.unwrap().batch_execute("SET app.tenant = 'a'").await.unwrap();
    let b = pool.get().await.unwrap();
    assert_eq!(text(&b, "SELECT current_setting('app.tenant')").await, "a");
}

/// Polls a query until the server runs it, then drops it.
async fn begin_and_drop(client: &deadpool_postgres::Client, sql: &str, begun: &str) {
    let query = client.batch_execute(sql);
    tokio::pin!(query);
    let seen = async {
        while server().await.value(begun).await.as_deref() != Some("t") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut query => panic!("the query ended"),
        () = seen => {}
    }
}

#[tokio::test]
async fn a_dropped_query_has_ended_before_the_next_checkout() {
    let pool = pool_of_one("impatient").await;
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    // The query waits for a lock of another session, so the test controls when it ends.
    let holder = pool_of_one("holder").await;
    let holder = holder.get().await.unwrap();
    holder.batch_execute("SELECT pg_advisory_lock(99)").await.unwrap();
    let waiting = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock')"
    );
    begin_and_drop(
        &a,
        "SELECT set_config('app.tenant', 'a', false), pg_advisory_lock(99)",
        &waiting,
    )
    .await;
    drop(a);
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap() }
    });
    holder.batch_execute("SELECT pg_advisory_unlock(99)").await.unwrap();
    let b = next.await.unwrap();
    assert_eq!(backend(&b).await, pid, "the same session");
    assert_eq!(text(&b, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
    // The dropped query has acquired the lock since then; the cleaning released it.
    let free = holder.query_one("SELECT pg_try_advisory_lock(99)", &[]).await.unwrap();
    assert!(free.get::<_, bool>(0));
}

#[tokio::test]
async fn a_dropped_query_that_keeps_running_is_cancelled_and_its_connection_retired() {
    let clock = ManualClock::at(std::time::SystemTime::now());
    let credential = credential_for("stuck").await;
    let identity = Identity::builder(credential).clock(clock.clone()).build();
    let connector = connector(&identity, &server().await.url("stuck"));
    let pool = connector.pool_builder().max_size(1).build();
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    let asleep = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep')"
    );
    begin_and_drop(&a, "SELECT pg_sleep(3600)", &asleep).await;
    drop(a);
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap() }
    });
    // The pool's maintenance and the limit of the cleaning.
    while clock.sleepers() < 2 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(2));
    let b = next.await.unwrap();
    assert_ne!(backend(&b).await, pid, "another session");
    assert_eq!(connector.report().retired, [(RetireReason::Unsettled, 1)]);
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    while server().await.value(&gone).await.as_deref() != Some("t") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_checkout_does_not_wait_for_each_connection_to_a_silent_server() {
    let clock = ManualClock::at(std::time::SystemTime::now());
    let identity = Identity::builder(credential_for("silent").await).clock(clock.clone()).build();
    let connector = connector(&identity, &server().await.url("silent"));
    let pool = connector.pool_builder().max_size(4).build();
    let mut lent = vec![];
    for _ in 0..4 {
        lent.push(pool.get().await.unwrap());
    }
    let mut backends = Vec::new();
    for client in &lent {
        backends.push(backend(client).await.to_string());
        // The statement of that query is closed by now: the server has answered all requests.
        client.simple_query("").await.unwrap();
    }
    let signal = |signal: &str| {
        let kill = std::process::Command::new("kill").arg(signal).args(&backends).status();
        assert!(kill.unwrap().success());
    };
    lent.into_iter().for_each(drop);
    // These backends no longer respond, and the server accepts new connections.
    clock.advance(Duration::from_millis(1));
    signal("-STOP");
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap() }
    });
    // The pool's maintenance and the limit of the cleaning.
    while clock.sleepers() < 2 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(2));
    assert_eq!(text(&next.await.unwrap(), "SELECT 'there'").await, "there");
    let retired = [(RetireReason::Unsettled, 1), (RetireReason::Silent, 3)];
    assert_eq!(connector.report().retired, retired);
    assert_eq!(connector.report().logins, 5);
    signal("-CONT");
}

#[tokio::test]
async fn connections_are_retired_when_they_are_old_or_closed() {
    let identity = Identity::new(credential_for("old").await);
    let config: Config = server().await.url("old").parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    let old = Connector::new(config.clone().max_lifetime(Duration::from_nanos(1)), tokens.clone())
        .unwrap();
    let pool = old.pool_builder().max_size(1).build();
    let first = backend(&pool.get().await.unwrap()).await;
    assert_ne!(backend(&pool.get().await.unwrap()).await, first);
    assert_eq!(old.report().retired, [(RetireReason::Age, 1)]);

    let young = Connector::new(config.max_lifetime(None), tokens).unwrap();
    let pool = young.pool_builder().max_size(1).build();
    let first = backend(&pool.get().await.unwrap()).await;
    assert_eq!(backend(&pool.get().await.unwrap()).await, first);
    server().await.sql(&format!("SELECT pg_terminate_backend({first}, 10000)")).await;
    assert_ne!(backend(&pool.get().await.unwrap()).await, first);
    assert_eq!(young.report().retired, [(RetireReason::Closed, 1)]);
}

#[tokio::test]
async fn deadpools_other_recycling_methods_are_available() {
    let identity = Identity::new(credential_for("ways").await);
    let config: Config = server().await.url("ways").parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    let pool = |recycling| {
        let config = config.clone().recycling(recycling);
        let connector = Connector::new(config, tokens.clone()).unwrap();
        (connector.pool_builder().max_size(1).build(), connector)
    };
    let custom = Recycling::Custom("RESET app.tenant".into());
    for (recycling, left) in [(Recycling::Verified, "a"), (custom, "")] {
        let (pool, connector) = pool(recycling);
        let a = pool.get().await.unwrap();
        a.batch_execute("SET app.tenant = 'a'; SET app.other = 'o'").await.unwrap();
        drop(a);
        let b = pool.get().await.unwrap();
        assert_eq!(text(&b, "SHOW app.tenant").await, left);
        assert_eq!(text(&b, "SHOW app.other").await, "o");
        assert_eq!(connector.report().logins, 1);
    }

    let (pool, connector) = pool(Recycling::Custom("SELECT 1/0".into()));
    let captured = capture();
    drop(pool.get().await.unwrap());
    drop(pool.get().await.unwrap());
    let logged = captured.text();
    let warning = logged.lines().find(|line| line.contains("cannot clean a connection")).unwrap();
    assert!(warning.contains("WARN") && warning.contains("division by zero"), "{warning}");
    assert_eq!(connector.report().logins, 2);
    assert_eq!(connector.report().retired, [(RetireReason::Recycling, 1)]);
}

#[tokio::test]
async fn a_connection_is_retired_after_its_idle_timeout() {
    let identity = Identity::new(credential_for("idle").await);
    let config: Config = server().await.url("idle").parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    let connector = Connector::new(config.idle_timeout(Duration::from_nanos(1)), tokens).unwrap();
    let pool = connector.pool_builder().max_size(1).build();
    let first = backend(&pool.get().await.unwrap()).await;
    assert_ne!(backend(&pool.get().await.unwrap()).await, first);
    assert_eq!(connector.report().retired, [(RetireReason::Idle, 1)]);
}

#[tokio::test]
async fn idle_connections_are_closed_without_a_checkout() {
    let clock = ManualClock::at(std::time::SystemTime::now());
    let identity = Identity::builder(credential_for("kept").await).clock(clock.clone()).build();
    let config: Config = server().await.url("kept").parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    let connector = Connector::new(config.idle_timeout(Duration::from_nanos(1)), tokens).unwrap();
    let pool = connector.pool_builder().max_size(3).build();
    let lent = pool.get().await.unwrap();
    connector.warm_up(&pool, 3).await.unwrap();
    assert_eq!((pool.status().size, pool.status().available), (3, 2));
    while clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(1));
    while pool.status().size > 1 {
        tokio::task::yield_now().await;
    }
    backend(&lent).await;
    assert_eq!(connector.report().retired, [(RetireReason::Idle, 2)]);
    // The maintenance task ends with the pool.
    drop((lent, pool));
    while clock.sleepers() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_pool_is_kept_at_its_minimum() {
    let clock = ManualClock::at(std::time::SystemTime::now());
    let identity = Identity::builder(credential_for("minimum").await).clock(clock.clone()).build();
    let url = server().await.url_with("minimum", "&pool_min_conns=2&pool_max_conns=4");
    let connector = connector(&identity, &url);
    let pool = connector.pool();
    assert_eq!((pool.status().size, pool.status().max_size), (0, 4));
    drop(pool.get().await.unwrap());
    while clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(1));
    // Not `size`, which also counts a running login, which would then time out.
    while pool.status().available < 2 {
        tokio::task::yield_now().await;
    }
    // A connection that is taken out of the pool is replaced.
    let taken = deadpool_postgres::Object::take(pool.get().await.unwrap());
    while clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(30));
    while pool.status().available < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(connector.report().logins, 3);
    drop(taken);
}

#[tokio::test]
async fn a_pool_is_warm_before_the_first_request() {
    let identity = Identity::new(credential_for("warm").await);
    let connector = connector(&identity, &server().await.url("warm"));
    let pool = connector.pool_builder().max_size(4).build();
    connector.warm_up(&pool, 3).await.unwrap();
    assert_eq!((pool.status().size, pool.status().available), (3, 3));
    connector.warm_up(&pool, 2).await.unwrap();
    assert_eq!(connector.report().logins, 3, "there are enough connections");
    // With some connections checked out, and more requested than the maximum.
    let _lent = (pool.get().await.unwrap(), pool.get().await.unwrap());
    connector.warm_up(&pool, 100).await.unwrap();
    assert_eq!((pool.status().size, pool.status().available), (4, 2));

    server().await.sql("ALTER ROLE warm NOLOGIN").await;
    let cold = connector.pool_builder().max_size(4).build();
    let error = Error::from(connector.warm_up(&cold, 2).await.unwrap_err());
    assert!(matches!(error, Error::LoginRefused { .. }), "{error:?}");
}

#[tokio::test]
async fn warming_up_does_not_wait_for_connections_that_are_checked_out() {
    let identity = Identity::new(credential_for("busy").await);
    let connector = connector(&identity, &server().await.url("busy"));
    let pool = connector.pool_builder().max_size(2).build();
    let first = pool.get().await.unwrap();
    // The second connection is being opened and does not count yet.
    let mut second = pin!(pool.get());
    assert!(polled(second.as_mut()).is_pending());
    assert_eq!(pool.status().size, 1);
    connector.warm_up(&pool, 2).await.unwrap();
    assert_eq!(pool.status().size, 1, "the second connection is not open yet");
    backend(&second.await.unwrap()).await;
    backend(&first).await;
}

#[tokio::test]
async fn closing_does_not_wait_for_a_connection_assigned_to_a_cancelled_checkout() {
    let pool = pool_of_one("leaving").await;
    let lent = pool.get().await.unwrap();
    let mut waiting = Box::pin(pool.get());
    assert!(polled(waiting.as_mut()).is_pending());
    // The connection is assigned to the waiting checkout: closing the pool does not close it.
    drop(lent);
    let mut closing = pin!(postgres::close_and_wait(&pool));
    assert!(polled(closing.as_mut()).is_pending(), "a checkout is still waiting");
    drop(waiting);
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, closing).await.expect("the pool closes");
    assert_eq!(pool.status().size, 0);
}

/// Polls once with a waker that does nothing.
fn polled<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn closing_waits_for_connections_that_are_checked_out() {
    let pool = pool_of_one("closing").await;
    let lent = pool.get().await.unwrap();
    let pid = backend(&lent).await;
    let closing = tokio::spawn({
        let pool = pool.clone();
        async move { postgres::close_and_wait(&pool).await }
    });
    while !pool.is_closed() {
        tokio::task::yield_now().await;
    }
    assert_eq!(backend(&lent).await, pid, "it works until it is returned");
    assert!(!closing.is_finished());
    drop(lent);
    closing.await.unwrap();
    assert_eq!(pool.status().size, 0);
    let error = Error::from(pool.get().await.err().unwrap());
    assert!(matches!(error, Error::Pool(_)) && !error.is_transient(), "{error:?}");
}
