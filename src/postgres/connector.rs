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
    connect::{self, ConnectorMetrics, Engine, Sent, SilentServer},
    telemetry::Database,
    token::TokenCache,
};

/// Connects to a PostgreSQL server and logs in with a token that is valid now.
///
/// Cheap to clone; clones share their counters. It is a [`deadpool_postgres::Connect`], so that
/// you can make a [`deadpool_postgres::Manager`] on it. Such a manager cleans connections as its
/// own `ManagerConfig` says, and by default not at all.
///
/// For each connection, the token goes as the password onto a copy of the
/// configuration, and to the server when that is verified over TLS. A login
/// that the server refuses is tried once more, with a newer token, if there is
/// one ([`TokenCache::renew`]).
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    engine: Engine<Driver>,
    silent_server: SilentServer,
    links: Links,
}

impl Connector {
    /// A connector; nothing is dialled and no token asked for yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError::ScopeMismatch`], if the tokens are not those that the hosts
    /// want, [`ConfigError::Value`], if a setting cannot be meant,
    /// [`Error::TlsConfig`], if `sslrootcert` cannot be read.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        config.check()?;
        let scope = tokens.scope().clone();
        match config.token_scope() {
            Ok(wanted) if wanted != scope => {
                return Err(ConfigError::ScopeMismatch { wanted, tokens: scope }.into());
            }
            // The tokens at hand say what an unknown host wants.
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

    /// Connects and logs in. The [`Connection`] must be polled for the
    /// [`Client`] to get answers: spawn it.
    ///
    /// A refused login is retried once if the identity has another token than the refused
    /// one. A server that is starting, stopping or full is retried until
    /// `connect_timeout`, after pauses of 0.1 s that double up to 1 s; so is a server that
    /// refuses the connection but has accepted a login before. A server that was never reached
    /// is retried twice.
    ///
    /// After a refused login, the connector's other logins fail with the same error for 1 s;
    /// then one login a second is started until one succeeds. Where a login succeeded within the
    /// last minute, a refusal may be temporary: logins then take turns, at most one each second,
    /// within the `connect_timeout` of the first.
    ///
    /// A [`Connection`] that is dropped before the server has answered stays open for up to 5 s,
    /// in which the query is cancelled. That needs its runtime: in a program that ends, close the
    /// pool first and wait ([`close_and_wait`](super::close_and_wait)).
    ///
    /// # Errors
    ///
    /// [`Error`]; within the configuration's `connect_timeout` in any case.
    /// Dropping the future ends the attempt, but not a request for a token that
    /// is under way.
    pub async fn connect(&self) -> Result<(Client, Connection), Error> {
        self.log_in(self.now()).await.map(|(client, connection, _)| (client, connection))
    }

    /// For a caller that began then, by the monotonic clock.
    pub(crate) async fn log_in(&self, began: Duration) -> Result<LoggedIn, Error> {
        let logged_in = self.0.engine.connect(began).await?;
        let (client, _, link) = &logged_in;
        self.0.links.add(link);
        let (connector, query) = (self.clone(), client.cancel_token());
        let canceller = Canceller { connector, query, runtime: Handle::current() };
        link.canceller.store(Some(Arc::new(canceller)));
        Ok(logged_in)
    }

    /// What the wire says of the connection that the token cancels; `None` where its server
    /// does not distinguish its connections.
    pub(crate) fn link(&self, query: &CancelToken) -> Option<Arc<Link>> {
        self.0.links.of(query)
    }

    /// A pool of its connections, as its configuration says. Nothing is connected yet.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool_builder().build()
    }

    /// A builder for a pool of its connections.
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

    /// Connects and spawns the task that drives the connection.
    pub(crate) async fn spawn(
        &self,
        began: Duration,
    ) -> Result<(Client, JoinHandle<()>, Arc<Link>), Error> {
        let (client, connection, link) = self.log_in(began).await?;
        Ok((client, tokio::spawn(drive(connection, self.sent().clone())), link))
    }

    /// What the connections are made with, for
    /// [`cancel_query`](tokio_postgres::CancelToken::cancel_query).
    #[must_use]
    pub fn tls(&self) -> MakeRustlsConnect {
        self.0.engine.driver.tls.clone()
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.0.engine.driver.config
    }

    /// What [telemetry](crate::telemetry) calls a pool of its connections:
    /// `host:port/database`.
    #[must_use]
    pub fn pool_name(&self) -> &str {
        self.0.engine.metrics.pool_name()
    }

    /// Its tokens.
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

    pub(crate) fn sent(&self) -> &Sent {
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

/// What [`deadpool_postgres::Connect::connect`] returns.
pub(super) type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<Spawned, tokio_postgres::Error>> + Send + 'a>>;

/// The configuration that deadpool hands over is passed by: the connector's
/// own holds.
impl deadpool_postgres::Connect for Connector {
    fn connect(&self, _: &tokio_postgres::Config) -> Connecting<'_> {
        Box::pin(async {
            let connected = self.spawn(self.now()).await;
            let (client, driver, _) = connected.map_err(replay::carrying)?;
            Ok((client, driver))
        })
    }
}

/// As the connection would by itself, which logs what the server says as it is. The server
/// may have seen the tokens that were `sent`.
async fn drive(mut connection: Connection, sent: Sent) {
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                let (severity, text) = (notice.severity(), notice.message());
                if tracing::enabled!(tracing::Level::INFO) {
                    let notice = sent.excerpt(&format!("{severity}: {text}"));
                    tracing::info!(notice, "server notice");
                }
                // A server that sends notices without end must leave others their turn.
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
