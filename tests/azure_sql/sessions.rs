//! Successive borrowers of one connection: the second one does not see the first one's state.

use std::time::Duration;

use entra_pool::{
    azure_sql::{Client, Connector, Pool, Recycling, is_transient, tiberius},
    connect::RetireReason,
};
use futures_util::TryStreamExt;
use tiberius::error::{Error, IoErrorKind};

use crate::{Shop, failure, number, recycled, retired, run, session, text, until};

pub(crate) const BOTH: [Recycling; 2] = [Recycling::Clean, Recycling::Fast];

const HOUR: Duration = Duration::from_secs(3600);

/// Checks that a session looks like a new one.
pub(crate) async fn assert_clean(client: &mut Client) {
    assert_eq!(number(client, "SELECT @@TRANCOUNT").await, 0);
    assert_eq!(text(client, "SELECT DB_NAME()").await.as_deref(), Some("orders"));
    assert_eq!(number(client, "SELECT @@LOCK_TIMEOUT").await, -1);
    assert_eq!(text(client, "SELECT @@LANGUAGE").await.as_deref(), Some("us_english"));
    let tenant = "SELECT CAST(SESSION_CONTEXT(N'tenant') AS nvarchar(20))";
    assert_eq!(text(client, tenant).await, None);
    let bill = failure(client, "SELECT * FROM #bill").await;
    assert_eq!(bill.code(), Some(208), "the temporary table is gone");
}

#[tokio::test]
async fn a_session_is_clean_for_its_next_borrower() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        run(&mut a, "CREATE TABLE #bill (total int); INSERT INTO #bill VALUES (7)").await;
        run(&mut a, "EXEC sp_set_session_context N'tenant', N'a'").await;
        run(&mut a, "SET LANGUAGE French; SET LOCK_TIMEOUT 100; SET XACT_ABORT ON").await;
        run(&mut a, "USE master").await;
        drop(a);

        let mut b = pool.get().await.unwrap();
        assert_clean(&mut b).await;
        assert_eq!(session(&mut b).await, first, "the same session");
        let counters = shop.counters();
        assert_eq!((counters.reset_bits, counters.resets, counters.logins), (1, 1, 1));
        assert_eq!(retired(&connector), [], "{recycling:?}");
    }
}

#[tokio::test]
async fn noexec_is_off_for_the_next_borrower() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        run(&mut a, "SET NOEXEC ON").await;
        let nothing = a.simple_query("SELECT 1").await.unwrap().into_row().await.unwrap();
        assert!(nothing.is_none(), "NOEXEC is on");
        drop(a);
        let mut b = pool.get().await.unwrap();
        assert_eq!(session(&mut b).await, first, "{recycling:?}");
        assert_clean(&mut b).await;
        assert_eq!(retired(&connector), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_cannot_be_rolled_back_retires_the_connection() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let mut a = pool.get().await.unwrap();
    let first = session(&mut a).await;
    run(&mut a, "BEGIN TRANSACTION").await;
    run(&mut a, "SET NOEXEC ON").await;
    drop(a);
    let mut b = pool.get().await.unwrap();
    assert_ne!(session(&mut b).await, first);
    assert_clean(&mut b).await;
    assert_eq!(retired(&connector), [(RetireReason::Recycling, 1)]);
    assert_eq!(shop.counters().logins, 2);
}

/// Begins a transaction in one of three ways; the last way begins two.
async fn begin(client: &mut Client, way: usize) {
    match way {
        0 => run(client, "BEGIN TRANSACTION").await,
        1 => client.begin_transaction().await.unwrap(),
        _ => {
            client.begin_transaction().await.unwrap();
            run(client, "BEGIN TRANSACTION").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_left_open_is_rolled_back_for_the_next_borrower() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let mut other = shop.connector("").connect().await.unwrap();
    run(&mut other, "CREATE TABLE orders (id int)").await;
    let first = session(&mut pool.get().await.unwrap()).await;
    for way in 0..3 {
        let mut a = pool.get().await.unwrap();
        begin(&mut a, way).await;
        run(&mut a, "INSERT INTO orders VALUES (1)").await;
        run(&mut a, "CREATE TABLE #bill (total int); SET LOCK_TIMEOUT 7").await;
        run(&mut a, "EXEC sp_set_session_context N'tenant', N'a'").await;
        assert_eq!(number(&mut a, "SELECT COUNT(*) FROM orders").await, 1);
        let resets = shop.counters().resets;
        drop(a);

        let mut b = pool.get().await.unwrap();
        assert_clean(&mut b).await;
        assert_eq!(shop.counters().resets, resets + 1);
        assert_eq!(number(&mut b, "SELECT COUNT(*) FROM orders").await, 0, "way {way}");
        assert_eq!(number(&mut other, "SELECT COUNT(*) FROM orders").await, 0);
        // The borrower can begin its own transactions.
        b.begin_transaction().await.unwrap();
        run(&mut b, "INSERT INTO orders VALUES (2)").await;
        b.rollback_transaction().await.unwrap();
        assert_eq!(session(&mut b).await, first, "the same session");
    }
    assert_eq!(retired(&connector), []);
}

#[tokio::test]
async fn fast_recycling_rejects_a_request_in_a_transaction_of_the_previous_borrower() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Fast);
    let mut a = pool.get().await.unwrap();
    let first = session(&mut a).await;
    run(&mut a, "CREATE TABLE orders (id int)").await;
    // A transaction that begins after a result set is not detected at the return.
    run(&mut a, "SELECT 1; BEGIN TRANSACTION; INSERT INTO orders VALUES (1)").await;
    drop(a);

    let requests = shop.counters().requests;
    let mut b = pool.get().await.unwrap();
    let error = failure(&mut b, "SELECT 1").await;
    let Error::Io { kind, message } = &error else { panic!("{error:?}") };
    assert_eq!(*kind, IoErrorKind::ConnectionAborted);
    assert!(message.contains("left a transaction open"), "{message}");
    assert!(message.contains("get another one from the pool and retry"), "{message}");
    assert_eq!(shop.counters().requests, requests, "the request was not sent");
    drop(b);

    let mut c = pool.get().await.unwrap();
    assert_ne!(session(&mut c).await, first);
    assert_clean(&mut c).await;
    // The server rolls back when it detects that the connection was closed.
    until(|| shop.counters().open_connections == 1).await;
    assert_eq!(number(&mut c, "SELECT COUNT(*) FROM orders").await, 0);
    assert_eq!(retired(&connector), [(RetireReason::TransactionOpen, 1)]);
}

#[tokio::test]
async fn only_clean_recycling_restores_the_isolation_level() {
    const LEVEL: &str = "SELECT CAST(transaction_isolation_level AS int) FROM sys.dm_exec_sessions";
    for (recycling, level) in [(Recycling::Clean, 2), (Recycling::Fast, 4)] {
        let shop = Shop::open().await;
        let (pool, _) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        run(&mut a, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await;
        assert_eq!(number(&mut a, LEVEL).await, 4);
        drop(a);
        let mut b = pool.get().await.unwrap();
        assert_eq!(number(&mut b, LEVEL).await, level, "{recycling:?}");
    }
}

/// Drops a request as soon as the server has it.
async fn send_and_drop(shop: &Shop, client: &mut Client, sql: &str) {
    let sent = shop.counters().requests;
    let request = client.simple_query(sql);
    tokio::select! {
        answered = request => panic!("answered: {:?}", answered.map(drop)),
        () = until(|| shop.counters().requests > sent) => {}
    }
}

/// Checks that the next borrower has another session, and that the previous connection was retired
/// for `reason`.
async fn assert_replaced(
    shop: &Shop,
    pool: &Pool,
    connector: &Connector,
    first: i32,
    reason: RetireReason,
) {
    let mut b = pool.get().await.unwrap();
    assert_ne!(session(&mut b).await, first);
    assert_clean(&mut b).await;
    assert_eq!(retired(connector), [(reason, 1)]);
    assert_eq!(shop.counters().logins, 2);
}

#[tokio::test]
async fn a_query_that_is_dropped_before_its_response_retires_the_connection() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        shop.server().behaviour().delay_queries(HOUR);
        send_and_drop(&shop, &mut a, "SELECT 'for a only'").await;
        shop.server().behaviour().delay_queries(Duration::ZERO);
        drop(a);
        assert_replaced(&shop, &pool, &connector, first, RetireReason::Unsettled).await;
    }
}

#[tokio::test]
async fn a_query_that_is_dropped_half_written_retires_the_connection() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        // More than the sockets can buffer, and the server does not read during this single poll.
        let long = format!("SELECT '{}'", "x".repeat(16 << 20));
        tokio::select! {
            biased;
            answered = a.simple_query(long) => panic!("answered: {:?}", answered.map(drop)),
            () = std::future::ready(()) => {}
        }
        drop(a);
        assert_replaced(&shop, &pool, &connector, first, RetireReason::Unsettled).await;
    }
}

#[tokio::test]
async fn a_query_that_is_never_polled_has_no_effect() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let mut a = pool.get().await.unwrap();
    let first = session(&mut a).await;
    drop(a.simple_query("SELECT 1"));
    drop(a);
    assert_eq!(session(&mut pool.get().await.unwrap()).await, first);
    assert_eq!(retired(&connector), []);
}

#[tokio::test]
async fn a_query_that_is_dropped_before_its_last_row_retires_the_connection() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        run(&mut a, "CREATE TABLE lines (line varchar(200))").await;
        let lines = vec![format!("('{}')", "x".repeat(200)); 100].join(",");
        run(&mut a, &format!("INSERT INTO lines VALUES {lines}")).await;
        // Some 2 MB.
        let mut rows = a.simple_query("SELECT a.line FROM lines a, lines b").await.unwrap();
        while !matches!(rows.try_next().await.unwrap(), Some(tiberius::QueryItem::Row(_))) {}
        drop(rows);
        drop(a);
        assert_replaced(&shop, &pool, &connector, first, RetireReason::Unsettled).await;
    }
}

#[tokio::test]
async fn rows_that_were_received_but_not_read_do_not_reach_the_next_borrower() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        let mut rows = a.simple_query("SELECT 7 UNION ALL SELECT 8; SELECT 9").await.unwrap();
        while !matches!(rows.try_next().await.unwrap(), Some(tiberius::QueryItem::Row(_))) {}
        drop(rows);
        drop(a);
        let mut b = pool.get().await.unwrap();
        assert_eq!(number(&mut b, "SELECT 1").await, 1);
        assert_eq!(session(&mut b).await, first);
        assert_eq!(retired(&connector), []);
    }
}

#[tokio::test]
async fn a_transaction_change_in_unread_rows_does_not_affect_the_next_borrower() {
    // tiberius discards such rows unread, together with the begin or end of a transaction.
    for (before, unread) in [("SELECT 1", "BEGIN TRANSACTION"), ("BEGIN TRANSACTION", "COMMIT")] {
        for recycling in BOTH {
            let shop = Shop::open().await;
            let (pool, connector) = shop.pool_of_one(recycling);
            let mut a = pool.get().await.unwrap();
            run(&mut a, before).await;
            let sql = format!("SELECT 7; {unread}");
            let mut rows = a.simple_query(sql).await.unwrap();
            while !matches!(rows.try_next().await.unwrap(), Some(tiberius::QueryItem::Row(_))) {}
            drop(rows);
            drop(a);
            let mut b = pool.get().await.unwrap();
            if let Err(error) = b.simple_query("SELECT 1").await.map(drop) {
                // The error is typed, and occurs only once.
                assert_eq!(recycling, Recycling::Fast);
                assert!(matches!(error, Error::Io { .. }), "{error:?}");
                drop(b);
                b = pool.get().await.unwrap();
                assert_eq!(retired(&connector), [(RetireReason::TransactionOpen, 1)]);
            }
            assert_clean(&mut b).await;
        }
    }
}

/// tiberius uses its own timer. One second is its shortest timeout.
#[tokio::test]
async fn a_query_that_exceeds_the_command_timeout_retires_the_connection() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let connector = recycled(&shop.connector("Command Timeout=1"), recycling);
        let pool = crate::pool(&connector, 1);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        shop.server().behaviour().delay_queries(HOUR);
        let error = failure(&mut a, "SELECT 1").await;
        assert!(matches!(error, Error::Io { kind: IoErrorKind::TimedOut, .. }), "{error:?}");
        assert!(!is_transient(&error), "it would take as long again");
        shop.server().behaviour().delay_queries(Duration::ZERO);
        drop(a);
        assert_replaced(&shop, &pool, &connector, first, RetireReason::Unsettled).await;
    }
}

#[tokio::test]
async fn a_cancelled_query_retires_the_connection_when_it_is_returned() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        send_and_drop(&shop, &mut a, "WAITFOR DELAY '01:00:00'").await;
        a.cancel_query().await.unwrap();
        assert_eq!(shop.counters().attentions, 1);
        assert_eq!(session(&mut a).await, first, "its borrower can still use it");
        drop(a);
        assert_replaced(&shop, &pool, &connector, first, RetireReason::Cancelled).await;
    }
}

#[tokio::test]
async fn a_cancellation_without_a_running_query_also_retires_the_connection() {
    // Detecting whether a query is running would need a parser for tokens.
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let mut a = pool.get().await.unwrap();
    let first = session(&mut a).await;
    a.cancel_query().await.unwrap();
    drop(a);
    assert_replaced(&shop, &pool, &connector, first, RetireReason::Cancelled).await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_while_it_begins_retires_the_connection() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        shop.server().behaviour().delay_queries(HOUR);
        let sent = shop.counters().requests;
        tokio::select! {
            begun = a.begin_transaction() => panic!("{begun:?}"),
            () = until(|| shop.counters().requests > sent) => {}
        }
        shop.server().behaviour().delay_queries(Duration::ZERO);
        drop(a);
        assert_replaced(&shop, &pool, &connector, first, RetireReason::Unsettled).await;
    }
}

#[tokio::test]
async fn a_server_error_does_not_retire_the_connection() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        assert_eq!(failure(&mut a, "SELECT * FROM nowhere").await.code(), Some(208));
        assert_eq!(failure(&mut a, "SELECT 1; SELECT 1 / 0").await.code(), Some(8134));
        drop(a);
        let mut b = pool.get().await.unwrap();
        assert_clean(&mut b).await;
        assert_eq!(session(&mut b).await, first);
        assert_eq!(retired(&connector), []);
    }
}
