//! Injected time: all code of this crate reads clocks and sleeps through a [`Clock`], so that tests
//! can move time instead of waiting.
//!
//! deadpool is an exception: its metrics use [`std::time::Instant`].
#![allow(clippy::disallowed_methods)] // The only place that reads the machine's clocks.

#[cfg(any(test, feature = "test-util"))]
mod testing;

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

#[cfg(any(test, feature = "test-util"))]
pub use testing::ManualClock;

/// A boxed future, as [`Clock::sleep`] returns it.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time.
///
/// A token's expiry is compared with [`wall`](Self::wall), because timers stop while a laptop
/// sleeps or a container is throttled. Durations are measured by
/// [`monotonic`](Self::monotonic), which cannot be set back.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day, in UTC.
    fn wall(&self) -> SystemTime;

    /// The time since a fixed point. It never goes back.
    fn monotonic(&self) -> Duration;

    /// Completes when `duration` has passed.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The machine's clock, with tokio's timers. It is the default clock.
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

/// Runs `future` for at most `limit` of `clock`'s time.
///
/// The timer is polled outside of tokio's cooperative budget. A future that reads from a socket
/// that is always ready uses up the budget in every poll, so a timer within the same budget would
/// never complete. This is not a `select!` for the same reason: `select!` polls nothing once the
/// budget is used up.
pub(crate) async fn timeout<F: Future>(
    clock: &dyn Clock,
    limit: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    let end = tokio::task::unconstrained(clock.sleep(limit));
    let (mut future, mut end) = (pin!(future), pin!(end));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => end.as_mut().poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}

/// Returns a configured time limit. Zero and `None` mean no limit.
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
pub(crate) fn limit(limit: impl Into<Option<Duration>>) -> Option<Duration> {
    limit.into().filter(|limit| !limit.is_zero())
}

/// The error of [`timeout`] if the time limit expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a socket that is always ready: the work yields only if tokio's budget is used up.
    #[tokio::test]
    async fn a_time_limit_stops_work_that_uses_up_the_budget() {
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
    }
}
