use std::{
    io::ErrorKind,
    sync::Arc,
    time::{Duration, SystemTime},
};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};

use super::{
    Client, Connection, Connector, Error, RetireReason,
    driver::{Driver, quietly},
    is_transient,
    link::{Link, ResetRule},
    returned::{Cleaned, Returned, decide},
};
use crate::{
    clock,
    connect::{Engine, PoolState, SilentServer, jittered},
};

/// Opens and cleans the connections of a [`Pool`](super::Pool).
///
/// [`Connector::pool_builder`] creates a manager for each pool. Create one yourself for deadpool's
/// own builder, which has other settings.
#[derive(Debug)]
pub struct Manager {
    connector: Connector,
    /// Its times are monotonic.
    silent: SilentServer,
    pub(super) state: Arc<PoolState<Self, Connection>>,
}

/// How a connection is cleaned between two borrowers. The session is always reset: temporary
/// tables, `SET` options, `SESSION_CONTEXT` and the database selected by `USE` do not reach the
/// next borrower.
///
/// A connection with an incomplete response is closed when it is returned. The
/// [manual](crate::manual::connections) describes the other steps.
///
/// The server closes a connection that is reset under another security context (`EXECUTE AS … WITH
/// NO REVERT`), with error 18059. With [`Fast`](Self::Fast), the next borrower's first request gets
/// that error. Application roles probably behave in the same way, but this was not tested.
/// [Take](super::PooledConnection::take) such connections out of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Recycling {
    /// Sends one request that checks the connection, rolls back an open transaction, and restores
    /// READ COMMITTED (which a reset does not restore). On a runtime with several threads, this is
    /// done in the background when the connection is returned, otherwise at the next checkout.
    #[default]
    Clean,
    /// Sends nothing. The next borrower's first request resets the session, and fails if the
    /// connection broke unnoticed. A changed isolation level remains. A connection that is returned
    /// in a transaction is closed.
    ///
    /// A transaction that began after the first result set of the last response is not detected: it
    /// keeps its locks, and the next borrower's first request fails with a retryable error. The
    /// first request also fails after a bulk insert that was dropped before its end, because the
    /// server still waits for rows.
    Fast,
}

/// Rolls back an open transaction, restores the isolation level, and returns one row with 0. After
/// `SET NOEXEC ON` and similar settings, it returns no row.
pub(crate) const PROBE: [&str; 3] = [
    "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION; ",
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; ",
    "SELECT @@TRANCOUNT",
];

/// The time limit of a probe, after which the connection is considered dead.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection is not used again if its token expires within this time, because Azure SQL also
/// validates the token during the session. The time is shortened by up to half at random, because
/// all connections of a pool may have the same token.
const TOKEN_MARGIN: Duration = Duration::from_secs(300);

impl Manager {
    /// Creates a manager for connections of `connector`.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        let state = Arc::new(PoolState::new(&connector.0));
        Self { connector, silent: SilentServer::default(), state }
    }

    /// Returns the connector.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Whether an idle connection may be used again, as far as is known without a request. If not,
    /// counts it as retired.
    pub(super) fn is_fit(&self, connection: &Connection) -> bool {
        if connection.retired {
            return false;
        }
        let reason = self.unfit(connection);
        reason.inspect(|reason| self.connector.0.metrics.retired(*reason)).is_none()
    }

    /// Prepares a connection for its next borrower.
    pub(crate) async fn make_fit(&self, connection: &mut Connection) -> Result<(), Error> {
        self.renew(connection).await.map_err(|reason| {
            self.retire(connection, reason);
            Error::Retired { reason }
        })
    }

    pub(super) fn retire(&self, connection: &mut Connection, reason: RetireReason) {
        self.connector.0.metrics.retired(reason);
        connection.retired = true;
        if reason == RetireReason::ResetNotAcknowledged {
            self.connector.0.driver.warned_of_resets.call_once(|| {
                let server = &connection.server;
                tracing::warn!(server, "the server does not acknowledge session resets");
            });
        }
    }

    /// Whether a returned connection may be used again. If so, its next request resets the session,
    /// even if the connection is not prepared for its next borrower.
    #[cfg(feature = "bb8")]
    pub(crate) fn take_back(&self, connection: &mut Connection) -> bool {
        if connection.retired || self.returned(connection, false) == Returned::Close {
            return false;
        }
        connection.link.state().reset = Some(ResetRule::RefuseTransaction);
        true
    }

    /// Decides about a returned connection, and retires it if it must be closed.
    pub(super) fn returned(&self, connection: &mut Connection, may_spawn: bool) -> Returned {
        let config = self.connector.config();
        let fast = config.recycling == Recycling::Fast;
        if fast {
            self.record_silence(&connection.link);
        }
        if let Some(reason) = self.unfit(connection) {
            self.retire(connection, reason);
            return Returned::Close;
        }
        // A dropped guard may also have left an isolation level.
        let in_transaction = {
            let state = connection.link.state();
            state.transaction.is_some() || state.abandoned
        };
        let returned = decide(!fast && may_spawn, in_transaction, connection.is_used());
        if returned == Returned::Close {
            self.retire(connection, RetireReason::TransactionOpen);
        }
        returned
    }

    /// Detects a silent server without a probe, by the borrowers' requests: nothing was received
    /// for `Command Timeout` or 5 s, whichever is shorter. A slow query looks the same, unless
    /// something was received on another connection in the meantime.
    fn record_silence(&self, link: &Link) {
        let limit = self.connector.config().command_timeout.unwrap_or(PROBE_TIMEOUT);
        match link.unanswered() {
            None => self.silent.record_received(link.last_received()),
            Some((asked, waited)) if waited >= limit.min(PROBE_TIMEOUT) => {
                self.silent.record_unanswered(asked);
            }
            Some(_) => {}
        }
    }

    /// Returns why the connection must not be used again, as far as is known without a request.
    fn unfit(&self, connection: &Connection) -> Option<RetireReason> {
        let link = &connection.link;
        if let Some(fault) = link.state().fault {
            return Some(fault);
        }
        if link.state().is_read_only && !self.connector.config().read_only {
            return Some(RetireReason::ReadOnly);
        }
        if !link.is_settled() {
            return Some(RetireReason::Unsettled);
        }
        // No response is pending, so whatever has arrived can only be the end of the connection.
        if !connection.socket.is_quiet() {
            return Some(RetireReason::Closed);
        }
        let times = Times {
            created: connection.created,
            last_received: connection.link.last_received(),
            token_expires_on: connection.token_expires_on,
            jitter: connection.jitter,
        };
        self.connector.0.outlived(&times, &self.silent)
    }

    async fn renew(&self, connection: &mut Connection) -> Result<(), RetireReason> {
        if let Some(reason) = self.unfit(connection) {
            return Err(reason);
        }
        match self.connector.config().recycling {
            Recycling::Fast => {
                if connection.is_used() {
                    connection.link.state().reset = Some(ResetRule::RefuseTransaction);
                }
                Ok(())
            }
            Recycling::Clean => {
                let (requests, now) =
                    (connection.link.state().requests, self.connector.0.clock().monotonic());
                if connection.cleaned.holds(requests, now) {
                    return Ok(());
                }
                self.clean(connection).await
            }
        }
    }

    pub(super) async fn clean(&self, connection: &mut Connection) -> Result<(), RetireReason> {
        connection.link.accept_requests();
        connection.link.state().reset = Some(ResetRule::OutsideTransaction);
        let cleaning = async {
            self.verify(connection).await?;
            // A probe that rolls back a transaction does not get the reset bit.
            if connection.link.state().reset.is_some() {
                self.verify(connection).await
            } else {
                Ok(())
            }
        };
        self.connector.0.metrics.recycle(cleaning).await
    }

    async fn verify(&self, connection: &mut Connection) -> Result<(), RetireReason> {
        let began = self.connector.0.clock().monotonic();
        connection.link.allowance.restrict();
        let probed = Box::pin(self.probe(connection));
        let probed = clock::timeout(&**self.connector.0.clock(), PROBE_TIMEOUT, probed).await;
        connection.link.allowance.lift();
        // `Command Timeout` may expire before the probe's limit.
        let is_silent = match &probed {
            Err(clock::Elapsed) => true,
            Ok(Err(tiberius::error::Error::Io { kind, .. })) => *kind == ErrorKind::TimedOut,
            Ok(_) => false,
        };
        // If the reset is still due, the server may be rolling back a transaction, and is not
        // silent.
        if is_silent && connection.link.state().reset.is_none() {
            self.silent.record_unanswered(began);
        }
        if matches!(probed, Ok(Ok(true))) && connection.link.state().fault.is_none() {
            let at = self.connector.0.clock().monotonic();
            connection.cleaned = Cleaned { at, requests: connection.link.state().requests };
            return Ok(());
        }
        let probed = self.connector.0.sent.excerpt(&format!("{probed:?}"));
        tracing::debug!(probed, "the health check of an idle connection failed");
        // Only the probe detects a fault that occurred while the connection was idle.
        let fault = connection.link.state().fault;
        Err(fault.unwrap_or(RetireReason::Recycling))
    }

    /// Whether the connection works and the session is clean.
    ///
    /// Synapse's dedicated SQL pools only support READ UNCOMMITTED and refuse the whole batch. To
    /// detect this, the SET statement alone must get the same error, and the rest must succeed.
    async fn probe(&self, connection: &mut Connection) -> tiberius::Result<bool> {
        let [roll_back, read_committed, count] = PROBE;
        let without = [roll_back, count].concat();
        let has_no_isolation = &self.connector.0.driver.has_no_isolation;
        if has_no_isolation.is_completed() {
            return run(connection, &without).await;
        }
        let refused = match run(connection, &PROBE.concat()).await {
            Err(error) if !is_transient(&error) && error.code().is_some() => error.code(),
            probed => return probed,
        };
        let alone = run(connection, read_committed).await;
        let clean =
            alone.is_err_and(|error| error.code() == refused) && run(connection, &without).await?;
        if clean {
            has_no_isolation.call_once(|| {
                tracing::warn!(
                    server = connection.server,
                    "the server refuses READ COMMITTED (a dedicated SQL pool of Synapse), so connections are cleaned without it"
                );
            });
        }
        Ok(clean)
    }
}

/// The times of a connection. They are monotonic unless noted.
pub(crate) struct Times {
    pub(crate) created: Duration,
    pub(crate) last_received: Duration,
    /// A time of day.
    pub(crate) token_expires_on: SystemTime,
    /// A random number from 0 to 1, so that the connections of a pool do not expire together.
    pub(crate) jitter: f64,
}

impl<C: Send + 'static> Engine<Driver<C>> {
    /// Returns why a connection must not be used again because of its times.
    pub(crate) fn outlived(&self, times: &Times, silent: &SilentServer) -> Option<RetireReason> {
        let (clock, config) = (self.clock(), &self.driver.config);
        let since = |then| clock.monotonic().saturating_sub(then);
        let age = since(times.created);
        if config.max_lifetime.is_some_and(|limit| age >= jittered(limit, times.jitter)) {
            return Some(RetireReason::Age);
        }
        if config.idle_timeout.is_some_and(|limit| since(times.last_received) >= limit) {
            return Some(RetireReason::Idle);
        }
        // Otherwise, a checkout would wait in turn for each connection to a server that stopped
        // responding.
        if silent.includes(times.last_received) {
            return Some(RetireReason::Silent);
        }
        let margin = TOKEN_MARGIN.mul_f64(1.0 - 0.5 * times.jitter);
        if clock.wall() + margin < times.token_expires_on {
            return None;
        }
        if self.tokens.has_newer_than(times.token_expires_on) {
            return Some(RetireReason::TokenExpiry);
        }
        // A pool that does not connect has no other caller that refreshes the token.
        self.tokens.refresh_if_due();
        None
    }
}

/// Runs a probe. Returns whether no transaction is open.
async fn run(client: &mut Client, probe: &str) -> tiberius::Result<bool> {
    let asking = async { client.simple_query(probe).await?.into_results().await };
    let results = quietly(asking).await?;
    let rows = results.into_iter().flatten();
    let open: Vec<_> = rows.map(|row| row.try_get::<i32, _>(0).ok().flatten()).collect();
    Ok(open == [Some(0)])
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection, Error> {
        if self.connector.config().maintenance {
            let is_fit = |manager: &Self, idle: &Connection, _: &Metrics| manager.is_fit(idle);
            self.state.maintain(self.connector.config().min_size, is_fit);
        }
        let login = |began| {
            let connector = self.connector.clone();
            async move { connector.log_in(began).await }
        };
        let is_alive = |connection: &Connection| connection.socket.is_quiet();
        self.state.connect(login, is_alive).await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Error> {
        self.make_fit(connection).await.map_err(RecycleError::Backend)
    }
}
