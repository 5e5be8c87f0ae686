use std::{error::Error, fmt, sync::OnceLock, time::Duration};

use deadpool::managed::{Manager, Metrics, Object, Pool, WeakPool};
use tokio::{sync::watch, task::JoinSet};

use super::pool::fill;
use crate::{single_task::SingleTask, token::TokenCache};

/// What belongs to one pool, whose manager owns it.
pub(crate) struct PoolState<M: Manager> {
    pool: OnceLock<WeakPool<M>>,
    maintaining: SingleTask,
    /// Notified at the pool's end, or dropped: ends the maintenance.
    alive: watch::Sender<()>,
}

/// How often the pool is maintained.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often connections are made for the minimum size: connects may fail, and connections may not
/// last.
const FILL_EVERY: Duration = Duration::from_secs(30);

/// What a maintained pool is to have.
pub(crate) struct Upkeep<F> {
    pub(crate) tokens: TokenCache,
    pub(crate) min_size: usize,
    /// Whether an idle connection may be lent again, without a request to the server.
    pub(crate) is_fit: F,
}

impl<M: Manager> PoolState<M> {
    /// Starts the task that maintains the pool, unless it runs or there is no pool: it closes
    /// idle connections that are unfit, keeps the minimum size and keeps the token fresh. It
    /// runs in the runtime of the caller and ends with the pool.
    pub(crate) fn maintain<F>(&self, upkeep: impl FnOnce() -> Upkeep<F>)
    where
        M: Manager<Type: Send, Error: Error + Send> + 'static,
        F: Fn(&M, &M::Type, &Metrics) -> bool + Send + 'static,
    {
        let Some(pool) = self.pool.get().and_then(WeakPool::upgrade) else { return };
        let Some(task) = self.maintaining.begin() else { return };
        let mut alive = self.alive.subscribe();
        let maintaining = maintained(pool.weak(), upkeep());
        tokio::spawn(async move {
            tokio::select! {
                () = maintaining => {}
                // It closes, or its manager is gone.
                _ = alive.changed() => {}
            }
            drop(task);
        });
    }

    /// The pool, once it is built.
    pub(super) fn set_pool<W: From<Object<M>>>(&self, pool: &Pool<M, W>) {
        // A builder builds one pool.
        let _ = self.pool.set(pool.weak());
    }

    /// Changes at the pool's end.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn alive(&self) -> watch::Receiver<()> {
        self.alive.subscribe()
    }

    /// Ends what runs in the background.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn end(&self) {
        self.alive.send_replace(());
    }
}

/// Maintains the pool until it is closed or gone.
async fn maintained<M, F>(pool: WeakPool<M>, upkeep: Upkeep<F>)
where
    M: Manager<Type: Send, Error: Error + Send> + 'static,
    F: Fn(&M, &M::Type, &Metrics) -> bool,
{
    let Upkeep { tokens, min_size, is_fit } = upkeep;
    // In the background: a connect takes its time, and the next look does not wait. It ends
    // with this.
    let mut filling = JoinSet::new();
    let mut next_filling = Duration::ZERO;
    loop {
        tokens.clock().sleep(LOOK_EVERY).await;
        let Some(pool) = pool.upgrade().filter(|pool| !pool.is_closed()) else { return };
        tokens.refresh_if_due();
        pool.retain(|connection, metrics| is_fit(pool.manager(), connection, &metrics));
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
        tracing::warn!(error, "the pool has fewer connections than its minimum");
    }
}

impl<M: Manager> Default for PoolState<M> {
    fn default() -> Self {
        Self {
            pool: OnceLock::new(),
            maintaining: SingleTask::default(),
            alive: watch::Sender::new(()),
        }
    }
}

impl<M: Manager> fmt::Debug for PoolState<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolState").finish_non_exhaustive()
    }
}
