// Some of what is measured goes into metrics only.
#![cfg_attr(not(feature = "metrics"), allow(unused_variables))]

use std::{
    error::Error,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{Instrument, Span};

#[cfg(feature = "metrics")]
use super::metrics::{self, Labels};
use super::{Database, record_error};
use crate::clock::Clock;

/// What a connector does: counted for its report, told to the log, and measured, in one
/// place.
#[derive(Debug)]
pub(crate) struct ConnectorMetrics<R> {
    database: Database,
    counts: Mutex<Counts<R>>,
}

/// Why a connection is retired.
pub(crate) trait Reason: Copy + PartialEq + fmt::Display {
    /// The reason in a word of few, for a label.
    fn label(self) -> &'static str;
}

/// Why there is no connection.
pub(crate) trait Failure: Error + 'static {
    /// `error.type`: a word of few.
    fn error_type(&self) -> &'static str;

    /// `db.response.status_code`: what the server calls it.
    fn status_code(&self) -> Option<String>;
}

/// The `error.type` of a login that stays refused.
pub(crate) const LOGIN_REFUSED: &str = "login_refused";

/// What a connector's report says.
#[derive(Debug, Clone)]
pub(crate) struct Counts<R> {
    pub(crate) logins: u64,
    pub(crate) refused: u64,
    pub(crate) renewed: u64,
    pub(crate) damped: u64,
    pub(crate) adopted: u64,
    pub(crate) retried: u64,
    pub(crate) retired: Vec<(R, u64)>,
}

impl<R: Reason> ConnectorMetrics<R> {
    pub(crate) fn new(database: Database, reasons: impl IntoIterator<Item = R>) -> Self {
        let metrics = Self {
            database,
            counts: Mutex::new(Counts {
                logins: 0,
                refused: 0,
                renewed: 0,
                damped: 0,
                adopted: 0,
                retried: 0,
                retired: reasons.into_iter().map(|reason| (reason, 0)).collect(),
            }),
        };
        #[cfg(feature = "metrics")]
        metrics.count_from_zero();
        metrics
    }

    pub(crate) fn pool_name(&self) -> &str {
        &self.database.pool
    }

    pub(crate) fn has_logged_in(&self) -> bool {
        self.count().logins > 0
    }

    /// Of the reasons, only those that occurred.
    pub(crate) fn counts(&self) -> Counts<R> {
        let mut counts = self.count().clone();
        counts.retired.retain(|(_, count)| *count > 0);
        counts
    }

    fn count(&self) -> MutexGuard<'_, Counts<R>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connect, from its begin to its end. One that is dropped before counts for
    /// nothing.
    pub(crate) async fn connect<T, E: Failure>(
        &self,
        clock: &dyn Clock,
        connecting: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let span = self.database.connect_span();
        let began = clock.monotonic();
        let result = connecting.instrument(span.clone()).await;
        let took = clock.monotonic().saturating_sub(began);
        span.in_scope(|| self.connected(&span, took, result.as_ref().err()));
        result
    }

    fn connected<E: Failure>(&self, span: &Span, took: Duration, failure: Option<&E>) {
        match failure {
            None => {
                self.count().logins += 1;
                tracing::debug!(?took, "connected");
            }
            Some(failure) => {
                let error_type = failure.error_type();
                record_error(span, error_type);
                if let Some(code) = failure.status_code() {
                    span.record("db.response.status_code", code);
                }
                if error_type == LOGIN_REFUSED {
                    self.count().refused += 1;
                    #[cfg(feature = "metrics")]
                    metrics::LOGIN_REFUSED.count(self.labels());
                }
                tracing::debug!(error = failure as &dyn Error, ?took, "no connection");
            }
        }
        #[cfg(feature = "metrics")]
        metrics::CREATE_TIME
            .record(self.labels().with_error(failure.map(Failure::error_type)), took);
    }

    /// A connect failed, and another try comes after the pause.
    pub(crate) fn retried(&self, failure: &impl Failure, pause: Duration) {
        self.count().retried += 1;
        #[cfg(feature = "metrics")]
        metrics::LOGIN_RETRIED.count(self.labels().with_error(Some(failure.error_type())));
        let error = failure as &dyn Error;
        tracing::info!(error, ?pause, "the connect is tried again");
    }

    /// A login was refused, and is tried again with another token.
    pub(crate) fn renewed(&self) {
        self.count().renewed += 1;
        #[cfg(feature = "metrics")]
        metrics::LOGIN_RENEWED.count(self.labels());
        tracing::info!("the refused login is tried again with another token");
    }

    /// A connect failed with the refusal of another one.
    pub(crate) fn damped(&self) {
        self.count().damped += 1;
    }

    /// A caller adopted a login that lost its caller.
    pub(crate) fn adopted(&self) {
        self.count().adopted += 1;
        tracing::debug!(pool = self.pool_name(), "login adopted");
    }

    /// The span of the round trip that makes a connection fit for its next borrower.
    pub(crate) fn recycle_span(&self) -> Span {
        self.database.recycle_span()
    }

    /// A connection is not used again. No pool tells why: here it is told.
    pub(crate) fn retired(&self, reason: R) {
        if let Some((_, count)) = self.count().retired.iter_mut().find(|(it, _)| *it == reason) {
            *count += 1;
        }
        #[cfg(feature = "metrics")]
        metrics::RETIRED.count(self.labels_of(reason));
        tracing::debug!(%reason, pool = self.pool_name(), "connection retired");
    }

    /// A rate sees the first of its kind only where there was a 0 before.
    #[cfg(feature = "metrics")]
    fn count_from_zero(&self) {
        metrics::LOGIN_REFUSED.count_from_zero(self.labels());
        metrics::LOGIN_RENEWED.count_from_zero(self.labels());
        for (reason, _) in &self.count().retired {
            metrics::RETIRED.count_from_zero(self.labels_of(*reason));
        }
    }

    #[cfg(feature = "metrics")]
    fn labels_of(&self, reason: R) -> Labels {
        self.labels().with(metrics::RETIRE_REASON, reason.label())
    }

    #[cfg(feature = "metrics")]
    fn labels(&self) -> Labels {
        Labels::of_pool(self.database.pool.clone()).with(metrics::SYSTEM_NAME, self.database.system)
    }
}

/// How that round trip has ended.
pub(crate) fn recycled<R: Reason>(span: &Span, result: Result<(), R>) -> Result<(), R> {
    result.inspect_err(|reason| record_error(span, reason.label()))
}

/// A connect has reached a stage: an event of its span.
pub(crate) fn reached(stage: impl fmt::Display, server: &str) {
    tracing::debug!(server, %stage, "connecting");
}
