//! Decides when a token is used, refreshed and waited for: pure functions of times.

use std::time::{Duration, SystemTime};

/// The current times of both clocks, read once for a decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) monotonic: Duration,
}

/// The times at which the use of a token changes, set when it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    /// From this time on, the token is refreshed in the background.
    pub(super) refresh_at: SystemTime,
    /// From this time on, callers wait for the next token.
    pub(super) wait_from: SystemTime,
    /// From this time on, the token is not returned, even if there is no other token.
    pub(super) unusable_at: SystemTime,
}

/// How the cached token may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Return the token.
    Use,
    /// Return the token and refresh it in the background.
    UseAndRefresh,
    /// Wait for another token; if none arrives in time, return the cached token.
    WaitWithFallback,
    /// Wait for another token.
    Wait,
}

/// How long a token that is already expired when it arrives is used. This machine's clock is more
/// likely to be wrong than the provider's, and another request would return the same token.
pub(super) const EXPIRED_ON_ARRIVAL: Duration = Duration::from_secs(60);

const FIRST_PAUSE: Duration = Duration::from_secs(30);
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The longest pause after a failure while a token is usable.
const MAX_REFRESH_PAUSE: Duration = Duration::from_secs(20 * 60);
/// The shortest pause: pauses that are a share of the remaining lifetime become ever shorter.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// For this long after a failure, a caller without a usable token gets the same error instead of
/// starting another request.
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);
/// The longest [`failure_lifetime`].
const MAX_FAILURE_LIFETIME: Duration = Duration::from_secs(30);

/// A token is not returned in the last 2 seconds before its expiry.
const EXPIRY_MARGIN: Duration = Duration::from_secs(2);
/// IMDS and `az` repeat a token at most until 5 minutes before its expiry.
const REPEATED_UNTIL: Duration = Duration::from_secs(5 * 60);

impl Schedule {
    /// Returns the times of a token that was requested at `requested` and arrived at `arrived`.
    ///
    /// `jitter` is from 0 to 1 and moves the refresh point earlier, so that processes that
    /// were started together do not send their requests at the same time.
    pub(super) fn new(
        requested: SystemTime,
        arrived: SystemTime,
        expires_on: SystemTime,
        hint: Option<SystemTime>,
        jitter: f64,
    ) -> Self {
        if expires_on <= arrived {
            let end = arrived + EXPIRED_ON_ARRIVAL;
            return Self { refresh_at: arrived, wait_from: end, unusable_at: end };
        }
        // The lifetime starts before the request, because the response may have taken long.
        let life = expires_on.duration_since(requested).unwrap_or_default();
        let margin = Duration::from_secs(30).min(life / 10);
        let hint = hint.filter(|hint| *hint < expires_on);
        let refresh_after = match hint.and_then(|hint| hint.duration_since(requested).ok()) {
            Some(hint) if !hint.is_zero() => shortened(hint, 0.1, jitter),
            // Half to three quarters of the lifetime.
            _ if life >= Duration::from_secs(10 * 60) => shortened(life / 4 * 3, 1.0 / 3.0, jitter),
            _ => life * 4 / 5,
        };
        let wait_from = expires_on - margin;
        Self {
            refresh_at: (requested + refresh_after).min(wait_from),
            wait_from,
            unusable_at: expires_on - EXPIRY_MARGIN.min(margin),
        }
    }

    /// Returns the times after the provider has returned no newer token: the next request follows
    /// after a third of the time until 5 minutes before the expiry; `None` in these 5 minutes.
    ///
    /// The pause is at least a fortieth of the lifetime, so that a provider that repeats its token
    /// gets at most 12 requests for it.
    pub(super) fn repeated(self, arrived: SystemTime, now: SystemTime) -> Option<Self> {
        let repeated_until = self.unusable_at + EXPIRY_MARGIN - REPEATED_UNTIL;
        let left = repeated_until.duration_since(now).ok().filter(|left| !left.is_zero())?;
        let life = self.unusable_at.duration_since(arrived).unwrap_or_default();
        let next = now + (left / 3).max(life / 40).min(left);
        Some(Self { refresh_at: self.refresh_at.max(next), ..self })
    }

    pub(super) fn verdict(&self, now: SystemTime) -> Verdict {
        if now < self.refresh_at {
            Verdict::Use
        } else if now < self.wait_from {
            Verdict::UseAndRefresh
        } else if now < self.unusable_at {
            Verdict::WaitWithFallback
        } else {
            Verdict::Wait
        }
    }
}

/// Returns `time`, shortened by up to `share` of it.
fn shortened(time: Duration, share: f64, jitter: f64) -> Duration {
    time.mul_f64(1.0 - share * jitter.clamp(0.0, 1.0))
}

/// Returns the pause after a failed refresh, while the cached token remains usable for `left`.
///
/// The pause is three quarters of `left`, at most 20 minutes. `jitter` is from 0 to 1 and shortens
/// it by up to a third. If the provider sent `retry_after`, that is the pause, up to half of
/// `left`. Short pauses would multiply the requests of many processes during an outage, and equal
/// pauses would make all of them send their requests at the same time after it.
pub(super) fn retry_pause(left: Duration, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let pause = match retry_after {
        Some(asked) => asked.min(left / 2),
        None => shortened((left / 4 * 3).min(MAX_REFRESH_PAUSE), 1.0 / 3.0, jitter),
    };
    pause.max(MIN_PAUSE)
}

/// Returns the pause of the background task while no token is usable, after `failures` failures in
/// a row. `jitter` shortens it by up to a fifth, unless the provider sent `retry_after`.
pub(super) fn idle_pause(failures: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let pause = retry_after.unwrap_or_else(|| {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10));
        shortened(doubled.min(MAX_PAUSE), 0.2, jitter)
    });
    pause.clamp(MIN_PAUSE, MAX_PAUSE)
}

/// Returns for how long callers without a usable token get the last failure instead of starting
/// another request. If the provider sent `retry_after`, it is that time, from 1 s to 30 s.
///
/// A failure that is not transient lasts until a setting changes, and each request may start a
/// process (`az`), so the time doubles with the number of `refusals` in a row. After `az login`, a
/// caller may get the old failure for up to the maximum.
pub(super) fn failure_lifetime(refusals: u32, retry_after: Option<Duration>) -> Duration {
    let doubled = FAILURE_LIFETIME.saturating_mul(1 << refusals.saturating_sub(1).min(10));
    retry_after.unwrap_or(doubled).clamp(FAILURE_LIFETIME, MAX_FAILURE_LIFETIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> SystemTime {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        if seconds < 0.0 { start - S.mul_f64(-seconds) } else { start + S.mul_f64(seconds) }
    }

    #[test]
    fn times_by_lifetime() {
        // lifetime, jitter, refresh at, usable until, expired at, in seconds after the request
        let cases = [
            (5.0, 1.0, 4.0, 4.5, 4.5),
            (20.0, 0.0, 16.0, 18.0, 18.0),
            (90.0, 0.5, 72.0, 81.0, 88.0),
            (599.0, 1.0, 479.2, 569.0, 597.0),
            (600.0, 0.0, 450.0, 570.0, 598.0),
            (600.0, 1.0, 300.0, 570.0, 598.0),
            (3_600.0, 0.0, 2_700.0, 3_570.0, 3_598.0),
            (3_600.0, 0.5, 2_250.0, 3_570.0, 3_598.0),
            (3_600.0, 1.0, 1_800.0, 3_570.0, 3_598.0),
            (86_400.0, 0.0, 64_800.0, 86_370.0, 86_398.0),
            (86_400.0, 1.0, 43_200.0, 86_370.0, 86_398.0),
        ];
        for (lifetime, jitter, refresh, usable, expired) in cases {
            let schedule = Schedule::new(at(0.0), at(0.2), at(lifetime), None, jitter);
            assert_eq!(
                schedule,
                Schedule {
                    refresh_at: at(refresh),
                    wait_from: at(usable),
                    unusable_at: at(expired)
                },
                "lifetime of {lifetime} s, jitter {jitter}"
            );
            assert_eq!(schedule.verdict(at(refresh - 0.1)), Verdict::Use);
            assert_eq!(schedule.verdict(at(refresh)), Verdict::UseAndRefresh);
            assert_eq!(schedule.verdict(at(expired)), Verdict::Wait);
        }
        let hour = Schedule::new(at(0.0), at(0.2), at(3_600.0), None, 0.0);
        assert_eq!(hour.verdict(at(3_571.0)), Verdict::WaitWithFallback);
    }

    #[test]
    fn a_hint_within_the_lifetime_is_followed_up_to_a_tenth_earlier() {
        let refresh = |hint, jitter| {
            Schedule::new(at(0.0), at(0.0), at(3_600.0), Some(at(hint)), jitter).refresh_at
        };
        assert_eq!(refresh(1_800.0, 0.0), at(1_800.0));
        assert_eq!(refresh(1_800.0, 0.5), at(1_710.0));
        assert_eq!(refresh(1_800.0, 1.0), at(1_620.0));
        for outside in [-1.0, 0.0, 3_600.0] {
            assert_eq!(refresh(outside, 1.0), at(1_800.0), "{outside}");
        }
        assert_eq!(
            refresh(3_599.0, 0.0),
            at(3_570.0),
            "no later than the time at which callers start to wait"
        );
    }

    #[test]
    fn a_repeated_token_is_requested_after_a_third_of_the_time() {
        let again = |lifetime: f64, now: f64| {
            let schedule = Schedule::new(at(0.0), at(0.0), at(lifetime), None, 1.0);
            let next = schedule.repeated(at(0.0), at(now))?;
            assert_eq!(
                (next.wait_from, next.unusable_at),
                (schedule.wait_from, schedule.unusable_at)
            );
            Some(next.refresh_at.duration_since(at(0.0)).unwrap().as_secs())
        };
        assert_eq!(again(86_400.0, 43_200.0), Some(57_500));
        assert_eq!(again(3_600.0, 1_800.0), Some(2_300));
        assert_eq!(again(3_600.0, 2_700.0), Some(2_900));
        // At least a fortieth of the lifetime, but not in the last 5 minutes.
        assert_eq!(again(3_600.0, 3_150.0), Some(3_239));
        assert_eq!(again(3_600.0, 3_290.0), Some(3_300));
        // In the last 5 minutes, as after a failure.
        assert_eq!(again(3_600.0, 3_300.0), None);
        assert_eq!(again(3_600.0, 3_590.0), None);
        assert_eq!(again(-5.0, 1.0), None);
        // A renewal long before the refresh point does not move it.
        assert_eq!(again(86_400.0, 60.0), Some(43_200));
    }

    #[test]
    fn a_token_may_never_expire() {
        let expires_on = SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX as u64);
        let now = at(60.0);
        let schedule = Schedule::new(at(0.0), at(0.0), expires_on, None, 0.5);
        assert_eq!(schedule.verdict(now), Verdict::Use);
        assert!(schedule.repeated(at(0.0), now).is_some());
        let left = expires_on.duration_since(now).unwrap();
        assert_eq!(retry_pause(left, None, 0.0), MAX_REFRESH_PAUSE);
    }

    #[test]
    fn a_token_that_is_expired_on_arrival_is_used_for_a_minute() {
        let schedule = Schedule::new(at(0.0), at(1.0), at(-5.0), None, 0.0);
        assert_eq!(schedule.verdict(at(1.0)), Verdict::UseAndRefresh);
        assert_eq!(schedule.verdict(at(60.9)), Verdict::UseAndRefresh);
        assert_eq!(schedule.verdict(at(61.0)), Verdict::Wait);
    }

    #[test]
    fn after_a_failure_the_pause_is_part_of_the_remaining_time_or_set_by_the_provider() {
        let day = 86_400 * S;
        for (left, retry_after, jitter, pause) in [
            (day, None, 0.0, 1_200 * S),
            (day, None, 1.0, 800 * S),
            (900 * S, None, 0.0, 675 * S),
            (900 * S, None, 1.0, 450 * S),
            (S, None, 0.5, S),
            (Duration::ZERO, None, 0.0, S),
            (day, Some(70 * S), 1.0, 70 * S),
            (100 * S, Some(70 * S), 1.0, 50 * S),
            (100 * S, Some(Duration::MAX), 0.0, 50 * S),
            (day, Some(Duration::ZERO), 0.0, S),
        ] {
            assert_eq!(retry_pause(left, retry_after, jitter), pause, "{left:?} {retry_after:?}");
        }
    }

    #[test]
    fn without_a_token_pauses_double_up_to_five_minutes() {
        let pauses: Vec<u64> =
            (1..=6).map(|failures| idle_pause(failures, None, 0.0).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 300, 300]);
        assert_eq!(idle_pause(1, None, 1.0), 24 * S);
        assert_eq!(idle_pause(u32::MAX, None, 0.0), 300 * S);
        assert_eq!(idle_pause(1, Some(200 * S), 0.0), 200 * S);
        assert_eq!(idle_pause(1, Some(Duration::MAX), 0.0), 300 * S);
        assert_eq!(idle_pause(1, Some(Duration::ZERO), 0.0), S);
    }

    proptest::proptest! {
        /// For any lifetime, delay and hint, the times are in order, and the token is used from its
        /// arrival until callers start to wait.
        #[test]
        fn a_usable_token_is_never_withheld(
            lifetime in 0.001_f64..200_000.0,
            delay in 0.0_f64..100.0,
            hint in proptest::option::of(-1_000.0_f64..300_000.0),
            when in 0.0_f64..1.0,
            jitter in -1.0_f64..2.0,
        ) {
            let arrived = at(delay);
            let schedule = Schedule::new(at(0.0), arrived, at(lifetime), hint.map(at), jitter);
            proptest::prop_assert!(schedule.refresh_at <= schedule.wait_from);
            proptest::prop_assert!(schedule.wait_from <= schedule.unusable_at);
            if lifetime > delay {
                proptest::prop_assert!(schedule.unusable_at <= at(lifetime));
                // At least nine tenths of the lifetime are usable, and all of it except 30 s.
                let margin = (lifetime / 10.0).min(30.0);
                let now = at((lifetime - margin - 0.001).max(0.0) * when);
                let used = matches!(schedule.verdict(now), Verdict::Use | Verdict::UseAndRefresh);
                proptest::prop_assert!(used, "{lifetime} s, at {now:?}");
            } else {
                proptest::prop_assert_eq!(schedule.verdict(arrived), Verdict::UseAndRefresh);
            }
            proptest::prop_assert_eq!(schedule.verdict(schedule.unusable_at), Verdict::Wait);
        }

        /// The refresh point of a token without a hint is between half and three quarters of its
        /// lifetime.
        #[test]
        fn the_refresh_point_is_between_half_and_three_quarters(
            lifetime in 600.0_f64..200_000.0,
            jitter in 0.0_f64..1.0,
        ) {
            let refresh_at = Schedule::new(at(0.0), at(1.0), at(lifetime), None, jitter).refresh_at;
            proptest::prop_assert!(refresh_at >= at(lifetime * 0.5 - 0.001));
            proptest::prop_assert!(refresh_at <= at(lifetime * 0.75 + 0.001));
        }

        /// For any lifetime and refresh point, a provider that repeats its token until 5 minutes
        /// before the expiry gets at most 12 requests for it, the last of them at that time.
        #[test]
        fn a_provider_that_repeats_its_token_gets_at_most_12_requests(
            lifetime in 301.0_f64..200_000.0,
            hint in proptest::option::of(0.001_f64..1.0),
            jitter in 0.0_f64..1.0,
        ) {
            let hint = hint.map(|share| at(share * lifetime));
            let mut schedule = Schedule::new(at(0.0), at(0.0), at(lifetime), hint, jitter);
            let mut requests = 1;
            while let Some(next) = schedule.repeated(at(0.0), schedule.refresh_at) {
                proptest::prop_assert!(next.refresh_at > schedule.refresh_at);
                (schedule, requests) = (next, requests + 1);
            }
            proptest::prop_assert!(requests <= 12, "{requests}");
            let last = at(lifetime - 300.0);
            let off = schedule.refresh_at.duration_since(last).unwrap_or_else(|e| e.duration());
            proptest::prop_assert!(requests == 1 || off < Duration::from_micros(1), "{off:?}");
        }

        /// The next attempt is never in the past, and always leaves a quarter of the remaining time
        /// (unless that is less than a second).
        #[test]
        fn pauses_keep_their_bounds(
            left in 0.0_f64..100_000.0,
            jitter in -1.0_f64..2.0,
            retry_after in proptest::option::of(proptest::num::u64::ANY),
        ) {
            let left = S.mul_f64(left);
            let asked = retry_pause(left, retry_after.map(Duration::from_secs), jitter);
            proptest::prop_assert!(asked >= MIN_PAUSE);
            proptest::prop_assert!(asked <= (left * 3 / 4).max(MIN_PAUSE));
            let (pause, longest) = (retry_pause(left, None, jitter), retry_pause(left, None, 0.0));
            proptest::prop_assert!(pause <= longest && longest <= MAX_REFRESH_PAUSE);
            proptest::prop_assert!(pause >= longest.mul_f64(0.66));
        }
    }
}
