//! Several checkouts of the same connection: no session state reaches the next caller.

use std::time::Duration;

use entra_pool::{
    adapters::mssql_tds::{
        Connector, Pool, PooledConnection,
        mssql_tds::{
            connection::tds_client::TdsClient,
            message::transaction_management::TransactionIsolationLevel,
        },
    },
    connect::RetireReason,
    token::Scope,
};
use tokio::time::timeout;

use crate::{HOUR, Shop, code, number, retired, rows, run, session, text, until};

/// Asserts the state of a new session, which a used session must also have.
pub(crate) async fn assert_clean(client: &mut TdsClient) {
    assert_eq!(number(client, "SELECT @@TRANCOUNT").await, 0);
    assert_eq!(text(client, "SELECT DB_NAME()").await.as_deref(), Some("orders"));
    assert_eq!(number(client, "SELECT @@LOCK_TIMEOUT").await, -1);
    assert_eq!(text(client, "SELECT @@LANGUAGE").await.as_deref(), Some("us_english"));
    let tenant = "SELECT CAST(SESSION_CONTEXT(N'tenant') AS nvarchar(20))";
    assert_eq!(text(client, tenant).await, None);
    let bill = rows(client, "SELECT * FROM #bill").await.unwrap_err();
    assert_eq!(code(&bill), Some(208), "the temporary table is gone");
    let found = rows(client, "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3").await.unwrap();
    assert_eq!(found.len(), 3);
    let level = "SELECT CAST(transaction_isolation_level AS int) FROM sys.dm_exec_sessions";
    assert_eq!(number(client, level).await, 2);
}

#[tokio::test]
async fn a_session_is_clean_for_the_next_caller() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    let mut a = pool.get().await.unwrap();
    let first = session(&mut a).await;
    run(&mut a, "CREATE TABLE #bill (total int); INSERT INTO #bill VALUES (7)").await;
    run(&mut a, "EXEC sp_set_session_context N'tenant', N'a'").await;
    run(&mut a, "SET LANGUAGE French; SET LOCK_TIMEOUT 100; SET XACT_ABORT ON").await;
    run(&mut a, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await;
    run(&mut a, "USE master; SET NOEXEC ON").await;
    drop(a);
    let mut b = pool.get().await.unwrap();
    assert_clean(&mut b).await;
    assert_eq!(session(&mut b).await, first, "the same session");
    let counters = shop.counters();
    assert_eq!((counters.reset_bits, counters.resets, counters.logins), (1, 1, 1));
    assert_eq!(retired(&connector), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returned_connection_is_cleaned_in_the_background_before_the_next_checkout() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    run(&mut pool.get().await.unwrap(), "CREATE TABLE #bill (total int)").await;
    until(|| pool.status().available == 1).await;
    assert_eq!((shop.counters().requests, shop.counters().resets), (2, 1));
    shop.clock.advance(Duration::from_millis(999));
    drop(pool.get().await.unwrap());
    assert_eq!(shop.counters().requests, 2, "it was not used");
    shop.clock.advance(Duration::from_secs(1));
    drop(pool.get().await.unwrap());
    assert_eq!(shop.counters().requests, 3, "it is probed");
    assert_clean(&mut pool.get().await.unwrap()).await;
    assert_eq!(retired(&connector), []);
}

/// Begins a transaction in one of several ways.
async fn begin(client: &mut TdsClient, way: usize) {
    let level = TransactionIsolationLevel::Serializable;
    match way {
        0 => run(client, "BEGIN TRANSACTION").await,
        1 => client.begin_transaction(level, None).await.unwrap(),
        2 => {
            client.begin_transaction(level, None).await.unwrap();
            run(client, "BEGIN TRANSACTION").await;
        }
        // After the first result set.
        _ => run(client, "SELECT 1; BEGIN TRANSACTION").await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_is_rolled_back_without_a_checkout() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    let mut other = shop.connector("").connect().await.unwrap();
    run(&mut other, "CREATE TABLE orders (id int)").await;
    let first = session(&mut pool.get().await.unwrap()).await;
    for way in 0..4 {
        let mut a = pool.get().await.unwrap();
        begin(&mut a, way).await;
        run(&mut a, "INSERT INTO orders VALUES (1); SET LOCK_TIMEOUT 7").await;
        drop(a);
        until(|| pool.status().available == 1).await;
        // The transaction's lock was released.
        run(&mut other, "SET LOCK_TIMEOUT 0; INSERT INTO orders VALUES (2)").await;
        assert_eq!(number(&mut other, "SELECT COUNT(*) FROM orders WHERE id = 1").await, 0);
        let mut b = pool.get().await.unwrap();
        assert_clean(&mut b).await;
        assert_eq!(session(&mut b).await, first, "way {way}: the same session");
    }
    assert_eq!(retired(&connector), []);
}

#[tokio::test]
async fn without_a_second_thread_an_open_transaction_retires_the_connection_immediately() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    let mut a = pool.get().await.unwrap();
    begin(&mut a, 0).await;
    drop(a);
    assert_eq!(pool.status().size, 0);
    until(|| shop.counters().open_connections == 0).await;
    assert_eq!(retired(&connector), [(RetireReason::TransactionOpen, 1)]);
}

/// Asserts that the next caller gets another session and its own responses.
async fn assert_replaced(shop: &Shop, pool: &Pool, connector: &Connector, first: i32) {
    let mut b: PooledConnection = pool.get().await.unwrap();
    assert_ne!(session(&mut b).await, first);
    assert_clean(&mut b).await;
    assert_eq!(shop.counters().logins, 2);
    let retired: u64 = retired(connector).iter().map(|(_, count)| count).sum();
    assert_eq!(retired, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_is_dropped_while_awaited_retires_the_connection() {
    for delay in [Duration::from_millis(50), HOUR] {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one();
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        shop.server.behaviour().delay_queries(delay);
        let sent = shop.counters().requests;
        tokio::select! {
            answered = a.execute("SELECT 'for a only'".into(), ()) => panic!("{answered:?}"),
            () = until(|| shop.counters().requests > sent) => {}
        }
        assert!(!a.has_open_batch() && !a.is_connection_dead(), "the driver does not report it");
        drop(a);
        if delay == HOUR {
            // The probe waits for its time limit.
            until(|| shop.clock.sleepers() == 1).await;
            shop.clock.advance(Duration::from_secs(5));
        }
        until(|| pool.status().size == 0).await;
        shop.server.behaviour().delay_queries(Duration::ZERO);
        assert_replaced(&shop, &pool, &connector, first).await;
        if delay != HOUR {
            until(|| shop.counters().open_connections == 1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_request_whose_response_looks_like_the_probes_is_detected() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    let mut a = pool.get().await.unwrap();
    let first = session(&mut a).await;
    shop.server.behaviour().delay_queries(Duration::from_millis(50));
    let sent = shop.counters().requests;
    // The response even acknowledges a reset.
    a.prepare_reset_connection(false);
    tokio::select! {
        answered = a.execute("SELECT 0, 'not the mark'".into(), ()) => panic!("{answered:?}"),
        () = until(|| shop.counters().requests > sent) => {}
    }
    drop(a);
    until(|| pool.status().size == 0).await;
    shop.server.behaviour().delay_queries(Duration::ZERO);
    assert_eq!(retired(&connector), [(RetireReason::Unsettled, 1)]);
    assert_replaced(&shop, &pool, &connector, first).await;
}

#[tokio::test]
async fn unread_rows_retire_the_connection_immediately() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    let mut a = pool.get().await.unwrap();
    let first = session(&mut a).await;
    a.execute("SELECT 1 UNION ALL SELECT 2".into(), ()).await.unwrap();
    drop(a);
    assert_eq!(retired(&connector), [(RetireReason::Unsettled, 1)]);
    assert_replaced(&shop, &pool, &connector, first).await;
}

#[tokio::test]
async fn a_connection_is_retired_for_its_age_its_idle_time_or_its_expiring_token() {
    for (more, idle, reason) in [
        ("Connection Lifetime=600", None, RetireReason::Age),
        ("Connection Lifetime=0", Some(HOUR / 6), RetireReason::Idle),
        ("Connection Lifetime=0", None, RetireReason::TokenExpiry),
    ] {
        let shop = Shop::open().await;
        let lifetime = |seconds| {
            shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = seconds);
        };
        lifetime(if reason == RetireReason::TokenExpiry { 3_600 } else { 24 * 3_600 });
        let port = shop.server.addr().port();
        let connector = shop.connector_to(port, more, |config| config.idle_timeout(idle));
        let pool = connector.pool_builder().max_size(1).build();
        let first = session(&mut pool.get().await.unwrap()).await;
        lifetime(24 * 3_600);
        let mut steps = 0;
        while session(&mut pool.get().await.unwrap()).await == first {
            shop.clock.advance(HOUR / 6);
            // The token is refreshed in the background.
            shop.identity.tokens(Scope::AZURE_SQL).token().await.unwrap();
            steps += 1;
            assert!(steps < 10, "{reason}");
        }
        assert_eq!(retired(&connector), [(reason, 1)]);
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    let first = session(&mut pool.get().await.unwrap()).await;
    shop.server.cut_connections().await;
    until(|| shop.counters().open_connections == 0).await;
    shop.clock.advance(Duration::from_secs(1));
    assert_replaced(&shop, &pool, &connector, first).await;
    assert_eq!(retired(&connector), [(RetireReason::Closed, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_dropped_leaves_no_connection() {
    let shop = Shop::open().await;
    let (pool, _) = shop.pool_of_one();
    let lent = pool.get().await.unwrap();
    drop(pool);
    let kept = PooledConnection::take(lent);
    assert_eq!(shop.counters().open_connections, 1, "the connection was taken out of the pool");
    drop(kept);
    timeout(Duration::from_secs(10), until(|| shop.counters().open_connections == 0))
        .await
        .unwrap();
}
