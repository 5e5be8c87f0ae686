//! Futures that are dropped at any await point: the next borrower gets a clean session and its own
//! results. The network forwards small pieces, so that there are many await points.

use std::{future::poll_fn, task::Poll};

use entra_pool::azure_sql::{Client, Connector, Pool, Recycling};
use entra_pool_emulator::network::Network;
use futures_util::TryStreamExt;

use crate::{
    Shop, number, pool, recycled, run,
    sessions::{BOTH, assert_clean},
    until,
};

/// More await points than any future in this module has.
const MOST: usize = 2000;

/// Polls `future` until it has been pending for the `nth` time, then drops it.
async fn dropped_at<F: Future>(nth: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut pending = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if pending == nth => Poll::Ready(None),
        Poll::Pending => {
            pending += 1;
            Poll::Pending
        }
    })
    .await
}

/// A pool of one connection, through a network that forwards 16 bytes at a time.
async fn slow_pool(shop: &Shop, recycling: Recycling) -> (Pool, Connector, Network) {
    let network = Network::to(shop.server().addr()).unwrap();
    network.split(16);
    let connector = shop.connector_to("localhost", network.addr().port(), "");
    let connector = recycled(&connector, recycling);
    connector.tokens().warm_up().await.unwrap();
    (pool(&connector, 1), connector, network)
}

/// Leaves traces in the session.
async fn leave_traces(client: &mut Client) {
    run(client, "CREATE TABLE #bill (total int); EXEC sp_set_session_context N'tenant', N'a'")
        .await;
    run(client, "SET LOCK_TIMEOUT 100; BEGIN TRANSACTION").await;
}

/// Checks that the next borrower gets a clean session and its own result.
async fn assert_next_is_clean(pool: &Pool) {
    let mut next = pool.get().await.unwrap();
    assert_eq!(number(&mut next, "SELECT 4711").await, 4711);
    assert_clean(&mut next).await;
}

#[tokio::test]
async fn a_checkout_can_be_dropped_at_any_await_point() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector, _network) = slow_pool(&shop, recycling).await;
        // First connects that log in, then checkouts that adopt the login of the previous one, then
        // checkouts of an idle connection.
        let mut places = 0;
        for nth in 0..MOST {
            if dropped_at(nth, connector.connect()).await.is_some() {
                places = nth;
                break;
            }
        }
        assert!((20..MOST).contains(&places), "{places} await points in a login");
        let logins = connector.report().logins;
        let mut nth = 0;
        while dropped_at(nth, pool.get()).await.is_none() {
            nth += 1;
        }
        assert_eq!(connector.report().logins, logins + 1, "one login for {nth} callers");
        for nth in 0..MOST {
            let mut a = pool.get().await.unwrap();
            // Fast recycling would reject the next request because of the transaction.
            leave_traces(&mut a).await;
            if recycling == Recycling::Fast {
                run(&mut a, "ROLLBACK").await;
            }
            drop(a);
            let done = dropped_at(nth, pool.get()).await.is_some();
            assert_next_is_clean(&pool).await;
            if done {
                break;
            }
            assert!(nth + 1 < MOST);
        }
        assert_eq!(pool.status().size, 1);
        drop(pool);
        until(|| shop.counters().open_connections == 0).await;
        drop(connector);
    }
}

/// Drops `work` at each of its await points, one after the other.
async fn drop_at_each_await_point(work: impl AsyncFn(&mut Client)) {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector, _network) = slow_pool(&shop, recycling).await;
        let mut places = None;
        for nth in 0..MOST {
            let mut a = pool.get().await.unwrap();
            let done = dropped_at(nth, work(&mut a)).await.is_some();
            drop(a);
            assert_next_is_clean(&pool).await;
            if done {
                places = Some(nth);
                break;
            }
        }
        let places = places.expect("fewer than MOST await points");
        let retired: u64 = connector.report().retired.iter().map(|(_, count)| count).sum();
        // A connection is retired if its work was dropped, and kept if the work was completed.
        assert!(places > 2 && retired > 0 && retired <= places as u64, "{retired} of {places}");
    }
}

#[tokio::test]
async fn a_query_can_be_dropped_at_any_await_point() {
    drop_at_each_await_point(async |client| {
        let rows = client.query("SELECT @P1 UNION ALL SELECT 2", &[&1_i32]).await.unwrap();
        assert_eq!(rows.into_first_result().await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_rows_can_be_dropped_at_any_await_point() {
    let sql = format!("SELECT '{0}' UNION ALL SELECT '{0}'", "x".repeat(300));
    drop_at_each_await_point(async |client| {
        let mut rows = client.simple_query(&*sql).await.unwrap();
        while rows.try_next().await.unwrap().is_some() {}
    })
    .await;
}

#[tokio::test]
async fn a_long_request_can_be_dropped_at_any_await_point() {
    let text = "x".repeat(6000);
    drop_at_each_await_point(async |client| {
        let done =
            client.execute("SELECT 1 WHERE @P1 IS NOT NULL", &[&text.as_str()]).await.unwrap();
        assert_eq!(done.total(), 1);
    })
    .await;
}
