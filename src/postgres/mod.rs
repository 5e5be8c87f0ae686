//! Azure Database for PostgreSQL: a deadpool-postgres pool that logs in with tokens.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::postgres;
//!
//! let pool = postgres::pool("postgres://shop.postgres.database.azure.com/restaurant")?;
//! let client = pool.get().await.map_err(postgres::Error::from)?;
//! let rows = client.query("SELECT name FROM restaurant", &[]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The [`Pool`] returns [`deadpool_postgres::Client`]s, so everything written for deadpool-postgres
//! and tokio-postgres works, including the statement cache, transactions, `GenericClient` and
//! [`cancel_token`].
//!
//! A [`PoolError`] is deadpool's error and contains this module's [`Error`], which the `map_err`
//! above extracts. If `main` returns an [`Error`], it is printed with its causes.
//!
//! [`pool`] combines these steps: [`Config`] contains the servers and settings, [`Connector`]
//! connects and logs in, and its [`pool_builder`](Connector::pool_builder) builds a [`Pool`].
//! [`Connector::warm_up`] connects in advance, and [`close_and_wait`] closes a pool.
//!
//! # PgBouncer
//!
//! PgBouncer, Azure's (port 6432) or your own, accepts the token as the password, like the server.
//! Versions 1.17 to 1.25 accept at most 2,047 characters (1.16: 995), but the token of a person in
//! many groups is longer. 1.26 accepts 65,535 bytes. Before 1.25, a password of 1,024 characters or
//! more could crash PgBouncer (PgBouncer's changelog).
//!
//! PgBouncer before 1.20 refuses the keyword `options`. Since 1.20, it applies the settings in
//! `options` that it tracks. It refuses any other setting, unless `ignore_startup_parameters` lists
//! that setting or `options`: then the setting is ignored.
//!
//! All errors of PgBouncer have the SQLSTATE 08P01. [`Error`] distinguishes them by their text: a
//! refused token, a refused startup parameter, a database that is missing or disabled, too many
//! connections, and a failed login of PgBouncer to the server.
//!
//! On Azure, PgBouncer is off until the server parameter `pgbouncer.enabled` is `true`, and the
//! Burstable tier does not have it ("PgBouncer in Azure Database for PostgreSQL").
//!
//! **In session mode** (`pool_mode = session`), a connection keeps its server session until it
//! is closed. PgBouncer then resets the session (`server_reset_query`, by default
//! `DISCARD ALL`) before another client gets it. [`Recycling`] works as without PgBouncer.
//!
//! **In transaction mode**, Azure's default, all clients with the same user and database share the
//! server sessions, one transaction at a time. PgBouncer does not reset a session between
//! transactions. Another client, possibly of another program, gets the state that a client leaves
//! in a session: settings such as the tenant of a row-level security policy, `SET ROLE`, temporary
//! tables, advisory locks, and statements prepared by SQL. [`Recycling`] does not prevent that:
//! [`Recycling::Clean`] rolls back an open transaction, but it resets the session that PgBouncer
//! happens to choose, which another client may have just set up. Therefore:
//!
//! - Keep state within one transaction: `SET LOCAL` or `set_config('app.tenant', $1, true)`,
//!   `pg_advisory_xact_lock`, `CREATE TEMP TABLE … ON COMMIT DROP`. This state ends with the
//!   transaction, and no other client uses the session until then.
//! - For state that must outlive a transaction, use session mode or the server itself (port 5432).
//! - Drivers prepare statements, which requires PgBouncer 1.21 and a `max_prepared_statements`
//!   above 0. The default is 200 since PgBouncer 1.24; on Azure it is 0, so set
//!   `pgbouncer.max_prepared_statements`.
//! - Since 1.26, PgBouncer restores each client's own value of every setting that the server
//!   reports, such as `default_transaction_read_only` (PostgreSQL 14) and `search_path` (18).
//! - In your own PgBouncer, `server_reset_query_always = 1` resets the session after each
//!   transaction. This costs a round trip to the server, and discards the prepared statements.
//!
//! # Security
//!
//! The token is the password. It is sent only over TLS, to a server whose certificate and name have
//! been verified. "Use Microsoft Entra ID for authentication with Azure Database for PostgreSQL" on
//! Microsoft Learn describes how to create roles for principals.
//!
//! [`cancel_token`]: tokio_postgres::Client::cancel_token

mod advice;
mod cancel;
mod config;
mod config_error;
mod connector;
mod dial;
mod driver;
mod error;
mod keywords;
mod link;
mod pool;
mod recycling;
mod replay;
mod retire;
#[cfg(test)]
mod tests;
mod tls;
mod variables;
mod wire;

pub use config::Config;
pub use config_error::ConfigError;
pub use connector::Connector;
pub use error::{Error, is_transient};
pub use pool::{Pool, PoolBuilder, PoolError, PooledConnection, close_and_wait};
pub use recycling::Recycling;
#[cfg(any(feature = "bb8", feature = "diesel-async"))]
pub(crate) use recycling::counted;
#[cfg(feature = "diesel-async")]
pub(crate) use recycling::make_fit_by;
pub use tls::Connection;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use wire::follows_alike;
#[cfg(feature = "bb8")]
pub(crate) use {
    link::{Link, SUSPECTED_FOR},
    recycling::make_fit,
    retire::unfit,
};

pub use deadpool_postgres;
pub use tokio_postgres;

use crate::{
    connect::{ConnectorReport, RetireReason, Stage},
    credential::Environment,
    token::Identity,
};

/// Builds a pool for the database in `config`, with the identity of the environment
/// ([`credential::from_env`](crate::credential::from_env)). `config` is a URL, a libpq string, or
/// the form of Npgsql or pgjdbc; see [`Config`]. `entra_client_id` selects a user-assigned
/// identity; credentials of other identities are then not used.
///
/// This neither connects nor requests a token. To share an identity and its tokens between pools,
/// use [`pool_with`].
///
/// # Errors
///
/// [`Error::Config`], [`Error::TlsConfig`] or [`Error::Identity`], if `config` or the environment
/// is invalid.
pub fn pool(config: &str) -> Result<Pool, Error> {
    Ok(connector(config)?.pool())
}

/// Like [`pool`], with the settings that Service Connector and App Service provide in environment
/// variables. An info event names the variables that are used, which are the first of these that
/// are set:
///
/// 1. `AZURE_POSTGRESQL_CONNECTIONSTRING`, from Service Connector for .NET, Java, Go and Python
/// 2. a variable that starts with `POSTGRESQLCONNSTR_`: a connection string of App Service
/// 3. separate variables, from Service Connector for Node.js and Django: `AZURE_POSTGRESQL_HOST`,
///    `_PORT`, `_DATABASE` (or `_NAME`), `_USER` (or `_USERNAME`) and `_SSL`
///
/// `AZURE_POSTGRESQL_CLIENTID` selects the identity; with `AZURE_POSTGRESQL_CLIENTSECRET` and
/// `AZURE_POSTGRESQL_TENANTID`, it is a service principal. Without these variables, the identity is
/// that of the environment.
///
/// ```no_run
/// let pool = entra_pool::postgres::pool_from_env()?;
/// # Ok::<(), entra_pool::postgres::Error>(())
/// ```
///
/// # Errors
///
/// The errors of [`pool`]; also [`ConfigError::Value`], which names the variables, if none of them
/// is set, or if several variables of App Service are set.
pub fn pool_from_env() -> Result<Pool, Error> {
    Ok(connector_from_env()?.pool())
}

/// Creates the connector that [`pool_from_env`] uses, for another pool or for use without a pool.
///
/// # Errors
///
/// The errors of [`pool_from_env`].
pub fn connector_from_env() -> Result<Connector, Error> {
    let environment = Environment::from_process();
    let (config, named) = variables::read(&environment)?;
    let credential = variables::credential(&config, named, &environment)?;
    connector_of(&Identity::new(credential), config)
}

/// Creates the connector that [`pool`] uses, for another pool or for use without a pool.
///
/// # Errors
///
/// The errors of [`pool`].
pub fn connector(config: &str) -> Result<Connector, Error> {
    let (config, credential) = Config::parse_with_credential(config)?;
    connector_of(&Identity::new(credential), config)
}

/// Like [`pool`], with an identity that is shared with other pools.
///
/// # Errors
///
/// [`Error::Config`] or [`Error::TlsConfig`], if `config` is invalid or selects an identity
/// (`entra_client_id`).
pub fn pool_with(identity: &Identity, config: &str) -> Result<Pool, Error> {
    Ok(connector_with(identity, config)?.pool())
}

/// Creates the connector that [`pool_with`] uses, for another pool or for use without a pool.
///
/// # Errors
///
/// The errors of [`pool_with`].
pub fn connector_with(identity: &Identity, config: &str) -> Result<Connector, Error> {
    connector_of(identity, config.parse()?)
}

fn connector_of(identity: &Identity, config: Config) -> Result<Connector, Error> {
    let tokens = identity.tokens(config.token_scope()?);
    Connector::new(config, tokens)
}
