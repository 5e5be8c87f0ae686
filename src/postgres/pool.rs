use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::{Duration, Instant},
};

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, PoolBuilder, RecyclingMethod, Runtime,
};

use tokio_postgres::error::SqlState;

use super::Connector;
use crate::clock;

/// deadpool-postgres' pool, nothing else: its sizes, time limits, hooks,
/// `status`, `retain` and `close` are deadpool's own, and what it lends is a
/// [`deadpool_postgres::Client`].
pub type Pool = deadpool_postgres::Pool;

/// A connection whose cleaning takes longer is not worth waiting for.
const CLEANING_LIMIT: Duration = Duration::from_secs(2);

/// What is done to a connection before its next borrower gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Recycling {
    /// Nothing of one borrower's session reaches the next: an open transaction
    /// is rolled back, and role, settings, cursors, listened channels, advisory
    /// locks, temporary tables and sequences' memory are reset. One round trip.
    ///
    /// What a dropped query still does is awaited for 2 s; then it is
    /// cancelled, and the connection not used again.
    ///
    /// Prepared statements stay, so that the statement cache holds. `PREPARE`d
    /// by SQL, they are seen by the next borrower.
    #[default]
    Clean,
    /// Nothing, not even an open transaction, is undone: only for borrowers
    /// that leave no traces. No round trip.
    Fast,
}

/// The list behind the rollback is that of [`RecyclingMethod::Clean`], which is
/// `DISCARD ALL` less what would take the prepared statements away. `RESET ROLE`,
/// because `RESET ALL` leaves the role alone.
macro_rules! clean_after {
    ($rollback:literal) => {
        concat!(
            $rollback,
            "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *; \
             SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES;"
        )
    };
}

/// `ROLLBACK` alone would be a warning in the server's log at every checkout that
/// finds no transaction, which is all of them in a well-kept application.
const CLEAN: &str = clean_after!("BEGIN; ROLLBACK; ");

/// In a failed transaction, `BEGIN` fails, too.
const CLEAN_FAILED: &str = clean_after!("ROLLBACK; ");

/// A pool's builder on `connector`: deadpool's own, so that its sizes, time
/// limits and hooks can be set.
///
/// Set already: connections are retired at
/// [`max_lifetime`](super::Config::max_lifetime), recycled by
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
    // The cleaning is a hook of ours, which can give up and cancel.
    let manager = Manager::from_connect(
        config.session.clone(),
        connector.clone(),
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let mut builder = Pool::builder(manager)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(config.connect_timeout))
        .pre_recycle(retire_the_old(&connector));
    if config.recycling == Recycling::Clean {
        builder = builder.pre_recycle(clean(connector));
    }
    builder
}

fn retire_the_old(connector: &Connector) -> Hook {
    let connector = connector.clone();
    let lifetime = connector.config().max_lifetime;
    Hook::sync_fn(move |_, metrics| {
        let reason = match lifetime {
            Some(lifetime) if metrics.age() >= jittered(lifetime, metrics.created) => "it is old",
            _ => return Ok(()),
        };
        Err(retired(&connector, reason))
    })
}

/// `lifetime` less up to a tenth: always the same for one connection, another
/// for the next.
fn jittered(lifetime: Duration, created: Instant) -> Duration {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(created);
    let thousandths = u32::try_from(hash % 1_000).unwrap_or_default();
    lifetime.saturating_sub(lifetime / 10_000 * thousandths)
}

fn clean(connector: Connector) -> Hook {
    Hook::async_fn(move |client: &mut ClientWrapper, _| {
        let connector = connector.clone();
        Box::pin(async move {
            let cleaned = {
                let clock = connector.tokens().clock();
                clock::timeout(&**clock, CLEANING_LIMIT, run_cleaning(client)).await
            };
            match cleaned {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) if error.is_closed() => Err(retired(&connector, "it is closed")),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a connection could not be cleaned");
                    Err(retired(&connector, "it could not be cleaned"))
                }
                Err(clock::Elapsed) => {
                    cancel(&connector, client);
                    Err(retired(&connector, "its last query is still running"))
                }
            }
        })
    })
}

async fn run_cleaning(client: &ClientWrapper) -> Result<(), tokio_postgres::Error> {
    match client.batch_execute(CLEAN).await {
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            client.batch_execute(CLEAN_FAILED).await
        }
        cleaned => cleaned,
    }
}

/// Has the server stop what the connection is at. It is not used again,
/// because the cancellation might reach a later query.
fn cancel(connector: &Connector, client: &ClientWrapper) {
    let (token, tls) = (client.cancel_token(), connector.tls());
    let clock = connector.tokens().clock().clone();
    let limit = connector.config().connect_timeout;
    tokio::spawn(async move {
        if let Ok(Err(error)) = clock::timeout(&*clock, limit, token.cancel_query(tls)).await {
            tracing::warn!(%error, "a query could not be cancelled");
        }
    });
}

/// deadpool drops what a hook says, so it is said here.
fn retired(connector: &Connector, reason: &'static str) -> HookError {
    connector.count_retired();
    tracing::debug!(reason, "a connection is retired");
    HookError::message(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // deadpool's metrics have it.
    fn a_lifetime_ends_up_to_a_tenth_earlier_and_is_the_same_each_time() {
        let hour = Duration::from_secs(3600);
        let now = Instant::now();
        let lifetimes: Vec<_> =
            (0..100).map(|at| jittered(hour, now + Duration::from_millis(at))).collect();
        assert!(lifetimes.iter().all(|life| *life <= hour && *life > hour * 9 / 10));
        assert!(lifetimes.iter().any(|life| *life != lifetimes[0]), "they differ");
        assert_eq!(jittered(hour, now), jittered(hour, now));
        assert_eq!(jittered(Duration::ZERO, now), Duration::ZERO);
        assert!(jittered(Duration::MAX, now) > Duration::MAX / 2);
    }
}
