//! What connecting means for any database: get a token, log in, renew a refused token
//! once, retry what may recover, and all of it before one deadline.
//!
//! Here are the types that both databases share.
// A database implements `Driver`, which makes one attempt and classifies its errors. This
// room knows tokens, telemetry and the clock, and no driver.

mod attempt;
mod flights;
mod metrics;
mod orphans;
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
pub(crate) use pool::{drained, fill};
pub(crate) use pool_state::PoolState;
pub use report::ConnectorReport;
pub use retire::RetireReason;
pub(crate) use retire::jittered;
pub(crate) use retry::RetryPolicy;
pub(crate) use sent::Sent;
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

/// One database's half of connecting.
pub(crate) trait Driver: Send + Sync + 'static {
    /// A connection that is logged in.
    type Connection: Send;
    /// Why there is no connection.
    type Error: Failure + Send;
    /// What the server said to a refused login.
    type Refusal: Clone + Send;

    /// The server, or all of them, as errors name it.
    fn servers(&self) -> String;

    /// Which errors are retried, and after which pauses.
    fn retry_policy(&self) -> RetryPolicy;

    /// Connects and logs in once with this token, and reports each stage it reaches. Texts
    /// of the server go into errors and logs as excerpts of [`Attempt::sent`].
    fn log_in(
        &self,
        token: &Token,
        attempt: &Attempt<Self::Error>,
    ) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;

    /// How long after a login a refusal counts as temporary, because the server accepted this
    /// identity before.
    fn patience(&self) -> Duration;

    /// Returns the refusal of a login, for other callers.
    fn refusal(&self, error: &Self::Error) -> Option<Self::Refusal>;

    /// Returns the error of a login that would be refused as well.
    fn repeat(&self, refusal: Self::Refusal) -> impl Future<Output = Self::Error> + Send;

    /// What another login promises after this error. `known`: the server has answered
    /// before.
    fn outlook(&self, error: &Self::Error, known: bool) -> Outlook;

    /// The error of a refused login, with a sentence on what became of the second login.
    fn refused(
        &self,
        refusal: Self::Error,
        token: &Token,
        second_login: &str,
    ) -> impl Future<Output = Self::Error> + Send;

    /// The identity returned no token.
    fn no_token(&self, source: TokenError) -> Self::Error;

    /// The deadline has passed.
    fn timed_out(&self, progress: Progress<Self::Error>, limit: Duration) -> Self::Error;
}

/// What another login promises after an error, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outlook {
    /// The next login would fail as well.
    Final,
    /// The server refused this token; another one may be accepted.
    TokenRefused,
    /// The error may recover, or may last.
    MayRecover,
    /// The server itself says that the error is transient.
    Transient,
}

/// The end of a refusal that answers a connect without a login of its own.
pub(crate) const REPEATED: &str =
    "The connector repeated its last refusal instead of logging in again.";

/// Connects by a [`Driver`], with tokens from a cache.
pub(crate) struct Engine<D: Driver> {
    pub(crate) driver: D,
    pub(crate) tokens: TokenCache,
    pub(crate) metrics: Arc<ConnectorMetrics>,
    /// What logins have sent.
    pub(crate) sent: Sent,
    renewals: Renewals,
    refusals: Refusals<D::Refusal>,
    limit: Duration,
}

impl<D: Driver> Engine<D> {
    /// `limit` is the time that one connect may take.
    pub(crate) fn new(driver: D, tokens: TokenCache, database: Database, limit: Duration) -> Self {
        Self {
            driver,
            tokens,
            metrics: Arc::new(ConnectorMetrics::new(database)),
            sent: Sent::default(),
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

    /// Connects and logs in before the deadline of a caller that began then, by the monotonic
    /// clock.
    pub(crate) async fn connect(&self, began: Duration) -> Result<D::Connection, D::Error> {
        // Boxed, because it is large and moved several times.
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
            // A server that has routed the login elsewhere exists.
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

    /// Logs in, and once more with another token if the server refuses the first.
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
        // A token that expired on the way was refused for that reason.
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
        // The caller gets this if the second login runs into the deadline.
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
        // Boxed, because it is large and moved several times.
        Box::pin(self.driver.log_in(token, attempt)).await
    }
}
