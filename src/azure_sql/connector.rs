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

/// What TLS says it carries where it comes first (MS-TDS 3.2.5.2, TDS 8.0).
const TDS_8: &[u8] = b"tds/8.0";

/// Connects to an Azure SQL server and logs in with a token. Cheap to clone; clones share
/// their counters.
#[derive(Clone)]
pub struct Connector(pub(crate) Arc<Engine<Driver>>);

impl Connector {
    /// A connector to where `config` says, with tokens from `tokens`. All its
    /// connections share one TLS configuration and so resume TLS sessions.
    ///
    /// # Errors
    ///
    /// [`Error::TlsConfig`], if the trusted certificates cannot be read;
    /// [`Error::Config`], if a setting cannot be meant, or the tokens are for another scope.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        let log_in: LogIn<_> = |driver, token, attempt| Box::pin(driver.follow(token, attempt));
        Ok(Self(Arc::new(engine(config, tokens, log_in)?)))
    }

    /// Connects and logs in.
    ///
    /// A refused login is retried once if the identity has another token than the refused
    /// one. Transient errors are retried until `Connect Timeout`, after pauses of 1 s that
    /// double up to 5 s. So are errors that may recover where this server has accepted a
    /// login before; otherwise these are retried twice. `ConnectRetryCount` and
    /// `ConnectRetryInterval` set other numbers.
    ///
    /// After a refused login, the connector's other logins fail with the same error for 1 s;
    /// then one login a second is started until one succeeds. Where a login succeeded before, a
    /// refusal may be temporary (Azure moves the database): logins then take turns, at most one
    /// each second, within the `Connect Timeout` of the first.
    ///
    /// # Errors
    ///
    /// [`Error`]; within the configuration's `Connect Timeout` in any case.
    pub async fn connect(&self) -> Result<Connection, Error> {
        self.log_in(self.0.clock().monotonic()).await
    }

    /// For a caller that began then, by the monotonic clock.
    pub(super) async fn log_in(&self, began: Duration) -> Result<Connection, Error> {
        self.0.connect(began).await
    }

    /// A pool of its connections, as its configuration says. Nothing is connected yet.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool_builder().build()
    }

    /// A builder for a pool of its connections.
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

    /// Connects until `pool` has `n` connections (its `max_size` at most), all at once, so that
    /// the first requests need not wait for a login, and a wrong configuration shows at start.
    /// Connections that are lent count, and are not waited for.
    ///
    /// # Errors
    ///
    /// The first that occurs; the connections that were opened stay in the pool.
    pub async fn warm_up(&self, pool: &Pool, n: usize) -> Result<(), PoolError> {
        connect::fill(pool, n).await
    }

    /// Returns the current status.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        self.0.report()
    }

    /// What it connects to.
    pub fn config(&self) -> &Config {
        &self.0.driver.config
    }

    /// What [telemetry](crate::telemetry) calls a pool of its connections:
    /// `host:port/database`.
    #[must_use]
    pub fn pool_name(&self) -> &str {
        self.0.metrics.pool_name()
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> &TokenCache {
        &self.0.tokens
    }
}

/// The engine of a connector whose logins are made by `log_in`.
pub(crate) fn engine<C: Send + 'static>(
    config: Config,
    tokens: TokenCache,
    log_in: LogIn<C>,
) -> Result<Engine<Driver<C>>, Error> {
    config.check()?;
    match config.token_scope() {
        // The tokens that were passed show what an unknown host wants.
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
