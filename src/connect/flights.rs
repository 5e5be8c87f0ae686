//! Logins that outlive their callers, because a caller may have less time than a login takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
};
use tracing::{Instrument, Span};

use super::{orphans::Orphans, retry::TOO_LITTLE};
use crate::{
    clock::{self, Clock, Elapsed},
    lock::Lock,
};

/// The logins of one pool. Each is a task in the runtime of the caller that started it.
pub(crate) struct Flights<C, E> {
    orphans: Lock<Orphans<Flight<C, E>>>,
    next_id: AtomicU64,
    clock: Arc<dyn Clock>,
    /// How long one login may take, and how long its connection then waits for a caller.
    limit: Duration,
}

struct Flight<C, E> {
    landed: oneshot::Receiver<Result<C, E>>,
    /// Notified when the caller gives up.
    left: Arc<Notify>,
    /// When the login has taken too long, on the monotonic clock.
    ends: Duration,
    /// A single task, which is aborted when the flight is dropped. It outlives the login: if the
    /// task is gone, so is its runtime, on which the connection depends.
    task: JoinSet<()>,
}

impl<C, E> Flights<C, E>
where
    C: Send + 'static,
    E: Send + 'static,
{
    pub(super) fn new(clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self { orphans: Lock::new(Orphans::new()), next_id: AtomicU64::new(0), clock, limit }
    }

    /// Adopts a login whose caller has given up, or starts a login. `login` gets the monotonic time
    /// at which the caller started. Returns the connection, and whether it was adopted.
    pub(super) async fn connect<L>(
        self: &Arc<Self>,
        login: impl Fn(Duration) -> L,
        is_alive: fn(&C) -> bool,
    ) -> Result<(C, bool), E>
    where
        L: Future<Output = Result<C, E>> + Send + 'static,
    {
        let began = self.clock.monotonic();
        let mut failed = None;
        loop {
            let Some((id, flight)) = self.orphans.lock().adopt() else { break };
            let ends = flight.ends.min(began.saturating_add(self.limit));
            let left = ends.saturating_sub(self.clock.monotonic());
            let mut waiting = Waiting { flights: self, flight: Some((id, flight)) };
            // With a time limit, because a login cannot complete in a runtime that is not driven.
            match clock::timeout(&*self.clock, left, waiting.landing()).await {
                Ok(Some(Ok(connection))) if is_alive(&connection) => {
                    return Ok((connection, true));
                }
                Ok(Some(Err(error))) => failed = Some(error),
                // This caller has no time left: the next caller can still adopt the login.
                Err(Elapsed) if self.waited(began) >= self.limit => break,
                _ => {}
            }
            // Cancels the login, unless it has completed.
            waiting.flight = None;
        }
        if let Some(error) = failed
            && self.limit.saturating_sub(self.waited(began)) < TOO_LITTLE.min(self.limit / 2)
        {
            return Err(error);
        }
        let flight = Some(self.start(login(began)));
        let outcome = match (Waiting { flights: self, flight }).landing().await {
            Some(outcome) => outcome,
            // The login panicked: run it again, so that this caller gets the panic.
            None => login(began).await,
        };
        outcome.map(|connection| (connection, false))
    }

    fn waited(&self, began: Duration) -> Duration {
        self.clock.monotonic().saturating_sub(began)
    }

    fn start(
        self: &Arc<Self>,
        login: impl Future<Output = Result<C, E>> + Send + 'static,
    ) -> (u64, Flight<C, E>) {
        let id = self.next_id.fetch_add(1, Relaxed);
        let ends = self.clock.monotonic().saturating_add(self.limit);
        let (landing, landed) = oneshot::channel();
        let left = Arc::new(Notify::new());
        let (flights, clock, limit) = (Arc::downgrade(self), self.clock.clone(), self.limit);
        let mut task = JoinSet::new();
        let is_left = left.clone();
        task.spawn(
            async move {
                let outcome = login.await;
                let is_connected = outcome.is_ok();
                let _ = landing.send(outcome);
                if is_connected {
                    is_left.notified().await;
                    clock.sleep(limit).await;
                }
                if let Some(flights) = flights.upgrade() {
                    flights.orphans.lock().remove(id);
                }
            }
            .instrument(Span::current()),
        );
        (id, Flight { landed, left, ends, task })
    }

    /// Starts a login without a caller, which the next caller adopts.
    #[cfg(feature = "postgres")]
    pub(crate) fn go_on(
        self: &Arc<Self>,
        login: impl Future<Output = Result<C, E>> + Send + 'static,
    ) {
        drop(Waiting { flights: self, flight: Some(self.start(login)) });
    }

    /// Cancels the oldest logins without a caller, so that at most `most` remain.
    pub(super) fn shrink(&self, most: usize) {
        self.orphans.lock().shrink(most);
    }

    /// Cancels logins without a caller, including those whose callers give up later.
    pub(super) fn close(&self) {
        self.orphans.lock().close();
    }
}

/// A caller that waits for a login. When it gives up, the next caller can adopt the login.
struct Waiting<'a, C, E> {
    flights: &'a Flights<C, E>,
    /// `None` once the login has completed.
    flight: Option<(u64, Flight<C, E>)>,
}

impl<C, E> Waiting<'_, C, E> {
    /// Returns the outcome of the login; `None` if the login panicked or its runtime was shut down.
    async fn landing(&mut self) -> Option<Result<C, E>> {
        let (_, flight) = self.flight.as_mut()?;
        let landed = (&mut flight.landed).await;
        let (_, mut flight) = self.flight.take()?;
        let outcome = landed.ok()?;
        // The connection depends on the runtime in which it was opened.
        let is_lost = outcome.is_ok() && flight.task.try_join_next().is_some();
        (!is_lost).then_some(outcome)
    }
}

impl<C, E> Drop for Waiting<'_, C, E> {
    fn drop(&mut self) {
        if let Some((id, flight)) = self.flight.take() {
            flight.left.notify_one();
            self.flights.orphans.lock().leave(id, flight);
        }
    }
}
