//! A clock that goes with the machine's, and jumps.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use entra_pool::clock::{Clock, Sleep};
use tokio::sync::watch;

/// Goes on by itself, as sockets need it. What it does beside that, tests say.
/// Clones share.
#[derive(Debug, Clone)]
pub struct JumpingClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    /// What has passed at once, beside what has passed by itself.
    passed: watch::Sender<Duration>,
    wall: Mutex<Wrong>,
    sleepers: AtomicUsize,
}

/// By how much the wall clock is wrong.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Fast(Duration),
    Slow(Duration),
}

impl JumpingClock {
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            passed: watch::Sender::new(Duration::ZERO),
            wall: Mutex::new(Wrong::Fast(Duration::ZERO)),
            sleepers: AtomicUsize::new(0),
        }))
    }

    /// Lets `by` pass at once: sleepers whose time has come wake. The wall clock, which
    /// others have too, stays as it is.
    pub fn pass(&self, by: Duration) {
        self.0.passed.send_modify(|passed| *passed += by);
    }

    /// The wall clock is fast by so much, and wakes nobody.
    pub fn wall_fast(&self, by: Duration) {
        *self.0.wall.lock().unwrap() = Wrong::Fast(by);
    }

    /// The wall clock is slow by so much.
    pub fn wall_slow(&self, by: Duration) {
        *self.0.wall.lock().unwrap() = Wrong::Slow(by);
    }

    /// The wall clock is right again.
    pub fn put_right(&self) {
        self.wall_fast(Duration::ZERO);
    }

    /// How many sleep now.
    pub fn sleepers(&self) -> usize {
        self.0.sleepers.load(Relaxed)
    }
}

impl Clock for JumpingClock {
    fn wall(&self) -> SystemTime {
        match *self.0.wall.lock().unwrap() {
            Wrong::Fast(by) => SystemTime::now() + by,
            Wrong::Slow(by) => SystemTime::now() - by,
        }
    }

    fn monotonic(&self) -> Duration {
        self.0.began.elapsed() + *self.0.passed.borrow()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        struct Asleep(JumpingClock);
        impl Drop for Asleep {
            fn drop(&mut self) {
                self.0.0.sleepers.fetch_sub(1, Relaxed);
            }
        }
        self.0.sleepers.fetch_add(1, Relaxed);
        let asleep = Asleep(self.clone());
        let mut jumps = self.0.passed.subscribe();
        let end = self.monotonic().saturating_add(duration);
        Box::pin(async move {
            loop {
                let left = end.saturating_sub(asleep.0.monotonic());
                if left.is_zero() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    // The sender lives in the clock.
                    _ = jumps.changed() => {}
                }
            }
        })
    }
}

#[tokio::test]
async fn it_follows_the_machines_clock_and_a_jump_wakes_sleepers_whose_time_is_up() {
    let clock = JumpingClock::new();
    let hour = Duration::from_secs(3600);
    let (short, long) = (clock.sleep(hour), clock.sleep(3 * hour));
    clock.pass(2 * hour);
    short.await;
    assert_eq!(clock.sleepers(), 1);
    assert!(clock.wall() <= SystemTime::now() && clock.monotonic() >= 2 * hour);
    clock.wall_fast(hour);
    assert!(clock.wall() >= SystemTime::now());
    clock.wall_slow(hour);
    assert!(clock.wall() < SystemTime::now());
    drop(long);
    assert_eq!(clock.sleepers(), 0);
    clock.put_right();
    clock.sleep(Duration::from_millis(5)).await;
}
