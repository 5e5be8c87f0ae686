//! What the root's tests have for servers of other makers.

#[path = "../../../../tests/support/daemon.rs"]
pub mod daemon;
#[path = "../../../../tests/support/postgres.rs"]
pub mod postgres;

pub use tokio_postgres;
