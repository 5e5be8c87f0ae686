// Without the feature `metrics`, some arguments are unused.
#![cfg_attr(not(feature = "metrics"), allow(unused_variables))]

use std::{error::Error, time::Duration};

use tracing::{Instrument, Span};

use super::{ConnectorReport, RetireReason};
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::{self, Labels};
use crate::{
    clock::Clock,
    lock::Lock,
    telemetry::{Database, Failure, LOGIN_REFUSED, record_error},
    token::{TokenReport, with_causes},
};

/// The target of events: that of the spans, so that one filter enables both.
pub(super) const TARGET: &str = "entra_pool::telemetry";

/// The counters of a connector. Each method also logs what it counts, and records its metrics.
#[derive(Debug)]
pub(crate) struct ConnectorMetrics {
    database: Database,
    counts: Lock<Counts>,
    last_error: Lock<Option<String>>,
}

/// The counts of a connector's report.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    logins: u64,
    refused: u64,
    renewed: u64,
    damped: u64,
    adopted: u64,
    retried: u64,
    /// In the order of [`RetireReason::ALL`].
    retired: [u64; RetireReason::ALL.len()],
}

impl ConnectorMetrics {
    pub(super) fn new(database: Database) -> Self {
        let metrics = Self { database, counts: Lock::default(), last_error: Lock::default() };
        #[cfg(feature = "metrics")]
        metrics.count_from_zero();
        metrics
    }

    pub(crate) fn pool_name(&self) -> &str {
        &self.database.pool
    }

    pub(crate) fn has_logged_in(&self) -> bool {
        self.counts.lock().logins > 0
    }

    pub(super) fn report(&self, token: TokenReport) -> ConnectorReport {
        let Counts { logins, refused, renewed, damped, adopted, retried, retired } =
            *self.counts.lock();
        let retired = RetireReason::ALL.into_iter().map(|(reason, ..)| reason).zip(retired);
        let retired = retired.filter(|(_, count)| *count > 0).collect();
        let last_error = self.last_error.lock().clone();
        ConnectorReport {
            logins,
            refused,
            renewed,
            damped,
            adopted,
            retried,
            last_error,
            retired,
            token,
        }
    }

    /// Measures a connect. A connect that is dropped before it finishes is not counted.
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
                self.counts.lock().logins += 1;
                *self.last_error.lock() = None;
                tracing::debug!(target: TARGET, ?took, "connected");
            }
            Some(failure) => {
                let error_type = failure.error_type();
                *self.last_error.lock() = Some(with_causes(failure));
                record_error(span, error_type);
                if let Some(code) = failure.status_code() {
                    span.record("db.response.status_code", code);
                }
                if error_type == LOGIN_REFUSED {
                    self.counts.lock().refused += 1;
                    #[cfg(feature = "metrics")]
                    metrics::LOGIN_REFUSED.count(self.labels());
                }
                tracing::debug!(target: TARGET, error = failure as &dyn Error, ?took, "cannot connect");
            }
        }
        #[cfg(feature = "metrics")]
        metrics::CREATE_TIME
            .record(self.labels().with_error(failure.map(Failure::error_type)), took);
    }

    /// Records that a connect failed and tries again after the pause.
    pub(crate) fn retried(&self, failure: &impl Failure, pause: Duration) {
        self.counts.lock().retried += 1;
        *self.last_error.lock() = Some(with_causes(failure));
        #[cfg(feature = "metrics")]
        metrics::LOGIN_RETRIED.count(self.labels().with_error(Some(failure.error_type())));
        let error = failure as &dyn Error;
        tracing::info!(target: TARGET, error, ?pause, "retrying to connect");
    }

    /// Records that a login was refused and is retried with another token.
    pub(crate) fn renewed(&self) {
        self.counts.lock().renewed += 1;
        #[cfg(feature = "metrics")]
        metrics::LOGIN_RENEWED.count(self.labels());
        tracing::info!(target: TARGET, "retrying the refused login with another token");
    }

    /// Records that a connect returned an earlier refusal instead of logging in.
    pub(crate) fn damped(&self) {
        self.counts.lock().damped += 1;
    }

    /// Records that a caller adopted a login whose caller had given up.
    pub(crate) fn adopted(&self) {
        self.counts.lock().adopted += 1;
        tracing::debug!(target: TARGET, pool = self.pool_name(), "login adopted");
    }

    /// Runs the round trip that prepares a connection for its next borrower, in a span.
    pub(crate) async fn recycle<T>(
        &self,
        cleaning: impl Future<Output = Result<T, RetireReason>>,
    ) -> Result<T, RetireReason> {
        let span = self.database.recycle_span();
        let cleaned = cleaning.instrument(span.clone()).await;
        cleaned.inspect_err(|reason| record_error(&span, reason.label()))
    }

    /// Records why a connection was retired, because pools do not report it.
    pub(crate) fn retired(&self, reason: RetireReason) {
        self.counts.lock().retired[reason as usize] += 1;
        #[cfg(feature = "metrics")]
        metrics::RETIRED.count(self.labels_of(reason));
        tracing::debug!(target: TARGET, %reason, pool = self.pool_name(), "connection retired");
    }

    /// Creates the counters with 0. Otherwise, a rate would not include the first event.
    #[cfg(feature = "metrics")]
    fn count_from_zero(&self) {
        metrics::LOGIN_REFUSED.count_from_zero(self.labels());
        metrics::LOGIN_RENEWED.count_from_zero(self.labels());
        for (reason, ..) in RetireReason::ALL {
            metrics::RETIRED.count_from_zero(self.labels_of(reason));
        }
    }

    #[cfg(feature = "metrics")]
    fn labels_of(&self, reason: RetireReason) -> Labels {
        self.labels().with(metrics::RETIRE_REASON, reason.label())
    }

    #[cfg(feature = "metrics")]
    fn labels(&self) -> Labels {
        Labels::of_pool(self.database.pool.clone()).with(metrics::SYSTEM_NAME, self.database.system)
    }
}
