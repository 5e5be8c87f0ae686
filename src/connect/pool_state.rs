use std::{
    error::Error,
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use deadpool::{
    Status,
    managed::{Manager, Metrics, Pool, WeakPool},
};
use tokio::{sync::watch, task::JoinSet};

use super::{ConnectorMetrics, Driver, Engine, login_tasks::LoginTasks, pool::fill};
use crate::{single_task::SingleTask, token::TokenCache};

/// The state of one pool. Its manager owns it. `C` is the result of a login.
pub(crate) struct PoolState<M: Manager, C> {
    /// Set once the pool is built.
    pub(super) pool: Arc<OnceLock<WeakPool<M>>>,
    pub(crate) logins: Arc<LoginTasks<C, M::Error>>,
    tokens: TokenCache,
    metrics: Arc<ConnectorMetrics>,
    maintaining: SingleTask,
    /// Notified or dropped when the pool closes. This stops the maintenance.
    pub(crate) alive: watch::Sender<()>,
}

/// How often the pool is maintained.
const MAINTAIN_EVERY: Duration = Duration::from_millis(500);

/// The minimum time between two attempts to reach the minimum size, because connects may fail and
/// connections may be short-lived.
const FILL_EVERY: Duration = Duration::from_secs(30);

impl<M, C> PoolState<M, C>
where
    M: Manager<Error: Send> + 'static,
    C: Send + 'static,
{
    pub(crate) fn new<D: Driver>(engine: &Engine<D>) -> Self {
        Self {
            pool: Arc::default(),
            logins: Arc::new(LoginTasks::new(engine.clock().clone(), engine.limit)),
            tokens: engine.tokens.clone(),
            metrics: engine.metrics.clone(),
            maintaining: SingleTask::default(),
            alive: watch::Sender::new(()),
        }
    }

    /// Adopts a login whose caller has given up, or logs in. `login` gets the monotonic time at
    /// which the caller started.
    pub(crate) async fn connect<L>(
        &self,
        login: impl Fn(Duration) -> L,
        is_alive: fn(&C) -> bool,
    ) -> Result<C, M::Error>
    where
        L: Future<Output = Result<C, M::Error>> + Send + 'static,
    {
        let (connection, adopted) = self.logins.connect(login, is_alive).await?;
        if adopted {
            self.metrics.adopted();
        }
        Ok(connection)
    }

    /// Starts the task that maintains the pool, unless it is already running or the pool was not
    /// built. The task closes idle connections that are not fit, keeps the minimum size and
    /// refreshes the token. It runs in the caller's runtime and stops when the pool closes.
    /// `is_fit` returns whether an idle connection may be used again, and sends nothing.
    pub(crate) fn maintain<F>(&self, min_size: usize, is_fit: F)
    where
        M: Manager<Type: Send, Error: Error>,
        F: Fn(&M, &M::Type, &Metrics) -> bool + Send + 'static,
    {
        let Some(pool) = self.pool.get().and_then(WeakPool::upgrade) else { return };
        let Some(task) = self.maintaining.begin() else { return };
        let mut alive = self.alive.subscribe();
        let logins = Arc::downgrade(&self.logins);
        let tokens = self.tokens.clone();
        let maintaining = maintain(pool.weak(), tokens, min_size, is_fit, logins.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = maintaining => {}
                // The pool is closing, or its manager was dropped.
                _ = alive.changed() => {}
            }
            if let Some(logins) = logins.upgrade() {
                logins.close();
            }
            drop(task);
        });
    }

    /// Stops the background tasks.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn stop(&self) {
        self.alive.send_replace(());
        self.logins.close();
    }
}

/// Maintains the pool until it is closed or dropped.
async fn maintain<M, C, F>(
    pool: WeakPool<M>,
    tokens: TokenCache,
    min_size: usize,
    is_fit: F,
    logins: Weak<LoginTasks<C, M::Error>>,
) where
    M: Manager<Type: Send, Error: Error + Send> + 'static,
    C: Send + 'static,
    F: Fn(&M, &M::Type, &Metrics) -> bool,
{
    // A separate task, because connecting takes time and maintenance must continue. Dropping this
    // future cancels the task.
    let mut filling = JoinSet::new();
    let mut next_filling = Duration::ZERO;
    loop {
        tokens.clock().sleep(MAINTAIN_EVERY).await;
        let Some(pool) = pool.upgrade().filter(|pool| !pool.is_closed()) else { return };
        tokens.refresh_if_due();
        pool.retain(|connection, metrics| is_fit(pool.manager(), connection, &metrics));
        if let Some(logins) = logins.upgrade() {
            // The pool may have been resized.
            let Status { max_size, size, .. } = pool.status();
            logins.shrink(max_size.saturating_sub(size));
        }
        while filling.try_join_next().is_some() {}
        let now = tokens.clock().monotonic();
        if filling.is_empty() && now >= next_filling && pool.status().size < min_size {
            next_filling = now + FILL_EVERY;
            filling.spawn(keep_minimum(pool, min_size));
        }
    }
}

async fn keep_minimum<M>(pool: Pool<M>, min_size: usize)
where
    M: Manager<Type: Send, Error: Error + Send> + 'static,
{
    if let Err(error) = fill(&pool, min_size).await {
        let error = &error as &dyn Error;
        tracing::warn!(error, "cannot keep the pool at its minimum size");
    }
}

impl<M: Manager, C> fmt::Debug for PoolState<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolState").finish_non_exhaustive()
    }
}
