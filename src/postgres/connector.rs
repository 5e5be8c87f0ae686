use std::{fmt, future::poll_fn, pin::Pin, sync::Arc};

use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Config, ConfigError, Connection, ConnectorReport, Error, Recycling, RetireReason, Stage,
    advice::{self, Refusal, SecondTry},
    dial,
    progress::Progress,
    replay,
    retire::{Aged, Silence, TimeLimits},
    retry::Retries,
    time_limit::TimeLimit,
    tls,
};
use crate::{
    clock::{self, Clock, Elapsed, SystemClock},
    excerpt::{excerpt, excerpt_of},
    telemetry::{Database, Ledger},
    token::{Connecting, Renewals, Token, TokenCache},
};

/// Dials and logs in, with a token that is good now. No pool.
///
/// Cheap to clone; clones share their counters. [`builder`](super::builder)
/// makes a pool on one; being a [`deadpool_postgres::Connect`], it fits into a
/// [`deadpool_postgres::Manager`] of your own as well.
///
/// For each connection, the token goes as the password onto a copy of the
/// configuration, and to the server when that is verified over TLS. A login
/// that the server refuses is tried once more, with a newer token, if there is
/// one ([`TokenCache::renew`]).
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

/// A session, what drives it, and the token that it was logged in to with.
type LoggedIn = (Client, Connection, Token);

struct Inner {
    config: Config,
    tokens: TokenCache,
    tls: MakeRustlsConnect,
    renewals: Renewals,
    ledger: Ledger<RetireReason>,
    aged: Aged,
    silence: Silence,
    recycling_limit: TimeLimit,
}

impl Connector {
    /// A connector; nothing is dialled and no token asked for yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OtherScope`], if the tokens are not those that the hosts
    /// want, [`ConfigError::Keyword`], if a setting cannot be meant,
    /// [`Error::TlsConfig`], if `sslrootcert` cannot be read.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        config.check()?;
        match config.token_scope() {
            // The tokens at hand say what an unknown host wants.
            Err(ConfigError::UnknownHost { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(wanted) if wanted == *tokens.scope() => {}
            Ok(wanted) => {
                return Err(
                    ConfigError::OtherScope { wanted, tokens: tokens.scope().clone() }.into()
                );
            }
        }
        if config.client_id.is_some() {
            return Err(ConfigError::keyword(
                "entra_client_id",
                "chooses an identity, but there is one already: leave it out, or use connect",
            )
            .into());
        }
        let tls = tls::make(&config)?;
        let servers = config.hosts.iter().map(|host| (host.name.as_str(), host.port));
        let database = Database::new("postgresql", servers, config.session.get_dbname());
        let ledger = Ledger::new(database, RetireReason::ALL);
        Ok(Self(Arc::new(Inner {
            config,
            tokens,
            tls,
            renewals: Renewals::default(),
            ledger,
            aged: Aged::default(),
            silence: Silence::default(),
            recycling_limit: TimeLimit::new(Recycling::LIMIT),
        })))
    }

    /// Connects and logs in. The [`Connection`] must be polled for the
    /// [`Client`] to get answers: spawn it.
    ///
    /// A refused login is tried once more if the identity has another token
    /// than the one that was refused. A server that is starting, stopping or full, or
    /// that was there before and is not now, is tried again as long as there is
    /// time, after pauses of 0.1 s that double up to 1 s; one that is not there at
    /// the first login, twice.
    ///
    /// # Errors
    ///
    /// [`Error`]; within the configuration's `connect_timeout` in any case.
    /// Dropping the future ends the attempt, but not a request for a token that
    /// is under way.
    pub async fn connect(&self) -> Result<(Client, Connection), Error> {
        self.connect_with_token().await.map(|(client, connection, _)| (client, connection))
    }

    /// With the token that it has logged in with.
    async fn connect_with_token(&self) -> Result<LoggedIn, Error> {
        // Moved about, it is large.
        let connecting = Box::pin(self.connect_in_time());
        self.0.ledger.connect(&**self.clock(), connecting).await
    }

    /// Connects and spawns the task that drives the connection.
    pub(crate) async fn spawn(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let (client, connection, token) = self.connect_with_token().await?;
        // deadpool's metrics, which are compared with them, have the system's clock.
        let (clock, limits) = (SystemClock::new(), TimeLimits::of(self.config()));
        let driven = self.0.aged.counting(&clock, limits, drive(connection, token));
        Ok((client, tokio::spawn(driven)))
    }

    async fn connect_in_time(&self) -> Result<LoggedIn, Error> {
        let Inner { config, tokens, .. } = &*self.0;
        let progress = Progress::new(config.servers());
        let limit = config.connect_timeout;
        let connecting = Connecting { began: self.clock().monotonic(), limit };
        let trying = Box::pin(self.keep_trying(&progress, connecting));
        let connected = clock::timeout(&**self.clock(), limit, trying).await;
        connected.unwrap_or_else(|Elapsed| {
            Err(match progress.take() {
                (Stage::Token, server, None) => {
                    Error::Token { server, source: tokens.timed_out(limit) }
                }
                (stage, server, failed) => {
                    Error::TimedOut { server, limit, stage, source: failed.map(Box::new) }
                }
            })
        })
    }

    /// What the connections are made with, for
    /// [`cancel_query`](tokio_postgres::CancelToken::cancel_query).
    #[must_use]
    pub fn tls(&self) -> MakeRustlsConnect {
        self.0.tls.clone()
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What [telemetry](crate::telemetry) calls a pool of its connections:
    /// `host:port/database`.
    #[must_use]
    pub fn pool_name(&self) -> &str {
        self.0.ledger.pool_name()
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> &TokenCache {
        &self.0.tokens
    }

    /// How things stand.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        ConnectorReport::new(self.0.ledger.counts(), self.0.tokens.report())
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.0.tokens.clock()
    }

    pub(super) async fn within_recycling_limit<F: Future>(
        &self,
        recycling: F,
    ) -> Result<F::Output, Elapsed> {
        self.0.recycling_limit.run(&**self.clock(), recycling).await
    }

    pub(crate) fn ledger(&self) -> &Ledger<RetireReason> {
        &self.0.ledger
    }

    pub(super) fn aged(&self) -> &Aged {
        &self.0.aged
    }

    pub(super) fn silence(&self) -> &Silence {
        &self.0.silence
    }

    /// Logs in, again and again where that can help.
    async fn keep_trying(
        &self,
        progress: &Progress,
        connecting: Connecting,
    ) -> Result<LoggedIn, Error> {
        let ledger = &self.0.ledger;
        let mut retries = Retries::new(ledger.has_logged_in(), self.config().hosts.len() > 1);
        loop {
            let error = match self.log_in(progress, connecting).await {
                Ok(connected) => return Ok(connected),
                Err(error) => error,
            };
            let left = connecting.left(self.clock().monotonic());
            let Some(pause) = retries.after(&error, left, fastrand::f64()) else {
                return Err(error);
            };
            ledger.retried(&error, pause);
            progress.failed(error);
            self.clock().sleep(pause).await;
        }
    }

    /// With one token, and if that is refused, with another.
    async fn log_in(&self, progress: &Progress, connecting: Connecting) -> Result<LoggedIn, Error> {
        let Inner { config, tokens, .. } = &*self.0;
        progress.reached(Stage::Token);
        let no_token = |source| Error::Token { server: config.servers(), source };
        let token = tokens.token().await.map_err(no_token)?;
        let user = self.user(&token)?;
        let refusal = match self.log_in_with(&token, &user, progress, connecting).await {
            Err(Error::LoginRefused(refusal)) => refusal,
            Err(Error::Login(error)) => return Err(Error::Login(self.explained(error).await)),
            outcome => return outcome,
        };

        progress.reached(Stage::Token);
        // One that has ended on the way was refused for that.
        let other = match tokens.successor_of(&token).await.map_err(no_token)? {
            Some(successor) => Ok(Some(successor)),
            None => self.0.renewals.renew(tokens, &token, connecting).await,
        };
        let (token, refusal, second_try) = match other {
            Err(error) => (token, refusal, SecondTry::Failed(error)),
            Ok(None) => (token, refusal, SecondTry::NoOther),
            Ok(Some(other)) => {
                self.0.ledger.renewed();
                // What must be known if there is no time left for the other try.
                let refusal = self.advised(refusal, &token, &user, &SecondTry::NoTime).await;
                progress.failed(Error::LoginRefused(refusal));
                // The server has seen both tokens.
                match self.log_in_with(&other, &user, progress, connecting).await {
                    Err(Error::LoginRefused(refusal)) => {
                        (other, replay::fit(refusal, token.secret()).await, SecondTry::Refused)
                    }
                    Err(Error::Login(error)) => {
                        return Err(Error::Login(replay::fit(error, token.secret()).await));
                    }
                    outcome => return outcome,
                }
            }
        };
        if matches!(second_try, SecondTry::Refused) {
            self.0.renewals.pause(tokens);
        }
        Err(Error::LoginRefused(self.advised(refusal, &token, &user, &second_try).await))
    }

    async fn log_in_with(
        &self,
        token: &Token,
        user: &str,
        progress: &Progress,
        connecting: Connecting,
    ) -> Result<LoggedIn, Error> {
        let Inner { config, tls, .. } = &*self.0;
        let outcome =
            dial::log_in(config, tls, user, token, progress, &**self.clock(), connecting).await;
        let (_, server) = progress.get();
        match &outcome {
            Ok(_) => tracing::debug!(%server, user, "logged in"),
            Err(Error::LoginRefused(refusal)) => {
                let code = refusal.code().map(SqlState::code);
                tracing::warn!(%server, user, code, "the server refused the login");
            }
            Err(_) => {}
        }
        outcome.map(|(client, connection)| (client, connection, token.clone()))
    }

    /// The role to log in as.
    pub(crate) fn user(&self, token: &Token) -> Result<String, Error> {
        if let Some(user) = self.0.config.session.get_user() {
            return Ok(user.to_owned());
        }
        let claims = token.claims().unwrap_or_default();
        match claims.principal_name() {
            Some(name) => Ok(name.to_owned()),
            None => Err(Error::NoUser { principal: advice::principal(&claims) }),
        }
    }

    /// PostgreSQL takes the role's name where no database is named.
    async fn explained(&self, error: tokio_postgres::Error) -> tokio_postgres::Error {
        let unnamed = self.0.config.session.get_dbname().is_none();
        if unnamed && error.code() == Some(&SqlState::INVALID_CATALOG_NAME) {
            let advice = "No database was named, so the role's name was taken: name it (dbname, or the URL's path).";
            return replay::with_hint(error, advice).await;
        }
        error
    }

    /// The server's error, with what to do about it.
    async fn advised(
        &self,
        refusal: tokio_postgres::Error,
        token: &Token,
        user: &str,
        second_try: &SecondTry,
    ) -> tokio_postgres::Error {
        let Some(error) = refusal.as_db_error() else { return refusal };
        let advice = Refusal {
            error,
            user,
            token,
            scope: self.0.tokens.scope(),
            now: self.0.tokens.clock().wall(),
            second_try,
        }
        .advice();
        replay::with_hint(refusal, &advice).await
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The configuration that deadpool hands over is passed by: the connector's
/// own holds.
impl deadpool_postgres::Connect for Connector {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        Box::pin(async move {
            match self.spawn().await {
                Ok(spawned) => Ok(spawned),
                // These are what Error::from makes of them again.
                Err(Error::LoginRefused(error) | Error::Login(error)) => Err(error),
                Err(error) => Err(replay::carrying(error).await),
            }
        })
    }
}

/// As the connection would by itself, which logs what the server says as it is. The server
/// has seen `token`.
async fn drive(mut connection: Connection, token: Token) {
    let secret = Some(token.secret());
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                let (severity, text) = (notice.severity(), notice.message());
                if tracing::enabled!(tracing::Level::INFO) {
                    let notice = excerpt(&format!("{severity}: {text}"), secret);
                    tracing::info!(notice, "server notice");
                }
                // A server that sends notices without end must leave others their turn.
                tokio::task::yield_now().await;
            }
            Ok(_) => {}
            Err(error) => {
                let error = excerpt_of(&error, secret);
                tracing::warn!(error, "the connection failed");
                return;
            }
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("config", &self.0.config)
            .field("scope", self.0.tokens.scope())
            .finish_non_exhaustive()
    }
}
