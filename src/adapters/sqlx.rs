//! [sqlx]'s pool, on PostgreSQL: feature `sqlx`.
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
//! sqlx takes no connection that somebody else has made, so that the
//! [`Connector`] lends only its configuration and its tokens, and the
//! [`Pool`] puts each new token into the options that sqlx connects with. What
//! the connector does beyond that is not done here:
//!
//! - A refused login is not tried again with a newer token, and its error has no
//!   advice. Where a role's rights have changed since the token was made,
//!   [`TokenCache::renew`](crate::token::TokenCache::renew) has it replaced.
//! - Connects are not in the connector's report; its token is.
//! - No time limit fires while a server sends without end, faster than sqlx reads. A
//!   connection whose cleaning takes longer than 2 s is closed, and sqlx waits for the server
//!   while it closes it: for `acquire_timeout` at most.
//! - Several hosts, `hostaddr`, `target_session_attrs`, `sslnegotiation=direct`,
//!   `channel_binding=require` and `Config::tls` are refused; `load_balance_hosts`, `tcp_user_timeout` and
//!   keepalives are not set, so that an
//!   [`idle_timeout`](crate::postgres::Config::idle_timeout) under 4 minutes is of use
//!   on Azure.
//! - `sslmode` is `verify-full`, but the roots that are trusted are Mozilla's, as
//!   compiled in, and those of `sslrootcert` beside them: not the platform's.
//! - sqlx reads libpq's variables. `PGSSLCERT` and `PGSSLKEY` apply (the client's
//!   certificate), `PGAPPNAME` applies where the configuration has no `application_name`, and
//!   `PGOPTIONS` applies before the configuration's `options`. The others have no effect:
//!   `PGSSLROOTCERT` adds no root, and `PGSSLMODE` does not weaken TLS.
//! - `Debug` of sqlx's connect options shows the token, which sqlx takes for a
//!   password like any other. The pool's own does not.

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

/// sqlx's [`PgPool`] with a token that is good now; dereferences to it.
///
/// Clones share. A task puts each token that follows into the pool; it is started by
/// [`new`](Self::new) and ends when the pool is closed, which it also is when the
/// last clone of this type goes: clones of the [`PgPool`] alone would be left
/// with a token that expires.
#[derive(Clone)]
pub struct Pool {
    renewal: Arc<Renewal>,
    /// Gone when all clones are.
    _held: Arc<watch::Sender<()>>,
}

struct Renewal {
    pool: PgPool,
    connector: Connector,
    /// The one that the pool connects with.
    token: Lock<Token>,
}

/// A machine that sleeps stops timers: the task looks again this often …
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// … and this often while a new token is due. Where there is none any more, the pause
/// doubles …
const SOON: Duration = Duration::from_secs(1);

/// … up to this, after which the pool has a token again when the identity does.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

impl Pool {
    /// A pool with `options`, which [`options`] makes fit. Waits for a token, but
    /// dials nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Token`] and [`Error::NoUser`], as for a connect;
    /// [`Error::Config`], if sqlx cannot do what the configuration says.
    pub async fn new(connector: &Connector, options: PgPoolOptions) -> Result<Self, Error> {
        let (token, with_token) = connect_options(connector).await?;
        let renewal = Arc::new(Renewal {
            pool: options.connect_lazy_with(with_token),
            connector: connector.clone(),
            token: Lock::new(token),
        });
        let (held, all_gone) = watch::channel(());
        tokio::spawn(renewal.clone().keep_on(all_gone));
        Ok(Self { renewal, _held: Arc::new(held) })
    }

    /// The pool, with the token that is good at this moment.
    ///
    /// The task sees to that within a minute at most, which this need not wait for: after
    /// a machine has slept, or before something that must not fail.
    ///
    /// # Errors
    ///
    /// [`Error::Token`], if there is none.
    pub async fn renewed(&self) -> Result<&PgPool, Error> {
        self.renewal.renew().await?;
        Ok(&self.renewal.pool)
    }

    /// Closes the pool: waits for lent connections, and for the servers of idle ones, for
    /// [`connect_timeout`](crate::postgres::Config::connect_timeout) at most. [`PgPool::close`]
    /// waits without a limit where a server fell silent.
    pub async fn close(&self) {
        self.renewal.close().await;
    }
}

impl Renewal {
    async fn close(&self) {
        let limit = self.connector.config().connect_timeout;
        let closing = clock::timeout(&**self.connector.clock(), limit, self.pool.close());
        if closing.await.is_err() {
            tracing::warn!("the pool was closed before all of its connections");
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

    async fn keep_on(self: Arc<Self>, mut all_gone: watch::Receiver<()>) {
        let closed = self.pool.close_event();
        let renewing = async {
            let mut soon = SOON;
            loop {
                self.connector.tokens().clock().sleep(self.pause(soon)).await;
                soon = match self.renew().await {
                    Ok(()) => SOON,
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "the pool keeps the token it has");
                        (soon * 2).min(LONGEST_PAUSE)
                    }
                };
            }
        };
        tokio::select! {
            () = closed => {}
            // Nothing is ever sent: this is the sender's end.
            _ = all_gone.changed() => self.close().await,
            () = renewing => {}
        }
    }

    fn pause(&self, soon: Duration) -> Duration {
        let tokens = self.connector.tokens();
        let due = tokens.report().refresh_at;
        let left = due.and_then(|due| due.duration_since(tokens.clock().wall()).ok());
        left.unwrap_or_default().clamp(soon, LOOK_AGAIN)
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

/// A pool's options for `connector`: sqlx's own, so that sizes, time limits and
/// hooks can be set.
///
/// Set already: `acquire` waits for as long as a connect may take
/// ([`connect_timeout`](crate::postgres::Config::connect_timeout)). Connections are retired at
/// [`max_lifetime`](crate::postgres::Config::max_lifetime), and when they were idle for
/// [`idle_timeout`](crate::postgres::Config::idle_timeout), by default 3 minutes: Azure drops idle
/// flows after as little as 4 minutes, and sqlx sets no keepalives. The server sends keepalives instead
/// (`tcp_keepalives_idle` and its kin), which an `after_connect` hook sets. sqlx has one hook of a
/// kind: if you set another, begin it with `SET tcp_keepalives_idle = 30;
/// SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3`, or the server uses its own
/// settings, by default 2 h on Linux.
///
/// Connections are cleaned between borrowers as
/// [`recycling`](crate::postgres::Config::recycling) says: by a `before_acquire` hook, which
/// replaces sqlx's ping, and which a hook of your own replaces. With [`Recycling::Fast`], it pings,
/// for at most 2 s. The hook replaces a connection
/// that cannot be cleaned by a new one, for which an `after_connect` hook of your own does not run.
///
/// A query that was dropped is not cancelled, and its connection is not available for others until
/// the query ends.
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

/// Less than 4 minutes, after which Azure may drop idle flows.
const IDLE_TIMEOUT: Duration = Duration::from_secs(180);

/// As the connector's own sockets have by default. Cleaning resets them.
const KEEPALIVES: &str = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; \
                          SET tcp_keepalives_count = 3;";

/// Cleans the connections of one pool.
struct Cleaner {
    connector: Connector,
    /// When the last cleaning began, if it was not answered. Its connection may be busy with a
    /// query that its borrower dropped; if the next one is not answered either, it is the server
    /// or the network.
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

    /// Makes the connection fit for its next borrower.
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
        // With `Fast` as well, an answer shows that the connection lives: sqlx pings too.
        let mut sql = recycling.sql().unwrap_or_default();
        // Other statements are the caller's, and nothing else.
        if *recycling == Recycling::Clean {
            sql += KEEPALIVES;
        }
        let cleaning = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection);
        let cleaned = clock::timeout(&**connector.clock(), Recycling::LIMIT, cleaning).await;
        let mut unanswered = unanswered.lock();
        let Ok(cleaned) = cleaned else {
            if let Some(before) = unanswered.replace(began) {
                connector.silent_server().silent(before);
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

/// What sqlx is to connect with now, and the token in it.
async fn connect_options(connector: &Connector) -> Result<(Token, PgConnectOptions), Error> {
    let config = connector.config();
    let session = &config.session;
    // There is one host at least.
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
            let problem = format!("{what}, which sqlx cannot do");
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
        // No roots, in place of those that PGSSLROOTCERT names.
        _ => options.ssl_root_cert_from_pem(Vec::new()),
    };
    let no_token = |source| Error::Token { server: config.servers(), source };
    let token = connector.tokens().token().await.map_err(no_token)?;
    let user = connector.user(&token)?;
    // The server's default, in whose place sqlx would take PGDATABASE.
    let database = session.get_dbname().unwrap_or(&user);
    options = options.username(&user).database(database).password(token.secret());
    Ok((token, options))
}

/// sqlx takes `options` as they are from a URL only.
fn with_session_options(options: &str) -> Result<PgConnectOptions, Error> {
    let unreadable = || ConfigError::value("options", "cannot be read by sqlx").into();
    let url = Url::parse_with_params("postgres://localhost", [("options", options)]);
    let url = url.map_err(|_| unreadable())?;
    PgConnectOptions::from_url(&url).map_err(|_| unreadable())
}
