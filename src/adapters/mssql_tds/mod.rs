//! Azure SQL over Microsoft's own driver, [`mssql_tds`]: feature `unstable-mssql-tds`.
//!
//! For what tiberius does not have: bulk copy with types, table-valued parameters, vectors, Always
//! Encrypted.
//!
//! **This module is outside of semantic versioning.** The driver changes monthly, each of its
//! minor versions is incompatible with the one before, and a minor or patch version of this crate
//! may follow. It needs Rust 1.88, and on Linux OpenSSL and its headers.
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
//! conn.execute("SELECT Column2 FROM TestTable".into(), ()).await?;
//! while let Some(row) = conn.next_row().await? {
//!     println!("{row:?}");
//! }
//! // Without this, the connection is closed when it comes back.
//! conn.close_query().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The example `mssql_tds` in the repository has bulk copy.
//!
//! # As over tiberius
//!
//! The same [`Config`], the same [`TokenCache`] and the same engine: each connect logs in with a
//! token from the cache; a refused login is retried once with another token; transient errors are
//! retried with jittered pauses; one deadline covers the whole connect; errors are
//! [`azure_sql::Error`]. The driver's own retries and its reconnecting are off, because it would
//! reconnect with the token that it has stored.
//!
//! When a connection comes back, it is cleaned in one round trip in the background (on a runtime
//! with one thread, at the next checkout): the session is reset, an open transaction is rolled
//! back, and READ COMMITTED is restored. The driver checks that the server acknowledges the reset.
//! A connection is closed when it is dead, has unread results or an open transaction that cannot
//! be rolled back in the background, at its
//! [`max_lifetime`](Config::max_lifetime) and [`idle_timeout`](Config::idle_timeout), and before
//! its token expires. [`Connector::report`] counts the reasons.
//!
//! # Unlike over tiberius
//!
//! | | here |
//! |---|---|
//! | routing | **cannot be limited**: the driver logs in wherever the server routes it, without asking. See [Security](#security) |
//! | TLS | the platform's (OpenSSL, Schannel, Secure Transport) with the platform's roots, or the one certificate of `ServerCertificate` |
//! | `TrustServerCertificateCA`, [`Config::tls`], the `dangerous_…` methods, [`Recycling::Fast`](azure_sql::Recycling::Fast) | refused by [`Connector::new`], by name |
//! | `Command Timeout` | not applied: pass `ExecuteOptions::timeout_secs` to each request |
//! | `MultiSubnetFailover` | always on: all addresses of the server are tried at once |
//! | [`Config::tcp_user_timeout`] | not set |
//! | stage of a connect that ran out of time | [`Stage::Token`](connect::Stage::Token), [`Stage::Resolve`](connect::Stage::Resolve) or [`Stage::Driver`](connect::Stage::Driver) |
//! | acknowledgement of the token | not checked by the driver |
//! | errors of queries that end the session, a database that became read-only | only class 20 and above closes the connection |
//! | dedicated SQL pools of Synapse | connections are not used again: these pools refuse READ COMMITTED |
//!
//! # A request that is dropped
//!
//! If the future of a request is dropped before its response begins, the driver neither cancels
//! the request nor records it. The next request on that client would read the response of the
//! dropped one as its own. So drop the connection as well; and to go on with it, end the request by
//! `ExecuteOptions::timeout_secs` or a `CancelHandle`, which make the driver cancel it.
//!
//! The pool does not lend such a connection again. A reset that gets another request's response is
//! not acknowledged, and the response lacks a mark that only the pool knows. Then the connection is
//! closed, and counted as [`ResetNotAcknowledged`](connect::RetireReason::ResetNotAcknowledged) or
//! [`Unsettled`](connect::RetireReason::Unsettled). If no response arrives, it is closed after 5
//! seconds. Until then the dropped request runs, and it holds its locks; a server that does not
//! notice the closed connection runs it to its end.
//!
//! # Security
//!
//! - The token goes to each server that the configured server routes the login to, if that server
//!   has a certificate for its own name that the platform trusts. With
//!   `HostNameInCertificate=NAME`, each of them must have a certificate for `NAME`, which limits
//!   where the token can go; then use Azure's connection policy `Proxy`, because a redirected login
//!   may find a certificate for another name.
//! - `Debug` of the driver's `TdsClient` shows the token. `Debug` of the types here does not.
//! - The driver keeps a copy of the token for as long as the connection lives, and does not
//!   overwrite it.
//! - The driver's spans have the text of each query at the level INFO. Filter them with
//!   `mssql_tds=warn`.
//!
//! # The driver without this pool
//!
//! The driver asks an `EntraIdTokenFactory` for a token during each login. With this one, its
//! connections share the identity of other pools:
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
//!     // The server names the principal and the authority: it is not asked where tokens come from.
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
//!     // The factory is not told that a token was refused.
//!     context.connect_retry_count = 0;
//! }
//! ```
//!
//! [The manual](crate::manual::seams) has the same for other crates.

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

/// Connects to an Azure SQL server by mssql-tds. Cheap to clone; clones share their counters.
#[derive(Clone)]
pub struct Connector(Arc<Engine<Driver<Connection>>>);

impl Connector {
    /// A connector to where `config` says, with tokens from `tokens`.
    ///
    /// # Errors
    ///
    /// As [`azure_sql::Connector::new`]; and [`Error::Config`], which names it, for a setting that
    /// the driver cannot honour.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        refuse_unsupported(&config)?;
        let log_in: LogIn<_> = |driver, token, attempt| Box::pin(log_in(driver, token, attempt));
        Ok(Self(Arc::new(azure_sql::engine(config, tokens, log_in)?)))
    }

    /// Connects and logs in, as [`azure_sql::Connector::connect`] does.
    ///
    /// # Errors
    ///
    /// [`Error`]; within the configuration's `Connect Timeout` in any case.
    pub async fn connect(&self) -> Result<Connection, Error> {
        self.0.connect(self.0.clock().monotonic()).await
    }

    /// A pool of its connections, as its configuration says. Nothing is connected yet.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool_builder().build()
    }

    /// A builder for a pool of its connections.
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

/// Whether a query's error says that the server, or the connection to it, is unavailable for the
/// time being: as [`azure_sql::is_transient`].
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
