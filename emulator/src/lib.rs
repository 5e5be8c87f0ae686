//! Local stand-ins for what entra-pool talks to in Azure: an identity
//! endpoint, the `az` command, Azure SQL and Azure Database for PostgreSQL.
//!
//! For tests, examples and benches where Azure is out of reach. None of it is
//! the real thing: each module says what it understands.
#![deny(missing_docs, unreachable_pub)]
#![allow(clippy::disallowed_methods)] // A server lives in real time.

#[cfg(feature = "embedded")]
pub mod azure_cli;
#[cfg_attr(not(feature = "embedded"), path = "azure_sql/protocol.rs")]
pub mod azure_sql;
pub mod certificates;
#[cfg(feature = "embedded")]
pub mod database;
#[cfg(feature = "embedded")]
pub mod emulator;
pub mod entra;
pub mod front;
mod http;
pub mod identity;
pub mod jwt;
mod listener;
pub mod network;
#[cfg_attr(not(feature = "embedded"), path = "postgres/protocol.rs")]
pub mod postgres;
pub mod tenant;
mod times;
