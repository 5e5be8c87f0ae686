//! What happens to a connection after its borrower returns it and before the next checkout.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use entra_pool::{
    azure_sql::{Client, Connector, Pool, PooledConnection, Recycling, close_and_wait},
    connect::RetireReason,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{
    Shop, number, pool, recycled, retired, run, session,
    sessions::{BOTH, assert_clean},
    until,
};

/// The real time within which a change must be visible at the server.
const SECOND: Duration = Duration::from_secs(1);

const HOUR: Duration = Duration::from_secs(3_600);

fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A shop with an unlocked table, and a separate connection to it.
async fn with_orders() -> (Shop, entra_pool::azure_sql::Connection) {
    let shop = Shop::open().await;
    let mut other = shop.connector("").connect().await.unwrap();
    run(&mut other, "CREATE TABLE orders (id int); SET LOCK_TIMEOUT 0").await;
    (shop, other)
}

/// Waits until nothing holds a lock on the table.
async fn free(other: &mut Client) {
    let freed = async {
        loop {
            let insert = async {
                other.simple_query("INSERT INTO orders VALUES (2)").await?.into_results().await
            };
            match insert.await {
                Ok(_) => return,
                Err(error) => assert_eq!(error.code(), Some(1222), "{error:?}"),
            }
        }
    };
    timeout(SECOND, freed).await.expect("the lock is free within a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_of_a_returned_transaction_are_released_without_a_checkout() {
    let hidden = "SELECT 1; BEGIN TRANSACTION; INSERT INTO orders VALUES (1)";
    for (recycling, begin) in [
        (Recycling::Clean, "BEGIN TRANSACTION; INSERT INTO orders VALUES (1)"),
        (Recycling::Clean, "BEGIN TRANSACTION; INSERT INTO orders VALUES (1); SELECT 1"),
        (Recycling::Clean, hidden),
        (Recycling::Fast, "BEGIN TRANSACTION; INSERT INTO orders VALUES (1)"),
        (Recycling::Fast, "BEGIN TRANSACTION; INSERT INTO orders VALUES (1); SELECT 1"),
    ] {
        let (shop, mut other) = with_orders().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        run(&mut a, begin).await;
        drop(a);
        free(&mut other).await;
        let reasons = if recycling == Recycling::Fast {
            vec![(RetireReason::TransactionOpen, 1)]
        } else {
            vec![]
        };
        assert_eq!(retired(&connector), reasons, "{recycling:?}: {begin}");
        assert_eq!(number(&mut other, "SELECT COUNT(*) FROM orders WHERE id = 1").await, 0);
    }
}

#[tokio::test]
async fn a_transaction_that_a_request_begins_and_ends_is_not_left_open() {
    for recycling in BOTH {
        for end in ["COMMIT", "ROLLBACK"] {
            let shop = Shop::open().await;
            let (pool, connector) = shop.pool_of_one(recycling);
            let mut a = pool.get().await.unwrap();
            run(&mut a, "CREATE TABLE orders (id int)").await;
            let sql = "BEGIN TRANSACTION; INSERT INTO orders VALUES (1); SELECT * FROM orders;";
            run(&mut a, &format!("{sql} {end} TRANSACTION")).await;
            drop(a);
            assert_clean(&mut pool.get().await.unwrap()).await;
            assert_eq!((shop.counters().logins, retired(&connector)), (1, vec![]));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_transaction_was_rolled_back_is_also_reset() {
    let shop = Shop::open().await;
    let (pool, _) = shop.pool_of_one(Recycling::Clean);
    let mut a = pool.get().await.unwrap();
    run(&mut a, "CREATE TABLE #bill (total int); BEGIN TRANSACTION").await;
    drop(a);
    until(|| pool.status().available == 1).await;
    assert_eq!(shop.counters().resets, 1, "before the next checkout");
}

#[tokio::test]
async fn without_a_second_thread_a_returned_connection_in_a_transaction_is_closed_at_once() {
    for recycling in BOTH {
        let (shop, mut other) = with_orders().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        run(&mut a, "BEGIN TRANSACTION; INSERT INTO orders VALUES (1)").await;
        drop(a);
        assert_eq!(pool.status().size, 0);
        free(&mut other).await;
        assert_eq!(retired(&connector), [(RetireReason::TransactionOpen, 1)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_are_dropped_or_time_out_end_at_the_server() {
    for recycling in BOTH {
        for limited in [false, true] {
            let shop = Shop::open().await;
            let more = if limited { "Command Timeout=1" } else { "" };
            let connector = recycled(&shop.connector(more), recycling);
            let pool = pool(&connector, 20);
            let mut lent = Vec::new();
            for _ in 0..20 {
                lent.push(pool.get().await.unwrap());
            }
            shop.server().behaviour().delay_queries(HOUR);
            let mut running = tokio::task::JoinSet::new();
            for mut connection in lent {
                running.spawn(async move {
                    let query = connection.simple_query("SELECT 1");
                    if limited {
                        query.await.map(drop).unwrap_err();
                    } else {
                        timeout(SECOND / 4, query).await.map(drop).unwrap_err();
                    }
                });
            }
            running.join_all().await;
            shop.server().behaviour().delay_queries(Duration::ZERO);
            // Meanwhile, the pool works.
            assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
            timeout(3 * SECOND, until(|| shop.counters().open_connections == 1)).await.unwrap();
            assert_eq!(retired(&connector), [(RetireReason::Unsettled, 20)], "{recycling:?}");
        }
    }
}

/// Uses a connection of the pool, so that it must be cleaned.
async fn use_once(pool: &Pool) {
    run(&mut pool.get().await.unwrap(), "CREATE TABLE #bill (total int)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleaned_connection_needs_no_round_trip_at_a_checkout_for_a_second() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    use_once(&pool).await;
    until(|| pool.status().available == 1).await;
    assert_eq!(shop.counters().requests, 2, "one for the borrower, one for the cleaning");
    shop.clock.advance(Duration::from_millis(999));
    let mut next = pool.get().await.unwrap();
    assert_eq!(shop.counters().requests, 2);
    assert_clean(&mut next).await;
    drop(next);
    until(|| pool.status().available == 1).await;

    let before = shop.counters().requests;
    shop.clock.advance(SECOND);
    drop(pool.get().await.unwrap());
    assert_eq!(shop.counters().requests, before + 1, "the probe of the connection");
    drop(pool.get().await.unwrap());
    assert_eq!(shop.counters().requests, before + 1);
    assert_eq!(retired(&connector), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_state_that_a_hook_leaves_is_cleaned() {
    use entra_pool::azure_sql::deadpool::managed::Hook;

    let shop = Shop::open().await;
    let leave_traces = || {
        Hook::async_fn(|connection: &mut entra_pool::azure_sql::Connection, _| {
            Box::pin(async move {
                run(connection, "CREATE TABLE #bill (total int)").await;
                Ok(())
            })
        })
    };
    let builder = shop.connector("").pool_builder().max_size(1);
    let pool = builder.post_create(leave_traces()).pre_recycle(leave_traces()).build();
    drop(pool.get().await.unwrap());
    until(|| pool.status().available == 1).await;
    // The hook ran after the cleaning.
    assert_clean(&mut pool.get().await.unwrap()).await;
}

/// A pool on `runtime` whose connection is being cleaned, without a response so far.
fn being_cleaned(runtime: &Runtime) -> (Shop, Pool, Connector) {
    runtime.block_on(async {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(Recycling::Clean);
        let mut a = pool.get().await.unwrap();
        run(&mut a, "CREATE TABLE #bill (total int)").await;
        shop.server().behaviour().delay_queries(HOUR);
        drop(a);
        until(|| shop.counters().requests == 2).await;
        shop.server().behaviour().delay_queries(Duration::ZERO);
        assert_eq!((pool.status().size, pool.status().available), (1, 0), "in use");
        (shop, pool, connector)
    })
}

#[test]
fn a_connection_whose_runtime_stops_during_its_cleaning_leaves_the_pool() {
    let (servers, cleaning) = (threads(), threads());
    let (shop, connector, pool) = servers.block_on(async {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(Recycling::Clean);
        (shop, connector, pool)
    });
    cleaning.block_on(async {
        let mut a = pool.get().await.unwrap();
        run(&mut a, "CREATE TABLE #bill (total int)").await;
        shop.server().behaviour().delay_queries(HOUR);
        drop(a);
        until(|| shop.counters().requests == 2).await;
        shop.server().behaviour().delay_queries(Duration::ZERO);
    });
    drop(cleaning);
    assert_eq!(pool.status().size, 0);
    servers.block_on(async {
        assert_clean(&mut pool.get().await.unwrap()).await;
        assert_eq!(shop.counters().logins, 2);
        drop(connector);
    });
}

#[test]
fn a_runtime_that_is_not_driven_keeps_no_connection() {
    let (servers, runtime) = (threads(), one_thread());
    for (begin, within) in [(false, false), (false, true), (true, false), (true, true)] {
        let (shop, mut other) = servers.block_on(with_orders());
        let (pool, connector) = shop.pool_of_one(Recycling::Clean);
        let lent = runtime.block_on(async {
            let mut lent = pool.get().await.unwrap();
            run(&mut lent, "CREATE TABLE #bill (total int)").await;
            if begin {
                run(&mut lent, "BEGIN TRANSACTION; INSERT INTO orders VALUES (1)").await;
            }
            lent
        });
        {
            // Within the runtime, which runs no task now, or outside of a runtime.
            let _entered = within.then(|| runtime.enter());
            drop(lent);
        }
        assert_eq!(pool.status().size, usize::from(!begin));
        servers.block_on(free(&mut other));
        runtime.block_on(async { assert_clean(&mut pool.get().await.unwrap()).await });
        let reasons = if begin { vec![(RetireReason::TransactionOpen, 1)] } else { vec![] };
        assert_eq!(retired(&connector), reasons);
    }
}

#[test]
fn a_connection_that_is_dropped_while_unwinding_is_cleaned() {
    let runtime = threads();
    let (shop, pool) = runtime.block_on(async {
        let shop = Shop::open().await;
        let (pool, _) = shop.pool_of_one(Recycling::Clean);
        (shop, pool)
    });
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut lent = pool.get().await.unwrap();
            run(&mut lent, "CREATE TABLE #bill (total int); BEGIN TRANSACTION").await;
            panic!("the test's panic");
        })
    }));
    assert!(panicked.is_err());
    runtime.block_on(async {
        assert_clean(&mut pool.get().await.unwrap()).await;
        assert_eq!(shop.counters().logins, 1);
    });
}

#[test]
fn a_pool_that_closes_does_not_wait_for_a_cleaning() {
    let runtime = threads();
    let (shop, pool, _connector) = being_cleaned(&runtime);
    runtime.block_on(async {
        timeout(SECOND, close_and_wait(&pool)).await.unwrap();
        until(|| shop.counters().open_connections == 0).await;
        assert_eq!(pool.status().size, 0);
    });
    // With deadpool's own `close`, the cleaning continues up to its time limit.
    let (shop, pool, connector) = being_cleaned(&runtime);
    runtime.block_on(async {
        pool.close();
        until(|| shop.clock.sleepers() == 1).await;
        shop.clock.advance(Duration::from_secs(5));
        until(|| shop.counters().open_connections == 0 && pool.status().size == 0).await;
        assert_eq!(retired(&connector), [(RetireReason::Recycling, 1)]);
    });
}

#[test]
fn a_pool_can_shrink_grow_and_drop_idle_connections_during_a_cleaning() {
    let runtime = threads();
    for size in [0, 1, 3] {
        let (shop, pool, connector) = being_cleaned(&runtime);
        runtime.block_on(async {
            pool.retain(|_, _| false);
            pool.resize(size);
            until(|| shop.clock.sleepers() == 1).await;
            shop.clock.advance(Duration::from_secs(5));
            until(|| retired(&connector) == [(RetireReason::Recycling, 1)]).await;
            until(|| pool.status().size == 0).await;
            pool.resize(2);
            let lent = (pool.get().await.unwrap(), pool.get().await.unwrap());
            assert_eq!(pool.status().size, 2, "no permit is lost");
            drop(lent);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_taken_out_of_the_pool_is_not_cleaned() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let mut lent = pool.get().await.unwrap();
    let first = session(&mut lent).await;
    let (id, used) = (PooledConnection::id(&lent), PooledConnection::metrics(&lent).recycle_count);
    assert_eq!(used, 0);
    let mut taken = PooledConnection::take(lent);
    assert_eq!(pool.status().size, 0);
    assert_eq!(session(&mut taken).await, first);
    let next = pool.get().await.unwrap();
    assert_ne!(PooledConnection::id(&next), id);
    drop(taken);
    assert_eq!((shop.counters().requests, retired(&connector)), (2, vec![]));
}

#[tokio::test]
async fn with_fast_recycling_a_query_without_a_response_retires_other_silent_connections() {
    let shop = Shop::open().await;
    let connector = recycled(&shop.connector("Command Timeout=1"), Recycling::Fast);
    let pool = pool(&connector, 4);
    let mut lent = Vec::new();
    for _ in 0..4 {
        lent.push(pool.get().await.unwrap());
    }
    shop.clock.advance(SECOND);
    let mut used = lent.pop().unwrap();
    drop(lent);
    shop.server().behaviour().delay_queries(HOUR);
    let (outcome, ()) = tokio::join!(used.simple_query("SELECT 1"), async {
        until(|| shop.counters().requests == 1).await;
        shop.clock.advance(SECOND);
    });
    outcome.map(drop).unwrap_err();
    shop.server().behaviour().delay_queries(Duration::ZERO);
    drop(used);
    assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
    assert_eq!(retired(&connector), [(RetireReason::Unsettled, 1), (RetireReason::Silent, 3)]);
    assert_eq!(shop.counters().logins, 5);
}

#[tokio::test]
async fn with_fast_recycling_a_query_that_is_dropped_early_retires_no_other_connection() {
    let shop = Shop::open().await;
    let connector = recycled(&shop.connector(""), Recycling::Fast);
    let pool = pool(&connector, 2);
    let (mut dropped, idle) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    drop(idle);
    shop.clock.advance(SECOND);
    shop.server().behaviour().delay_queries(HOUR);
    tokio::select! {
        response = dropped.simple_query("SELECT 1") => panic!("{:?}", response.map(drop)),
        () = until(|| shop.counters().requests == 1) => {}
    }
    // The borrower keeps the connection for a long time.
    shop.clock.advance(HOUR / 2);
    drop(dropped);
    shop.server().behaviour().delay_queries(Duration::ZERO);
    assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
    assert_eq!(retired(&connector), [(RetireReason::Unsettled, 1)]);
    assert_eq!(shop.counters().logins, 2);
}

/// The connection of a background cleaning breaks before the request is run or answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleaning_that_fails_leaks_no_connection_and_no_permit() {
    use entra_pool_emulator::azure_sql::{Fault, Stage};

    let shop = Shop::open().await;
    let connector = shop.connector("");
    for at in [Stage::Request, Stage::Answer] {
        for fault in [Fault::Cut, Fault::Stall] {
            for begin in ["", "; BEGIN TRANSACTION"] {
                let pool = pool(&connector, 1);
                let mut lent = pool.get().await.unwrap();
                run(&mut lent, &format!("CREATE TABLE #bill (total int){begin}")).await;
                let faults = shop.counters().faults;
                shop.server().behaviour().disturb(1, at, fault);
                drop(lent);
                until(|| shop.counters().faults > faults).await;
                // The time limit of the cleaning; nothing else sleeps on this clock.
                if fault == Fault::Stall {
                    until(|| shop.clock.sleepers() > 0).await;
                    shop.clock.advance(Duration::from_secs(5));
                }
                until(|| pool.status().size == 0).await;
                assert_clean(&mut pool.get().await.unwrap()).await;
            }
        }
    }
}

#[tokio::test]
async fn with_fast_recycling_a_query_that_waits_for_a_lock_retires_no_other_connection() {
    let (shop, mut other) = with_orders().await;
    run(&mut other, "BEGIN TRANSACTION; INSERT INTO orders VALUES (1)").await;
    let connector = recycled(&shop.connector("Command Timeout=1"), Recycling::Fast);
    let pool = pool(&connector, 3);
    let (mut waiting, mut working) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    drop(pool.get().await.unwrap());
    shop.clock.advance(SECOND);
    let before = shop.counters().requests;
    let insert = waiting.simple_query("SET LOCK_TIMEOUT -1; INSERT INTO orders VALUES (2)");
    let (outcome, ()) = tokio::join!(insert, async {
        until(|| shop.counters().requests > before).await;
        shop.clock.advance(SECOND);
        // The server responds to other requests.
        run(&mut working, "SELECT 1").await;
        drop(working);
    });
    outcome.map(drop).unwrap_err();
    drop(waiting);
    drop((pool.get().await.unwrap(), pool.get().await.unwrap()));
    assert_eq!(retired(&connector), [(RetireReason::Unsettled, 1)]);
}

#[tokio::test]
async fn one_silent_connection_is_enough_if_the_command_timeout_is_shorter() {
    let shop = Shop::open().await;
    let connector = shop.connector("Command Timeout=1");
    let pool = pool(&connector, 5);
    let mut lent = Vec::new();
    for _ in 0..5 {
        lent.push(pool.get().await.unwrap());
    }
    drop(lent);
    shop.clock.advance(2 * SECOND);
    shop.server().behaviour().delay_queries(HOUR);
    drop(pool.get().await.unwrap());
    assert_eq!(retired(&connector), [(RetireReason::Recycling, 1), (RetireReason::Silent, 4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_closes_right_after_a_return_does_not_wait_for_the_cleaning() {
    let shop = std::sync::Arc::new(Shop::open().await);
    tokio::spawn(async move {
        for _ in 0..10 {
            let (pool, _connector) = shop.pool_of_one(Recycling::Clean);
            let mut a = pool.get().await.unwrap();
            run(&mut a, "CREATE TABLE #bill (total int)").await;
            shop.server().behaviour().delay_queries(HOUR);
            drop(a);
            timeout(SECOND, close_and_wait(&pool)).await.unwrap();
            shop.server().behaviour().delay_queries(Duration::ZERO);
        }
    })
    .await
    .unwrap();
}

#[test]
fn a_connection_whose_runtime_has_stopped_is_replaced() {
    for recycling in BOTH {
        let (servers, first) = (threads(), threads());
        let shop = servers.block_on(Shop::open());
        let (pool, connector) = shop.pool_of_one(recycling);
        first.block_on(async {
            use_once(&pool).await;
            until(|| pool.status().available == 1).await;
        });
        drop(first);
        servers.block_on(async {
            assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
        });
        assert_eq!(retired(&connector), [(RetireReason::Closed, 1)]);
    }
}

#[tokio::test]
async fn a_minimum_that_cannot_be_kept_is_retried_every_30_seconds() {
    use entra_pool::azure_sql::deadpool::managed::Hook;

    let shop = Shop::open().await;
    let connector = shop.maintained("Min Pool Size=3");
    // A hook whose panic makes connections fail.
    let panics = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let builder = connector.pool_builder().post_create(Hook::sync_fn({
        let panics = panics.clone();
        move |_, _| {
            assert!(!panics.load(std::sync::atomic::Ordering::SeqCst), "the test's panic");
            Ok(())
        }
    }));
    let pool = builder.max_size(3).build();
    drop(pool.get().await.unwrap());
    panics.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..60 {
        until(|| shop.clock.sleepers() >= 1).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        shop.clock.advance(SECOND);
    }
    let logins = shop.counters().logins;
    assert!((3..=10).contains(&logins), "{logins} logins in a minute");
}
