//! Types that both databases share: pool builder, report, stages and reasons for retirement.
//!
//! A connect gets a token and logs in. It retries a refused login once with another token, and
//! retries transient errors, all before one deadline.
// A database implements `Driver`, which makes one attempt and classifies its errors. This module
// handles tokens, telemetry and time, and does not depend on any driver.

mod abandoned;
mod attempt;
mod login_tasks;
mod metrics;
mod pool;
mod pool_state;
mod refusals;
mod renewal;
mod report;
mod retire;
mod retry;
mod sent;
mod setters;
mod silent;
mod stage;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

pub(crate) use attempt::{Attempt, Progress};
pub(crate) use metrics::ConnectorMetrics;
pub use pool::PoolBuilder;
pub(crate) use pool::{drained, fill, pool_message};
pub(crate) use pool_state::PoolState;
pub use report::ConnectorReport;
pub use retire::RetireReason;
pub(crate) use retire::jittered;
pub(crate) use retry::RetryPolicy;
pub(crate) use sent::SentTokens;
pub(crate) use setters::setters;
pub(crate) use silent::{
    KEEPALIVE, KEEPALIVE_RETRIES, SilentServer, TCP_USER_TIMEOUT, keepalive_interval, socket_time,
};
pub use stage::Stage;

use self::{refusals::Refusals, renewal::Renewals, retry::Retries};
use crate::{
    clock::{self, Clock, Elapsed},
    telemetry::{Database, Failure},
    token::{Token, TokenCache, TokenError},
};

/// The part of connecting that is specific to a database.
pub(crate) trait Driver: Send + Sync + 'static {
    /// A logged-in connection.
    type Connection: Send;
    /// The error of a failed connect.
    type Error: Failure + Send;
    /// The server's answer to a refused login.
    type Refusal: Clone + Send;

    /// Returns the name of the server, or the names of all servers, for error messages.
    fn servers(&self) -> String;

    /// Returns the pauses between retries and the configured number of retries.
    fn retry_policy(&self) -> RetryPolicy;

    /// Connects and logs in once with this token, and records each stage that it reaches. Errors
    /// and logs contain the server's texts only as excerpts by [`Attempt::sent`].
    fn log_in(
        &self,
        token: &Token,
        attempt: &Attempt<Self::Error>,
    ) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;

    /// Returns how long after a successful login a refusal is considered temporary.
    fn patience(&self) -> Duration;

    /// Returns the refusal if this error is a refused login, so that other callers can get it.
    fn refusal(&self, error: &Self::Error) -> Option<Self::Refusal>;

    /// Returns the error for a caller that gets an earlier refusal instead of logging in.
    fn repeat(&self, refusal: Self::Refusal) -> impl Future<Output = Self::Error> + Send;

    /// Returns whether another login may succeed after this error. `known` is whether the server
    /// has accepted or routed a login before.
    fn outlook(&self, error: &Self::Error, known: bool) -> Outlook;

    /// Adds to a refusal `second_login`, a sentence about the login with another token.
    fn refused(
        &self,
        refusal: Self::Error,
        token: &Token,
        second_login: &str,
    ) -> impl Future<Output = Self::Error> + Send;

    /// Returns the error of a connect for which the identity returned no token.
    fn no_token(&self, source: TokenError) -> Self::Error;

    /// Returns the error of a connect that reached its deadline.
    fn timed_out(&self, progress: Progress<Self::Error>, limit: Duration) -> Self::Error;
}

/// Whether another login may succeed after an error, from the least likely to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outlook {
    /// The next login would fail as well.
    Final,
    /// The server refused this token; another one may be accepted.
    TokenRefused,
    /// The error may be transient or permanent.
    MayRecover,
    /// The server itself reports that the error is transient.
    Transient,
}

/// The last sentence of a refusal that is returned instead of logging in again.
pub(crate) const REPEATED: &str =
    "The connector returned its last refusal instead of logging in again.";

/// Connects with a [`Driver`] and with tokens from a cache.
pub(crate) struct Engine<D: Driver> {
    pub(crate) driver: D,
    pub(crate) tokens: TokenCache,
    pub(crate) metrics: Arc<ConnectorMetrics>,
    /// The tokens that logins have sent to servers.
    pub(crate) sent: SentTokens,
    renewals: Renewals,
    refusals: Refusals<D::Refusal>,
    limit: Duration,
}

impl<D: Driver> Engine<D> {
    /// Creates an engine. `limit` is the time limit of one connect.
    pub(crate) fn new(driver: D, tokens: TokenCache, database: Database, limit: Duration) -> Self {
        Self {
            driver,
            tokens,
            metrics: Arc::new(ConnectorMetrics::new(database)),
            sent: SentTokens::default(),
            renewals: Renewals::default(),
            refusals: Refusals::new(),
            limit,
        }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.tokens.clock()
    }

    pub(crate) fn report(&self) -> ConnectorReport {
        self.metrics.report(self.tokens.report())
    }

    /// Connects and logs in before the deadline of a caller that started at `began`, on the
    /// monotonic clock.
    pub(crate) async fn connect(&self, began: Duration) -> Result<D::Connection, D::Error> {
        // Boxed, because the future is large and moved several times.
        let connecting = Box::pin(self.connect_in_time(began));
        self.metrics.connect(&**self.clock(), connecting).await
    }

    async fn connect_in_time(&self, began: Duration) -> Result<D::Connection, D::Error> {
        let (servers, sent) = (self.driver.servers(), self.sent.clone());
        let known = self.metrics.has_logged_in();
        let attempt = Attempt::new(servers, sent, began, self.limit, known);
        let connecting = self.connect_with_retries(&attempt);
        let left = attempt.left(self.clock().monotonic());
        match clock::timeout(&**self.clock(), left, connecting).await {
            Ok(connected) => connected,
            Err(Elapsed) => Err(match attempt.take() {
                Progress { stage: Stage::Token, failed: None, .. } => {
                    self.driver.no_token(self.tokens.timed_out(self.limit))
                }
                progress => self.driver.timed_out(progress, self.limit),
            }),
        }
    }

    async fn connect_with_retries(
        &self,
        attempt: &Attempt<D::Error>,
    ) -> Result<D::Connection, D::Error> {
        let mut retries = Retries::new(self.driver.retry_policy());
        loop {
            if let Err(refusal) = self.refusals.turn(&**self.clock(), attempt).await {
                self.metrics.damped();
                return Err(self.driver.repeat(refusal).await);
            }
            let error = match self.connect_once(attempt).await {
                Ok(connection) => {
                    self.refusals.accepted(self.clock().monotonic());
                    self.renewals.succeeded();
                    return Ok(connection);
                }
                Err(error) => error,
            };
            if let Some(refusal) = self.driver.refusal(&error) {
                let now = self.clock().monotonic();
                match self.refusals.refused(refusal, now, self.driver.patience(), attempt) {
                    Some(pause) if retries.may_repeat() => self.metrics.retried(&error, pause),
                    _ => return Err(error),
                }
                attempt.failed(error);
                continue;
            }
            let known = self.metrics.has_logged_in();
            // A server that routed the login to another one is known to exist.
            let outlook = self.driver.outlook(&error, known || attempt.was_routed());
            let left = attempt.left(self.clock().monotonic());
            let Some(pause) = retries.pause_after(outlook, known, left, fastrand::f64()) else {
                return Err(error);
            };
            self.metrics.retried(&error, pause);
            attempt.failed(error);
            self.clock().sleep(pause).await;
        }
    }

    /// Logs in, and retries once with another token if the server refuses the first one.
    async fn connect_once(&self, attempt: &Attempt<D::Error>) -> Result<D::Connection, D::Error> {
        let Self { driver, tokens, .. } = self;
        let is_refused = |error: &D::Error| driver.outlook(error, true) == Outlook::TokenRefused;
        attempt.reached(Stage::Token);
        let token = tokens.token().await.map_err(|source| driver.no_token(source))?;
        let refusal = match self.log_in(&token, attempt).await {
            Err(error) if is_refused(&error) => error,
            outcome => return outcome,
        };
        attempt.reached(Stage::Token);
        // A token that expired during the login was refused because of its expiry.
        let successor = tokens.successor_of(&token).await;
        let other = match successor.map_err(|source| driver.no_token(source))? {
            Some(successor) => Ok(successor),
            None => self.renewals.renew(tokens, &token, attempt).await,
        };
        let other = match other {
            Ok(other) => other,
            Err(none) => return Err(driver.refused(refusal, &token, &none).await),
        };
        self.metrics.renewed();
        // The cause of the caller's error if the second login reaches the deadline.
        let no_time = "There was no time left to try another token.";
        attempt.failed(driver.refused(refusal, &token, no_time).await);
        let refusal = match self.log_in(&other, attempt).await {
            Err(error) if is_refused(&error) => error,
            outcome => return outcome,
        };
        self.renewals.pause(tokens, &other);
        Err(driver.refused(refusal, &other, "Another token was refused as well.").await)
    }

    async fn log_in(
        &self,
        token: &Token,
        attempt: &Attempt<D::Error>,
    ) -> Result<D::Connection, D::Error> {
        self.sent.add(token);
        // Boxed, because the future is large and moved several times.
        Box::pin(self.driver.log_in(token, attempt)).await
    }
}
