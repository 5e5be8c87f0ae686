//! The parts of the example applications that are not about entra-pool: the log, shutdown,
//! errors as problem documents, and the frame of a page.
//!
//! Each application creates its pool in `main`, and uses this crate around its own routes:
//!
//! ```no_run
//! use entra_pool::azure_sql;
//! use examples_common::{BoxError, run, serve, settings};
//!
//! #[tokio::main]
//! async fn main() -> std::process::ExitCode {
//!     run(application()).await
//! }
//!
//! async fn application() -> Result<(), BoxError> {
//!     let pool = azure_sql::pool_from_env()?;
//!     pool.manager().connector().warm_up(&pool, 1).await.map_err(azure_sql::Error::from)?;
//!     let router = axum::Router::new().with_state(pool.clone());
//!     serve(router, settings::listen()?, azure_sql::close_and_wait(&pool)).await?;
//!     Ok(())
//! }
//! ```
#![deny(missing_docs, unreachable_pub)]
#![allow(clippy::disallowed_methods)] // Applications use the real clock.

pub mod entry;
pub mod health;
pub mod html;
mod log;
pub mod problem;
pub mod rows;
mod serve;
pub mod settings;

pub use log::run;
pub use problem::Problem;
pub use serve::serve;

/// Any error that ends a program.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
