use std::{fmt, future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_postgres::{AsyncMessage, CancelToken, Client};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Config, ConfigError, Connection, ConnectorReport, Error, Pool, PoolBuilder, PoolError,
    cancel::Canceller,
    driver::{Driver, LoggedIn},
    link::{Link, Links},
    pool, replay, tls,
};
use crate::{
    clock::Clock,
    connect::{self, ConnectorMetrics, Engine, SentTokens, SilentServer},
    telemetry::Database,
    token::TokenCache,
};

/// Connects to a PostgreSQL server and logs in with a valid token.
///
/// Cloning is cheap, and clones share their counters. A connector implements
/// [`deadpool_postgres::Connect`], so you can create a [`deadpool_postgres::Manager`] with it. Such
/// a manager cleans connections according to its own `ManagerConfig`, by default not at all.
///
/// The token is the password of each login. It is sent only over TLS, after the server was
/// verified. A refused login is retried once with another token, if there is one
/// ([`TokenCache::renew`]).
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    engine: Engine<Driver>,
    silent_server: SilentServer,
    links: Links,
}

impl Connector {
    /// Creates a connector. This neither connects nor requests a token.
    ///
    /// # Errors
    ///
    /// [`ConfigError::ScopeMismatch`], if the tokens have another scope than the hosts need;
    /// [`ConfigError::Value`], if a setting is invalid; [`Error::TlsConfig`], if `sslrootcert`
    /// cannot be read.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        config.check()?;
        let scope = tokens.scope().clone();
        match config.token_scope() {
            Ok(wanted) if wanted != scope => {
                return Err(ConfigError::ScopeMismatch { wanted, tokens: scope }.into());
            }
            // For an unknown host, the scope is that of the tokens.
            Ok(_) | Err(ConfigError::UnknownHost { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let tls = tls::make(&config)?;
        let servers = config.hosts.iter().map(|host| (host.name.as_str(), host.port));
        let database = Database::new("postgresql", servers, config.session.get_dbname());
        let (limit, clock) = (config.connect_timeout, tokens.clock().clone());
        let driver = Driver { config, tls, scope, clock };
        Ok(Self(Arc::new(Inner {
            engine: Engine::new(driver, tokens, database, limit),
            silent_server: SilentServer::default(),
            links: Links::default(),
        })))
    }

    /// Connects and logs in. The [`Client`] gets responses only while the [`Connection`] is polled:
    /// spawn it as a task.
    ///
    /// A refused login is retried once, if the identity has another token. If the server is
    /// starting, stopping or full, the connect is retried until `connect_timeout`, after pauses of
    /// 0.1 s that double up to 1 s. A refused connection is retried in the same way if the server
    /// has accepted a login before; otherwise it is retried twice.
    ///
    /// After a refused login, the connector's other logins fail with the same error for 1 s. Then
    /// one login per second is started until one succeeds. If a login succeeded within the last
    /// minute, a refusal may be temporary: logins then take turns, at most one per second, within
    /// the `connect_timeout` of the first.
    ///
    /// If a [`Connection`] is dropped before the server has responded, its query is cancelled in
    /// the background, which takes up to 5 s and needs the runtime. When a program shuts down,
    /// close the pool first and wait ([`close_and_wait`](super::close_and_wait)).
    ///
    /// # Errors
    ///
    /// [`Error`], at the latest after the configuration's `connect_timeout`. Dropping the future
    /// cancels the attempt, but not a token request that is in progress.
    pub async fn connect(&self) -> Result<(Client, Connection), Error> {
        self.log_in(self.now()).await.map(|(client, connection, _)| (client, connection))
    }

    /// Logs in for a caller that started at `began`, on the monotonic clock.
    pub(crate) async fn log_in(&self, began: Duration) -> Result<LoggedIn, Error> {
        let logged_in = self.0.engine.connect(began).await?;
        let (client, _, link) = &logged_in;
        self.0.links.add(link);
        let (connector, query) = (self.clone(), client.cancel_token());
        let canceller = Canceller { connector, query, runtime: Handle::current() };
        link.canceller.store(Some(Arc::new(canceller)));
        Ok(logged_in)
    }

    /// Returns the link of the connection that this token cancels; `None` if the server does not
    /// send distinct keys.
    pub(crate) fn link(&self, query: &CancelToken) -> Option<Arc<Link>> {
        self.0.links.of(query)
    }

    /// Builds a pool with the settings of the configuration. This does not connect.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool_builder().build()
    }

    /// Returns a builder for a pool.
    ///
    /// ```no_run
    /// # fn pool(identity: entra_pool::token::Identity) -> Result<(), Box<dyn std::error::Error>> {
    /// use entra_pool::postgres::{Config, Connector};
    ///
    /// let config: Config = "postgres://shop.postgres.database.azure.com/restaurant".parse()?;
    /// let tokens = identity.tokens(config.token_scope()?);
    /// let connector = Connector::new(config, tokens)?;
    /// let pool = connector.pool_builder().max_size(16).build();
    /// println!("{}", connector.report());
    /// # Ok(())
    /// # }
    /// ```
    pub fn pool_builder(&self) -> PoolBuilder {
        pool::builder(self)
    }

    /// Opens connections in parallel until `pool` has `n` connections (at most its `max_size`), so
    /// that the first requests do not wait for a login and a wrong configuration is reported at
    /// startup. Connections that are checked out count.
    ///
    /// # Errors
    ///
    /// The [`PoolError`] of the first failed connect. Opened connections stay in the pool.
    pub async fn warm_up(&self, pool: &Pool, n: usize) -> Result<(), PoolError> {
        connect::fill(pool, n).await
    }

    /// Connects, and spawns the task that drives the connection.
    pub(crate) async fn spawn(
        &self,
        began: Duration,
    ) -> Result<(Client, JoinHandle<()>, Arc<Link>), Error> {
        let (client, connection, link) = self.log_in(began).await?;
        Ok((client, tokio::spawn(drive(connection, self.sent().clone())), link))
    }

    /// Returns the TLS connector, for
    /// [`cancel_query`](tokio_postgres::CancelToken::cancel_query).
    #[must_use]
    pub fn tls(&self) -> MakeRustlsConnect {
        self.0.engine.driver.tls.clone()
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.0.engine.driver.config
    }

    /// Returns the name of the connector's pools in [telemetry](crate::telemetry):
    /// `host:port/database`.
    #[must_use]
    pub fn pool_name(&self) -> &str {
        self.0.engine.metrics.pool_name()
    }

    /// Returns the token cache.
    #[must_use]
    pub fn tokens(&self) -> &TokenCache {
        &self.0.engine.tokens
    }

    /// Returns the current status.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        self.0.engine.report()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.0.engine.clock()
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock().monotonic()
    }

    pub(crate) fn sent(&self) -> &SentTokens {
        &self.0.engine.sent
    }

    pub(super) fn engine(&self) -> &Engine<Driver> {
        &self.0.engine
    }

    pub(crate) fn metrics(&self) -> &ConnectorMetrics {
        &self.0.engine.metrics
    }

    #[cfg(feature = "sqlx")]
    pub(crate) fn user(&self, token: &crate::token::Token) -> Result<String, Error> {
        self.0.engine.driver.user(token)
    }

    pub(crate) fn silent_server(&self) -> &SilentServer {
        &self.0.silent_server
    }
}

/// A client, and the task that drives its connection.
pub(crate) type Spawned = (Client, JoinHandle<()>);

/// The result of [`deadpool_postgres::Connect::connect`].
pub(super) type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<Spawned, tokio_postgres::Error>> + Send + 'a>>;

/// Ignores the configuration that deadpool passes, and uses the connector's own.
impl deadpool_postgres::Connect for Connector {
    fn connect(&self, _: &tokio_postgres::Config) -> Connecting<'_> {
        Box::pin(async {
            let connected = self.spawn(self.now()).await;
            let (client, driver, _) = connected.map_err(replay::wrapped)?;
            Ok((client, driver))
        })
    }
}

/// Drives the connection like its `Future` does, but logs only excerpts of the server's texts,
/// which may contain a token that was `sent`.
async fn drive(mut connection: Connection, sent: SentTokens) {
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                let (severity, text) = (notice.severity(), notice.message());
                if tracing::enabled!(tracing::Level::INFO) {
                    let notice = sent.excerpt(&format!("{severity}: {text}"));
                    tracing::info!(notice, "server notice");
                }
                // Other tasks must run even if a server sends notices continuously.
                tokio::task::yield_now().await;
            }
            Ok(_) => {}
            Err(error) => {
                let error = sent.excerpt_of(&error);
                tracing::warn!(error, "the connection failed");
                return;
            }
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("config", &self.0.engine.driver.config)
            .field("scope", self.0.engine.tokens.scope())
            .finish_non_exhaustive()
    }
}
