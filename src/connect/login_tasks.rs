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

use super::{abandoned::AbandonedLogins, retry::MIN_LOGIN_TIME};
use crate::{
    clock::{self, Clock, Elapsed},
    lock::Lock,
};

/// The logins of one pool. Each login is a task in the runtime of the caller that started it.
pub(crate) struct LoginTasks<C, E> {
    abandoned: Lock<AbandonedLogins<LoginTask<C, E>>>,
    next_id: AtomicU64,
    clock: Arc<dyn Clock>,
    /// The time limit of a login, and also of its connection's wait for a caller afterwards.
    limit: Duration,
}

struct LoginTask<C, E> {
    outcome: oneshot::Receiver<Result<C, E>>,
    /// Notified when the caller gives up.
    caller_left: Arc<Notify>,
    /// The end of the login's time limit, on the monotonic clock.
    deadline: Duration,
    /// A single task, which is aborted when this value is dropped. It continues after a successful
    /// login, so if it has stopped, the connection's runtime was shut down.
    task: JoinSet<()>,
}

impl<C, E> LoginTasks<C, E>
where
    C: Send + 'static,
    E: Send + 'static,
{
    pub(super) fn new(clock: Arc<dyn Clock>, limit: Duration) -> Self {
        let abandoned = Lock::new(AbandonedLogins::new());
        Self { abandoned, next_id: AtomicU64::new(0), clock, limit }
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
            let Some((id, task)) = self.abandoned.lock().adopt() else { break };
            let deadline = task.deadline.min(began.saturating_add(self.limit));
            let left = deadline.saturating_sub(self.clock.monotonic());
            let mut waiting = Waiting { tasks: self, login: Some((id, task)) };
            // With a time limit, because a login cannot complete in a runtime that is not driven.
            match clock::timeout(&*self.clock, left, waiting.outcome()).await {
                Ok(Some(Ok(connection))) if is_alive(&connection) => {
                    return Ok((connection, true));
                }
                Ok(Some(Err(error))) => failed = Some(error),
                // This caller has no time left: the next caller can still adopt the login.
                Err(Elapsed) if self.waited(began) >= self.limit => break,
                _ => {}
            }
            // Cancels the login, unless it has completed.
            waiting.login = None;
        }
        if let Some(error) = failed
            && self.limit.saturating_sub(self.waited(began)) < MIN_LOGIN_TIME.min(self.limit / 2)
        {
            return Err(error);
        }
        let started = Some(self.start(login(began)));
        let outcome = match (Waiting { tasks: self, login: started }).outcome().await {
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
    ) -> (u64, LoginTask<C, E>) {
        let id = self.next_id.fetch_add(1, Relaxed);
        let deadline = self.clock.monotonic().saturating_add(self.limit);
        let (sender, outcome) = oneshot::channel();
        let caller_left = Arc::new(Notify::new());
        let (tasks, clock, limit) = (Arc::downgrade(self), self.clock.clone(), self.limit);
        let mut task = JoinSet::new();
        let left = caller_left.clone();
        task.spawn(
            async move {
                let outcome = login.await;
                let is_connected = outcome.is_ok();
                let _ = sender.send(outcome);
                if is_connected {
                    left.notified().await;
                    clock.sleep(limit).await;
                }
                if let Some(tasks) = tasks.upgrade() {
                    tasks.abandoned.lock().remove(id);
                }
            }
            .instrument(Span::current()),
        );
        (id, LoginTask { outcome, caller_left, deadline, task })
    }

    /// Starts a login without a caller. The next caller adopts it.
    #[cfg(feature = "postgres")]
    pub(crate) fn start_abandoned(
        self: &Arc<Self>,
        login: impl Future<Output = Result<C, E>> + Send + 'static,
    ) {
        drop(Waiting { tasks: self, login: Some(self.start(login)) });
    }

    /// Cancels the oldest logins without a caller, so that at most `max` remain.
    pub(super) fn shrink(&self, max: usize) {
        self.abandoned.lock().shrink(max);
    }

    /// Cancels all logins without a caller, now and whenever a caller gives up later.
    pub(super) fn close(&self) {
        self.abandoned.lock().close();
    }
}

/// A caller that waits for a login. When it gives up, the next caller can adopt the login.
struct Waiting<'a, C, E> {
    tasks: &'a LoginTasks<C, E>,
    /// `None` once the login has completed.
    login: Option<(u64, LoginTask<C, E>)>,
}

impl<C, E> Waiting<'_, C, E> {
    /// Waits for the login's outcome; `None` if it panicked or its runtime was shut down.
    async fn outcome(&mut self) -> Option<Result<C, E>> {
        let (_, login) = self.login.as_mut()?;
        let received = (&mut login.outcome).await;
        let (_, mut login) = self.login.take()?;
        let outcome = received.ok()?;
        let is_lost = outcome.is_ok() && login.task.try_join_next().is_some();
        (!is_lost).then_some(outcome)
    }
}

impl<C, E> Drop for Waiting<'_, C, E> {
    fn drop(&mut self) {
        if let Some((id, login)) = self.login.take() {
            login.caller_left.notify_one();
            self.tasks.abandoned.lock().add(id, login);
        }
    }
}
