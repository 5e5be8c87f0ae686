//! Connection pools for Azure SQL and Azure Database for PostgreSQL that log in
//! with Microsoft Entra tokens.
#![deny(missing_docs, unreachable_pub)]
#![warn(clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::module_name_repetitions)]

#[cfg(feature = "azure-sql")]
pub mod azure_sql;
pub mod clock;
pub mod credential;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod token;

mod cloud;
#[cfg(feature = "_tls")]
mod tls;

pub use cloud::Cloud;
#[cfg(feature = "_tls")]
pub use tls::TlsConfigError;
