//! Both pools under load with faults of the identity endpoint, the servers, the network and the
//! clock.
//!
//! Runs for 60 s; `ENTRA_POOL_SOAK_SECONDS` sets another duration (`.ci/deep`). A seed determines
//! the faults and their order; it is printed and can be set with `ENTRA_POOL_SOAK_SEED`. The exact
//! times vary, but the assertions do not depend on them.
#![cfg(all(unix, feature = "azure-sql", feature = "postgres"))]
#![allow(clippy::disallowed_methods)] // The servers run in real time.

#[path = "soak/acknowledged.rs"]
mod acknowledged;
#[path = "soak/chaos.rs"]
mod chaos;
#[path = "soak/errors.rs"]
mod errors;
#[path = "soak/load.rs"]
mod load;
mod support;
#[path = "soak/world.rs"]
mod world;

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use entra_pool::{azure_sql, postgres};
use tokio::time::{sleep, timeout};

use acknowledged::Acknowledged;
use chaos::Script;
use load::Load;
use support::held::{self, Held};
use world::{TOKEN_LIFETIME, World};

const TASKS: usize = 64;

/// Without faults, so that one-time initialization has completed.
const WARM_UP: Duration = Duration::from_secs(5);

/// All tasks succeed again within this time after the last fault. A token request without a
/// response times out after 20 s, and a connect after 8 s.
const RECOVERY: Duration = Duration::from_secs(45);

/// How much the process may grow. About 8,000 sessions are opened and closed in half an hour, so
/// a leak of 4 KB for each would be detected.
const GROWTH_KB: u64 = 24 * 1024;

static PANICS: AtomicU64 = AtomicU64::new(0);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_pools_survive_faults_and_lose_no_acknowledged_rows() {
    let length = Duration::from_secs(setting("ENTRA_POOL_SOAK_SECONDS").unwrap_or(60));
    let seed = setting("ENTRA_POOL_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("ENTRA_POOL_SOAK_SEED={seed} ENTRA_POOL_SOAK_SECONDS={}", length.as_secs());
    count_panics();
    let world = World::new().await;
    let (acknowledged, script) = (Arc::new(Acknowledged::new()), Arc::new(Script::default()));

    let load = Load::new(world.pools(), &acknowledged, &script);
    let work = load.start(seed);
    sleep(WARM_UP).await;
    assert!(all_work(&load).await, "all tasks work; {:?}", load.violations());
    work.stop().await;
    assert_eq!(load.violations(), [""; 0]);
    close(load).await;
    settle(&world).await;
    let (tasks, held) = (held::tasks(), cfg!(target_os = "linux").then(Held::now));

    let load = Load::new(world.pools(), &acknowledged, &script);
    let work = load.start(seed);
    tokio::select! {
        () = script.play(&world, seed, length) => {}
        () = load.wait_for_violation() => {}
    }
    let ended = Instant::now();
    let recovered = all_work(&load).await;
    let recovery = ended.elapsed();
    load.print_errors();
    world.print_reports();
    let [succeeded, abandoned, failed] = load.counts();
    println!("operations: {succeeded} succeeded, {abandoned} abandoned, {failed} failed");
    println!("all {TASKS} tasks work again: {recovered}, after {recovery:?}");
    assert_eq!(load.violations(), [""; 0]);
    assert!(recovered, "all tasks work again within {RECOVERY:?}");
    work.stop().await;
    assert_eq!(load.violations(), [""; 0]);
    assert_eq!(PANICS.load(Relaxed), 0, "a task panicked");

    let (azure, postgres) = load.pools();
    let azure = acknowledged.check_azure(&mut azure.get().await.unwrap()).await;
    let postgres = acknowledged.check_postgres(&postgres.get().await.unwrap()).await;
    println!("rows by their entry in the record, and by whether they exist:");
    println!("{:?} in Azure SQL\n{:?} in PostgreSQL", azure.counts, postgres.counts);
    assert_eq!((azure.wrong, postgres.wrong), (vec![], vec![]));

    close(load).await;
    settle(&world).await;
    assert!(held::tasks() <= tasks, "{tasks} tasks, then {}", held::tasks());
    if let Some(held) = held {
        let now = Held::now();
        println!("{held:?}, then {now:?}");
        assert!(now.descriptors <= held.descriptors, "{held:?}, then {now:?}");
        assert!(now.resident_kb <= held.resident_kb + GROWTH_KB, "{held:?}, then {now:?}");
    } else {
        println!("skipped: descriptors and memory, which are only measured on Linux");
    }

    // There were faults, and tokens were replaced meanwhile.
    let tokens = world.endpoint.tokens_handed_out();
    assert!(tokens >= length.as_secs() / TOKEN_LIFETIME.as_secs() / 2, "{tokens} tokens");
    assert!(length < Duration::from_secs(60) || failed > 0);
}

/// Returns whether every task succeeds once more in time.
async fn all_work(load: &Load) -> bool {
    tokio::select! {
        succeeded = timeout(RECOVERY, load.all_succeed()) => succeeded.is_ok(),
        () = load.wait_for_violation() => false,
    }
}

/// Counts the panics of this test.
fn count_panics() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let in_a_server =
            thread::current().name().is_some_and(|name| name.starts_with("support::"));
        PANICS.fetch_add(u64::from(!in_a_server), Relaxed);
        report(info);
    }));
}

async fn close(load: Arc<Load>) {
    let (azure, postgres) = load.pools();
    let closing = async {
        azure_sql::close_and_wait(azure).await;
        postgres::close_and_wait(postgres).await;
    };
    timeout(Duration::from_secs(30), closing).await.expect("every connection is returned");
}

/// Waits until all connections and timers have ended.
async fn settle(world: &World) {
    // The time limits of finished work need not be waited for.
    world.clock.jump(Duration::from_secs(600));
    let quiet = async {
        while !world.is_quiet() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = timeout(Duration::from_secs(30), quiet).await;
    assert!(
        ended.is_ok(),
        "{} timers are left; {:?}",
        world.clock.sleepers(),
        world.azure.counters()
    );
    // Tasks end a moment after their connections do.
    sleep(Duration::from_secs(1)).await;
}
