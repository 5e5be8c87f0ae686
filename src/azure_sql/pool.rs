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

/// Closes `pool` and waits until the last of its connections has been returned, without a time
/// limit: for the end of a program. Connections that were
/// [taken](deadpool::managed::Object::take) out of the pool do not count.
pub async fn close_and_wait(pool: &Pool) {
    pool.close();
    pool.manager().state.end();
    connect::drained(pool).await;
}
