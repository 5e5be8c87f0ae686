//! A clock that follows the machine's clock, and can jump.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use entra_pool::clock::{Clock, Sleep};
use tokio::sync::watch;

/// Runs in real time, because sockets need it; tests can also move it. Clones share one clock.
#[derive(Debug, Clone)]
pub struct JumpingClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    /// The sum of the jumps, which is added to the real time.
    jumped: watch::Sender<Duration>,
    wall: Mutex<Wrong>,
    sleepers: AtomicUsize,
}

/// The error of the wall clock.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Fast(Duration),
    Slow(Duration),
}

impl JumpingClock {
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            jumped: watch::Sender::new(Duration::ZERO),
            wall: Mutex::new(Wrong::Fast(Duration::ZERO)),
            sleepers: AtomicUsize::new(0),
        }))
    }

    /// Jumps forward: sleepers whose time is up wake. The wall clock does not change, because other
    /// processes have it as well.
    pub fn jump(&self, by: Duration) {
        self.0.jumped.send_modify(|jumped| *jumped += by);
    }

    /// Sets the wall clock fast by this time, which wakes no sleeper.
    pub fn wall_fast(&self, by: Duration) {
        *self.0.wall.lock().unwrap() = Wrong::Fast(by);
    }

    /// Sets the wall clock slow by this time.
    pub fn wall_slow(&self, by: Duration) {
        *self.0.wall.lock().unwrap() = Wrong::Slow(by);
    }

    /// Sets the wall clock right again.
    pub fn set_wall_right(&self) {
        self.wall_fast(Duration::ZERO);
    }

    /// The number of sleepers.
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
        self.0.began.elapsed() + *self.0.jumped.borrow()
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
        let mut jumps = self.0.jumped.subscribe();
        let end = self.monotonic().saturating_add(duration);
        Box::pin(async move {
            loop {
                let left = end.saturating_sub(asleep.0.monotonic());
                if left.is_zero() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    // The clock owns the sender, so this cannot fail.
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
    clock.jump(2 * hour);
    short.await;
    assert_eq!(clock.sleepers(), 1);
    assert!(clock.wall() <= SystemTime::now() && clock.monotonic() >= 2 * hour);
    clock.wall_fast(hour);
    assert!(clock.wall() >= SystemTime::now());
    clock.wall_slow(hour);
    assert!(clock.wall() < SystemTime::now());
    drop(long);
    assert_eq!(clock.sleepers(), 0);
    clock.set_wall_right();
    clock.sleep(Duration::from_millis(5)).await;
}
