//! When a token is used, refreshed and waited for: pure functions of times.

use std::time::{Duration, SystemTime};

/// The two clocks, read once for a decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) monotonic: Duration,
}

/// The times of one token, decided when it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    /// From here on, a new one is asked for beside its use.
    pub(super) refresh_at: SystemTime,
    /// From here on, a caller waits for the new one.
    pub(super) usable_until: SystemTime,
    /// From here on, it is not given out even if there is no other.
    pub(super) out_at: SystemTime,
}

/// What to do with the token there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Give it out.
    Use,
    /// Give it out and have it replaced.
    UseAndRefresh,
    /// Wait for another; should none come, give it out all the same.
    WaitWithFallback,
    /// Wait for another.
    Wait,
}

/// A token that is past its expiry on arrival is more likely a matter of this
/// machine's clock than of the provider: it is used for so long, not looped over.
pub(super) const EXPIRED_ON_ARRIVAL: Duration = Duration::from_secs(60);

const FIRST_RETRY: Duration = Duration::from_secs(30);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);
/// Half of what is left becomes less each time: this is the least.
const LEAST_RETRY: Duration = Duration::from_secs(1);

impl Schedule {
    /// The times of a token that was asked for at `requested` and arrived at
    /// `arrived`.
    pub(super) fn new(
        requested: SystemTime,
        arrived: SystemTime,
        expires_on: SystemTime,
        hint: Option<SystemTime>,
    ) -> Self {
        if expires_on <= arrived {
            let end = arrived + EXPIRED_ON_ARRIVAL;
            return Self { refresh_at: arrived, usable_until: end, out_at: end };
        }
        // From before the request: the provider's answer may have been long on its way.
        let life = expires_on.duration_since(requested).unwrap_or_default();
        let margin = Duration::from_secs(30).min(life / 10);
        let refresh_at = match hint {
            Some(hint) if hint > requested && hint < expires_on => hint,
            _ => requested + refresh_after(life),
        };
        let usable_until = expires_on - margin;
        Self {
            refresh_at: refresh_at.min(usable_until),
            usable_until,
            out_at: expires_on - Duration::from_secs(2).min(margin),
        }
    }

    pub(super) fn verdict(&self, now: SystemTime) -> Verdict {
        if now < self.refresh_at {
            Verdict::Use
        } else if now < self.usable_until {
            Verdict::UseAndRefresh
        } else if now < self.out_at {
            Verdict::WaitWithFallback
        } else {
            Verdict::Wait
        }
    }
}

/// How old a token of this life gets before it is replaced.
fn refresh_after(life: Duration) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    if life >= 120 * MINUTE {
        life / 2
    } else if life >= 25 * MINUTE {
        life.saturating_sub(5 * MINUTE)
    } else {
        life * 4 / 5
    }
}

/// How long to leave the provider alone after `failures` refreshes in a row
/// have failed, while the token there is remains usable for `left`.
///
/// What the provider asks for (`retry_after`) takes the place of our own pause.
/// `jitter` is from 0 to 1: our own is shortened by up to a fifth, so that a
/// fleet does not ask all at once.
pub(super) fn pause_after(
    failures: u32,
    left: Duration,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Duration {
    // Even at the provider's wish: to be silent until the token is out is no use.
    pause(failures, retry_after, jitter).min(left / 2).max(LEAST_RETRY)
}

/// The same where no token is usable, unless somebody needs one.
pub(super) fn pause_unasked(failures: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
    pause(failures, retry_after, jitter).clamp(LEAST_RETRY, LAST_RETRY)
}

fn pause(failures: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
    retry_after.unwrap_or_else(|| {
        let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(10));
        doubled.min(LAST_RETRY).mul_f64(1.0 - 0.2 * jitter.clamp(0.0, 1.0))
    })
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
    fn times_by_life() {
        // life, refresh at, usable until, out at, in seconds after the request
        let cases = [
            (5.0, 4.0, 4.5, 4.5),
            (20.0, 16.0, 18.0, 18.0),
            (90.0, 72.0, 81.0, 88.0),
            (600.0, 480.0, 570.0, 598.0),
            (1_500.0, 1_200.0, 1_470.0, 1_498.0),
            (3_600.0, 3_300.0, 3_570.0, 3_598.0),
            (7_200.0, 3_600.0, 7_170.0, 7_198.0),
            (86_400.0, 43_200.0, 86_370.0, 86_398.0),
        ];
        for (life, refresh, usable, out) in cases {
            let schedule = Schedule::new(at(0.0), at(0.2), at(life), None);
            assert_eq!(
                schedule,
                Schedule { refresh_at: at(refresh), usable_until: at(usable), out_at: at(out) },
                "life of {life} s"
            );
            assert_eq!(schedule.verdict(at(refresh - 0.1)), Verdict::Use);
            assert_eq!(schedule.verdict(at(refresh)), Verdict::UseAndRefresh);
            assert_eq!(schedule.verdict(at(out)), Verdict::Wait);
        }
        let hour = Schedule::new(at(0.0), at(0.2), at(3_600.0), None);
        assert_eq!(hour.verdict(at(3_571.0)), Verdict::WaitWithFallback);
    }

    #[test]
    fn a_hint_is_followed_if_it_lies_within_life() {
        let refresh =
            |hint| Schedule::new(at(0.0), at(0.0), at(3_600.0), Some(at(hint))).refresh_at;
        assert_eq!(refresh(1_800.0), at(1_800.0));
        assert_eq!(refresh(-1.0), at(3_300.0));
        assert_eq!(refresh(3_600.0), at(3_300.0));
        assert_eq!(refresh(3_599.0), at(3_570.0), "not later than callers begin to wait");
    }

    #[test]
    fn expired_on_arrival_is_used_for_a_minute() {
        let schedule = Schedule::new(at(0.0), at(1.0), at(-5.0), None);
        assert_eq!(schedule.verdict(at(1.0)), Verdict::UseAndRefresh);
        assert_eq!(schedule.verdict(at(60.9)), Verdict::UseAndRefresh);
        assert_eq!(schedule.verdict(at(61.0)), Verdict::Wait);
    }

    #[test]
    fn pauses_double_up_to_five_minutes_and_never_pass_half_of_what_is_left() {
        let day = 86_400 * S;
        let pauses: Vec<u64> =
            (1..=6).map(|failures| pause_after(failures, day, None, 0.0).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 300, 300]);
        assert_eq!(pause_after(1, day, None, 1.0), 24 * S);
        assert_eq!(pause_after(5, 100 * S, None, 0.0), 50 * S);
        assert_eq!(pause_after(5, S, None, 0.0), S);
        assert_eq!(pause_after(1, day, Some(70 * S), 0.0), 70 * S);
        assert_eq!(pause_after(1, 100 * S, Some(70 * S), 0.0), 50 * S);
        assert_eq!(pause_after(1, 100 * S, Some(Duration::MAX), 0.0), 50 * S);
        assert_eq!(pause_after(u32::MAX, day, None, 0.0), 300 * S);
        assert_eq!(pause_unasked(1, None, 0.0), 30 * S);
        assert_eq!(pause_unasked(1, Some(200 * S), 0.0), 200 * S);
        assert_eq!(pause_unasked(1, Some(Duration::MAX), 0.0), 300 * S);
        assert_eq!(pause_unasked(1, Some(Duration::ZERO), 0.0), S);
    }

    proptest::proptest! {
        /// Whatever life, delay and hint: times are in order, a token is used
        /// from its arrival on, and is never withheld while it is usable.
        #[test]
        fn a_usable_token_is_never_withheld(
            life in 0.001_f64..200_000.0,
            delay in 0.0_f64..100.0,
            hint in proptest::option::of(-1_000.0_f64..300_000.0),
            when in 0.0_f64..1.0,
        ) {
            let arrived = at(delay);
            let schedule = Schedule::new(at(0.0), arrived, at(life), hint.map(at));
            proptest::prop_assert!(schedule.refresh_at <= schedule.usable_until);
            proptest::prop_assert!(schedule.usable_until <= schedule.out_at);
            if life > delay {
                proptest::prop_assert!(schedule.out_at <= at(life));
                // At least nine tenths of a life are usable, and all but 30 s.
                let margin = (life / 10.0).min(30.0);
                let now = at((life - margin - 0.001).max(0.0) * when);
                let used = matches!(schedule.verdict(now), Verdict::Use | Verdict::UseAndRefresh);
                proptest::prop_assert!(used, "{life} s, at {now:?}");
            } else {
                proptest::prop_assert_eq!(schedule.verdict(arrived), Verdict::UseAndRefresh);
            }
            proptest::prop_assert_eq!(schedule.verdict(schedule.out_at), Verdict::Wait);
        }

        /// The next attempt is never in the past, never past half of what is
        /// left (or a second, if that is more), and jitter only shortens it, by
        /// a fifth at most.
        #[test]
        fn pauses_keep_their_bounds(
            failures in 0_u32..100_000,
            left in 0.0_f64..100_000.0,
            jitter in -1.0_f64..2.0,
            retry_after in proptest::option::of(proptest::num::u64::ANY),
        ) {
            let left = S.mul_f64(left);
            let asked = pause_after(failures, left, retry_after.map(Duration::from_secs), jitter);
            proptest::prop_assert!(asked >= LEAST_RETRY && asked <= (left / 2).max(LEAST_RETRY));
            let pause = pause_after(failures, left, None, jitter);
            proptest::prop_assert!(pause >= LEAST_RETRY);
            proptest::prop_assert!(pause <= (left / 2).max(LEAST_RETRY));
            let longest = pause_after(failures, left, None, 0.0);
            proptest::prop_assert!(pause <= longest);
            proptest::prop_assert!(pause >= longest.mul_f64(0.79).min(left / 2));
            proptest::prop_assert!(longest <= LAST_RETRY);
        }
    }
}
