use std::{
    future::Future,
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::clock::{self, Clock, Elapsed};

/// A time limit that is asked for at every checkout and hardly ever reached.
///
/// Arming a timer wakes tokio's driver, which costs more than the rest of what a
/// checkout does here; so a timer that was not needed is kept for the next to ask,
/// armed as it is. It ends by itself, and is a task of its own, because a bare one
/// panics when its runtime has gone.
#[derive(Debug)]
pub(super) struct TimeLimit {
    limit: Duration,
    armed: Mutex<Vec<JoinHandle<()>>>,
}

impl TimeLimit {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, armed: Mutex::default() }
    }

    /// Runs `future` for at most this limit of `clock`'s time.
    pub(super) async fn run<F: Future>(
        &self,
        clock: &dyn Clock,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let end = clock.monotonic().saturating_add(self.limit);
        let mut timer = self.take().unwrap_or_else(|| tokio::spawn(clock.sleep(self.limit)));
        let mut future = pin!(future);
        if let Ok(output) = clock::until(&mut timer, &mut future).await {
            self.lock().push(timer);
            return Ok(output);
        }
        // It was armed for an earlier one.
        match end.saturating_sub(clock.monotonic()) {
            Duration::ZERO => Err(Elapsed),
            left => clock::timeout(clock, left, future).await,
        }
    }

    fn take(&self) -> Option<JoinHandle<()>> {
        let mut armed = self.lock();
        std::iter::from_fn(|| armed.pop()).find(|timer| !timer.is_finished())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use super::*;
    use crate::clock::ManualClock;

    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn one_timer_serves_one_after_another() {
        let (clock, limit) = (ManualClock::new(), TimeLimit::new(LIMIT));
        for _ in 0..3 {
            assert_eq!(limit.run(&clock, async { 1 }).await, Ok(1));
            assert_eq!(clock.sleepers(), 1);
        }
        clock.advance(LIMIT);
        while !limit.lock()[0].is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(limit.run(&clock, async { 1 }).await, Ok(1));
        assert_eq!((clock.sleepers(), limit.lock().len()), (1, 1), "what has ended is not kept");
    }

    #[tokio::test]
    async fn each_has_the_whole_limit_whoever_armed_the_timer() {
        let (clock, limit) = (ManualClock::new(), Arc::new(TimeLimit::new(LIMIT)));
        limit.run(&clock, async {}).await.unwrap();
        clock.advance(Duration::from_millis(1_500));
        let running = tokio::spawn({
            let (clock, limit) = (clock.clone(), limit.clone());
            async move { limit.run(&clock, pending::<()>()).await }
        });
        while !limit.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_millis(500));
        while clock.sleepers() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(clock.next_wake(), Some(Duration::from_millis(1_500)));
        assert!(!running.is_finished());
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(running.await.unwrap(), Err(Elapsed));
    }

    #[test]
    fn a_timer_whose_runtime_has_gone_is_no_limit_reached() {
        let (clock, limit) = (ManualClock::new(), TimeLimit::new(LIMIT));
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime().block_on(limit.run(&clock, async {})).unwrap();
        assert_eq!(runtime().block_on(limit.run(&clock, tokio::task::yield_now())), Ok(()));
    }
}
