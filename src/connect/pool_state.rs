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

use super::{flights::Flights, pool::fill};
use crate::{clock::Clock, single_task::SingleTask, token::TokenCache};

/// What belongs to one pool, whose manager owns it. `C` is what a login returns.
pub(crate) struct PoolState<M: Manager, C> {
    /// Set once the pool is built.
    pub(super) pool: Arc<OnceLock<WeakPool<M>>>,
    flights: Arc<Flights<C, M::Error>>,
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

impl<M, C> PoolState<M, C>
where
    M: Manager<Error: Send> + 'static,
    C: Send + 'static,
{
    /// `limit` is the time that one login may take.
    pub(crate) fn new(clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self {
            pool: Arc::default(),
            flights: Arc::new(Flights::new(clock, limit)),
            maintaining: SingleTask::default(),
            alive: watch::Sender::new(()),
        }
    }

    /// Adopts a login that lost its caller, or logs in. `login` gets the monotonic time at which
    /// the caller began. Returns the connection, and whether it was adopted.
    pub(crate) async fn connect<L>(
        &self,
        login: impl Fn(Duration) -> L,
        is_alive: fn(&C) -> bool,
    ) -> Result<(C, bool), M::Error>
    where
        L: Future<Output = Result<C, M::Error>> + Send + 'static,
    {
        self.flights.connect(login, is_alive).await
    }

    /// Leaves the connection to the next caller, once it is ready.
    #[cfg(feature = "postgres")]
    pub(crate) fn go_on(
        &self,
        connection: impl Future<Output = Result<C, M::Error>> + Send + 'static,
    ) {
        self.flights.go_on(connection);
    }

    /// Starts the task that maintains the pool, unless it runs or there is no pool: it closes
    /// idle connections that are unfit, keeps the minimum size and keeps the token fresh. It
    /// runs in the runtime of the caller and ends with the pool.
    pub(crate) fn maintain<F>(&self, upkeep: impl FnOnce() -> Upkeep<F>)
    where
        M: Manager<Type: Send, Error: Error>,
        F: Fn(&M, &M::Type, &Metrics) -> bool + Send + 'static,
    {
        let Some(pool) = self.pool.get().and_then(WeakPool::upgrade) else { return };
        let Some(task) = self.maintaining.begin() else { return };
        let mut alive = self.alive.subscribe();
        let flights = Arc::downgrade(&self.flights);
        let maintaining = maintained(pool.weak(), upkeep(), flights.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = maintaining => {}
                // It closes, or its manager is gone.
                _ = alive.changed() => {}
            }
            if let Some(flights) = flights.upgrade() {
                flights.close();
            }
            drop(task);
        });
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
        self.flights.close();
    }
}

/// Maintains the pool until it is closed or gone.
async fn maintained<M, C, F>(
    pool: WeakPool<M>,
    upkeep: Upkeep<F>,
    flights: Weak<Flights<C, M::Error>>,
) where
    M: Manager<Type: Send, Error: Error + Send> + 'static,
    C: Send + 'static,
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
        if let Some(flights) = flights.upgrade() {
            // It may have been resized.
            let Status { max_size, size, .. } = pool.status();
            flights.shrink(max_size.saturating_sub(size));
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
        tracing::warn!(error, "the pool has fewer connections than its minimum");
    }
}

impl<M: Manager, C> fmt::Debug for PoolState<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolState").finish_non_exhaustive()
    }
}
