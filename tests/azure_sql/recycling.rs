//! When a connection is reused, and when it is retired.

use std::time::Duration;

use entra_pool::{
    azure_sql::{Connector, Recycling},
    clock::Clock,
    connect::RetireReason,
    token::Scope,
};
use entra_pool_emulator::azure_sql::{Fault, Stage};

use crate::{Shop, number, pool, retired, session, until};

#[tokio::test]
async fn cleaning_costs_one_round_trip_and_fast_recycling_none() {
    for (recycling, price) in [(Recycling::Clean, 1), (Recycling::Fast, 0)] {
        let shop = Shop::open().await;
        let (pool, _) = shop.pool_of_one(recycling);
        drop(pool.get().await.unwrap());
        drop(pool.get().await.unwrap());
        assert_eq!(shop.counters().requests, 0, "an unused connection needs no cleaning");
        session(&mut pool.get().await.unwrap()).await;

        let mut again = pool.get().await.unwrap();
        assert_eq!(shop.counters().requests, price + 1);
        session(&mut again).await;
        let counters = shop.counters();
        assert_eq!(counters.requests, price + 2);
        assert_eq!((counters.reset_bits, counters.resets, counters.logins), (1, 1, 1));
        assert_eq!(again.resets_sent(), 1);
        session(&mut again).await;
        assert_eq!(shop.counters().reset_bits, 1, "only the borrower's first request resets");
    }
}

#[tokio::test]
async fn a_connection_is_retired_at_its_maximum_lifetime() {
    let shop = Shop::open().await;
    let connector = shop.connector("Connection Lifetime=600");
    let pool = pool(&connector, 1);
    let first = session(&mut pool.get().await.unwrap()).await;
    // The lifetime is up to a third shorter, at random.
    shop.clock.advance(Duration::from_secs(399));
    assert_eq!(session(&mut pool.get().await.unwrap()).await, first);
    assert_eq!(retired(&connector), []);
    shop.clock.advance(Duration::from_secs(201));
    assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
    assert_eq!(retired(&connector), [(RetireReason::Age, 1)]);
}

#[tokio::test]
async fn a_connection_is_retired_when_it_was_idle_for_too_long() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    let config = connector.config().clone().idle_timeout(Duration::from_secs(60));
    let connector = Connector::new(config, connector.tokens().clone()).unwrap();
    let pool = pool(&connector, 1);
    let first = session(&mut pool.get().await.unwrap()).await;
    shop.clock.advance(Duration::from_secs(59));
    assert_eq!(session(&mut pool.get().await.unwrap()).await, first);
    shop.clock.advance(Duration::from_secs(60));
    assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
    assert_eq!(retired(&connector), [(RetireReason::Idle, 1)]);
}

#[tokio::test]
async fn a_connection_is_retired_before_its_token_expires_if_there_is_a_newer_token() {
    let shop = Shop::open().await;
    shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 2000);
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let first = session(&mut pool.get().await.unwrap()).await;

    shop.clock.advance(Duration::from_secs(1860));
    assert_eq!(shop.token_requests(), 1);
    shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 24 * 3600);
    let mut lent = pool.get().await.unwrap();
    assert_eq!(session(&mut lent).await, first, "there is no newer token");
    assert_eq!(retired(&connector), []);

    // No connect is running, but that checkout has requested the next token.
    let tokens = shop.identity.tokens(Scope::AZURE_SQL);
    let soon = shop.clock.wall() + Duration::from_secs(300);
    until(|| tokens.report().expires_on > Some(soon)).await;
    drop(lent);
    assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
    assert_eq!(retired(&connector), [(RetireReason::TokenExpiry, 1)]);
    assert_eq!(shop.token_requests(), 2);
}

#[tokio::test]
async fn a_connection_that_responded_to_its_borrower_is_not_treated_as_silent() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    let pool = pool(&connector, 2);
    let (mut busy, idle) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let busy_session = session(&mut busy).await;
    drop(idle);
    shop.clock.advance(Duration::from_secs(1));
    shop.server().behaviour().delay_queries(Duration::from_secs(3_600));
    let getting = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.get().await.unwrap() })
    };
    until(|| shop.clock.sleepers() == 1).await;
    shop.clock.advance(Duration::from_secs(5));
    let other = getting.await.unwrap();
    shop.server().behaviour().delay_queries(Duration::ZERO);
    assert_eq!(number(&mut busy, "SELECT 1").await, 1);
    drop(busy);
    assert_eq!(session(&mut pool.get().await.unwrap()).await, busy_session);
    assert_eq!(retired(&connector), [(RetireReason::Recycling, 1)]);
    drop(other);
}

#[tokio::test]
async fn connections_that_the_server_has_closed_are_replaced() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    let pool = pool(&connector, 3);
    let borrowed = tokio::try_join!(pool.get(), pool.get(), pool.get()).unwrap();
    drop(borrowed);
    assert_eq!(shop.counters().logins, 3);

    shop.server().cut_connections().await;
    until(|| shop.counters().open_connections == 0).await;
    let mut connection = pool.get().await.unwrap();
    assert_eq!(number(&mut connection, "SELECT 1").await, 1);
    assert_eq!(retired(&connector), [(RetireReason::Closed, 3)]);
    assert_eq!((shop.counters().logins, shop.token_requests()), (4, 1));
}

#[tokio::test]
async fn fast_recycling_detects_a_closed_connection_without_a_round_trip() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Fast);
    drop(pool.get().await.unwrap());
    shop.server().cut_connections().await;
    until(|| shop.counters().open_connections == 0).await;

    let mut next = pool.get().await.unwrap();
    assert_eq!(number(&mut next, "SELECT 1").await, 1);
    assert_eq!(retired(&connector), [(RetireReason::Closed, 1)]);
}

#[tokio::test]
async fn connections_remain_usable_while_new_logins_fail() {
    let shop = Shop::open().await;
    let connector = shop.connector("ConnectRetryCount=0");
    let pool = pool(&connector, 2);
    let mut lent = pool.get().await.unwrap();
    let first = session(&mut lent).await;
    drop(lent);
    shop.server().behaviour().disturb(usize::MAX, Stage::Accept, Fault::Cut);
    shop.emulator.identity().go_away().await.unwrap();
    let mut lent = pool.get().await.unwrap();
    assert_eq!(session(&mut lent).await, first);
    assert!(pool.get().await.is_err());
    shop.server().behaviour().calm();
    let mut second = pool.get().await.unwrap();
    assert_ne!(session(&mut second).await, first);
    assert_eq!(shop.token_requests(), 1);
}

#[tokio::test]
async fn a_connection_that_does_not_respond_to_the_probe_is_retired_after_five_seconds() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let first = session(&mut pool.get().await.unwrap()).await;
    shop.server().behaviour().delay_queries(Duration::from_secs(3600));
    let sent = shop.counters().requests;
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap() }
    });
    until(|| shop.counters().requests > sent).await;
    shop.clock.advance(Duration::from_secs(5));
    let mut next = next.await.unwrap();
    shop.server().behaviour().delay_queries(Duration::ZERO);
    assert_ne!(session(&mut next).await, first);
    assert_eq!(retired(&connector), [(RetireReason::Recycling, 1)]);
}

#[tokio::test]
async fn a_checkout_waits_for_one_silent_connection_and_not_for_each() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    let pool = pool(&connector, 3);
    let lent = [pool.get().await.unwrap(), pool.get().await.unwrap(), pool.get().await.unwrap()];
    drop(lent);
    shop.clock.advance(Duration::from_secs(1));
    shop.server().behaviour().delay_queries(Duration::from_secs(3_600));
    let getting = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.get().await.map(drop) })
    };
    until(|| shop.clock.sleepers() == 1).await;
    shop.clock.advance(Duration::from_secs(5));
    getting.await.unwrap().unwrap();
    assert_eq!(retired(&connector), [(RetireReason::Recycling, 1), (RetireReason::Silent, 2)]);
    assert_eq!(shop.counters().logins, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_times_out_does_not_mark_other_connections_as_silent() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    let pool = pool(&connector, 2);
    let (mut a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    a.simple_query("BEGIN TRANSACTION").await.unwrap().into_results().await.unwrap();
    shop.clock.advance(Duration::from_secs(1));
    drop(b);
    shop.server().behaviour().delay_queries(Duration::from_secs(3_600));
    drop(a);
    until(|| shop.clock.sleepers() == 1 && shop.counters().requests == 2).await;
    shop.server().behaviour().delay_queries(Duration::ZERO);
    shop.clock.advance(Duration::from_secs(5));
    until(|| retired(&connector) == [(RetireReason::Recycling, 1)]).await;
    // The other connection is reused.
    drop(pool.get().await.unwrap());
    assert_eq!((pool.status().size, shop.counters().logins), (1, 2));
    assert_eq!(retired(&connector), [(RetireReason::Recycling, 1)]);
}

#[tokio::test]
async fn a_dropped_checkout_leaves_no_connection_in_the_middle_of_its_probe() {
    let shop = Shop::open().await;
    let (pool, _) = shop.pool_of_one(Recycling::Clean);
    let first = session(&mut pool.get().await.unwrap()).await;
    shop.server().behaviour().delay_queries(Duration::from_secs(3600));
    let sent = shop.counters().requests;
    tokio::select! {
        lent = pool.get() => panic!("{lent:?}"),
        () = until(|| shop.counters().requests > sent) => {}
    }
    shop.server().behaviour().delay_queries(Duration::ZERO);
    let mut next = pool.get().await.unwrap();
    assert_ne!(session(&mut next).await, first);
    assert_eq!((shop.counters().logins, pool.status().size), (2, 1));
}

#[tokio::test]
async fn the_next_checkout_continues_the_login_of_a_dropped_checkout() {
    let shop = Shop::open().await;
    let (pool, _) = shop.pool_of_one(Recycling::Clean);
    shop.emulator.identity().hold();
    tokio::select! {
        lent = pool.get() => panic!("{lent:?}"),
        () = shop.emulator.identity().wait_for_requests(1) => {}
    }
    shop.emulator.identity().release();
    drop(pool.get().await.unwrap());
    assert_eq!((shop.counters().logins, shop.token_requests()), (1, 1));
}
