use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;

use super::{Clock, Sleep};

/// A clock that moves only when a test advances it. The feature `test-util` makes it available to
/// other crates.
///
/// Clones share the same time. Sleepers wake in the order of their deadlines.
///
/// ```
/// # use std::time::Duration;
/// use entra_pool::clock::{Clock, ManualClock};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let clock = ManualClock::new();
/// let sleep = clock.sleep(Duration::from_secs(3600));
/// clock.advance(Duration::from_secs(3600));
/// sleep.await; // Completes at once.
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
}

#[derive(Debug)]
struct ManualState {
    wall: SystemTime,
    monotonic: Duration,
    sleepers: BinaryHeap<Reverse<Sleeper>>,
    next_id: u64,
}

#[derive(Debug)]
struct Sleeper {
    deadline: Duration,
    id: u64,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Sleeper {}
impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.deadline, self.id).cmp(&(other.deadline, other.id))
    }
}

impl ManualClock {
    /// Creates a clock whose time of day is 2026-01-01 00:00 UTC.
    #[must_use]
    pub fn new() -> Self {
        Self::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
    }

    /// Creates a clock whose time of day is `wall`.
    #[must_use]
    pub fn at(wall: SystemTime) -> Self {
        Self {
            state: Arc::new(Mutex::new(ManualState {
                wall,
                monotonic: Duration::ZERO,
                sleepers: BinaryHeap::new(),
                next_id: 0,
            })),
        }
    }

    /// Advances the time of day and the monotonic time by `by`, and wakes every sleeper whose
    /// deadline is reached.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.wall += by;
        state.monotonic += by;
        let now = state.monotonic;
        while state.sleepers.peek().is_some_and(|Reverse(next)| next.deadline <= now) {
            if let Some(Reverse(sleeper)) = state.sleepers.pop() {
                // The sleeper may have been dropped.
                let _ = sleeper.wake.send(());
            }
        }
    }

    /// Sets the time of day without advancing the monotonic time, as a user or NTP does, or as a
    /// machine does when it resumes from sleep.
    pub fn set_wall(&self, wall: SystemTime) {
        self.lock().wall = wall;
    }

    /// Returns the number of sleepers that are waiting, without those that were dropped.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.lock().sleepers.iter().filter(|Reverse(s)| !s.wake.is_closed()).count()
    }

    /// Returns the time until the next sleeper wakes, or `None` if there is no sleeper.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        let state = self.lock();
        let live = state.sleepers.iter().filter(|Reverse(s)| !s.wake.is_closed());
        live.map(|Reverse(s)| s.deadline.saturating_sub(state.monotonic)).min()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ManualState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> SystemTime {
        self.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.lock().monotonic
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let (wake, woken) = oneshot::channel();
        let mut state = self.lock();
        let deadline = state.monotonic.saturating_add(duration);
        if duration.is_zero() {
            let _ = wake.send(());
        } else {
            let id = state.next_id;
            state.next_id += 1;
            state.sleepers.push(Reverse(Sleeper { deadline, id, wake }));
        }
        drop(state);
        Box::pin(async move {
            // The clock owns the sender: if the clock was dropped, the sleep never completes.
            if woken.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}
