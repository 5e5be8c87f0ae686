//! Local stand-ins for what entra-pool talks to in Azure: an identity
//! endpoint, the `az` command, Azure SQL and Azure Database for PostgreSQL.
//!
//! For tests, examples and benches where Azure is out of reach. None of it is
//! the real thing: each module says what it understands.
#![deny(missing_docs, unreachable_pub)]
#![allow(clippy::disallowed_methods)] // A server lives in real time.

pub mod azure_cli;
pub mod azure_sql;
pub mod certificates;
pub mod database;
pub mod emulator;
pub mod entra;
mod http;
pub mod front;
pub mod identity;
pub mod jwt;
mod listener;
pub mod network;
pub mod postgres;
pub mod tenant;
mod times;
