//! Whatever is dropped, wherever it waits: the next borrower has a clean session
//! and its own answers. The network hands the bytes on in small pieces, so that
//! there are many places to wait at.

use std::{future::poll_fn, task::Poll};

use entra_pool::azure_sql::{Client, Connector, Pool, Recycling};
use entra_pool_emulator::network::Network;
use futures_util::TryStreamExt;

use crate::{
    Shop, number, pool, recycled, run,
    sessions::{BOTH, assert_clean},
    until,
};

/// More places to wait at than anything here has.
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

/// A pool of one, by a network that carries 16 bytes at a time.
async fn slowly(shop: &Shop, recycling: Recycling) -> (Pool, Connector, Network) {
    let network = Network::to(shop.server().addr()).unwrap();
    network.split(16);
    let connector = shop.connector_to("localhost", network.addr().port(), "");
    let connector = recycled(&connector, recycling);
    connector.tokens().warm_up().await.unwrap();
    (pool(&connector, 1), connector, network)
}

/// Leaves traces in the session.
async fn soil(client: &mut Client) {
    run(client, "CREATE TABLE #bill (total int); EXEC sp_set_session_context N'tenant', N'a'")
        .await;
    run(client, "SET LOCK_TIMEOUT 100; BEGIN TRANSACTION").await;
}

/// What the next borrower finds.
async fn assert_next_is_clean(pool: &Pool) {
    let mut next = pool.get().await.unwrap();
    assert_eq!(number(&mut next, "SELECT 4711").await, 4711);
    assert_clean(&mut next).await;
}

#[tokio::test]
async fn a_checkout_that_is_dropped_anywhere() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector, _network) = slowly(&shop, recycling).await;
        // First those that log in, then those that adopt the login of the one before, then those
        // that find an idle connection.
        let mut places = 0;
        for nth in 0..MOST {
            if dropped_at(nth, connector.connect()).await.is_some() {
                places = nth;
                break;
            }
        }
        assert!((20..MOST).contains(&places), "{places} places in a login");
        let logins = connector.report().logins;
        let mut nth = 0;
        while dropped_at(nth, pool.get()).await.is_none() {
            nth += 1;
        }
        assert_eq!(connector.report().logins, logins + 1, "one login for {nth} callers");
        for nth in 0..MOST {
            let mut a = pool.get().await.unwrap();
            // Fast recycling would refuse the next request over the transaction.
            soil(&mut a).await;
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

/// What a borrower does, dropped at each place where it waits, in turn.
async fn dropped_anywhere(does: impl AsyncFn(&mut Client)) {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector, _network) = slowly(&shop, recycling).await;
        let mut places = None;
        for nth in 0..MOST {
            let mut a = pool.get().await.unwrap();
            let done = dropped_at(nth, does(&mut a)).await.is_some();
            drop(a);
            assert_next_is_clean(&pool).await;
            if done {
                places = Some(nth);
                break;
            }
        }
        let places = places.expect("it ends");
        let retired: u64 = connector.report().retired.iter().map(|(_, count)| count).sum();
        // Dropped on the way, a connection ends; done, it lives on.
        assert!(places > 2 && retired > 0 && retired <= places as u64, "{retired} of {places}");
    }
}

#[tokio::test]
async fn a_query_that_is_dropped_anywhere() {
    dropped_anywhere(async |client| {
        let rows = client.query("SELECT @P1 UNION ALL SELECT 2", &[&1_i32]).await.unwrap();
        assert_eq!(rows.into_first_result().await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_rows_that_is_dropped_anywhere() {
    let sql = format!("SELECT '{0}' UNION ALL SELECT '{0}'", "x".repeat(300));
    dropped_anywhere(async |client| {
        let mut rows = client.simple_query(&*sql).await.unwrap();
        while rows.try_next().await.unwrap().is_some() {}
    })
    .await;
}

#[tokio::test]
async fn a_long_request_that_is_dropped_anywhere() {
    let text = "x".repeat(6000);
    dropped_anywhere(async |client| {
        let done =
            client.execute("SELECT 1 WHERE @P1 IS NOT NULL", &[&text.as_str()]).await.unwrap();
        assert_eq!(done.total(), 1);
    })
    .await;
}
