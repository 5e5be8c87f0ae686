use std::{
    fmt,
    future::poll_fn,
    sync::{Arc, OnceLock},
    task::Poll,
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{
        Hook, Manager, Object, Pool, PoolConfig, PoolError, QueueMode, TimeoutType, Timeouts,
        WeakPool,
    },
};
use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use tokio::task::unconstrained;

use super::PoolState;
use crate::clock::{Clock, SystemClock};

/// Describes why a pool returned no connection, other than an error of a connect.
pub(crate) fn pool_message<E>(error: &PoolError<E>) -> &'static str {
    match error {
        PoolError::Timeout(TimeoutType::Wait) => {
            "no connection became free in time: raise max_size, or return connections sooner"
        }
        PoolError::Timeout(_) => "the pool's own time limit expired",
        PoolError::Closed => "the pool is closed",
        _ => "the pool returned no connection",
    }
}

/// Builds a pool. The settings have the same names as deadpool's.
///
/// The connector's configuration sets the maximum size. A checkout waits for a free connection for
/// at most the time that a connect may take.
#[must_use]
pub struct PoolBuilder<M: Manager, W: From<Object<M>> = Object<M>> {
    builder: deadpool::managed::PoolBuilder<M, W>,
    built: Arc<OnceLock<WeakPool<M>>>,
}

/// Forwards settings to deadpool's builder.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident($value:ident: $type:ty);)*) => {
        $($(#[$doc])*
        pub fn $name(self, $value: $type) -> Self {
            Self { builder: self.builder.$name($value), ..self }
        })*
    };
}

impl<M: Manager, W: From<Object<M>>> PoolBuilder<M, W> {
    /// Creates a builder. Without `max_size`, the maximum is deadpool's default, at least
    /// `min_size`.
    pub(crate) fn new<C>(
        manager: M,
        state: &PoolState<M, C>,
        wait_timeout: Duration,
        max_size: Option<usize>,
        min_size: usize,
    ) -> Self {
        let builder = Pool::builder(manager).runtime(Runtime::Tokio1);
        let size = max_size.unwrap_or_else(|| PoolConfig::default().max_size.max(min_size));
        Self {
            builder: builder.wait_timeout(Some(wait_timeout)).max_size(size),
            built: state.pool.clone(),
        }
    }

    settings! {
        /// The maximum number of connections. Default: the configured size, or else 2 per CPU, at least the minimum size.
        max_size(size: usize);

        /// How long a checkout waits for a free connection. `None`: no limit. Default: the
        /// configured `connect_timeout`.
        wait_timeout(limit: Option<Duration>);

        /// How long a connect may take, including hooks. Default: no limit other than the
        /// configured `connect_timeout`.
        create_timeout(limit: Option<Duration>);

        /// How long the cleaning of a connection may take, including hooks. Default: no limit other
        /// than that of the recycling itself.
        recycle_timeout(limit: Option<Duration>);

        /// Whether a checkout gets the connection that was returned first or last. Default: first.
        queue_mode(mode: QueueMode);

        /// Adds a hook that runs for each new connection.
        post_create(hook: impl Into<Hook<M>>);

        /// Adds a hook that runs when an idle connection is checked out, before it is cleaned.
        pre_recycle(hook: impl Into<Hook<M>>);

        /// Adds a hook that runs when an idle connection is checked out, after it was cleaned.
        post_recycle(hook: impl Into<Hook<M>>);
    }

    /// Builds the pool. It does not connect yet.
    pub fn build(self) -> Pool<M, W> {
        match self.builder.build() {
            Ok(pool) => {
                // Cannot be set already, because a builder builds one pool.
                let _ = self.built.set(pool.weak());
                pool
            }
            Err(error) => unreachable!("the builder has a runtime: {error}"),
        }
    }
}

impl<M: Manager, W: From<Object<M>>> fmt::Debug for PoolBuilder<M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder").finish_non_exhaustive()
    }
}

/// Opens connections until `pool` has `wanted`, at most its `max_size`. Does not wait for
/// connections that are checked out.
pub(crate) async fn fill<M, W>(pool: &Pool<M, W>, wanted: usize) -> Result<(), PoolError<M::Error>>
where
    M: Manager<Type: Send, Error: Send> + 'static,
    W: From<Object<M>> + Send + 'static,
{
    let status = pool.status();
    let missing = wanted.min(status.max_size).saturating_sub(status.size);
    if missing == 0 {
        return Ok(());
    }
    let limits = Timeouts { wait: Some(Duration::ZERO), ..pool.timeouts() };
    // The pool hands out idle connections before it opens new ones.
    let gets = status.available.min(status.size) + missing;
    let (mut ready, opening) = (Vec::new(), FuturesUnordered::new());
    for _ in 0..gets {
        let mut get = Box::pin(pool.timeout_get(&limits));
        // The first poll takes an idle connection or starts to open one, unless tokio's budget
        // prevents it.
        let first = unconstrained(poll_fn(|cx| Poll::Ready(get.as_mut().poll(cx)))).await;
        match first {
            Poll::Ready(opened) => ready.push(opened),
            Poll::Pending => opening.push(get),
        }
    }
    // The idle connections are returned only now, after all checkouts have started: a later
    // checkout would otherwise get one of them instead of opening a connection.
    let mut opened = stream::iter(ready).chain(opening);
    while let Some(opened) = opened.next().await {
        match opened {
            // Another caller has checked out the connection.
            Ok(_) | Err(PoolError::Timeout(TimeoutType::Wait)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a closed pool has no connections and no waiting callers.
pub(crate) async fn drained<M: Manager, W: From<Object<M>>>(pool: &Pool<M, W>) {
    /// deadpool does not report when a connection is returned.
    const PAUSE: Duration = Duration::from_millis(10);

    let clock = SystemClock::new();
    loop {
        // A connection that was returned to a caller that has given up remains after closing.
        drop(pool.retain(|_, _| false));
        let status = pool.status();
        if status.size == 0 && status.waiting == 0 {
            return;
        }
        clock.sleep(PAUSE).await;
    }
}
