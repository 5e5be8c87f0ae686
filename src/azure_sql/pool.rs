use std::ops::{Deref, DerefMut};

use deadpool::managed::{Metrics, Object, ObjectId};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{
    Connection, Error, Manager,
    returned::{Pooled, Returned, Unclean},
};
use crate::connect;

/// Implements a pooled connection, a tuple of `Option<Object<Manager>>`: it dereferences to the
/// connection, and when it is dropped, the manager decides whether to keep the connection.
macro_rules! impl_pooled_connection {
    ($pooled:ident, $manager:ident, $connection:ident) => {
        impl $pooled {
            fn object(&self) -> &Object<$manager> {
                match &self.0 {
                    Some(object) => object,
                    None => already_taken(),
                }
            }
        }

        fn already_taken() -> ! {
            unreachable!("the object is taken only when a pooled connection is dropped or taken")
        }

        impl Drop for $pooled {
            fn drop(&mut self) {
                let Some(mut object) = self.0.take() else { return };
                let Some(pool) = Object::pool(&object) else { return };
                let mut alive = pool.manager().state.alive.subscribe();
                // If the pool is closed, dropping the object closes the connection.
                if pool.is_closed() {
                    return;
                }
                // A runtime with one thread runs tasks only inside `block_on`.
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
                                // The pool is closing, so the connection is closed.
                                _ = alive.changed() => {}
                            }
                        });
                    }
                    (Returned::Keep | Returned::Clean, _) => {}
                }
            }
        }

        /// Cleans a connection and returns it to the pool, or retires it.
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
                    None => already_taken(),
                }
            }
        }
    };
}
#[cfg(feature = "unstable-mssql-tds")]
pub(crate) use impl_pooled_connection;

/// A deadpool pool of Azure SQL connections.
///
/// With [`Recycling::Clean`](super::Recycling::Clean), a returned connection is cleaned in the
/// background. Until it is clean, [`status`](deadpool::managed::Pool::status) counts it as in use,
/// and a `get` that does not wait may time out.
pub type Pool = deadpool::managed::Pool<Manager, PooledConnection>;

/// Builds a [`Pool`].
pub type PoolBuilder = connect::PoolBuilder<Manager, PooledConnection>;

/// The error of a checkout from a [`Pool`].
pub type PoolError = deadpool::managed::PoolError<Error>;

/// A connection that is checked out of a [`Pool`]. It dereferences to [`Connection`], and so to
/// [`Client`](super::Client).
///
/// When it is dropped, the connection is cleaned and returned to the pool, or closed. It is closed
/// if it broke, or if its last request has no complete response (the server then cancels the
/// query). It is also closed if a transaction is open that cannot be rolled back in the background:
/// with [`Recycling::Fast`](super::Recycling::Fast), on a runtime with one thread, and outside of a
/// runtime.
#[derive(Debug)]
pub struct PooledConnection(Option<Object<Manager>>);

impl PooledConnection {
    /// Removes the connection from its pool permanently.
    #[must_use]
    pub fn take(mut this: Self) -> Connection {
        match this.0.take() {
            Some(object) => {
                let connection = Object::take(object);
                connection.link.accept_requests();
                connection
            }
            None => already_taken(),
        }
    }

    /// Returns an ID that is unique among the connections of a pool.
    #[must_use]
    pub fn id(this: &Self) -> ObjectId {
        Object::id(this.object())
    }

    /// Returns when the connection was opened and how often it was reused.
    pub fn metrics(this: &Self) -> &Metrics {
        Object::metrics(this.object())
    }
}

impl_pooled_connection!(PooledConnection, Manager, Connection);

impl<M: deadpool::managed::Manager> Pooled for Object<M> {
    fn discard(self) {
        drop(Object::take(self));
    }
}

/// Closes `pool` and waits, without a time limit, until all its connections have been returned and
/// closed. Use it when a program shuts down. It does not wait for connections that were
/// [taken](PooledConnection::take) out of the pool, and closes connections that are being cleaned.
pub async fn close_and_wait(pool: &Pool) {
    pool.close();
    pool.manager().state.stop();
    connect::drained(pool).await;
}
