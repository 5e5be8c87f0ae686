use std::{
    fmt,
    sync::{Arc, Once},
    time::Duration,
};

use super::{
    Config, ConfigError, Connection, ConnectorReport, Encrypt, Error, Manager, Pool, PoolBuilder,
    PoolError,
    driver::{Driver, LogIn},
};
use crate::{
    connect::{self, Engine},
    telemetry::Database,
    tls,
    token::TokenCache,
};

/// The ALPN protocol of TDS within TLS (MS-TDS 3.2.5.2, TDS 8.0).
const TDS_8: &[u8] = b"tds/8.0";

/// Connects to an Azure SQL server and logs in with a token. Cloning is cheap, and clones share
/// their counters.
#[derive(Clone)]
pub struct Connector(pub(crate) Arc<Engine<Driver>>);

impl Connector {
    /// Creates a connector for `config`, with tokens from `tokens`. Its connections share a TLS
    /// configuration, so they resume TLS sessions.
    ///
    /// # Errors
    ///
    /// [`Error::TlsConfig`], if the trusted certificates cannot be read. [`Error::Config`], if a
    /// setting is invalid, or if the tokens have another scope than the server needs.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        let log_in: LogIn<_> = |driver, token, attempt| Box::pin(driver.follow(token, attempt));
        Ok(Self(Arc::new(engine(config, tokens, log_in)?)))
    }

    /// Connects and logs in.
    ///
    /// A refused login is retried once if the identity has another token. Transient errors are
    /// retried until `Connect Timeout`, after pauses from 1 s, doubling up to 5 s. Errors that may
    /// recover are retried in the same way if this server has accepted a login before. Otherwise, a
    /// broken connection and error 4060 are retried twice, and an unreachable or unresolved server
    /// is not. `ConnectRetryCount` and `ConnectRetryInterval` change these numbers.
    ///
    /// After a refused login, the connector's other logins fail with the same error for 1 s. Then
    /// one login per second is started until one succeeds. If a login succeeded before, a refusal
    /// may be temporary, because Azure moves the database: other logins then wait and are started
    /// one per second, until the `Connect Timeout` of the connect that was refused first.
    ///
    /// # Errors
    ///
    /// [`Error`], at the latest after `Connect Timeout`.
    pub async fn connect(&self) -> Result<Connection, Error> {
        self.log_in(self.0.clock().monotonic()).await
    }

    /// Connects for a caller that started at `began`, on the monotonic clock.
    pub(super) async fn log_in(&self, began: Duration) -> Result<Connection, Error> {
        self.0.connect(began).await
    }

    /// Builds a pool of its connections, as configured. The pool does not connect yet.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool_builder().build()
    }

    /// Returns a builder for a pool of its connections.
    ///
    /// ```no_run
    /// use entra_pool::{azure_sql, credential::ManagedIdentity, token::Identity};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config: azure_sql::Config =
    ///     "Server=tcp:shop.database.windows.net;Database=orders".parse()?;
    /// let identity = Identity::new(ManagedIdentity::system_assigned().build()?);
    /// let tokens = identity.tokens(config.token_scope()?);
    /// let connector = azure_sql::Connector::new(config, tokens)?;
    /// let pool = connector.pool_builder().max_size(16).build();
    /// println!("{}", connector.report());
    /// # Ok(())
    /// # }
    /// ```
    pub fn pool_builder(&self) -> PoolBuilder {
        let Config { connect_timeout, max_size, min_size, .. } = *self.config();
        let manager = Manager::new(self.clone());
        let state = manager.state.clone();
        PoolBuilder::new(manager, &state, connect_timeout, max_size, min_size)
    }

    /// Opens connections concurrently until `pool` has `n`, at most its `max_size`. The first
    /// requests then do not wait for a login, and a wrong configuration is detected at start.
    /// Connections that are checked out count, and this method does not wait for them.
    ///
    /// # Errors
    ///
    /// The first error. Connections that were opened stay in the pool.
    pub async fn warm_up(&self, pool: &Pool, n: usize) -> Result<(), PoolError> {
        connect::fill(pool, n).await
    }

    /// Returns the current status.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        self.0.report()
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.0.driver.config
    }

    /// Returns the name that its pools have in [telemetry](crate::telemetry):
    /// `host:port/database`.
    #[must_use]
    pub fn pool_name(&self) -> &str {
        self.0.metrics.pool_name()
    }

    /// Returns the token cache.
    #[must_use]
    pub fn tokens(&self) -> &TokenCache {
        &self.0.tokens
    }
}

/// Creates the engine of a connector that logs in with `log_in`.
pub(crate) fn engine<C: Send + 'static>(
    config: Config,
    tokens: TokenCache,
    log_in: LogIn<C>,
) -> Result<Engine<Driver<C>>, Error> {
    config.check()?;
    match config.token_scope() {
        // The scope is unknown, so the tokens that were passed determine it.
        Err(ConfigError::UnknownHost { .. }) => {}
        Err(error) => return Err(error.into()),
        Ok(wanted) if wanted == *tokens.scope() => {}
        Ok(wanted) => {
            return Err(
                ConfigError::ScopeMismatch { wanted, tokens: tokens.scope().clone() }.into()
            );
        }
    }
    let mut tls = tls::client_config(&config.trust)?;
    if config.encrypt == Encrypt::Strict {
        tls.alpn_protocols = vec![TDS_8.to_vec()];
    }
    let server = (config.host.as_str(), config.port);
    let database = Database::new("microsoft.sql_server", [server], config.database.as_deref());
    let (limit, clock) = (config.connect_timeout, tokens.clock().clone());
    let driver = Driver {
        config,
        log_in,
        tls: Arc::new(tls),
        scope: tokens.scope().clone(),
        clock,
        warned_of_resets: Once::new(),
        has_no_isolation: Once::new(),
    };
    Ok(Engine::new(driver, tokens, database, limit))
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("config", &self.0.driver.config)
            .field("tokens", &self.0.tokens)
            .finish_non_exhaustive()
    }
}
