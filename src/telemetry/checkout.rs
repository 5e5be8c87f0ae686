use std::sync::Arc;

use super::{
    TIMEOUT,
    metrics::{self, Labels},
};
use crate::clock::{Clock, SystemClock};

/// Runs a checkout and records its time (`db.client.connection.wait_time`). If a timeout of the
/// pool expires, also counts it (`db.client.connection.timeouts`).
///
/// `pool` is the pool's name in the metrics: the connector's
/// [`pool_name`](crate::azure_sql::Connector::pool_name), or one of few names of your own. A
/// checkout that is dropped before it finishes is recorded with the `error.type` `cancelled`.
///
/// ```no_run
/// # #[cfg(feature = "postgres")]
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use entra_pool::{postgres, telemetry};
///
/// let connector = postgres::connector(
///     "postgres://shop.postgres.database.azure.com/restaurant",
/// )?;
/// let pool = connector.pool();
/// let checkout = telemetry::checkout(connector.pool_name(), pool.get()).await;
/// let client = checkout.map_err(postgres::Error::from)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The error of the checkout.
pub async fn checkout<T, E: CheckoutError>(
    pool: &str,
    checkout: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let clock = SystemClock::new();
    let mut waiting = Waiting { pool, clock, error_type: Some("cancelled") };
    let result = checkout.await;
    waiting.error_type = result.as_ref().err().map(CheckoutError::error_type);
    result
}

/// An error of a checkout. Implemented for the errors of deadpool, and with their features, for
/// those of bb8 and sqlx. Implement it for the errors of other pools.
pub trait CheckoutError {
    /// Returns the `error.type`: `timeout` for a timeout of the pool, otherwise one of few words.
    fn error_type(&self) -> &'static str;
}

const CLOSED: &str = "closed";
const CONNECT: &str = "connect";
/// OpenTelemetry's value for errors without a type.
const OTHER: &str = "_OTHER";

/// A checkout that is waiting. It is recorded when this value is dropped.
struct Waiting<'a> {
    pool: &'a str,
    /// Its monotonic time starts with the wait.
    clock: SystemClock,
    error_type: Option<&'static str>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let pool: Arc<str> = self.pool.into();
        let labels = Labels::of_pool(pool.clone()).with_error(self.error_type);
        metrics::WAIT_TIME.record(labels, self.clock.monotonic());
        if self.error_type == Some(TIMEOUT) {
            metrics::TIMEOUTS.count(Labels::of_pool(pool));
        }
    }
}

impl<E> CheckoutError for deadpool::managed::PoolError<E> {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Timeout(_) => TIMEOUT,
            Self::Backend(_) => CONNECT,
            Self::Closed => CLOSED,
            Self::NoRuntimeSpecified | Self::PostCreateHook(_) => OTHER,
        }
    }
}

#[cfg(feature = "bb8")]
impl<E> CheckoutError for bb8::RunError<E> {
    fn error_type(&self) -> &'static str {
        match self {
            Self::TimedOut => TIMEOUT,
            Self::User(_) => CONNECT,
        }
    }
}

#[cfg(feature = "sqlx")]
impl CheckoutError for sqlx::Error {
    fn error_type(&self) -> &'static str {
        match self {
            Self::PoolTimedOut => TIMEOUT,
            Self::PoolClosed => CLOSED,
            _ => CONNECT,
        }
    }
}

/// Sets the gauges of a pool from its status: `db.client.connection.count`, `….max` and
/// `….pending_requests`.
///
/// Call it whenever metrics are read: in the handler of a scrape, or, for an exporter that pushes,
/// in a task at the same interval.
///
/// ```no_run
/// # #[cfg(feature = "azure-sql")]
/// # fn scrape(pool: &entra_pool::azure_sql::Pool) {
/// use entra_pool::telemetry;
///
/// telemetry::pool_status(pool.manager().connector().pool_name(), pool.status());
/// # }
/// ```
#[allow(clippy::cast_precision_loss)] // Only from 2^53 connections on.
pub fn pool_status(pool: &str, status: deadpool::Status) {
    let pool: Arc<str> = pool.into();
    let labels = || Labels::of_pool(pool.clone());
    let idle = status.available.min(status.size);
    for (state, connections) in [("idle", idle), ("used", status.size - idle)] {
        metrics::CONNECTION_COUNT
            .set(labels().with(metrics::CONNECTION_STATE, state), connections as f64);
    }
    metrics::CONNECTION_MAX.set(labels(), status.max_size as f64);
    metrics::PENDING_REQUESTS.set(labels(), status.waiting as f64);
    metrics::TIMEOUTS.count_from_zero(labels());
}
