use std::time::Duration;

use super::Outlook;

/// The shortest time in which a login may complete. With less time left, no login is started.
pub(super) const MIN_LOGIN_TIME: Duration = Duration::from_secs(1);

/// The number of retries after an error that may be permanent, if the server has not accepted a
/// login before.
const RETRIES_IN_DOUBT: u32 = 2;

/// The pauses between the logins of one connect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryPolicy {
    /// The first pause. Each pause is twice as long as the previous one.
    pub(crate) first: Duration,
    /// The longest pause.
    pub(crate) longest: Duration,
    /// The maximum number of retries. `None`: as [`Retries`] describes.
    pub(crate) count: Option<u32>,
}

/// Decides which connects are retried, and when.
///
/// An error that the server reports as transient is retried until the deadline. An error that may
/// recover is also retried until the deadline if the server has accepted a login before, because
/// the server is probably restarting or failing over. Otherwise it is retried only twice, because
/// the name may be misspelt, or a firewall may block the server.
#[derive(Debug)]
pub(super) struct Retries {
    policy: RetryPolicy,
    retried: u32,
    in_doubt: u32,
}

impl Retries {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { policy, retried: 0, in_doubt: 0 }
    }

    /// Counts a retry of a refused login. Returns whether the configured number allows it.
    pub(super) fn may_repeat(&mut self) -> bool {
        self.retried += 1;
        self.policy.count.is_none_or(|count| self.retried <= count)
    }

    /// Returns the pause before the next login, or `None` if the error is not retried. `jitter`,
    /// from 0 to 1, spreads callers that failed at the same moment.
    pub(super) fn pause_after(
        &mut self,
        outlook: Outlook,
        known: bool,
        left: Duration,
        jitter: f64,
    ) -> Option<Duration> {
        let RetryPolicy { first, longest, count } = self.policy;
        let in_doubt = outlook == Outlook::MayRecover && !known;
        let enough = match count {
            Some(count) => self.retried >= count,
            None => in_doubt && self.in_doubt >= RETRIES_IN_DOUBT,
        };
        if outlook < Outlook::MayRecover || left < MIN_LOGIN_TIME || enough {
            return None;
        }
        let pause = first.saturating_mul(1 << self.retried.min(10)).min(longest);
        self.retried += 1;
        self.in_doubt += u32::from(in_doubt);
        // At most half of the remaining time, so that there is time for a last login.
        Some(pause.mul_f64(0.75 + jitter / 2.0).min(left / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn retries(count: Option<u32>) -> Retries {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(5));
        Retries::new(RetryPolicy { first, longest, count })
    }

    fn how_many(mut retries: Retries, outlook: Outlook, known: bool) -> usize {
        (0..20).filter(|_| retries.pause_after(outlook, known, MINUTE, 0.5).is_some()).count()
    }

    #[test]
    fn pauses_double_with_jitter_and_leave_time_for_a_last_login() {
        let mut retries = retries(None);
        let mut pause = |left, jitter| retries.pause_after(Outlook::Transient, false, left, jitter);
        let pauses: Vec<_> = (0..5).map(|_| pause(MINUTE, 0.5)).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5].map(|s| Some(Duration::from_secs(s))));
        let short = Duration::from_secs(4);
        assert_eq!(pause(short, 0.5), Some(short / 2));
        assert_eq!(pause(Duration::from_millis(999), 0.5), None);
        assert_eq!(pause(MINUTE, 0.0), Some(Duration::from_millis(3750)));
        assert_eq!(pause(MINUTE, 1.0), Some(Duration::from_millis(6250)));
    }

    #[test]
    fn transient_errors_are_retried_until_the_deadline_and_permanent_ones_never() {
        for known in [false, true] {
            assert_eq!(how_many(retries(None), Outlook::Transient, known), 20);
            assert_eq!(how_many(retries(None), Outlook::Final, known), 0);
            assert_eq!(how_many(retries(None), Outlook::TokenRefused, known), 0);
        }
    }

    #[test]
    fn an_error_that_may_be_permanent_is_retried_twice_unless_the_server_is_known() {
        assert_eq!(how_many(retries(None), Outlook::MayRecover, false), 2);
        assert_eq!(how_many(retries(None), Outlook::MayRecover, true), 20);
    }

    #[test]
    fn a_configured_number_of_retries_replaces_the_other_limits() {
        assert_eq!(how_many(retries(Some(5)), Outlook::MayRecover, false), 5);
        assert_eq!(how_many(retries(Some(3)), Outlook::Transient, true), 3);
        assert_eq!(how_many(retries(Some(1)), Outlook::MayRecover, false), 1);
        assert_eq!(how_many(retries(Some(0)), Outlook::Transient, true), 0);
    }
}
