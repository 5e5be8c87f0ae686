//! Helpers of the root crate's tests for real servers.

#[path = "../../../../tests/support/daemon.rs"]
pub mod daemon;
#[path = "../../../../tests/support/postgres.rs"]
pub mod postgres;

pub use tokio_postgres;
