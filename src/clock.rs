//! Time, injected: everything in this crate that reads a clock or waits asks a
//! [`Clock`], so that tests move time instead of spending it.
//!
//! Exempt is deadpool, whose metrics use [`std::time::Instant`].
#![allow(clippy::disallowed_methods)] // The one place that asks the machine.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::oneshot;

/// A boxed future, as [`Clock::sleep`] returns it.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What reads time and waits.
///
/// A token's expiry is a wall-clock time and is judged by [`wall`](Self::wall):
/// timers stop when a laptop sleeps or a container is throttled. Durations are
/// measured by [`monotonic`](Self::monotonic), which nobody can set back.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day, in UTC.
    fn wall(&self) -> SystemTime;

    /// Time since some fixed point; never goes back.
    fn monotonic(&self) -> Duration;

    /// Completes when `duration` has passed.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The machine's own clock, waiting by tokio's timer. The default everywhere.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until it is told to move, for tests of this crate
/// and of its users.
///
/// Clones share one time. Sleepers wake in the order of their deadlines.
///
/// ```
/// # use std::time::Duration;
/// use entra_pool::clock::{Clock, ManualClock};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let clock = ManualClock::new();
/// let nap = clock.sleep(Duration::from_secs(3600));
/// clock.advance(Duration::from_secs(3600));
/// nap.await; // at once
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
    /// A clock that stands at 2026-01-01 00:00 UTC.
    #[must_use]
    pub fn new() -> Self {
        Self::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
    }

    /// A clock that stands at `wall`.
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

    /// Lets `by` pass: both clocks move, and every sleeper whose time has come
    /// is woken.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.wall += by;
        state.monotonic += by;
        let now = state.monotonic;
        while state.sleepers.peek().is_some_and(|Reverse(next)| next.deadline <= now) {
            if let Some(Reverse(sleeper)) = state.sleepers.pop() {
                // The sleeper may have given up: nobody to wake then.
                let _ = sleeper.wake.send(());
            }
        }
    }

    /// Sets the time of day without any time passing, as a user or NTP does,
    /// or as a machine finds it that has slept.
    pub fn set_wall(&self, wall: SystemTime) {
        self.lock().wall = wall;
    }

    /// How many sleepers wait now; those that gave up do not count.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.lock().sleepers.iter().filter(|Reverse(s)| !s.wake.is_closed()).count()
    }

    /// How long until the next sleeper wakes.
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
        let deadline = state.monotonic + duration;
        if duration.is_zero() {
            let _ = wake.send(());
        } else {
            let id = state.next_id;
            state.next_id += 1;
            state.sleepers.push(Reverse(Sleeper { deadline, id, wake }));
        }
        drop(state);
        Box::pin(async move {
            // The sender lives in the clock; were it gone, time would never come.
            if woken.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Runs `future` for at most `limit` of `clock`'s time.
pub(crate) async fn timeout<F: Future>(
    clock: &dyn Clock,
    limit: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    until(clock.sleep(limit), future).await
}

/// Runs `future` until `end` completes.
///
/// `end` is polled outside of tokio's cooperative budget. A future that reads from a
/// socket which is always ready uses the budget up in every poll, and a timer that is
/// polled within the same budget afterwards would never complete. (For the same reason
/// this is not a `select!`, which polls nothing once the budget is used up.)
pub(crate) async fn until<F: Future>(end: impl Future, future: F) -> Result<F::Output, Elapsed> {
    let (mut future, mut end) = (pin!(future), pin!(tokio::task::unconstrained(end)));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => end.as_mut().poll(cx).map(|_| Err(Elapsed)),
    })
    .await
}

/// A time limit as configurations have it: no time means no limit.
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
pub(crate) fn limit(limit: impl Into<Option<Duration>>) -> Option<Duration> {
    limit.into().filter(|limit| !limit.is_zero())
}

/// The time limit of [`timeout`] or [`until`] has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

#[cfg(test)]
mod tests {
    use super::*;

    /// The same as a socket that is always ready: it gives way only where tokio's budget
    /// makes it.
    #[tokio::test]
    async fn a_time_limit_ends_work_that_uses_up_the_budget() {
        let clock = ManualClock::new();
        let limit = Duration::from_secs(1);
        let passing = clock.clone();
        let work = async move {
            passing.advance(limit);
            for _ in 0..100_000 {
                tokio::task::consume_budget().await;
            }
        };
        assert_eq!(timeout(&clock, limit, work).await, Err(Elapsed));
        let timer = tokio::spawn(clock.sleep(Duration::ZERO));
        let work = async {
            for _ in 0..100_000 {
                tokio::task::consume_budget().await;
            }
        };
        assert_eq!(until(timer, work).await, Err(Elapsed), "a task's handle has a budget, too");
    }
}
