//! Thousands of sequential logins, and hundreds at the same time, leak no memory, no descriptor and
//! no task.

use std::{process::Command, time::Instant};

use entra_pool::token::Identity;
use tokio::task::JoinSet;

use crate::{
    Shop, credential, number,
    support::held::{Held, descriptors, tasks},
    until,
};

/// The number of sequential logins; `.ci/deep` sets 10,000.
const LOGINS: &str = "ENTRA_POOL_TEST_LOGINS";
const LOGINS_BY_DEFAULT: u64 = 500;

const AT_ONCE: u64 = 200;

/// What is held after everything that was opened since `before` is closed.
async fn held_after_closing(before: Held) -> Held {
    until(|| descriptors() <= before.descriptors && tasks() <= before.tasks).await;
    Held::now()
}

/// Runs the test again in a separate process, where no other test opens descriptors or allocates
/// memory. Returns whether this is that process.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "ENTRA_POOL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", &format!("endurance::{test}"), "--nocapture"]).env(ALONE, "1");
    // Otherwise glibc keeps an arena for each of hundreds of threads.
    alone.env("MALLOC_ARENA_MAX", "1");
    let output = alone.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// A shop with the machine's clock, because the manual clock keeps sleepers until they wake.
async fn open() -> Shop {
    let shop = Shop::open().await;
    Shop { identity: Identity::new(credential(&shop.emulator)), ..shop }
}

#[tokio::test]
async fn sequential_logins_leak_nothing() {
    if !is_alone("sequential_logins_leak_nothing") {
        return;
    }
    let logins = std::env::var(LOGINS).map_or(LOGINS_BY_DEFAULT, |count| count.parse().unwrap());
    let shop = open().await;
    let connector = shop.connector("");
    let log_in = async |times: u64| {
        for _ in 0..times {
            let mut connection = connector.connect().await.unwrap();
            assert_eq!(number(&mut connection, "SELECT 7").await, 7);
            drop(connection);
            until(|| shop.counters().open_connections == 0).await;
        }
    };
    log_in(logins / 5).await;
    let (held, began) = (Held::now(), Instant::now());
    log_in(logins).await;
    println!("{logins} logins in {:?}", began.elapsed());
    let now = held_after_closing(held).await;
    println!("{held:?}, then {now:?}");
    // If each login leaked 1 KB, 10,000 logins would leak 10 MB.
    assert!(now.resident_kb <= held.resident_kb + 2_048, "{held:?}, then {now:?}");
    assert_eq!(shop.counters().logins, logins + logins / 5);
    assert_eq!(shop.token_requests(), 1);
}

/// Whether some round used no more memory than a round at least three earlier. A leak shows in
/// every round, memory that is released late and in blocks only in some.
fn is_flat(resident_kb: &[u64]) -> bool {
    let no_more = |past, later: &[u64]| later.iter().skip(3).any(|kb| *kb <= past + 512);
    (0..resident_kb.len()).any(|round| no_more(resident_kb[round], &resident_kb[round..]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_logins_leak_nothing() {
    if !is_alone("concurrent_logins_leak_nothing") {
        return;
    }
    let shop = open().await;
    let connector = shop.connector("Connect Timeout=60");
    let log_in_together = async || {
        let mut logins = JoinSet::new();
        for _ in 0..AT_ONCE {
            let connector = connector.clone();
            logins.spawn(async move {
                let mut connection = connector.connect().await.unwrap();
                assert_eq!(number(&mut connection, "SELECT 7").await, 7);
                connection
            });
        }
        let connections = logins.join_all().await;
        assert_eq!(shop.counters().open_connections, AT_ONCE);
        drop(connections);
        until(|| shop.counters().open_connections == 0).await;
    };
    log_in_together().await;
    let held = Held::now();
    let (mut resident, began) = (Vec::new(), Instant::now());
    while resident.len() < 12 && !is_flat(&resident) {
        log_in_together().await;
        resident.push(held_after_closing(held).await.resident_kb);
    }
    let rounds = resident.len();
    println!("{rounds} rounds of {AT_ONCE} logins in {:?}: {resident:?} KB", began.elapsed());
    assert!(is_flat(&resident), "{resident:?} KB");
    assert_eq!(shop.counters().logins, (rounds as u64 + 1) * AT_ONCE);
    assert_eq!(shop.token_requests(), 1);
}
