//! Transaction guards.

use std::time::Duration;

use entra_pool::{
    azure_sql::{PooledConnection, Recycling, Transaction},
    connect::RetireReason,
};
use tiberius::{IsolationLevel, Result, error::Error};
use tokio::time::timeout;

use crate::{Shop, failure, number, retired, run, session, sessions::BOTH, until};

const COUNT: &str = "SELECT COUNT(*) FROM orders";

const LEVEL: &str = "SELECT CAST(transaction_isolation_level AS int) FROM sys.dm_exec_sessions";

/// A connection of a pool of one, to a shop with a table.
async fn open(recycling: Recycling) -> (Shop, entra_pool::azure_sql::Pool, PooledConnection) {
    let shop = Shop::open().await;
    let (pool, _) = shop.pool_of_one(recycling);
    let mut conn = pool.get().await.unwrap();
    run(&mut conn, "CREATE TABLE orders (id int)").await;
    (shop, pool, conn)
}

#[tokio::test]
async fn a_transaction_is_committed_or_rolled_back_with_one_round_trip_each() {
    let (shop, _pool, mut conn) = open(Recycling::Clean).await;
    for (commits, count) in [(false, 0), (true, 1)] {
        let before = shop.counters().requests;
        let mut transaction = conn.transaction().await.unwrap();
        run(&mut transaction, "INSERT INTO orders VALUES (1)").await;
        if commits {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        assert_eq!(shop.counters().requests, before + 3);
        assert_eq!(number(&mut conn, COUNT).await, count);
        assert_eq!(number(&mut conn, "SELECT @@TRANCOUNT").await, 0);
    }
}

#[tokio::test]
async fn the_isolation_level_ends_with_its_transaction() {
    let (_shop, _pool, mut conn) = open(Recycling::Clean).await;
    for (level, number_of_level) in [
        (IsolationLevel::ReadUncommitted, 1),
        (IsolationLevel::RepeatableRead, 3),
        (IsolationLevel::Serializable, 4),
        (IsolationLevel::ReadCommitted, 2),
        (IsolationLevel::Unspecified, 2),
    ] {
        for commits in [true, false] {
            let mut transaction = conn.transaction_with(level).await.unwrap();
            assert_eq!(number(&mut transaction, LEVEL).await, number_of_level, "{level:?}");
            if commits {
                transaction.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
            }
            assert_eq!(number(&mut conn, LEVEL).await, 2, "{level:?}");
        }
    }
}

#[tokio::test]
async fn a_savepoint_commits_or_rolls_back_its_part() {
    let (_shop, _pool, mut conn) = open(Recycling::Clean).await;
    let mut transaction = conn.transaction().await.unwrap();
    run(&mut transaction, "INSERT INTO orders VALUES (1)").await;
    let mut kept = transaction.savepoint().await.unwrap();
    run(&mut kept, "INSERT INTO orders VALUES (2)").await;
    let mut undone = kept.savepoint().await.unwrap();
    run(&mut undone, "INSERT INTO orders VALUES (3)").await;
    undone.rollback().await.unwrap();
    kept.commit().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(number(&mut conn, "SELECT SUM(id) FROM orders").await, 3);
}

/// A handler that fails within its transaction.
async fn fails(conn: &mut PooledConnection) -> Result<()> {
    let mut transaction = conn.transaction().await?;
    run(&mut transaction, "INSERT INTO orders VALUES (1)").await;
    transaction.simple_query("SELECT * FROM missing").await?.into_results().await?;
    transaction.commit().await
}

fn assert_refused(error: &Error) {
    assert!(Transaction::was_dropped(error), "{error:?}");
    assert!(error.to_string().contains("the request was not sent"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_dropped_transaction_requests_are_rejected_and_the_return_rolls_back() {
    for recycling in BOTH {
        let (shop, pool, mut conn) = open(recycling).await;
        let first = session(&mut conn).await;
        let error = fails(&mut conn).await.unwrap_err();
        assert_eq!(error.code(), Some(208));
        assert!(!Transaction::was_dropped(&error));
        let before = shop.counters().requests;
        assert_refused(&failure(&mut conn, "INSERT INTO orders VALUES (2)").await);
        assert_refused(&conn.query("SELECT 1", &[]).await.map(drop).unwrap_err());
        assert_refused(&conn.transaction().await.map(drop).unwrap_err());
        assert_refused(&conn.begin_transaction().await.unwrap_err());
        assert_eq!(shop.counters().requests, before, "nothing was sent");
        drop(conn);

        let mut next = pool.get().await.unwrap();
        assert_eq!(number(&mut next, COUNT).await, 0);
        // `Clean` rolls back; `Fast` closes.
        assert_eq!(session(&mut next).await == first, recycling == Recycling::Clean);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_a_time_limit_drops_ends_at_the_server() {
    let (shop, pool, mut conn) = open(Recycling::Clean).await;
    let mut transaction = conn.transaction().await.unwrap();
    run(&mut transaction, "INSERT INTO orders VALUES (1)").await;
    shop.server().behaviour().delay_queries(Duration::from_secs(3600));
    let query = transaction.simple_query("SELECT 1");
    timeout(Duration::from_millis(50), query).await.map(drop).unwrap_err();
    shop.server().behaviour().delay_queries(Duration::ZERO);
    drop(transaction);
    drop(conn);
    until(|| shop.counters().open_connections == 0).await;
    assert_eq!(number(&mut pool.get().await.unwrap(), COUNT).await, 0);
}

#[tokio::test]
async fn a_begin_that_is_dropped_before_its_response_leaves_no_transaction() {
    let (shop, pool, mut conn) = open(Recycling::Clean).await;
    shop.server().behaviour().delay_queries(Duration::from_secs(3600));
    timeout(Duration::from_millis(50), conn.transaction()).await.map(drop).unwrap_err();
    shop.server().behaviour().delay_queries(Duration::ZERO);
    drop(conn);
    until(|| shop.counters().open_connections == 0).await;
    assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT @@TRANCOUNT").await, 0);
}

#[tokio::test]
async fn after_a_dropped_savepoint_only_a_rollback_of_its_transaction_is_accepted() {
    let (_shop, _pool, mut conn) = open(Recycling::Clean).await;
    for rolls_back in [true, false] {
        let mut transaction = conn.transaction().await.unwrap();
        run(&mut transaction, "INSERT INTO orders VALUES (1)").await;
        let mut savepoint = transaction.savepoint().await.unwrap();
        run(&mut savepoint, "INSERT INTO orders VALUES (2)").await;
        drop(savepoint);
        assert_refused(&failure(&mut transaction, "INSERT INTO orders VALUES (3)").await);
        if rolls_back {
            transaction.rollback().await.unwrap();
            assert_eq!(number(&mut conn, COUNT).await, 0);
        } else {
            assert_refused(&transaction.commit().await.unwrap_err());
            assert_refused(&failure(&mut conn, COUNT).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_server_has_ended_is_rolled_back_without_an_error() {
    let (shop, pool, mut conn) = open(Recycling::Clean).await;
    let mut transaction = conn.transaction().await.unwrap();
    run(&mut transaction, "INSERT INTO orders VALUES (1); ROLLBACK TRANSACTION").await;
    // The request would run outside of a transaction.
    assert_refused(&failure(&mut transaction, "INSERT INTO orders VALUES (2)").await);
    transaction.rollback().await.unwrap();
    assert_eq!(number(&mut conn, COUNT).await, 0);

    let mut transaction = conn.transaction().await.unwrap();
    run(&mut transaction, "ROLLBACK TRANSACTION").await;
    assert_refused(&transaction.commit().await.unwrap_err());
    assert_refused(&failure(&mut conn, COUNT).await);
    drop(conn);
    assert_eq!(number(&mut pool.get().await.unwrap(), COUNT).await, 0);
    assert_eq!(shop.counters().logins, 1);
}

#[tokio::test]
async fn a_transaction_does_not_begin_within_another() {
    let (_shop, _pool, mut conn) = open(Recycling::Clean).await;
    run(&mut conn, "BEGIN TRANSACTION").await;
    let error = conn.transaction().await.map(drop).unwrap_err();
    assert!(error.to_string().contains("savepoint"), "{error}");
    run(&mut conn, "ROLLBACK TRANSACTION").await;
    conn.transaction().await.unwrap().commit().await.unwrap();
    conn.begin_transaction().await.unwrap();
    assert!(conn.transaction().await.is_err());
}

#[tokio::test]
async fn a_connection_that_is_taken_out_of_its_pool_accepts_requests_again() {
    let (_shop, _pool, mut conn) = open(Recycling::Clean).await;
    drop(conn.transaction().await.unwrap());
    let mut taken = PooledConnection::take(conn);
    assert_eq!(number(&mut taken, "SELECT @@TRANCOUNT").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_dropped_after_the_server_rolled_back_leaves_a_clean_session() {
    for recycling in BOTH {
        let (shop, pool, mut conn) = open(recycling).await;
        // The server ends the transaction, and the guard is dropped.
        let mut transaction = conn.transaction_with(IsolationLevel::Serializable).await.unwrap();
        run(&mut transaction, "ROLLBACK TRANSACTION").await;
        drop(transaction);
        assert_refused(&failure(&mut conn, COUNT).await);
        drop(conn);
        let mut next = pool.get().await.unwrap();
        assert_eq!((number(&mut next, COUNT).await, number(&mut next, LEVEL).await), (0, 2));
        // `Clean` restores the isolation level; `Fast` closes.
        let logins = if recycling == Recycling::Fast { 2 } else { 1 };
        assert_eq!(shop.counters().logins, logins, "{recycling:?}");
    }
}

#[tokio::test]
async fn a_transaction_that_does_not_begin_leaves_the_connection_usable() {
    let (shop, _pool, mut conn) = open(Recycling::Clean).await;
    let error = entra_pool_emulator::azure_sql::ServerError::new(1205, 13, "a deadlock");
    shop.server().behaviour().fail_requests(1, error);
    assert_eq!(conn.transaction().await.map(drop).unwrap_err().code(), Some(1205));
    assert_eq!(number(&mut conn, COUNT).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retirement_for_an_abandoned_transaction_is_counted() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Fast);
    let mut conn = pool.get().await.unwrap();
    drop(conn.transaction().await.unwrap());
    drop(conn);
    assert_eq!(retired(&connector), [(RetireReason::TransactionOpen, 1)]);
}
