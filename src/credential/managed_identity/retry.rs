//! Decides when a request to an identity endpoint is retried: pure functions of its response and of
//! the elapsed time.

use std::{io::ErrorKind::ConnectionRefused, time::Duration};

use super::{
    http::{Answer, HttpError},
    imds,
};

/// How requests to one host's endpoint are retried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    /// Returns whether the response is a transient failure.
    pub(super) is_transient: fn(&Answer) -> bool,
    /// The maximum number of attempts.
    tries: u32,
    /// Whether pauses double.
    doubling: bool,
    /// The status of a refusal that is retried once: a host that has just started may return it.
    once: Option<u16>,
    /// For how long refused connections are retried. The endpoint starts together with the program,
    /// and may need longer.
    starting: Duration,
}

/// The first pause.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause without `Retry-After`.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// No attempt starts later than this after the first. An update of IMDS (410) can take this long.
const BUDGET: Duration = Duration::from_secs(70);

impl Retry {
    /// "How to use managed identities for Azure resources on an Azure VM to
    /// acquire an access token", section "Retry guidance": 404, 410, 429 and
    /// 5xx with exponential back-off. With four attempts, the error is reported within the 15 s
    /// that a connect has.
    pub(super) const IMDS: Self = Self {
        is_transient: imds::is_transient,
        tries: 4,
        doubling: true,
        once: None,
        // A machine outside of Azure has no IMDS, so there is nothing to wait for.
        starting: Duration::ZERO,
    };

    /// Retries transient statuses, 1 s apart. The sidecar of a container may refuse connections
    /// for up to 5 s (microsoft/azure-container-apps#568, #864). The limit leaves time to report
    /// the error within the 15 s that a connect has.
    pub(super) const APP_SERVICE: Self = Self {
        is_transient: |answer| matches!(answer.status.as_u16(), 404 | 408 | 429 | 500 | 503 | 504),
        tries: 3,
        doubling: false,
        once: Some(401),
        starting: Duration::from_secs(10),
    };

    /// Retries the transient statuses of azcore, 1 s apart. For endpoints whose documentation
    /// lists none.
    pub(super) const LOCAL: Self = Self {
        is_transient: |answer| matches!(answer.status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
        once: None,
        ..Self::APP_SERVICE
    };

    /// Like [`LOCAL`](Self::LOCAL), but without waiting for an endpoint that refuses connections:
    /// only its files exist, so its service may be stopped.
    pub(super) const INSTALLED: Self = Self { starting: Duration::ZERO, ..Self::LOCAL };

    /// Returns whether the endpoint may exist although it refuses connections.
    pub(super) fn may_start_later(&self) -> bool {
        !self.starting.is_zero()
    }

    /// Returns the pause before the next attempt, or `None` to stop. `outcome` is that of the last
    /// attempt, `tries` the number of attempts, and `waited` the time since the first.
    pub(super) fn pause(
        &self,
        outcome: &Result<Answer, HttpError>,
        tries: u32,
        waited: Duration,
    ) -> Option<Duration> {
        let (is_update, retry_after) = match outcome {
            Ok(answer) if (self.is_transient)(answer) => (answer.status == 410, answer.retry_after),
            Ok(answer) if tries == 1 && self.once == Some(answer.status.as_u16()) => (false, None),
            Err(HttpError::ConnectionLost(_) | HttpError::NoAnswer(_)) => (false, None),
            Err(HttpError::Unreachable(error)) if error.kind() == ConnectionRefused => {
                return (waited < self.starting).then_some(PAUSE);
            }
            // After a permanent failure, the caller gets the error at once, and the token cache
            // decides when to send the next request.
            _ => return None,
        };
        let left = BUDGET.checked_sub(waited).filter(|left| !left.is_zero())?;
        if tries >= self.tries && !is_update {
            return None;
        }
        if let Some(asked) = retry_after {
            // An attempt before that time, or without a pause, would fail again.
            let pause = asked.max(PAUSE);
            return (pause <= left).then_some(pause);
        }
        let doublings = if self.doubling { tries.saturating_sub(1).min(16) } else { 0 };
        let pause = (PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
        // The last attempt during an update comes at the end of the budget.
        if is_update { Some(pause.min(left)) } else { (pause <= left).then_some(pause) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use reqwest::StatusCode;
    use zeroize::Zeroizing;

    use super::*;

    /// Returns all pauses if every attempt gets this response at once.
    fn pauses(retry: &Retry, status: u16, retry_after: Option<u64>) -> Vec<u64> {
        let outcome = Ok(Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: retry_after.map(Duration::from_secs),
            headers: reqwest::header::HeaderMap::new(),
            body: Zeroizing::new(b"{}".to_vec()),
            asked_at: SystemTime::UNIX_EPOCH,
        });
        let (mut pauses, mut waited) = (Vec::new(), Duration::ZERO);
        for tries in 1.. {
            let Some(pause) = retry.pause(&outcome, tries, waited) else { break };
            waited += pause;
            pauses.push(pause.as_secs());
        }
        pauses
    }

    #[test]
    fn imds_is_retried_with_exponential_back_off() {
        for status in [404, 408, 429, 500, 502, 503, 504, 599] {
            assert_eq!(pauses(&Retry::IMDS, status, None), [1, 2, 4], "{status}");
        }
        for status in [200, 302, 400, 401, 403, 405] {
            assert!(pauses(&Retry::IMDS, status, None).is_empty(), "{status}");
        }
    }

    #[test]
    fn during_an_update_imds_is_retried_for_70_seconds() {
        assert_eq!(pauses(&Retry::IMDS, 410, None), [1, 2, 4, 8, 16, 16, 16, 7]);
    }

    #[test]
    fn retry_after_takes_precedence_unless_it_is_too_long() {
        assert_eq!(pauses(&Retry::IMDS, 429, Some(3)), [3, 3, 3]);
        assert_eq!(pauses(&Retry::IMDS, 503, Some(0)), [1, 1, 1]);
        assert_eq!(pauses(&Retry::IMDS, 429, Some(60)), [60]);
        assert!(pauses(&Retry::IMDS, 429, Some(71)).is_empty());
        assert_eq!(pauses(&Retry::APP_SERVICE, 429, Some(5)), [5, 5]);
    }

    #[test]
    fn app_service_gets_three_attempts() {
        for status in [404, 408, 429, 500, 503, 504] {
            assert_eq!(pauses(&Retry::APP_SERVICE, status, None), [1, 1], "{status}");
        }
        for status in [200, 400, 403, 410, 502] {
            assert!(pauses(&Retry::APP_SERVICE, status, None).is_empty(), "{status}");
        }
        assert_eq!(pauses(&Retry::APP_SERVICE, 401, None), [1]);
    }

    #[test]
    fn a_refused_connection_is_retried_while_the_endpoint_may_be_starting() {
        let refused = Err(HttpError::Unreachable(ConnectionRefused.into()));
        let after = |retry: Retry, waited| retry.pause(&refused, 99, Duration::from_secs(waited));
        for retry in [Retry::APP_SERVICE, Retry::LOCAL] {
            assert_eq!(after(retry, 9), Some(Duration::from_secs(1)));
            assert_eq!(after(retry, 10), None);
        }
        for retry in [Retry::IMDS, Retry::INSTALLED] {
            assert_eq!(after(retry, 0), None);
        }
        let silent = Err(HttpError::Unreachable(std::io::ErrorKind::TimedOut.into()));
        assert_eq!(Retry::APP_SERVICE.pause(&silent, 1, Duration::ZERO), None);
    }

    #[test]
    fn the_other_endpoints_get_three_attempts() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(pauses(&Retry::LOCAL, status, None), [1, 1], "{status}");
        }
        for status in [200, 400, 401, 403, 404, 410, 501] {
            assert!(pauses(&Retry::LOCAL, status, None).is_empty(), "{status}");
        }
    }

    #[test]
    fn a_timeout_is_retried_within_the_budget() {
        let silent_server = Err(HttpError::NoAnswer(Duration::from_secs(20)));
        let after =
            |tries, waited| Retry::IMDS.pause(&silent_server, tries, Duration::from_secs(waited));
        assert_eq!(after(1, 20), Some(Duration::from_secs(1)));
        assert_eq!(after(3, 63), Some(Duration::from_secs(4)));
        assert_eq!(after(3, 70), None);
        let unusable = Err(HttpError::Unusable(crate::credential::InvalidAnswer::Empty));
        assert_eq!(Retry::IMDS.pause(&unusable, 1, Duration::ZERO), None);
    }
}
