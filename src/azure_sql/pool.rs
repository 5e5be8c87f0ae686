use std::time::Duration;

use tokio::{runtime::Handle, task::JoinHandle};

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

/// Closes `pool` and waits until the last of its connections has been returned, without a time
/// limit: for the end of a program. Connections that were
/// [taken](deadpool::managed::Object::take) out of the pool do not count.
pub async fn close_and_wait(pool: &Pool) {
    pool.close();
    pool.manager().alive.send_replace(());
    connect::drained(pool).await;
}
