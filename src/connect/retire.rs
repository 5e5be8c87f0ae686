use std::{fmt, time::Duration};

/// Why a connection was retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetireReason {
    /// The connection was closed, or reading or writing failed.
    Closed,
    /// A request was dropped before its response was complete, or the response did not arrive in
    /// time.
    Unsettled,
    /// A query was cancelled (Azure SQL).
    Cancelled,
    /// The server sent an error that terminates the session: class 20 or above, or 37396, an
    /// expired token (Azure SQL).
    SevereError,
    /// The server refused to change a read-only database: after a failover, the connection leads to
    /// a secondary. Not used if the configuration asks for a read-only session.
    ReadOnly,
    /// A returned connection had an open transaction that could not be rolled back: with `Fast`, or
    /// if cleaning in the background was not possible (Azure SQL).
    TransactionOpen,
    /// The server did not acknowledge that it reset the session (Azure SQL).
    ResetNotAcknowledged,
    /// The connection reached its maximum lifetime.
    Age,
    /// The connection was idle for longer than the idle timeout.
    Idle,
    /// The token of its login expires soon, and a newer one is available (Azure SQL; PostgreSQL
    /// checks a token only during the login).
    TokenExpiry,
    /// The session could not be cleaned, or it was not clean afterwards.
    Recycling,
    /// The server did not respond on another connection, and nothing has been received on this
    /// connection since then.
    Silent,
}

impl RetireReason {
    /// The reasons in the order of the variants, each with its label and its `Display` text.
    pub(super) const ALL: [(Self, &'static str, &'static str); 12] = [
        (Self::Closed, "closed", "the connection was closed"),
        (Self::Unsettled, "unsettled", "its last request did not complete"),
        (Self::Cancelled, "cancelled", "its last request was cancelled"),
        (Self::SevereError, "severe_error", "the server terminated its session with an error"),
        (Self::ReadOnly, "read_only", "its server is read-only"),
        (Self::TransactionOpen, "transaction_open", "a transaction was left open"),
        (
            Self::ResetNotAcknowledged,
            "reset_not_acknowledged",
            "the server did not acknowledge the reset of its session",
        ),
        (Self::Age, "age", "it reached its maximum lifetime"),
        (Self::Idle, "idle", "it reached its idle timeout"),
        (Self::TokenExpiry, "token_expiry", "the token of its login expires soon"),
        (Self::Recycling, "recycling", "its session could not be cleaned"),
        (Self::Silent, "silent", "another connection to this server just failed its health check"),
    ];

    /// Returns a fixed label, for metrics and spans.
    pub(super) fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].2)
    }
}

/// Returns `lifetime` minus up to a third, by `jitter` from 0 to 1. Connections that were opened
/// together are then replaced at evenly spread times from the third lifetime on.
pub(crate) fn jittered(lifetime: Duration, jitter: f64) -> Duration {
    lifetime.saturating_sub((lifetime / 3).mul_f64(jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_are_in_the_order_of_their_variants() {
        for (at, (reason, ..)) in RetireReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{reason}");
        }
    }

    #[test]
    fn jitter_shortens_a_lifetime_by_up_to_a_third() {
        let minute = Duration::from_secs(60);
        assert_eq!([0.0, 0.5, 1.0].map(|jitter| jittered(minute, jitter).as_secs()), [60, 50, 40]);
        assert!(jittered(Duration::MAX, 1.0) > Duration::MAX / 2);
    }
}
