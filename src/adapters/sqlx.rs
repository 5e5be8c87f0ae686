//! [sqlx]'s pool for PostgreSQL (feature `sqlx`).
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::{adapters::sqlx::{Pool, options, sqlx}, postgres};
//!
//! let connector = postgres::connector(
//!     "postgres://shop.postgres.database.azure.com/restaurant",
//! )?;
//! let pool = Pool::new(&connector, options(&connector).max_connections(16)).await?;
//! let names: Vec<String> =
//!     sqlx::query_scalar("SELECT name FROM restaurant").fetch_all(&*pool).await?;
//! # Ok(())
//! # }
//! ```
//!
//! sqlx does not accept connections that were opened elsewhere. So the [`Connector`] only provides
//! its configuration and its tokens, and the [`Pool`] puts each new token into sqlx's connect
//! options. This pool differs from this crate's own pool:
//!
//! - A refused login is not retried with a newer token, and its error contains no advice. If a
//!   role's rights have changed since the token was issued,
//!   [`TokenCache::renew`](crate::token::TokenCache::renew) replaces the token.
//! - The connector's report contains the token's status, but does not count connects.
//! - Time limits do not apply while a server sends continuously, faster than sqlx reads.
//! - A connection whose cleaning takes longer than 2 s is replaced by a new connection, within the
//!   `acquire_timeout`.
//! - Several hosts, `hostaddr`, `target_session_attrs`, `sslnegotiation=direct`,
//!   `channel_binding=require` and `Config::tls` are refused. `load_balance_hosts`,
//!   `tcp_user_timeout` and keepalives are not set, so use an
//!   [`idle_timeout`](crate::postgres::Config::idle_timeout) under 4 minutes on Azure.
//! - `sslmode` is `verify-full`, but the trusted roots are not the platform's: they are Mozilla's,
//!   which are compiled in, and those of `sslrootcert`.
//! - sqlx reads libpq's variables. `PGSSLCERT` and `PGSSLKEY` apply (the client's certificate),
//!   `PGAPPNAME` applies if the configuration has no `application_name`, and `PGOPTIONS` applies
//!   before the configuration's `options`. Other variables have no effect: `PGSSLROOTCERT` does
//!   not add a root, and `PGSSLMODE` does not weaken TLS.
//! - `Debug` of sqlx's connect options shows the token, because sqlx treats it as a password.
//!   `Debug` of this pool does not show it.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

pub use sqlx;

use sqlx::{
    ConnectOptions, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use tokio::sync::watch;
use tokio_postgres::config::{ChannelBinding, SslNegotiation, TargetSessionAttrs};
use url::Url;

use crate::{
    clock,
    connect::RetireReason,
    lock::Lock,
    postgres::{ConfigError, Connector, Error, Recycling},
    tls::Trust,
    token::Token,
};

/// sqlx's [`PgPool`] with a valid token. It dereferences to the pool.
///
/// Clones share the pool. [`new`](Self::new) starts a task that puts each new token into the pool.
/// The task stops when the pool is closed. Dropping the last clone of this type closes the pool,
/// because the token of the remaining [`PgPool`]s would expire.
#[derive(Clone)]
pub struct Pool {
    renewal: Arc<Renewal>,
    /// Dropped with the last clone, which closes the pool.
    _held: Arc<watch::Sender<()>>,
}

struct Renewal {
    pool: PgPool,
    connector: Connector,
    /// The token with which the pool connects.
    token: Lock<Token>,
}

/// The longest pause between two checks of the token. Timers stop while a machine sleeps.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// The pause while a new token is due. It doubles while the identity returns no token.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after failures: the pool gets a token soon after the identity recovers.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

impl Pool {
    /// Creates a pool with `options` from the function [`options`]. Waits for a token, but does not
    /// connect.
    ///
    /// # Errors
    ///
    /// [`Error::Token`] and [`Error::NoUser`], as for a connect. [`Error::Config`], if sqlx does
    /// not support a setting.
    pub async fn new(connector: &Connector, options: PgPoolOptions) -> Result<Self, Error> {
        let (token, with_token) = connect_options(connector).await?;
        let renewal = Arc::new(Renewal {
            pool: options.connect_lazy_with(with_token),
            connector: connector.clone(),
            token: Lock::new(token),
        });
        let (held, all_dropped) = watch::channel(());
        tokio::spawn(renewal.clone().renew_in_background(all_dropped));
        Ok(Self { renewal, _held: Arc::new(held) })
    }

    /// Puts a valid token into the pool, and returns the pool.
    ///
    /// The task does this within a minute. Use this method when that is too late: after a machine
    /// has slept, or before an operation that must not fail.
    ///
    /// # Errors
    ///
    /// [`Error::Token`], if no token is available.
    pub async fn renewed(&self) -> Result<&PgPool, Error> {
        self.renewal.renew().await?;
        Ok(&self.renewal.pool)
    }

    /// Closes the pool. Waits until connections in use are returned and all connections are closed,
    /// for at most [`connect_timeout`](crate::postgres::Config::connect_timeout).
    /// [`PgPool::close`] waits without a limit if a server stopped responding.
    pub async fn close(&self) {
        self.renewal.close().await;
    }
}

impl Renewal {
    async fn close(&self) {
        let limit = self.connector.config().connect_timeout;
        let closing = clock::timeout(&**self.connector.clock(), limit, self.pool.close());
        if closing.await.is_err() {
            tracing::warn!("the pool was closed, but some of its connections are still open");
        }
    }

    async fn renew(&self) -> Result<(), Error> {
        let (token, options) = connect_options(&self.connector).await?;
        let mut held = self.token.lock();
        if !held.same_secret(&token) {
            self.pool.set_connect_options(options);
            *held = token;
        }
        Ok(())
    }

    async fn renew_in_background(self: Arc<Self>, mut all_dropped: watch::Receiver<()>) {
        let closed = self.pool.close_event();
        let renewing = async {
            let mut min_pause = MIN_PAUSE;
            loop {
                self.connector.tokens().clock().sleep(self.pause(min_pause)).await;
                min_pause = match self.renew().await {
                    Ok(()) => MIN_PAUSE,
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "cannot refresh the pool's token");
                        (min_pause * 2).min(LONGEST_PAUSE)
                    }
                };
            }
        };
        tokio::select! {
            () = closed => {}
            // No value is ever sent, so this means that the sender was dropped.
            _ = all_dropped.changed() => self.close().await,
            () = renewing => {}
        }
    }

    fn pause(&self, min_pause: Duration) -> Duration {
        let tokens = self.connector.tokens();
        let due = tokens.report().refresh_at;
        let left = due.and_then(|due| due.duration_since(tokens.clock().wall()).ok());
        left.unwrap_or_default().clamp(min_pause, CHECK_EVERY)
    }
}

impl Deref for Pool {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.renewal.pool
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("pool", &self.renewal.pool)
            .field("connector", &self.renewal.connector)
            .finish_non_exhaustive()
    }
}

/// Returns sqlx's pool options for `connector`. Use them to set sizes, time limits and hooks.
///
/// These settings are already made: `acquire` waits for as long as a connect may take
/// ([`connect_timeout`](crate::postgres::Config::connect_timeout)). Connections are retired at
/// [`max_lifetime`](crate::postgres::Config::max_lifetime), and when they were idle for
/// [`idle_timeout`](crate::postgres::Config::idle_timeout), by default 3 minutes: Azure drops idle
/// flows after as little as 4 minutes, and sqlx does not set keepalives. Instead, an
/// `after_connect` hook makes the server send keepalives (`tcp_keepalives_idle` and related
/// settings). sqlx has one hook of each kind: if you set another `after_connect` hook, start with
/// `SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3`.
/// Otherwise, the server uses its own settings, by default 2 h on Linux.
///
/// A `before_acquire` hook cleans connections between borrowers as set by
/// [`recycling`](crate::postgres::Config::recycling). It replaces sqlx's ping, and your own hook
/// would replace it. With [`Recycling::Fast`], it only pings. This takes at most 2 s. A connection
/// that cannot be cleaned is replaced by a new one, for which your `after_connect` hook does not
/// run.
///
/// A dropped query is not cancelled, and its connection is not available until the query completes.
#[must_use]
pub fn options(connector: &Connector) -> PgPoolOptions {
    let config = connector.config();
    let cleaner = Arc::new(Cleaner { connector: connector.clone(), unanswered: Lock::new(None) });
    PgPoolOptions::new()
        .acquire_timeout(config.connect_timeout)
        .max_lifetime(config.max_lifetime)
        .idle_timeout(config.idle_timeout.unwrap_or(IDLE_TIMEOUT))
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(KEEPALIVES).execute(connection).await.map(drop) })
        })
        .before_acquire(move |connection, metadata| {
            let (cleaner, idle_for) = (cleaner.clone(), metadata.idle_for);
            Box::pin(async move {
                if let Err(reason) = cleaner.clean(connection, idle_for).await {
                    cleaner.connector.metrics().retired(reason);
                    // To close the connection, sqlx would wait for its server.
                    *connection = cleaner.reconnect().await?;
                }
                Ok(true)
            })
        })
}

/// The default idle timeout: less than 4 minutes, after which Azure may drop idle flows.
const IDLE_TIMEOUT: Duration = Duration::from_secs(180);

/// Sets the keepalives that the connector's own sockets have by default. Cleaning resets them.
const KEEPALIVES: &str = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; \
                          SET tcp_keepalives_count = 3;";

/// Cleans the connections of one pool.
struct Cleaner {
    connector: Connector,
    /// When the last cleaning started, if it got no response. The cause may be a dropped query on
    /// that connection. If the next cleaning also gets no response, the cause is the server or the
    /// network.
    unanswered: Lock<Option<Duration>>,
}

impl Cleaner {
    async fn reconnect(&self) -> sqlx::Result<PgConnection> {
        let options = connect_options(&self.connector).await;
        let (_, options) = options.map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let mut connection = options.connect().await?;
        sqlx::raw_sql(KEEPALIVES).execute(&mut connection).await?;
        Ok(connection)
    }

    /// Prepares the connection for its next borrower.
    async fn clean(
        &self,
        connection: &mut PgConnection,
        idle_for: Duration,
    ) -> Result<(), RetireReason> {
        let Self { connector, unanswered } = self;
        let began = connector.clock().monotonic();
        if connector.silent_server().includes(began.saturating_sub(idle_for)) {
            return Err(RetireReason::Silent);
        }
        let recycling = &connector.config().recycling;
        // With `Fast`, the empty query is a ping: its response shows that the connection works.
        let mut sql = recycling.sql().unwrap_or_default();
        // Custom statements are used unchanged.
        if *recycling == Recycling::Clean {
            sql += KEEPALIVES;
        }
        let cleaning = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection);
        let cleaned = clock::timeout(&**connector.clock(), Recycling::LIMIT, cleaning).await;
        let mut unanswered = unanswered.lock();
        let Ok(cleaned) = cleaned else {
            if let Some(before) = unanswered.replace(began) {
                connector.silent_server().record_unanswered(before);
            }
            return Err(RetireReason::Unsettled);
        };
        *unanswered = None;
        cleaned.map(drop).map_err(|error| match error {
            sqlx::Error::Io(_) => RetireReason::Closed,
            _ => RetireReason::Recycling,
        })
    }
}

/// Returns the current options for sqlx, and the token in them.
async fn connect_options(connector: &Connector) -> Result<(Token, PgConnectOptions), Error> {
    let config = connector.config();
    let session = &config.session;
    // A configuration has at least one host.
    let host = &config.hosts[0];
    let negotiation = session.get_ssl_negotiation();
    let (binding, attributes) = (session.get_channel_binding(), session.get_target_session_attrs());
    for (is_so, keyword, what) in [
        (config.hosts.len() > 1, "host", "names several hosts"),
        (host.address.is_some(), "hostaddr", "is given"),
        (attributes != TargetSessionAttrs::Any, "target_session_attrs", "is given"),
        (negotiation != SslNegotiation::Postgres, "sslnegotiation", "is direct"),
        (binding == ChannelBinding::Require, "channel_binding", "is required"),
        (matches!(config.trust, Trust::Own(_)), "Config::tls", "is given"),
    ] {
        if is_so {
            let problem = format!("{what}, which sqlx does not support");
            return Err(ConfigError::value(keyword, problem).into());
        }
    }
    let mut options = match session.get_options() {
        Some(options) => with_session_options(options)?,
        None => PgConnectOptions::new_without_pgpass(),
    };
    options = options.host(&host.name).port(host.port).ssl_mode(PgSslMode::VerifyFull);
    if let Some(name) = session.get_application_name() {
        options = options.application_name(name);
    }
    options = match &config.trust {
        Trust::Roots(path) => options.ssl_root_cert(path),
        // An empty list replaces the roots in PGSSLROOTCERT.
        _ => options.ssl_root_cert_from_pem(Vec::new()),
    };
    let no_token = |source| Error::Token { server: config.servers(), source };
    let token = connector.tokens().token().await.map_err(no_token)?;
    let user = connector.user(&token)?;
    // As the server does by default. Without a name, sqlx would use PGDATABASE.
    let database = session.get_dbname().unwrap_or(&user);
    options = options.username(&user).database(database).password(token.secret());
    Ok((token, options))
}

/// Creates options with unparsed `options`, which sqlx only accepts in a URL.
fn with_session_options(options: &str) -> Result<PgConnectOptions, Error> {
    let unreadable = || ConfigError::value("options", "cannot be parsed by sqlx").into();
    let url = Url::parse_with_params("postgres://localhost", [("options", options)]);
    let url = url.map_err(|_| unreadable())?;
    PgConnectOptions::from_url(&url).map_err(|_| unreadable())
}
