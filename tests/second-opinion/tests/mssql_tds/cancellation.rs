//! Whatever is dropped, wherever it waits: the next borrower has a clean session and its own
//! answers. The network carries a few bytes at a time, so that there are many places to wait at.

use std::{future::poll_fn, task::Poll};

use entra_pool::adapters::mssql_tds::{
    Connector, Pool,
    mssql_tds::{
        connection::tds_client::TdsClient,
        datatypes::{sql_string::SqlString, sqltypes::SqlType},
        message::parameters::rpc_parameters::{RpcParameter, StatusFlags},
    },
};
use entra_pool_emulator::network::Network;

use crate::{Shop, number, rows, run, sessions::assert_clean, until};

/// More places to wait at than anything here has.
const MOST: usize = 2_000;

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
async fn slowly(shop: &Shop) -> (Pool, Connector, Network) {
    let network = Network::to(shop.server.addr()).unwrap();
    network.split(16);
    let connector = shop.connector_to(network.addr().port(), "", |config| config);
    (connector.pool_builder().max_size(1).build(), connector, network)
}

async fn assert_next_is_clean(pool: &Pool) {
    let mut next = pool.get().await.unwrap();
    assert_eq!(number(&mut next, "SELECT 4711").await, 4711);
    assert_clean(&mut next).await;
}

/// What a borrower does, dropped at each place where it waits, in turn.
async fn dropped_anywhere(does: impl AsyncFn(&mut TdsClient)) {
    let shop = Shop::open().await;
    let (pool, connector, _network) = slowly(&shop).await;
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
    assert!(places > 2 && retired > 0 && retired <= places as u64, "{retired} of {places}");
}

#[tokio::test]
async fn a_query_that_is_dropped_anywhere() {
    dropped_anywhere(async |client| {
        let found = rows(client, "SELECT 'mine' UNION ALL SELECT 'mine as well'").await;
        assert_eq!(found.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_long_request_that_is_dropped_anywhere() {
    let long = "x".repeat(6_000);
    dropped_anywhere(async |client| {
        let value = SqlType::NVarcharMax(Some(SqlString::from_utf8_string(long.clone())));
        let value = RpcParameter::new(Some("@P1".to_owned()), StatusFlags::NONE, value);
        client.execute_sp_executesql("SELECT @P1".to_owned(), vec![value], ()).await.unwrap();
        client.close_query().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_checkout_that_is_dropped_anywhere() {
    let shop = Shop::open().await;
    let (pool, connector, _network) = slowly(&shop).await;
    let mut nth = 0;
    while dropped_at(nth, pool.get()).await.is_none() {
        nth += 1;
    }
    assert_eq!(connector.report().logins, 1, "one login for {nth} callers");
    for nth in 0..MOST {
        let mut a = pool.get().await.unwrap();
        run(&mut a, "CREATE TABLE #bill (total int); SET LOCK_TIMEOUT 100").await;
        drop(a);
        let done = dropped_at(nth, pool.get()).await.is_some();
        assert_next_is_clean(&pool).await;
        if done {
            break;
        }
        assert!(nth + 1 < MOST);
    }
    assert_eq!(pool.status().size, 1);
    drop((pool, connector));
    until(|| shop.counters().open_connections == 0).await;
}
