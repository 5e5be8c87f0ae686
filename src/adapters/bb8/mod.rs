//! [bb8]'s pool for both databases (feature `bb8`).
//!
//! ```no_run
//! # #[cfg(feature = "azure-sql")]
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::{adapters::bb8, azure_sql};
//!
//! let connector = azure_sql::connector(
//!     "Server=tcp:shop.database.windows.net;Database=orders;Authentication=Active Directory Default",
//! )?;
//! let manager = azure_sql::Manager::new(connector);
//! let pool = bb8::azure_sql::builder(&manager).max_size(16).build(manager).await?;
//! let mut conn = pool.get().await?;
//! let rows = conn.query("SELECT name FROM product", &[]).await?.into_first_result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Differences between bb8 and deadpool:
//!
//! - bb8 connects in its own tasks and does not return the errors of connects to callers: `get`
//!   waits until its time limit, then returns [`TimedOut`](bb8::RunError::TimedOut). The adapter
//!   logs the error as a warning, and your [`ErrorSink`](bb8::ErrorSink) gets it typed. The sink
//!   also gets an error for each retired connection.
//! - bb8 retries a failed connect several times a second, whatever the error. The builders here
//!   disable these retries, because the connector has already retried.
//! - bb8 also tests (and so cleans) a new connection before its first borrower gets it.

#[cfg(feature = "azure-sql")]
pub mod azure_sql;
#[cfg(feature = "postgres")]
pub mod postgres;

pub use bb8;

use std::{error::Error, time::Duration};

/// Returns a builder in which `limit` covers the whole `get`.
fn builder<M: bb8::ManageConnection>(limit: Duration) -> bb8::Builder<M> {
    bb8::Pool::builder()
        .connection_timeout(limit)
        .retry_connection(false)
        // The managers limit the lifetime themselves, with jitter, so that connections do not all
        // expire at once.
        .max_lifetime(None)
}

/// Logs the error of a connect, because bb8 does not return it to callers.
fn log_error(error: &(dyn Error + 'static)) {
    tracing::warn!(error, "cannot open a connection for the bb8 pool");
}
