use std::sync::atomic::{AtomicU64, Ordering};

use super::RetireReason;
use crate::token::TokenReport;

/// How a connector stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectorReport {
    /// Logins that succeeded.
    pub logins: u64,
    /// Connects that ended in a refused login.
    pub refused: u64,
    /// Logins that were tried again with another token.
    pub renewed: u64,
    /// Logins that were tried again after a transient error.
    pub retried: u64,
    /// Connections that were not used again, by reason; only those that occurred.
    pub retired: Vec<(RetireReason, u64)>,
    /// How the tokens stand.
    pub token: TokenReport,
}

/// What a [`ConnectorReport`] is made of, as it is counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) logins: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) renewed: AtomicU64,
    pub(super) retried: AtomicU64,
    retired: [AtomicU64; RetireReason::ALL.len()],
}

impl Counters {
    pub(super) fn has_logged_in(&self) -> bool {
        self.logins.load(Ordering::Relaxed) > 0
    }

    pub(super) fn retired(&self, reason: RetireReason) {
        count(&self.retired[reason as usize]);
    }

    pub(super) fn report(&self, token: TokenReport) -> ConnectorReport {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ConnectorReport {
            logins: read(&self.logins),
            refused: read(&self.refused),
            renewed: read(&self.renewed),
            retried: read(&self.retried),
            retired: RetireReason::ALL
                .into_iter()
                .zip(self.retired.iter().map(read))
                .filter(|(_, count)| *count > 0)
                .collect(),
            token,
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
