use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::watch, task::JoinHandle};

use super::{Error, Manager};
use crate::connect;

/// A deadpool pool of Azure SQL connections.
pub type Pool = deadpool::managed::Pool<Manager>;

/// Builds a [`Pool`].
pub type PoolBuilder = connect::PoolBuilder<Manager>;

/// What a [`Pool`] lends; dereferences to [`Client`](super::Client).
pub type PooledConnection = deadpool::managed::Object<Manager>;

/// Why a [`Pool`] has no connection to lend.
pub type PoolError = deadpool::managed::PoolError<Error>;

/// How often [`keep_fresh`] looks at a pool's idle connections.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Has idle connections of `pool` that are not fit to be lent again (closed, too
/// old, soon to end with their token) dropped within 30 s, where deadpool would
/// find them when they are next lent; and keeps [`min_size`](super::Config::min_size)
/// connections open.
///
/// That is done by a task, in the runtime of the caller; it ends with the pool.
/// Without it nothing runs in the background. While that task runs, a second call does
/// nothing.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn keep_fresh(pool: &Pool) {
    let (manager, runtime) = (pool.manager(), Handle::current());
    let Some(task) = manager.keeping_fresh.begin() else { return };
    let (pool, clock) = (pool.weak(), manager.connector().clock().clone());
    let mut alive = manager.alive.subscribe();
    runtime.spawn(async move {
        let mut filling: Option<JoinHandle<()>> = None;
        loop {
            tokio::select! {
                () = clock.sleep(LOOK_EVERY) => {}
                // It closes, or its manager is gone.
                _ = alive.changed() => break,
            }
            let Some(pool) = pool.upgrade().filter(|pool| !pool.is_closed()) else { break };
            pool.retain(|connection, _| pool.manager().is_fit(connection));
            // In the background: a connect takes its time, and the next look does not wait.
            if filling.as_ref().is_none_or(JoinHandle::is_finished) {
                filling = Some(tokio::spawn(keep_minimum(pool)));
            }
        }
        drop(task);
    });
}

/// Logins under way end with the pool.
async fn keep_minimum(pool: Pool) {
    let manager = pool.manager();
    let (minimum, mut alive) = (manager.connector().config().min_size, manager.alive.subscribe());
    tokio::select! {
        () = connect::keep_minimum(&pool, minimum) => {}
        _ = alive.changed() => {}
    }
}

/// Closes `pool` and waits until the last of its connections is gone: those that
/// are lent, until they are given back or dropped. Those that were
/// [taken](deadpool::managed::Object::take) out of it do not count.
///
/// For the end of a service, behind the end of what it serves. There is no time
/// limit of its own.
pub async fn close_and_wait(pool: &Pool) {
    pool.close();
    pool.manager().alive.send_replace(());
    // deadpool leaves one idle for whoever has been promised it, though nobody may
    // come any more.
    drop(pool.retain(|_, _| false));
    pool.manager().open_connections.none().await;
}

/// How many connections of one pool there are, from before they are dialled.
#[derive(Debug)]
pub(super) struct OpenConnections(Arc<watch::Sender<usize>>);

impl Default for OpenConnections {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl OpenConnections {
    pub(super) fn enter(&self) -> OpenConnection {
        self.0.send_modify(|count| *count += 1);
        OpenConnection(Arc::clone(&self.0))
    }

    async fn none(&self) {
        // Its sender is here, so that it does not end.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One that counts, until it is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection(Arc<watch::Sender<usize>>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
