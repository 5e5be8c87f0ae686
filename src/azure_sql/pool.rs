use std::ops::{Deref, DerefMut};

use deadpool::managed::{Metrics, Object, ObjectId};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{
    Connection, Error, Manager,
    returned::{Pooled, Returned, Unclean},
};
use crate::connect;

/// What a pool lends, over `Option<Object<Manager>>`: it dereferences to the connection, and its
/// drop has the manager decide.
macro_rules! lends {
    ($pooled:ident, $manager:ident, $connection:ident) => {
        impl $pooled {
            fn object(&self) -> &Object<$manager> {
                match &self.0 {
                    Some(object) => object,
                    None => gone(),
                }
            }
        }

        fn gone() -> ! {
            unreachable!("only the end of a pooled connection takes its object")
        }

        impl Drop for $pooled {
            fn drop(&mut self) {
                let Some(mut object) = self.0.take() else { return };
                let Some(pool) = Object::pool(&object) else { return };
                let mut alive = pool.manager().state.alive.subscribe();
                // Without an open pool, dropping the object closes the connection.
                if pool.is_closed() {
                    return;
                }
                // On a runtime with one thread, a task runs only inside `block_on`.
                let runtime = Handle::try_current().ok();
                let runtime = runtime
                    .filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
                match (pool.manager().returned(&mut object, runtime.is_some()), runtime) {
                    (Returned::Close, _) => object.discard(),
                    (Returned::Clean, Some(runtime)) => {
                        let unclean = Unclean::new(object);
                        runtime.spawn(async move {
                            tokio::select! {
                                () = clean(unclean, pool.manager()) => {}
                                // A pool that closes does not wait for it.
                                _ = alive.changed() => {}
                            }
                        });
                    }
                    (Returned::Keep | Returned::Clean, _) => {}
                }
            }
        }

        /// Has a connection cleaned; it goes back if that succeeds.
        async fn clean(mut unclean: Unclean<Object<$manager>>, manager: &$manager) {
            let Some(object) = unclean.object() else { return };
            match manager.clean(object).await {
                Ok(()) => unclean.cleaned(),
                Err(reason) => manager.retire(object, reason),
            }
        }

        impl From<Object<$manager>> for $pooled {
            fn from(object: Object<$manager>) -> Self {
                Self(Some(object))
            }
        }

        impl Deref for $pooled {
            type Target = $connection;

            fn deref(&self) -> &$connection {
                self.object()
            }
        }

        impl DerefMut for $pooled {
            fn deref_mut(&mut self) -> &mut $connection {
                match &mut self.0 {
                    Some(object) => object,
                    None => gone(),
                }
            }
        }
    };
}
#[cfg(feature = "unstable-mssql-tds")]
pub(crate) use lends;

/// A deadpool pool of Azure SQL connections.
///
/// With [`Recycling::Clean`](super::Recycling::Clean), a connection that comes back is cleaned in
/// the background. Until then [`status`](deadpool::managed::Pool::status) counts it as lent, and
/// a `get` that does not wait may time out right after a connection was returned.
pub type Pool = deadpool::managed::Pool<Manager, PooledConnection>;

/// Builds a [`Pool`].
pub type PoolBuilder = connect::PoolBuilder<Manager, PooledConnection>;

/// Why a [`Pool`] has no connection to lend.
pub type PoolError = deadpool::managed::PoolError<Error>;

/// What a [`Pool`] lends; dereferences to [`Connection`], and so to [`Client`](super::Client).
///
/// When it is dropped, the connection goes back to the pool: cleaned, or not at all. It leaves
/// the pool, and its socket is closed, if it broke, if its last request has no complete response
/// (the server then ends the query), or if a transaction is open that cannot be rolled back in
/// the background: with [`Recycling::Fast`](super::Recycling::Fast), on a runtime with one
/// thread, and outside of a runtime.
#[derive(Debug)]
pub struct PooledConnection(Option<Object<Manager>>);

impl PooledConnection {
    /// Takes the connection out of its pool, for good.
    #[must_use]
    pub fn take(mut this: Self) -> Connection {
        match this.0.take() {
            Some(object) => {
                let connection = Object::take(object);
                connection.link.readmit();
                connection
            }
            None => gone(),
        }
    }

    /// Tells the connections of a pool apart.
    #[must_use]
    pub fn id(this: &Self) -> ObjectId {
        Object::id(this.object())
    }

    /// When the connection was made, and how often it was lent.
    pub fn metrics(this: &Self) -> &Metrics {
        Object::metrics(this.object())
    }
}

lends!(PooledConnection, Manager, Connection);

impl<M: deadpool::managed::Manager> Pooled for Object<M> {
    fn discard(self) {
        drop(Object::take(self));
    }
}

/// Closes `pool` and waits until the last of its connections has been returned, without a time
/// limit: for the end of a program. Connections that were [taken](PooledConnection::take) out of
/// the pool do not count, and connections that are being cleaned are closed.
pub async fn close_and_wait(pool: &Pool) {
    pool.close();
    pool.manager().state.end();
    connect::drained(pool).await;
}
