use std::{panic::resume_unwind, time::Duration};

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, PoolBuilder, RecyclingMethod, Runtime,
};
use tokio::task::JoinSet;

use super::{Connector, Error, Recycling, RetireReason};
use crate::clock::{Clock, SystemClock};

/// deadpool-postgres' pool, nothing else: its sizes, time limits, hooks,
/// `status`, `retain` and `close` are deadpool's own, and what it lends is a
/// [`deadpool_postgres::Client`].
pub type Pool = deadpool_postgres::Pool;

/// A pool's builder on `connector`: deadpool's own, so that its sizes, time
/// limits and hooks can be set.
///
/// Set already: connections are retired at
/// [`max_lifetime`](super::Config::max_lifetime) and
/// [`idle_timeout`](super::Config::idle_timeout), recycled by
/// [`recycling`](super::Config::recycling), and one that comes free is waited for
/// as long as a connect may take
/// ([`connect_timeout`](super::Config::connect_timeout)).
///
/// ```no_run
/// # fn pool(identity: entra_pool::token::Identity) -> Result<(), Box<dyn std::error::Error>> {
/// use entra_pool::postgres::{self, Config, Connector};
///
/// let config: Config = "postgres://shop.postgres.database.azure.com/restaurant".parse()?;
/// let tokens = identity.tokens(config.token_scope()?);
/// let connector = Connector::new(config, tokens)?;
/// let pool = postgres::builder(connector.clone()).max_size(16).build()?;
/// println!("{:?}", connector.report());
/// # Ok(())
/// # }
/// ```
pub fn builder(connector: Connector) -> PoolBuilder {
    let config = connector.config();
    // The recycling is a hook of ours, which can give up, cancel and tell.
    let manager = Manager::from_connect(
        config.session.clone(),
        connector.clone(),
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let builder = Pool::builder(manager)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(config.connect_timeout))
        .pre_recycle(retire_the_unfit(connector.clone()));
    match config.recycling {
        Recycling::Fast => builder,
        _ => builder.pre_recycle(recycle(connector)),
    }
}

fn retire_the_unfit(connector: Connector) -> Hook {
    Hook::sync_fn(move |client: &mut ClientWrapper, metrics| {
        let unfit = if client.is_closed() {
            Some(RetireReason::Closed)
        } else {
            RetireReason::by_time(connector.config(), metrics)
        };
        unfit.map_or(Ok(()), |reason| Err(retired(&connector, reason)))
    })
}

fn recycle(connector: Connector) -> Hook {
    Hook::async_fn(move |client: &mut ClientWrapper, _| {
        let connector = connector.clone();
        Box::pin(async move {
            let recycling = &connector.config().recycling;
            recycling
                .recycle(&connector, client)
                .await
                .map_err(|reason| retired(&connector, reason))
        })
    })
}

/// deadpool drops what a hook says, so it is said here.
fn retired(connector: &Connector, reason: RetireReason) -> HookError {
    connector.count_retired(reason);
    tracing::debug!(%reason, "connection retired");
    HookError::message(reason.to_string())
}

/// Connects until the pool has `minimum` connections (its `max_size` at most), so
/// that the first requests need not wait for a login.
///
/// The pool does not keep a minimum: connections that are retired later come
/// back as they are needed.
///
/// # Errors
///
/// The first connection's that fails; those that did not stay.
pub async fn warm_up(pool: &Pool, minimum: usize) -> Result<(), Error> {
    let status = pool.status();
    let lent = status.size - status.available;
    // A connection that is idle is lent before one is made.
    let wanted = minimum.min(status.max_size).saturating_sub(lent);
    let mut connecting: JoinSet<_> = (0..wanted)
        .map(|_| {
            let pool = pool.clone();
            async move { pool.get().await }
        })
        .collect();
    let mut warm = Vec::with_capacity(wanted);
    while let Some(connected) = connecting.join_next().await {
        match connected {
            Ok(connected) => warm.push(connected?),
            Err(stopped) => resume_unwind(stopped.into_panic()),
        }
    }
    Ok(())
}

/// Closes the pool and waits until the last of its connections has been given
/// back: for the end of a program. A time limit is the caller's to set.
pub async fn close_and_wait(pool: &Pool) {
    /// deadpool tells nobody when a connection comes back.
    const LOOKED_AT_EVERY: Duration = Duration::from_millis(10);

    pool.close();
    let clock = SystemClock::new();
    loop {
        let status = pool.status();
        if status.size == 0 && status.waiting == 0 {
            return;
        }
        clock.sleep(LOOKED_AT_EVERY).await;
    }
}
