//! Peers that send endlessly: each loop that reads from a peer ends within 10 % of its time limit
//! and leaves an idle process. The pool works afterwards.
//!
//! This suite runs in real time, because an injected clock cannot show whether a timer fires while
//! a socket is always ready. Each case has its own runtime. Its peer consists of blocking threads,
//! so that it shares no task budget with its victim.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods)] // Real time.

mod azure_sql;
mod commands;
mod identity;
mod peer;
mod postgres;

use std::{
    fs,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use entra_pool::{
    clock::{Clock, Sleep},
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::Identity,
};
use entra_pool_emulator::emulator::Emulator;
use peer::Peer;
use tokio::runtime::{Builder, Handle, Runtime};

/// The time limit of every case.
const LIMIT: Duration = Duration::from_secs(1);

/// How long a whole case may take before it counts as stuck.
const STUCK: Duration = Duration::from_secs(15);

/// When a flooded operation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// At its time limit.
    AtLimit,
    /// Before the limit, because no valid peer sends this.
    Early,
    /// Either, depending on the speed of the machine.
    InTime,
}

/// The machine's clock, `factor` times as fast: time limits that cannot be set take a second.
#[derive(Debug, Clone, Copy)]
struct FastClock {
    began: (Instant, SystemTime),
    factor: u32,
}

impl FastClock {
    fn new(factor: u32) -> Self {
        Self { began: (Instant::now(), SystemTime::now()), factor }
    }
}

impl Clock for FastClock {
    fn wall(&self) -> SystemTime {
        self.began.1 + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.began.0.elapsed() * self.factor
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration / self.factor))
    }
}

/// The emulator, on a separate runtime.
fn emulator() -> &'static Emulator {
    static EMULATOR: OnceLock<(Runtime, Emulator)> = OnceLock::new();
    let (_, emulator) = EMULATOR.get_or_init(|| {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let emulator = runtime.block_on(Emulator::start()).unwrap();
        (runtime, emulator)
    });
    emulator
}

/// The emulator's user-assigned identity.
fn identity(clock: FastClock) -> Identity {
    let id = UserAssignedId::ClientId(emulator().user_assigned().client_id.clone());
    let environment = Environment::from_pairs(emulator().identity().app_service_env());
    let credential = ManagedIdentity::user_assigned(id).environment(environment).build().unwrap();
    Identity::builder(credential).clock(clock).build()
}

/// Runs each case on a single-threaded and on a multi-threaded runtime. Fast floods use the
/// processor, so they run one after the other. Slow floods run at the same time, and those that then miss their
/// time run again alone, because so many threads also delay each other.
fn run_all<C: std::fmt::Debug + Clone + Send + Sync + 'static>(
    cases: Vec<C>,
    is_slow: fn(&C) -> bool,
    run: fn(C) -> std::pin::Pin<Box<dyn Future<Output = String>>>,
) {
    emulator();
    let both = |case: &C| {
        let both = [1, 2].map(|threads| {
            let outcome = run_one(case.clone(), threads, run);
            println!("{case:?}, {threads} threads: {outcome:?}");
            outcome.err().map(|report| format!("{case:?}, {threads} threads: {report}"))
        });
        both.into_iter().flatten().collect::<Vec<_>>()
    };
    let (slow, mut alone): (Vec<_>, Vec<_>) = cases.into_iter().partition(is_slow);
    thread::scope(|scope| {
        let slow: Vec<_> = slow.iter().map(|case| (case, scope.spawn(|| both(case)))).collect();
        for (case, run) in slow {
            if !run.join().unwrap().is_empty() {
                alone.push(case.clone());
            }
        }
    });
    let failures: Vec<_> = alone.iter().flat_map(both).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Returns the report of a case, or how it failed.
fn run_one<C: Send + 'static>(
    case: C,
    threads: usize,
    run: fn(C) -> std::pin::Pin<Box<dyn Future<Output = String>>>,
) -> Result<String, String> {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let name = format!("flooded-{}", RUNS.fetch_add(1, Relaxed));
    let (done, outcome) = mpsc::channel();
    let named = name.clone();
    let work = move || {
        let runtime = match threads {
            1 => Builder::new_current_thread().enable_all().build(),
            _ => Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name(&named)
                .enable_all()
                .build(),
        }
        .unwrap();
        let report = runtime.block_on(async {
            let report = run(case).await;
            // Background tasks of the operation also end.
            until(|| Handle::current().metrics().num_alive_tasks() == 0).await;
            let [before, _] = spent(&named);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let busy = spent(&named)[0].saturating_sub(before);
            assert!(busy < Duration::from_millis(25), "busy for {busy:?} afterwards");
            report
        });
        done.send(report).unwrap();
    };
    let thread = thread::Builder::new().name(name).spawn(work).unwrap();
    match outcome.recv_timeout(STUCK) {
        Ok(report) => Ok(report),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("stuck for {STUCK:?}")),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = thread.join().unwrap_err();
            Err(panic.downcast_ref::<String>().cloned().unwrap_or_default())
        }
    }
}

/// How long threads with this name have run, and have waited for a processor.
fn spent(name: &str) -> [Duration; 2] {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let of_name = tasks.filter_map(|task| {
        let read = |file| fs::read_to_string(task.path().join(file)).ok();
        (read("comm")?.trim() == name).then_some(())?;
        let read = read("schedstat")?;
        let mut times = read.split(' ').map(|time| Duration::from_nanos(time.parse().unwrap()));
        Some([times.next()?, times.next()?])
    });
    of_name.fold([Duration::ZERO; 2], |sum, times| [sum[0] + times[0], sum[1] + times[1]])
}

/// Runs the flooded operation, which must end in time (if there is a `peer`, when it gets the next
/// connection). The machine's delays are excused: the time that threads waited for a processor
/// after the limit, and how late a separate timer was.
async fn timed<T>(
    ends: Ends,
    peer: Option<&Peer>,
    flooded: impl Future<Output = T>,
) -> (T, String) {
    let name = thread::current().name().unwrap().to_owned();
    let began = Instant::now();
    let control = thread::spawn({
        let name = name.clone();
        move || {
            thread::sleep(LIMIT);
            (began.elapsed().saturating_sub(LIMIT), spent(&name)[1])
        }
    });
    let output = flooded.await;
    let ended = peer.and_then(|peer| peer.connected_after(began)).unwrap_or_else(Instant::now);
    let took = ended - began;
    if took < LIMIT.mul_f64(0.98) {
        assert!(ends != Ends::AtLimit, "it ended after {took:?}");
        return (output, format!("took {} ms", took.as_millis()));
    }
    let waiting = spent(&name)[1];
    let (late, waited) = control.join().unwrap();
    let excused = late + waiting.saturating_sub(waited);
    let at_most = if ends == Ends::Early { LIMIT } else { LIMIT.mul_f64(1.1) };
    let report = format!("took {} ms ({} µs excused)", took.as_millis(), excused.as_micros());
    assert!(took <= at_most + excused, "{report}");
    (output, report)
}

/// Waits until `done` is true, for a few seconds at most.
async fn until(done: impl Fn() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the condition is not met in time");
}
