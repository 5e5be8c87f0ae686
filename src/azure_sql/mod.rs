//! Azure SQL, over [tiberius]: Azure SQL Database, Managed Instance, SQL database
//! in Fabric. (Synapse and Fabric's warehouse take the same logins, but have not
//! been tried.)
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = entra_pool::azure_sql::pool(
//!     "Server=tcp:shop.database.windows.net;Database=orders;Authentication=Active Directory Default",
//! )?;
//! let mut conn = pool.get().await?;
//! let rows = conn.query("SELECT Column2 FROM TestTable", &[]).await?.into_first_result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`pool`] does all at once. By parts: [`Config`] says where to connect to, [`Connector`]
//! connects and logs in, and its [`pool_builder`](Connector::pool_builder) makes a [`Pool`],
//! which is deadpool's.
//!
//! In a program that logs through the `log` crate and has no `tracing` subscriber,
//! tiberius warns on every connect that credentials are sent unencrypted (target
//! `tiberius`). That is not so: the transport below it encrypts, which it does not see.

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
    driver::{Driver, LogIn},
    error::is_transient_code,
    manager::{PROBE, PROBE_TIMEOUT, Times},
    pool::lends,
    returned::{Cleaned, Pooled, Returned, Unclean, decide},
};
use crate::{
    connect::{ConnectorReport, RetireReason, Stage},
    credential::Environment,
    token::Identity,
};

/// A pool for a connection string (of ADO.NET, ODBC, JDBC, Prisma, or a URL: see [`Config`] for its
/// keywords), with the identity that its `Authentication` names, else that of the
/// environment. Nothing is connected or requested yet.
///
/// # Errors
///
/// [`Error`], if the string, the identity's settings or a CA file are not usable.
pub fn pool(connection_string: &str) -> Result<Pool, Error> {
    Ok(connector(connection_string)?.pool())
}

/// As [`pool`], with the settings that Service Connector and App Service put into the
/// environment. An info event names the variables that were used. The first of these that is
/// set is read:
///
/// 1. `AZURE_SQL_CONNECTIONSTRING`, of Service Connector for .NET, Java and Go. For a service
///    principal, `AZURE_SQL_TENANTID` is read as well.
/// 2. the only variable that begins with `SQLAZURECONNSTR_`, or with `SQLCONNSTR_`: the
///    connection strings of App Service
/// 3. separate variables, of Service Connector for Node.js, Python and others:
///    `AZURE_SQL_SERVER` (or `_SERVERNAME`, `_HOST`), `_PORT`, `_DATABASE` (or `_NAME`),
///    `_AUTHENTICATION` (or `_AUTHENTICATIONTYPE`), `_CLIENTID` (or `_USERNAME`, `_UID`,
///    `_USER`), `_CLIENTSECRET` (or `_PASSWORD`) and `_TENANTID`. With a secret,
///    `azure-active-directory-default` is a service principal. For a managed identity,
///    `AZURE_SQL_USER` is an object ID.
///
/// ```no_run
/// let pool = entra_pool::azure_sql::pool_from_env()?;
/// # Ok::<(), entra_pool::azure_sql::Error>(())
/// ```
///
/// # Errors
///
/// As [`pool`]; also [`ConfigError::Value`], if none of the variables is set, or several
/// variables of App Service are. It names the variables.
pub fn pool_from_env() -> Result<Pool, Error> {
    let (config, credential) = Config::of_variables(&Environment::from_process())?;
    Ok(connector_of(&Identity::new(credential), config)?.pool())
}

/// The connector that [`pool`] makes its pool on, for use under another pool or none.
///
/// # Errors
///
/// As [`pool`].
pub fn connector(connection_string: &str) -> Result<Connector, Error> {
    let (config, credential) = Config::parse_with_credential(connection_string)?;
    connector_of(&Identity::new(credential), config)
}

/// As [`pool`], with an identity that other pools share.
///
/// # Errors
///
/// [`Error`], if the string or a CA file is not usable. A string that names another identity
/// than the environment's (`Authentication`, `User Id`) is refused.
pub fn pool_with(identity: &Identity, connection_string: &str) -> Result<Pool, Error> {
    Ok(connector_with(identity, connection_string)?.pool())
}

/// The connector that [`pool_with`] makes its pool on, for use under another pool or none.
///
/// # Errors
///
/// As [`pool_with`].
pub fn connector_with(identity: &Identity, connection_string: &str) -> Result<Connector, Error> {
    connector_of(identity, connection_string.parse()?)
}

fn connector_of(identity: &Identity, config: Config) -> Result<Connector, Error> {
    let tokens = identity.tokens(config.token_scope()?);
    Connector::new(config, tokens)
}
