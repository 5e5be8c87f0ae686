// Some of what is measured goes into metrics only.
#![cfg_attr(not(feature = "metrics"), allow(unused_variables))]

use std::{
    error::Error,
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
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
    logins: AtomicU64,
    refused: AtomicU64,
    renewed: AtomicU64,
    retried: AtomicU64,
    retired: Vec<(R, AtomicU64)>,
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
#[derive(Debug)]
pub(crate) struct Counts<R> {
    pub(crate) logins: u64,
    pub(crate) refused: u64,
    pub(crate) renewed: u64,
    pub(crate) retried: u64,
    /// Only those that occurred.
    pub(crate) retired: Vec<(R, u64)>,
}

impl<R: Reason> ConnectorMetrics<R> {
    pub(crate) fn new(database: Database, reasons: impl IntoIterator<Item = R>) -> Self {
        let metrics = Self {
            database,
            logins: AtomicU64::default(),
            refused: AtomicU64::default(),
            renewed: AtomicU64::default(),
            retried: AtomicU64::default(),
            retired: reasons.into_iter().map(|reason| (reason, AtomicU64::default())).collect(),
        };
        #[cfg(feature = "metrics")]
        metrics.count_from_zero();
        metrics
    }

    pub(crate) fn pool_name(&self) -> &str {
        &self.database.pool
    }

    pub(crate) fn has_logged_in(&self) -> bool {
        self.logins.load(Relaxed) > 0
    }

    pub(crate) fn counts(&self) -> Counts<R> {
        Counts {
            logins: self.logins.load(Relaxed),
            refused: self.refused.load(Relaxed),
            renewed: self.renewed.load(Relaxed),
            retried: self.retried.load(Relaxed),
            retired: self
                .retired
                .iter()
                .map(|(reason, count)| (*reason, count.load(Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
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
                count(&self.logins);
                tracing::debug!(?took, "connected");
            }
            Some(failure) => {
                let error_type = failure.error_type();
                record_error(span, error_type);
                if let Some(code) = failure.status_code() {
                    span.record("db.response.status_code", code);
                }
                if error_type == LOGIN_REFUSED {
                    count(&self.refused);
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
        count(&self.retried);
        #[cfg(feature = "metrics")]
        metrics::LOGIN_RETRIED.count(self.labels().with_error(Some(failure.error_type())));
        let error = failure as &dyn Error;
        tracing::info!(error, ?pause, "the connect is tried again");
    }

    /// A login was refused, and is tried again with another token.
    pub(crate) fn renewed(&self) {
        count(&self.renewed);
        #[cfg(feature = "metrics")]
        metrics::LOGIN_RENEWED.count(self.labels());
        tracing::info!("the refused login is tried again with another token");
    }

    /// The span of the round trip that makes a connection fit for its next borrower.
    pub(crate) fn recycle_span(&self) -> Span {
        self.database.recycle_span()
    }

    /// A connection is not used again. No pool tells why: here it is told.
    pub(crate) fn retired(&self, reason: R) {
        if let Some((_, counter)) = self.retired.iter().find(|(other, _)| *other == reason) {
            count(counter);
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
        for (reason, _) in &self.retired {
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

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
