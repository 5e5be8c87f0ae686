use std::{fmt, time::Duration};

/// Why a connection was not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetireReason {
    /// It was closed, or reading or writing failed.
    Closed,
    /// A request was dropped before its response was complete, or the response did not arrive in
    /// time.
    Unsettled,
    /// A query was cancelled (Azure SQL).
    Cancelled,
    /// The server sent an error that ends the session: class 20 or above, or 37396, an
    /// expired token (Azure SQL).
    SevereError,
    /// The server refused to change a database that is read-only: since a failover, the connection
    /// leads to a secondary. Not where the configuration asks for a read-only session.
    ReadOnly,
    /// A transaction was left open and not rolled back: with `Fast`, or where no cleaning could
    /// run in the background (Azure SQL).
    TransactionOpen,
    /// The server did not acknowledge that it reset the session (Azure SQL).
    ResetNotAcknowledged,
    /// It reached its maximum lifetime.
    Age,
    /// It was idle for longer than the idle timeout.
    Idle,
    /// The token it logged in with expires soon, and there is a newer one (Azure SQL; PostgreSQL
    /// checks a token once, at the login).
    TokenExpiry,
    /// The session could not be cleaned, or was not clean afterwards.
    Recycling,
    /// Another connection to this server did not respond, and this one has not been heard from
    /// since.
    Silent,
}

impl RetireReason {
    /// Each reason in the order of the variants, its label, and what `Display` writes.
    pub(super) const ALL: [(Self, &'static str, &'static str); 12] = [
        (Self::Closed, "closed", "the connection was closed"),
        (Self::Unsettled, "unsettled", "its last request did not end"),
        (Self::Cancelled, "cancelled", "its last request was cancelled"),
        (Self::SevereError, "severe_error", "the server ended its session with an error"),
        (Self::ReadOnly, "read_only", "its server is read-only"),
        (Self::TransactionOpen, "transaction_open", "a transaction was left open"),
        (
            Self::ResetNotAcknowledged,
            "reset_not_acknowledged",
            "the server did not acknowledge the reset of its session",
        ),
        (Self::Age, "age", "it reached its maximum lifetime"),
        (Self::Idle, "idle", "it was idle for too long"),
        (Self::TokenExpiry, "token_expiry", "its token expires soon"),
        (Self::Recycling, "recycling", "its session could not be cleaned"),
        (Self::Silent, "silent", "another connection to this server just failed its health check"),
    ];

    /// The reason in a word of few, for labels and spans.
    pub(super) fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].2)
    }
}

/// `lifetime` minus up to a third, by `jitter` from 0 to 1, so that pools that were started
/// together log in evenly from the third lifetime on. With a tenth, that takes a day.
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
    fn a_lifetime_ends_up_to_a_third_earlier() {
        let minute = Duration::from_secs(60);
        assert_eq!([0.0, 0.5, 1.0].map(|jitter| jittered(minute, jitter).as_secs()), [60, 50, 40]);
        assert!(jittered(Duration::MAX, 1.0) > Duration::MAX / 2);
    }
}
