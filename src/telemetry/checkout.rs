use std::sync::Arc;

use super::{
    TIMEOUT,
    metrics::{self, Labels},
};
use crate::clock::{Clock, SystemClock};

/// Measures a checkout: `db.client.connection.wait_time`, and
/// `db.client.connection.timeouts` if that is how it ended.
///
/// `pool` is the name it is measured under:
/// [`pool_name`](crate::azure_sql::Connector::pool_name) of the connector, or one of
/// yours, of which there must be few. A checkout that is dropped before its end counts,
/// too, with the `error.type` `cancelled`.
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
/// Those of the checkout.
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

/// Why a pool has given no connection, in a word. It is there for the errors of
/// deadpool, and of bb8 and sqlx with their features; for another pool's, it is yours
/// to implement.
pub trait CheckoutError {
    /// The `error.type`: `timeout` if a time limit of the pool's has passed, else a word
    /// of few.
    fn error_type(&self) -> &'static str;
}

const CLOSED: &str = "closed";
const CONNECT: &str = "connect";
/// OpenTelemetry's word for what has none.
const OTHER: &str = "_OTHER";

/// One who waits, until it is dropped: measured then.
struct Waiting<'a> {
    pool: &'a str,
    /// Begins with the wait.
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

/// Sets the gauges of a pool to what it says of itself: `db.client.connection.count`,
/// `….max` and `….pending_requests`.
///
/// To be called when the metrics are read: in the handler that answers a scrape, or, for
/// an exporter that pushes, by a task as often as it does.
///
/// ```no_run
/// # #[cfg(feature = "azure-sql")]
/// # fn scrape(pool: &entra_pool::azure_sql::Pool) {
/// use entra_pool::telemetry;
///
/// telemetry::pool_status(pool.manager().connector().pool_name(), pool.status());
/// # }
/// ```
#[allow(clippy::cast_precision_loss)] // Of more than 2^52 connections.
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
