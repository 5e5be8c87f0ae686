//! Pools: their warm-up, the maintenance of idle connections, and closing.

use std::time::Duration;

use entra_pool::{
    azure_sql::{self, Error, Pool, PoolError, close_and_wait},
    connect::RetireReason,
};
use entra_pool_emulator::azure_sql::ServerError;

use crate::{Shop, number, pool, retired, until};

fn pool_of(shop: &Shop, more: &str) -> Pool {
    shop.connector(more).pool()
}

async fn warm_up(pool: &Pool, n: usize) -> Result<(), PoolError> {
    pool.manager().connector().warm_up(pool, n).await
}

#[tokio::test]
async fn warm_up_fills_a_pool_to_its_minimum() {
    let shop = Shop::open().await;
    let pool = pool_of(&shop, "Min Pool Size=3;Max Pool Size=5");
    warm_up(&pool, 3).await.unwrap();
    assert_eq!((pool.status().size, pool.status().available), (3, 3));
    assert_eq!((shop.counters().logins, shop.token_requests()), (3, 1));
    warm_up(&pool, 3).await.unwrap();
    assert_eq!(shop.counters().logins, 3, "the connections exist already");
    // One connection is checked out and one is gone: only the missing one is opened.
    let lent = pool.get().await.unwrap();
    drop(deadpool_take(&pool).await);
    warm_up(&pool, 3).await.unwrap();
    assert_eq!((pool.status().size, shop.counters().logins), (3, 4));
    drop(lent);

    // A pool without a minimum can be warmed up to detect a wrong setup.
    let without_minimum = pool_of(&shop, "");
    warm_up(&without_minimum, 1).await.unwrap();
    assert_eq!(without_minimum.status().size, 1);
}

async fn deadpool_take(pool: &Pool) -> azure_sql::Connection {
    azure_sql::PooledConnection::take(pool.get().await.unwrap())
}

#[tokio::test]
async fn warm_up_returns_the_error_that_keeps_a_pool_below_its_minimum() {
    let shop = Shop::open().await;
    let pool = pool_of(&shop, "Min Pool Size=2");
    let firewall = ServerError::new(40615, 14, "Client with IP address '192.0.2.7' is not allowed");
    shop.server().behaviour().fail_logins(1, firewall);
    let error = warm_up(&pool, 2).await.unwrap_err();
    assert!(error.to_string().contains("firewall"), "{error}");
    warm_up(&pool, 2).await.unwrap();
    assert_eq!(pool.status().size, 2);
}

#[tokio::test]
async fn maintenance_replaces_closed_and_old_idle_connections() {
    let shop = Shop::open().await;
    let connector = shop.maintained("Min Pool Size=2");
    let pool = pool(&connector, 4);
    warm_up(&pool, 2).await.unwrap();
    until(|| shop.clock.sleepers() > 0).await;
    assert_eq!(shop.clock.sleepers(), 1, "one task");

    // The server closes the connections between two checks.
    shop.server().cut_connections().await;
    until(|| shop.counters().open_connections == 0).await;
    shop.clock.advance(Duration::from_secs(30));
    until(|| pool.status().available == 2 && shop.counters().logins == 4).await;
    assert_eq!(retired(&connector), [(RetireReason::Closed, 2)]);

    // After an hour, the connections have reached their maximum lifetime. They are replaced without
    // a checkout, before the token expires.
    until(|| shop.clock.sleepers() == 1).await;
    shop.clock.advance(Duration::from_secs(3600));
    until(|| pool.status().available == 2 && shop.counters().logins == 6).await;
    assert_eq!(retired(&connector), [(RetireReason::Closed, 2), (RetireReason::Age, 2)]);

    // The task ends with the pool.
    until(|| shop.clock.sleepers() == 1).await;
    drop(pool);
    until(|| shop.clock.sleepers() == 0 && shop.counters().open_connections == 0).await;
}

#[tokio::test]
async fn a_pool_without_maintenance_has_no_background_task() {
    let shop = Shop::open().await;
    let pool = pool_of(&shop, "Min Pool Size=2");
    drop(pool.get().await.unwrap());
    shop.server().cut_connections().await;
    until(|| shop.counters().open_connections == 0).await;
    shop.clock.advance(Duration::from_secs(3600));
    assert_eq!((shop.clock.sleepers(), pool.status().size), (0, 1));
}

#[tokio::test]
async fn close_and_wait_waits_for_the_last_checked_out_connection() {
    let shop = Shop::open().await;
    let pool = pool(&shop.connector(""), 3);
    let mut lent = pool.get().await.unwrap();
    let taken = deadpool_take(&pool).await;
    drop(pool.get().await.unwrap());

    let closing = close_and_wait(&pool);
    tokio::pin!(closing);
    tokio::select! {
        biased;
        () = &mut closing => panic!("a connection is checked out"),
        () = until(|| shop.counters().open_connections == 2) => {}
    }
    assert!(matches!(pool.get().await, Err(azure_sql::PoolError::Closed)));
    // A borrower can finish its work.
    assert_eq!(number(&mut lent, "SELECT 1").await, 1);
    drop(lent);
    closing.await;
    until(|| shop.counters().open_connections == 1).await;
    drop(taken);
    close_and_wait(&pool).await;
}

#[tokio::test]
async fn close_and_wait_waits_for_a_running_login() {
    let shop = Shop::open().await;
    let pool = pool(&shop.connector(""), 1);
    shop.server().behaviour().delay_logins(Duration::from_secs(3600));
    let capture = crate::logs::capture();
    let checkout = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.map(drop) }
    });
    until(|| capture.text().contains("logging in")).await;
    let closing = close_and_wait(&pool);
    tokio::pin!(closing);
    tokio::select! {
        biased;
        () = &mut closing => panic!("a login is running"),
        () = tokio::task::yield_now() => {}
    }
    checkout.abort();
    closing.await;
}

#[tokio::test]
async fn a_pool_closes_even_if_a_waiting_checkout_was_dropped() {
    let shop = Shop::open().await;
    let pool = pool(&shop.connector(""), 1);
    let lent = pool.get().await.unwrap();
    let mut waiting = Box::pin(pool.get());
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("the only connection is checked out"),
        () = until(|| pool.status().waiting == 1) => {}
    }
    // The connection is reserved for the waiting checkout.
    drop(lent);
    let closing = close_and_wait(&pool);
    drop(waiting);
    closing.await;
    until(|| shop.counters().open_connections == 0).await;
}

#[tokio::test]
async fn warm_up_does_not_wait_for_checkouts() {
    let shop = Shop::open().await;
    let pool = pool_of(&shop, "Min Pool Size=2;Max Pool Size=2");
    let first = pool.get().await.unwrap();
    shop.server().behaviour().delay_logins(Duration::from_secs(3600));
    let capture = crate::logs::capture();
    // Another login is running, so the pool has its maximum size.
    let checkout = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.map(drop) }
    });
    until(|| capture.text().contains("logging in")).await;
    warm_up(&pool, 2).await.unwrap();
    checkout.abort();
    drop(first);
}

#[tokio::test]
async fn idle_connections_can_be_checked_out_while_maintenance_opens_missing_ones() {
    let shop = Shop::open().await;
    let connector = shop.maintained("Min Pool Size=3;Max Pool Size=3");
    let pool = connector.pool();
    warm_up(&pool, 3).await.unwrap();
    drop(deadpool_take(&pool).await);
    until(|| shop.clock.sleepers() == 1).await;
    let capture = crate::logs::capture();
    shop.server().behaviour().delay_logins(Duration::from_secs(3600));
    shop.clock.advance(Duration::from_secs(30));
    until(|| capture.text().contains("logging in")).await;

    let (mut a, mut b) = tokio::try_join!(pool.get(), pool.get()).unwrap();
    assert_eq!((number(&mut a, "SELECT 1").await, number(&mut b, "SELECT 1").await), (1, 1));
    drop((a, b));
    // Meanwhile, maintenance also finds closed connections.
    shop.server().cut_connections().await;
    until(|| shop.counters().open_connections == 0).await;
    assert_eq!(retired(&connector), []);
    shop.clock.advance(Duration::from_secs(30));
    until(|| retired(&connector) == [(RetireReason::Closed, 2)]).await;
}

#[tokio::test]
async fn closing_a_pool_cancels_the_logins_of_its_maintenance() {
    let shop = Shop::open().await;
    let pool = shop.maintained("Min Pool Size=2").pool();
    drop(pool.get().await.unwrap());
    until(|| shop.clock.sleepers() == 1).await;
    let capture = crate::logs::capture();
    shop.server().behaviour().delay_logins(Duration::from_secs(3600));
    shop.clock.advance(Duration::from_secs(30));
    until(|| capture.text().contains("logging in")).await;
    close_and_wait(&pool).await;
    until(|| shop.clock.sleepers() == 0).await;
    assert!(!capture.text().contains("fewer connections"), "{}", capture.text());
}

#[tokio::test]
async fn the_maximum_size_of_a_pool_is_at_least_its_minimum() {
    let shop = Shop::open().await;
    assert_eq!(pool_of(&shop, "Min Pool Size=300").status().max_size, 300);
    assert_eq!(pool_of(&shop, "Min Pool Size=1;Max Pool Size=3").status().max_size, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_connection_that_the_server_cut_is_not_lent() {
    let shop = Shop::open().await;
    let pool = pool(&shop.connector(""), 1);
    // Its last cleaning is so recent that the checkout asks only the socket.
    for _ in 0..100 {
        let mut client = pool.get().await.unwrap();
        assert_eq!(number(&mut client, "SELECT 1").await, 1);
        drop(client);
        until(|| pool.status().available == 1).await;
        shop.server().cut_connections().await;
    }
}

#[tokio::test]
async fn the_pools_own_errors_become_this_crates_errors() {
    let shop = Shop::open().await;
    let pool = pool(&shop.connector(""), 1);
    let held = pool.get().await.unwrap();
    let mut timeouts = pool.timeouts();
    timeouts.wait = Some(Duration::ZERO);
    let error = Error::from(pool.timeout_get(&timeouts).await.unwrap_err());
    assert!(error.is_transient() && error.to_string().contains("became free"), "{error:?}");
    drop(held);
    pool.close();
    let error = Error::from(pool.get().await.unwrap_err());
    assert!(!error.is_transient() && error.to_string() == "the pool is closed", "{error:?}");

    let unknown = shop.connector_to("shop.invalid", 1433, "ConnectRetryCount=0").pool();
    let error = Error::from(unknown.get().await.unwrap_err());
    assert!(matches!(error, Error::Resolve { .. }), "{error:?}");
}
