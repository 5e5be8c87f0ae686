use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Metrics, RecyclingMethod,
};
use tokio::task::JoinHandle;

use super::{Config, Connector, Recycling, RetireReason, retire::TimeLimits};
use crate::connect;

/// deadpool-postgres' pool, nothing else: its sizes, time limits, hooks,
/// `status`, `retain` and `close` are deadpool's own, and what it lends is a
/// [`deadpool_postgres::Client`].
pub type Pool = deadpool_postgres::Pool;

/// Builds a [`Pool`].
pub type PoolBuilder = connect::PoolBuilder<Manager>;

/// What a [`Pool`] lends.
pub type PooledConnection = deadpool_postgres::Client;

/// Why a [`Pool`] has no connection to lend; [`Error`](super::Error) is made of it.
pub type PoolError = deadpool_postgres::PoolError;

/// How often [`keep_fresh`] looks at a pool's idle connections.
const LOOK_EVERY: Duration = Duration::from_secs(30);

pub(super) fn builder(connector: &Connector) -> PoolBuilder {
    let config = connector.config();
    // The recycling is a hook of ours, which can give up, cancel and tell.
    let manager = Manager::from_connect(
        config.session.clone(),
        connector.clone(),
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let Config { connect_timeout, max_size, min_size, .. } = *config;
    let builder = PoolBuilder::new(manager, connect_timeout, max_size, min_size)
        .pre_recycle(retire_the_unfit(connector.clone()));
    match config.recycling {
        Recycling::Fast => builder,
        _ => builder.pre_recycle(recycle(connector.clone())),
    }
}

fn retire_the_unfit(connector: Connector) -> Hook {
    let limits = TimeLimits::of(connector.config());
    Hook::sync_fn(move |client: &mut ClientWrapper, metrics| match unfit(limits, client, metrics) {
        Some(reason) => Err(retired(&connector, reason)),
        None => Ok(()),
    })
}

/// What speaks against using a connection again, without asking the server.
fn unfit(limits: TimeLimits, client: &ClientWrapper, metrics: &Metrics) -> Option<RetireReason> {
    if client.is_closed() {
        return Some(RetireReason::Closed);
    }
    limits.reached(metrics)
}

fn recycle(connector: Connector) -> Hook {
    Hook::async_fn(move |client: &mut ClientWrapper, metrics| {
        let (connector, metrics) = (connector.clone(), *metrics);
        Box::pin(async move {
            if connector.silent_server().includes(metrics.recycled.unwrap_or(metrics.created)) {
                return Err(retired(&connector, RetireReason::Silent));
            }
            let asked = metrics.created + metrics.age();
            let recycled = connector.config().recycling.recycle(&connector, client).await;
            match recycled {
                Err(RetireReason::Unsettled) => connector.silent_server().unanswered(asked),
                _ => connector.silent_server().answered(asked),
            }
            recycled.map_err(|reason| retired(&connector, reason))
        })
    })
}

/// deadpool drops what a hook says, so it is said here.
fn retired(connector: &Connector, reason: RetireReason) -> HookError {
    connector.metrics().retired(reason);
    HookError::message(reason.to_string())
}

/// Has idle connections of `pool` that are not fit to be lent again (closed, old,
/// idle for too long) dropped within 30 s, where deadpool would find them when they
/// are next lent; and keeps [`min_size`](super::Config::min_size) connections open.
/// `connector` is the one that the pool is built on.
///
/// That is done by a task, in the runtime of the caller; it ends within 30 s of the
/// pool. Without it nothing runs in the background. Call it once for a pool: each call
/// has a task of its own.
///
/// # Panics
///
/// Outside of a Tokio runtime.
pub fn keep_fresh(pool: &Pool, connector: &Connector) {
    let (pool, connector) = (pool.weak(), connector.clone());
    let limits = TimeLimits::of(connector.config());
    tokio::spawn(async move {
        let mut filling: Option<JoinHandle<()>> = None;
        loop {
            connector.clock().sleep(LOOK_EVERY).await;
            let Some(pool) = pool.upgrade().filter(|pool| !pool.is_closed()) else { return };
            pool.retain(|client, metrics| match unfit(limits, client, &metrics) {
                Some(reason) => {
                    retired(&connector, reason);
                    false
                }
                None => true,
            });
            // In the background: a connect takes its time, and the next look does not wait.
            if filling.as_ref().is_none_or(JoinHandle::is_finished) {
                let minimum = connector.config().min_size;
                let fill = async move { connect::keep_minimum(&pool, minimum).await };
                filling = Some(tokio::spawn(fill));
            }
        }
    });
}

/// Closes `pool` and waits until the last of its connections has been returned, without a time
/// limit: for the end of a program. Connections that were
/// [taken](deadpool_postgres::Object::take) out of the pool do not count.
pub async fn close_and_wait(pool: &Pool) {
    pool.close();
    connect::drained(pool).await;
}
