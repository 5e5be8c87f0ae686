//! Futures are dropped at every await point: the next caller gets a clean session and its own
//! responses. The network carries a few bytes at a time, so that there are many await points.

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

/// More await points than any future here has.
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

/// A pool of one connection, over a network that carries 16 bytes at a time.
async fn slow_pool(shop: &Shop) -> (Pool, Connector, Network) {
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

/// Runs `action` repeatedly, and drops it at each of its await points in turn.
async fn drop_at_each_point(action: impl AsyncFn(&mut TdsClient)) {
    let shop = Shop::open().await;
    let (pool, connector, _network) = slow_pool(&shop).await;
    let mut points = None;
    for nth in 0..MOST {
        let mut a = pool.get().await.unwrap();
        let done = dropped_at(nth, action(&mut a)).await.is_some();
        drop(a);
        assert_next_is_clean(&pool).await;
        if done {
            points = Some(nth);
            break;
        }
    }
    let points = points.expect("the action completes");
    let retired: u64 = connector.report().retired.iter().map(|(_, count)| count).sum();
    assert!(points > 2 && retired > 0 && retired <= points as u64, "{retired} of {points}");
}

#[tokio::test]
async fn a_query_can_be_dropped_at_any_await_point() {
    drop_at_each_point(async |client| {
        let found = rows(client, "SELECT 'mine' UNION ALL SELECT 'mine as well'").await;
        assert_eq!(found.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_long_request_can_be_dropped_at_any_await_point() {
    let long = "x".repeat(6_000);
    drop_at_each_point(async |client| {
        let value = SqlType::NVarcharMax(Some(SqlString::from_utf8_string(long.clone())));
        let value = RpcParameter::new(Some("@P1".to_owned()), StatusFlags::NONE, value);
        client.execute_sp_executesql("SELECT @P1".to_owned(), vec![value], ()).await.unwrap();
        client.close_query().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_checkout_can_be_dropped_at_any_await_point() {
    let shop = Shop::open().await;
    let (pool, connector, _network) = slow_pool(&shop).await;
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
