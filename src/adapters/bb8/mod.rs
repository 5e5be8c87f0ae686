//! [bb8]'s pool, for both databases: feature `bb8`.
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
//! let rows = conn.query("SELECT Column2 FROM TestTable", &[]).await?.into_first_result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What bb8 does otherwise than deadpool:
//!
//! - It connects in tasks of its own and gives callers no error of a connect: `get`
//!   waits until its time is over, then says [`TimedOut`](bb8::RunError::TimedOut).
//!   The error is logged as a warning, and an [`ErrorSink`](bb8::ErrorSink) of yours
//!   gets it as it is (and what was retired, which the connector's report counts).
//! - It repeats a connect that failed, several times a second, whatever the error is.
//!   The builders here turn that off: the connector has tried what may help.
//! - A connection is made fit for use before its first borrower, too.

#[cfg(feature = "azure-sql")]
pub mod azure_sql;
#[cfg(feature = "postgres")]
pub mod postgres;

pub use bb8;

use std::{error::Error, time::Duration};

/// With one limit for all of `get`.
fn builder<M: bb8::ManageConnection>(limit: Duration) -> bb8::Builder<M> {
    bb8::Pool::builder()
        .connection_timeout(limit)
        .retry_connection(false)
        // The managers have a lifetime of their own, by which not all go at once.
        .max_lifetime(None)
}

/// bb8 reports the error to no caller, so it is logged.
fn log_error(error: &(dyn Error + 'static)) {
    tracing::warn!(error, "bb8's pool has no new connection");
}
