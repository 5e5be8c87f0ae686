//! Azure SQL with Microsoft's own driver, [`mssql_tds`] (feature `unstable-mssql-tds`).
//!
//! Use it for features that tiberius does not have: typed bulk copy, table-valued parameters of
//! every request (tiberius sends them only to procedures and functions), vectors, and Always
//! Encrypted.
//!
//! **This module is not covered by semantic versioning.** The driver has a release every month, and
//! each minor version is incompatible with the previous one. A minor or patch version of this crate
//! may therefore change this module. On Linux, it needs OpenSSL and its headers.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::{
//!     adapters::mssql_tds::{Connector, mssql_tds::connection::tds_client::ResultSet},
//!     azure_sql::Config,
//!     token::Identity,
//! };
//!
//! let (config, credential) = Config::parse_with_credential(
//!     "Server=tcp:shop.database.windows.net;Database=orders;Authentication=Active Directory Default",
//! )?;
//! let tokens = Identity::new(credential).tokens(config.token_scope()?);
//! let pool = Connector::new(config, tokens)?.pool();
//!
//! let mut conn = pool.get().await?;
//! conn.execute("SELECT name FROM product".into(), ()).await?;
//! while let Some(row) = conn.next_row().await? {
//!     println!("{row:?}");
//! }
//! // Without this, the connection is closed when it is returned.
//! conn.close_query().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The example `mssql_tds` in the repository shows bulk copy.
//!
//! # The same as with tiberius
//!
//! [`Config`], [`TokenCache`] and the engine are the same. Each connect logs in with a token from
//! the cache. A refused login is retried once with another token, and transient errors are retried
//! with jittered pauses. One deadline covers the whole connect, and errors are
//! [`azure_sql::Error`]. The driver's own retries and its reconnecting are disabled, because it
//! would reconnect with the token that it has stored.
//!
//! A returned connection is cleaned in one round trip in the background (on a runtime with one
//! thread, at the next checkout): the session is reset, an open transaction is rolled back, and
//! READ COMMITTED is restored. The driver checks that the server acknowledges the reset. A
//! connection is closed if it is dead, if it has unread results, or if it has an open transaction
//! that cannot be rolled back in the background. It is also closed at its
//! [`max_lifetime`](Config::max_lifetime) and [`idle_timeout`](Config::idle_timeout), and before
//! its token expires. [`Connector::report`] counts the reasons.
//!
//! # Different from tiberius
//!
//! | | here |
//! |---|---|
//! | routing | **cannot be limited**: the driver follows the server's routing to any host. See [Security](#security) |
//! | TLS | the platform's (OpenSSL, Schannel, Secure Transport) with the platform's roots, or the one certificate of `ServerCertificate` |
//! | `TrustServerCertificateCA`, [`Config::tls`], the `dangerous_…` methods, [`Recycling::Fast`](azure_sql::Recycling::Fast) | refused by [`Connector::new`], by name |
//! | `Command Timeout` | not supported: pass `ExecuteOptions::timeout_secs` to each request. [`Connector::new`] refuses a value other than the default |
//! | `MultiSubnetFailover` | always on: all addresses of the server are tried at once |
//! | [`Config::tcp_user_timeout`] | not supported. [`Connector::new`] refuses a value other than the default |
//! | stage of a connect that timed out | [`Stage::Token`](connect::Stage::Token), [`Stage::Resolve`](connect::Stage::Resolve) or [`Stage::Driver`](connect::Stage::Driver) |
//! | errors of a login that was routed | name the configured server, which has received the token |
//! | a connection that the server closed less than a second after its cleaning | may be checked out, because the driver does not inspect idle sockets: the next request then fails |
//! | acknowledgement of the token | not checked by the driver |
//! | errors of queries that terminate the session, a database that became read-only | only class 20 and above closes the connection |
//! | dedicated SQL pools of Synapse | connections are not used again: these pools refuse READ COMMITTED |
//!
//! # Dropped requests
//!
//! If the future of a request is dropped before its response begins, the driver neither cancels nor
//! records the request. The next request on that client would read the response to the dropped
//! request as its own. So drop the connection as well. To keep the connection, end the request with
//! `ExecuteOptions::timeout_secs` or a `CancelHandle`: then the driver cancels it.
//!
//! The pool does not use such a connection again. A reset that gets the response to another request
//! is not acknowledged, and that response lacks a random value which the pool expects. The
//! connection is closed, with [`ResetNotAcknowledged`](connect::RetireReason::ResetNotAcknowledged)
//! or [`Unsettled`](connect::RetireReason::Unsettled) as the reason. If no response arrives, it is
//! closed after 5 s. Until then, the dropped request continues and holds its locks. A server that
//! does not detect the closed connection completes the request.
//!
//! # Security
//!
//! - The token is sent to each server to which the configured server routes the login, if that
//!   server has a certificate for its own name that the platform trusts. With
//!   `HostNameInCertificate=NAME`, each of these servers must have a certificate for `NAME`, which
//!   limits where the token can be sent. In that case, use Azure's connection policy `Proxy`,
//!   because the server to which a login is redirected may have a certificate for another name.
//! - `Debug` of the driver's `TdsClient` shows the token. `Debug` of this module's types does not.
//! - The driver keeps a copy of the token while the connection is open, and does not overwrite it.
//! - The driver logs the text of each query at the level INFO, and the content of each packet at
//!   DEBUG. Filter its events with `mssql_tds=warn`.
//! - The packet of the login contains the token, so this module suppresses the driver's events
//!   during a login. Without a `tracing` subscriber, it cannot suppress them, and the crate `log`
//!   gets them.
//!
//! # Using the driver without this pool
//!
//! The driver can get a token from an `EntraIdTokenFactory` during each login. With this factory,
//! its connections use the same tokens as your pools. At the level DEBUG, the driver logs the
//! token: filter its events with `mssql_tds=warn`.
//!
//! ```
//! use entra_pool::{
//!     adapters::mssql_tds::mssql_tds::{
//!         connection::client_context::{
//!             ClientContext, EntraIdTokenFactory, TdsAuthenticationMethod,
//!         },
//!         core::TdsResult,
//!         error::Error,
//!     },
//!     token::TokenCache,
//! };
//!
//! #[derive(Clone)]
//! struct Tokens(TokenCache);
//!
//! #[async_trait::async_trait]
//! impl EntraIdTokenFactory for Tokens {
//!     // The server chooses the principal and the authority, so they are ignored.
//!     async fn create_token(
//!         &self,
//!         _principal: String,
//!         _authority: String,
//!         _method: TdsAuthenticationMethod,
//!     ) -> TdsResult<Vec<u8>> {
//!         let token = self.0.token().await;
//!         let token = token.map_err(|error| Error::ConnectionError(error.to_string()))?;
//!         Ok(token.secret().encode_utf16().flat_map(u16::to_le_bytes).collect())
//!     }
//! }
//!
//! fn with_identity(context: &mut ClientContext, tokens: TokenCache) {
//!     let method = TdsAuthenticationMethod::ActiveDirectoryTokenCredential;
//!     context.tds_authentication_method = method.clone();
//!     context.auth_method_map.insert(method, Box::new(Tokens(tokens)));
//!     // The driver does not notify the factory of a refused token.
//!     context.connect_retry_count = 0;
//! }
//! ```
//!
//! [The manual](crate::manual::seams) shows the same for other crates.

mod driver;
mod pool;

use std::{fmt, sync::Arc};

pub use mssql_tds;

pub use self::pool::{Connection, Manager, PooledConnection};

use self::driver::{log_in, refuse_unsupported};
use crate::{
    azure_sql::{self, Config, Driver, Error, LogIn},
    connect::{self, ConnectorReport, Engine},
    token::TokenCache,
};

/// A deadpool pool of [`Connection`]s.
pub type Pool = deadpool::managed::Pool<Manager, PooledConnection>;

/// Connects to an Azure SQL server with mssql-tds. Cloning is cheap, and clones share their
/// counters.
#[derive(Clone)]
pub struct Connector(Arc<Engine<Driver<Connection>>>);

impl Connector {
    /// Creates a connector for `config`, with tokens from `tokens`.
    ///
    /// # Errors
    ///
    /// The errors of [`azure_sql::Connector::new`]. [`Error::Config`] also names a setting that the
    /// driver does not support.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        refuse_unsupported(&config)?;
        let log_in: LogIn<_> = |driver, token, attempt| Box::pin(log_in(driver, token, attempt));
        Ok(Self(Arc::new(azure_sql::engine(config, tokens, log_in)?)))
    }

    /// Connects and logs in, as [`azure_sql::Connector::connect`] does.
    ///
    /// # Errors
    ///
    /// [`Error`], at the latest after `Connect Timeout`.
    pub async fn connect(&self) -> Result<Connection, Error> {
        self.0.connect(self.0.clock().monotonic()).await
    }

    /// Builds a pool of its connections, as configured. The pool does not connect yet.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool_builder().build()
    }

    /// Returns a builder for a pool of its connections.
    pub fn pool_builder(&self) -> connect::PoolBuilder<Manager, PooledConnection> {
        let Config { connect_timeout, max_size, min_size, .. } = self.0.driver.config;
        let manager = Manager::new(self.clone());
        let state = manager.state.clone();
        connect::PoolBuilder::new(manager, &state, connect_timeout, max_size, min_size)
    }

    /// Returns the current status.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        self.0.report()
    }
}

/// Whether the error of a query is transient, as [`azure_sql::is_transient`] describes.
#[must_use]
pub fn is_transient(error: &mssql_tds::error::Error) -> bool {
    use mssql_tds::error::Error;

    match error {
        Error::SqlServerError { diagnostics } => {
            diagnostics.errors.iter().any(|error| azure_sql::is_transient_code(error.number))
        }
        Error::Io(_) | Error::ConnectionClosed(_) | Error::ConnectionResetNotAcknowledged => true,
        _ => false,
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("config", &self.0.driver.config)
            .field("tokens", &self.0.tokens)
            .finish_non_exhaustive()
    }
}
