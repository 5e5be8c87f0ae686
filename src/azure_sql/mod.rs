//! Azure SQL, with [tiberius]: Azure SQL Database, Managed Instance, and SQL database in Fabric.
//! (Synapse and Fabric's warehouse accept the same logins, but are not tested.)
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = entra_pool::azure_sql::pool(
//!     "Server=tcp:shop.database.windows.net;Database=orders;Authentication=Active Directory Default",
//! )?;
//! let mut conn = pool.get().await?;
//! let rows = conn.query("SELECT name FROM product", &[]).await?.into_first_result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`pool`] does everything in one call. In single steps: parse or build a [`Config`] (the address
//! and the settings), create a [`Connector`] (which connects and logs in), and build a [`Pool`] (a
//! deadpool pool) with its [`pool_builder`](Connector::pool_builder).
//!
//! In a program that logs through the `log` crate without a `tracing` subscriber, tiberius warns on
//! every connect that credentials are sent unencrypted (target `tiberius`). They are encrypted, but
//! tiberius does not know that, because the transport below it does TLS.

mod config;
mod connection;
mod connector;
mod dial;
mod driver;
mod error;
mod handshake;
mod link;
mod login_refused;
mod manager;
mod packet;
mod pool;
mod prelogin;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod replay;
mod response;
mod returned;
mod server_error;
#[cfg(any(test, feature = "test-util"))]
mod testing;
mod transaction;
mod transport;

pub use deadpool;
pub use tiberius;

pub use config::{Config, ConfigError, Encrypt};
pub use connection::{Client, Connection};
pub use connector::Connector;
pub use error::{Error, is_transient};
pub use login_refused::LoginRefused;
pub use manager::{Manager, Recycling};
pub use pool::{Pool, PoolBuilder, PoolError, PooledConnection, close_and_wait};
pub use server_error::{LoginError, ServerError};
pub use transaction::Transaction;
pub use transport::Transport;

#[cfg(feature = "unstable-mssql-tds")]
pub(crate) use self::{
    connector::engine,
    driver::{Driver, LogIn, quietly},
    error::is_transient_code,
    manager::{PROBE, PROBE_TIMEOUT, Times},
    pool::impl_pooled_connection,
    returned::{Cleaned, Pooled, Returned, Unclean, decide},
};
use crate::{
    connect::{ConnectorReport, RetireReason, Stage},
    credential::Environment,
    token::Identity,
};

/// Builds a pool from a connection string: ADO.NET, ODBC, JDBC, Prisma, or a URL (see [`Config`]
/// for the keywords). `Authentication` selects the identity. Without it, the environment describes
/// the identity. The pool neither connects nor requests a token before its first use.
///
/// # Errors
///
/// [`Error`], if the string, a setting of the identity or a CA file is invalid.
pub fn pool(connection_string: &str) -> Result<Pool, Error> {
    Ok(connector(connection_string)?.pool())
}

/// Builds a pool like [`pool`], from the environment variables that Service Connector and App
/// Service set. It uses the first of these that is set, and an info event names the variables:
///
/// 1. `AZURE_SQL_CONNECTIONSTRING`, from Service Connector for .NET, Java and Go. For a service
///    principal, `AZURE_SQL_TENANTID` is also read.
/// 2. the only variable that starts with `SQLAZURECONNSTR_`, or with `SQLCONNSTR_`: the
///    connection strings of App Service
/// 3. separate variables, from Service Connector for Node.js, Python and others:
///    `AZURE_SQL_SERVER` (or `_SERVERNAME`, `_HOST`), `_PORT`, `_DATABASE` (or `_NAME`),
///    `_AUTHENTICATION` (or `_AUTHENTICATIONTYPE`), `_CLIENTID` (or `_USERNAME`, `_UID`,
///    `_USER`), `_CLIENTSECRET` (or `_PASSWORD`) and `_TENANTID`. With a secret,
///    `azure-active-directory-default` selects a service principal. For a managed identity,
///    `AZURE_SQL_USER` is an object ID.
///
/// ```no_run
/// let pool = entra_pool::azure_sql::pool_from_env()?;
/// # Ok::<(), entra_pool::azure_sql::Error>(())
/// ```
///
/// # Errors
///
/// The errors of [`pool`]. Also [`ConfigError::Value`], with the names of the variables, if none of
/// them is set, or if several variables of App Service are set.
pub fn pool_from_env() -> Result<Pool, Error> {
    Ok(connector_from_env()?.pool())
}

/// Creates the connector that [`pool_from_env`] uses, for another pool or for use without a pool.
///
/// # Errors
///
/// The errors of [`pool_from_env`].
pub fn connector_from_env() -> Result<Connector, Error> {
    let (config, credential) = Config::of_variables(&Environment::from_process())?;
    connector_of(&Identity::new(credential), config)
}

/// Creates the connector that [`pool`] uses, for another pool or for use without a pool.
///
/// # Errors
///
/// The errors of [`pool`].
pub fn connector(connection_string: &str) -> Result<Connector, Error> {
    let (config, credential) = Config::parse_with_credential(connection_string)?;
    connector_of(&Identity::new(credential), config)
}

/// Builds a pool like [`pool`], with an identity that other pools may share.
///
/// # Errors
///
/// [`Error`], if the string or a CA file is invalid, or if the string selects an identity
/// (`Authentication`, `User Id`) other than the environment's.
pub fn pool_with(identity: &Identity, connection_string: &str) -> Result<Pool, Error> {
    Ok(connector_with(identity, connection_string)?.pool())
}

/// Creates the connector that [`pool_with`] uses, for another pool or for use without a pool.
///
/// # Errors
///
/// The errors of [`pool_with`].
pub fn connector_with(identity: &Identity, connection_string: &str) -> Result<Connector, Error> {
    connector_of(identity, connection_string.parse()?)
}

fn connector_of(identity: &Identity, config: Config) -> Result<Connector, Error> {
    let tokens = identity.tokens(config.token_scope()?);
    Connector::new(config, tokens)
}
