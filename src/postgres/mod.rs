//! Azure Database for PostgreSQL: a pool of deadpool-postgres' that logs in
//! with tokens.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = entra_pool::postgres::connect(
//!     "postgres://shop.postgres.database.azure.com/restaurant",
//! )?;
//! let client = pool.get().await?;
//! let rows = client.query("SELECT name FROM restaurant", &[]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What the [`Pool`] lends are [`deadpool_postgres::Client`]s: all that is written for
//! deadpool-postgres and tokio-postgres works, statement cache,
//! transactions, `GenericClient` and [`cancel_token`] included.
//!
//! In layers, each of use without the ones above: [`Config`], [`Connector`]
//! (dials and logs in), [`builder`] and [`Pool`]. For a pool's begin, life and end:
//! [`warm_up`], [`keep_fresh`], [`close_and_wait`].
//!
//! # PgBouncer
//!
//! Azure's built-in PgBouncer (port 6432) and others take the token as the server does.
//! Versions before 1.21 carry at most 2,047 characters of it, and tokens of people in many
//! groups are longer. PgBouncer refuses the keyword `options`. Errors of older versions all
//! have SQLSTATE 08P01: their text distinguishes a full PgBouncer from a refused token.
//!
//! **In session mode** (`pool_mode = session`), a connection keeps its server session until it
//! is closed. PgBouncer then resets the session (`server_reset_query`, by default
//! `DISCARD ALL`) before another client gets it. [`Recycling`] works as without PgBouncer.
//!
//! **In transaction mode**, Azure's default, all clients with the same user and database share
//! the server sessions, one transaction at a time. PgBouncer does not reset a session in
//! between. Whatever one client leaves in a session, another client finds, possibly of another
//! program: settings such as the tenant of a row-level security policy, `SET ROLE`, temporary
//! tables, advisory locks, statements that SQL prepared. No [`Recycling`] prevents that:
//! [`Recycling::Clean`] rolls back a transaction that was left open, but it resets whichever
//! session PgBouncer chooses, also one that another client has just set up. So:
//!
//! - Keep state within one transaction: `SET LOCAL` or `set_config('app.tenant', $1, true)`,
//!   `pg_advisory_xact_lock`, `CREATE TEMP TABLE … ON COMMIT DROP`. All of it ends with the
//!   transaction, which has the session to itself.
//! - For anything that must outlive a transaction, use session mode or the server itself (port
//!   5432).
//! - Drivers prepare statements, which needs PgBouncer 1.21 with `max_prepared_statements`.
//! - In a PgBouncer of your own, `server_reset_query_always = 1` resets the session after
//!   each transaction, so that nothing is left, at the price of a round trip to the server and
//!   of the prepared statements.
//!
//! # Security
//!
//! The token is the password. It goes over TLS to a server whose certificate
//! and name have been verified, or nowhere. See "Use Microsoft Entra ID for
//! authentication with Azure Database for PostgreSQL" on Microsoft Learn for
//! how to make roles for principals.
//!
//! [`cancel_token`]: tokio_postgres::Client::cancel_token

mod advice;
mod config;
mod config_error;
mod connector;
mod dial;
mod driver;
mod error;
mod keywords;
mod pool;
mod recycling;
mod replay;
mod retire;
mod tls;

pub use config::Config;
pub use config_error::ConfigError;
pub use connector::Connector;
pub use error::{Error, is_transient};
pub use pool::{Pool, builder, close_and_wait, keep_fresh, warm_up};
pub use recycling::Recycling;
#[cfg(feature = "diesel-async")]
pub(crate) use recycling::cancel;
#[cfg(feature = "bb8")]
pub(crate) use retire::TimeLimits;
pub use tls::{Connection, TlsStream};

pub use deadpool_postgres;
pub use tokio_postgres;
pub use tokio_postgres_rustls::MakeRustlsConnect;

use std::sync::Arc;

pub use crate::connect::{ConnectorReport, RetireReason, Stage};
use crate::{
    Cloud,
    credential::{self, DefaultCredential, UserAssignedId},
    token::{Identity, TokenCredential},
};

/// A pool for the database that `config` (a URL or a libpq string, see
/// [`Config`]) names, with the identity of the environment
/// ([`credential::from_env`]). `entra_client_id` names a user-assigned identity; credentials
/// that log in as another identity are not used then.
///
/// Nothing is dialled and no token asked for yet. [`connect_with`] shares an
/// identity, and with it its tokens, between pools.
///
/// # Errors
///
/// [`Error::Config`], [`Error::TlsConfig`] or [`Error::Identity`], if
/// `config` or the environment cannot be used.
pub fn connect(config: &str) -> Result<Pool, Error> {
    pool(connector(config)?)
}

/// The connector that [`connect`] makes its pool on, for use under another pool or
/// none.
///
/// # Errors
///
/// As [`connect`].
pub fn connector(config: &str) -> Result<Connector, Error> {
    let mut config: Config = config.parse()?;
    let credential = config.credential()?;
    config.client_id = None;
    connector_of(&Identity::new(credential), config)
}

impl Config {
    /// The credential that [`connect`] would use: that of the environment.
    /// The scope, which follows from the host, tells the cloud, and with it whom
    /// applications ask.
    ///
    /// # Errors
    ///
    /// As [`credential::from_env`].
    pub fn credential(&self) -> Result<Arc<dyn TokenCredential>, credential::ConfigError> {
        let cloud = self.token_scope().ok().as_ref().and_then(Cloud::of_scope);
        let default = DefaultCredential::new().cloud(cloud);
        match self.client_id.clone() {
            Some(id) => default.user_assigned(UserAssignedId::ClientId(id), "entra_client_id"),
            None => default,
        }
        .build()
    }
}

/// A pool for the database that `config` (a URL or a libpq string, see
/// [`Config`]) names, with an identity that other pools may share.
///
/// Nothing is dialled and no token asked for yet. Sizes: deadpool's defaults;
/// [`builder`] sets others.
///
/// # Errors
///
/// [`Error::Config`] or [`Error::TlsConfig`], if `config` cannot be used.
pub fn connect_with(identity: &Identity, config: &str) -> Result<Pool, Error> {
    pool(connector_with(identity, config)?)
}

/// The connector that [`connect_with`] makes its pool on, for use under another pool
/// or none.
///
/// # Errors
///
/// As [`connect_with`].
pub fn connector_with(identity: &Identity, config: &str) -> Result<Connector, Error> {
    connector_of(identity, config.parse()?)
}

fn connector_of(identity: &Identity, config: Config) -> Result<Connector, Error> {
    let tokens = identity.tokens(config.token_scope()?);
    Connector::new(config, tokens)
}

fn pool(connector: Connector) -> Result<Pool, Error> {
    // Fails where a time limit has no runtime, which builder has set.
    builder(connector)
        .build()
        .map_err(|_| Error::Pool(deadpool_postgres::PoolError::NoRuntimeSpecified))
}
