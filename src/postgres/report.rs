use super::RetireReason;
use crate::{telemetry::Counts, token::TokenReport};

/// How a [`Connector`](super::Connector) stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectorReport {
    /// Logins that succeeded.
    pub logins: u64,
    /// Connects that ended in a refused login.
    pub refused: u64,
    /// Logins that were tried again with another token.
    pub renewed: u64,
    /// Connects that were tried again after a transient error.
    pub retried: u64,
    /// Connections that its pools did not use again, by reason; only those that
    /// occurred.
    pub retired: Vec<(RetireReason, u64)>,
    /// How the tokens stand.
    pub token: TokenReport,
}

impl ConnectorReport {
    pub(super) fn new(counts: Counts<RetireReason>, token: TokenReport) -> Self {
        let Counts { logins, refused, renewed, retried, retired } = counts;
        Self { logins, refused, renewed, retried, retired, token }
    }
}
