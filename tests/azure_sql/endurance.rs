//! Thousands of logins one after the other, and hundreds at once, leave nothing
//! behind: no memory, no descriptor, no task.

use std::{process::Command, time::Instant};

use entra_pool::token::Identity;
use tokio::task::JoinSet;

use crate::{
    Shop, credential, number,
    support::held::{Held, descriptors, tasks},
    until,
};

/// Says how many logins follow one another; `.ci/deep` has 10,000.
const LOGINS: &str = "ENTRA_POOL_TEST_LOGINS";
const LOGINS_BY_DEFAULT: u64 = 500;

const AT_ONCE: u64 = 200;

/// What is held, once all that was opened since `before` is closed.
async fn held_again(before: Held) -> Held {
    until(|| descriptors() <= before.descriptors && tasks() <= before.tasks).await;
    Held::now()
}

/// Runs the test again in a process of its own, where no other test opens and
/// allocates; whether this is that process.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "ENTRA_POOL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", &format!("endurance::{test}"), "--nocapture"]).env(ALONE, "1");
    // glibc: no memory of its own for each thread, of which there are hundreds.
    alone.env("MALLOC_ARENA_MAX", "1");
    let output = alone.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// A shop by the machine's clock: the one that tests move remembers sleepers until
/// their time has come.
async fn open() -> Shop {
    let shop = Shop::open().await;
    Shop { identity: Identity::new(credential(&shop.emulator)), ..shop }
}

#[tokio::test]
async fn logins_one_after_the_other_leave_nothing_behind() {
    if !is_alone("logins_one_after_the_other_leave_nothing_behind") {
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
    let now = held_again(held).await;
    println!("{held:?}, then {now:?}");
    // Were 1 KB of each login kept, 10,000 would keep 10 MB.
    assert!(now.resident_kb <= held.resident_kb + 2_048, "{held:?}, then {now:?}");
    assert_eq!(shop.counters().logins, logins + logins / 5);
    assert_eq!(shop.token_requests(), 1);
}

/// Three rounds on, there is no more. What is kept of every login shows in each
/// round; that memory goes back late and in blocks, in some.
fn is_flat(resident_kb: &[u64]) -> bool {
    let no_more = |past, later: &[u64]| later.iter().skip(3).any(|kb| *kb <= past + 512);
    (0..resident_kb.len()).any(|round| no_more(resident_kb[round], &resident_kb[round..]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_at_once_leave_nothing_behind() {
    if !is_alone("logins_at_once_leave_nothing_behind") {
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
        resident.push(held_again(held).await.resident_kb);
    }
    let rounds = resident.len();
    println!("{rounds} times {AT_ONCE} logins at once in {:?}: {resident:?} KB", began.elapsed());
    assert!(is_flat(&resident), "{resident:?} KB");
    assert_eq!(shop.counters().logins, (rounds as u64 + 1) * AT_ONCE);
    assert_eq!(shop.token_requests(), 1);
}
