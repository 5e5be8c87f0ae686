use std::{
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use deadpool_postgres::Metrics;

use super::Config;
use crate::{
    clock::{self, Clock},
    telemetry,
};

/// Why a connection was not used again.
///
/// That its token has expired is no reason: PostgreSQL looks at it once, at the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetireReason {
    /// It was closed, or reading or writing failed.
    Closed,
    /// A query was dropped and would not end, or the server did not answer; it was
    /// cancelled.
    Unsettled,
    /// Older than the maximum lifetime.
    Age,
    /// Not used for as long as the idle limit.
    Idle,
    /// The server refused what [`Recycling`](super::Recycling) has it do.
    Recycling,
    /// Two others in a row did not answer in time, and this one was last lent before that.
    Silent,
}

impl RetireReason {
    pub(super) const ALL: [Self; 6] =
        [Self::Closed, Self::Unsettled, Self::Age, Self::Idle, Self::Recycling, Self::Silent];
}

impl telemetry::Reason for RetireReason {
    fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Unsettled => "unsettled",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::Recycling => "recycling",
            Self::Silent => "silent",
        }
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "it was closed",
            Self::Unsettled => "its last query would not end",
            Self::Age => "it has reached its lifetime",
            Self::Idle => "it was idle for too long",
            Self::Recycling => "it could not be recycled",
            Self::Silent => "others, as long unheard of, did not answer",
        })
    }
}

/// Whether the server has fallen silent, so that its idle connections need not be waited
/// for one after the other.
///
/// One that does not answer may be at a query that its borrower dropped. Where the next
/// does not either, and none that was asked meanwhile has answered, it is the server or
/// the way. Until one does.
#[derive(Debug, Default)]
pub(super) struct Silence(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// When the latest of those was asked that have answered.
    answered: Option<Instant>,
    /// When one was asked, later than that, that did not answer.
    unanswered: Option<Instant>,
    /// What was last lent before that is not asked.
    silent_since: Option<Instant>,
}

impl Silence {
    pub(super) fn includes(&self, metrics: &Metrics) -> bool {
        let last_lent = metrics.recycled.unwrap_or(metrics.created);
        self.lock().silent_since.is_some_and(|since| last_lent < since)
    }

    /// What came of asking one at that time.
    pub(super) fn note(&self, asked: Instant, outcome: Result<(), RetireReason>) {
        let mut heard = self.lock();
        if outcome != Err(RetireReason::Unsettled) {
            let answered = heard.answered.max(Some(asked));
            *heard = Heard { answered, ..Heard::default() };
        } else if heard.answered < Some(asked) {
            heard.silent_since = heard.unanswered.or(heard.silent_since);
            heard.unanswered = Some(asked);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a pool's metrics may say against using a connection again.
///
/// They are of [`Instant`], deadpool's own, and not of the injected clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    lifetime: Duration,
    idle: Duration,
}

impl TimeLimits {
    pub(crate) fn of(config: &Config) -> Self {
        let [lifetime, idle] =
            [config.max_lifetime, config.idle_timeout].map(|limit| limit.unwrap_or(Duration::MAX));
        Self { lifetime, idle }
    }

    /// Before that age none of them is reached.
    fn earliest(self) -> Duration {
        least(self.lifetime).min(self.idle)
    }

    pub(crate) fn reached(&self, metrics: &Metrics) -> Option<RetireReason> {
        let age = metrics.age();
        if age >= jittered(self.lifetime, metrics.created) {
            return Some(RetireReason::Age);
        }
        let used = metrics.recycled.map_or(Duration::ZERO, |used| used - metrics.created);
        (age.saturating_sub(used) >= self.idle).then_some(RetireReason::Idle)
    }
}

/// Whether one of a connector's connections is of an age at which it may have reached
/// a time limit: before, a checkout need not read the clock, which would be half of
/// what it takes longer than deadpool-postgres' own.
///
/// Every such connection has a share of it.
#[derive(Debug, Default)]
pub(super) struct Aged(Arc<()>);

impl Aged {
    /// That much earlier: the runtime's timers are late.
    const MARGIN: Duration = Duration::from_secs(1);

    pub(super) fn any(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// `connection`, with a share from the age on at which it may reach one of `limits`.
    pub(super) fn counting<F: Future>(
        &self,
        clock: &dyn Clock,
        limits: TimeLimits,
        connection: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let aged = Arc::downgrade(&self.0);
        let young = limits.earliest().saturating_sub(Self::MARGIN);
        let mut share = if young.is_zero() { aged.upgrade() } else { None };
        let grown = clock.sleep(young);
        async move {
            let mut connection = pin!(connection);
            if let Ok(ended) = clock::until(grown, &mut connection).await {
                return ended;
            }
            share = share.or_else(|| aged.upgrade());
            let ended = connection.await;
            drop(share);
            ended
        }
    }
}

/// What [`jittered`] does not go below.
fn least(lifetime: Duration) -> Duration {
    if lifetime == Duration::MAX { lifetime } else { lifetime.saturating_sub(lifetime / 10) }
}

/// `lifetime` less up to a tenth: always the same for one connection, another
/// for the next.
fn jittered(lifetime: Duration, created: Instant) -> Duration {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(created);
    let thousandths = u32::try_from(hash % 1_000).unwrap_or_default();
    lifetime.saturating_sub(lifetime / 10_000 * thousandths)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // deadpool's metrics have it.
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_lifetime_ends_up_to_a_tenth_earlier_and_is_the_same_each_time() {
        let hour = Duration::from_secs(3600);
        let now = Instant::now();
        let lifetimes: Vec<_> =
            (0..100).map(|at| jittered(hour, now + Duration::from_millis(at))).collect();
        assert!(lifetimes.iter().all(|life| *life <= hour && *life >= least(hour)));
        assert!(lifetimes.iter().any(|life| *life != lifetimes[0]), "they differ");
        assert_eq!(jittered(hour, now), jittered(hour, now));
        assert_eq!(jittered(Duration::ZERO, now), Duration::ZERO);
        assert!(jittered(Duration::MAX, now) > Duration::MAX / 2);
    }

    #[test]
    fn two_in_a_row_that_do_not_answer_speak_for_those_last_lent_before() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let lent = |created, recycled: Option<u64>| Metrics {
            created: at(created),
            recycled: recycled.map(at),
            recycle_count: 0,
        };
        let silence = Silence::default();
        let silent = || {
            [lent(1, None), lent(1, Some(9)), lent(10, None), lent(1, Some(10))]
                .map(|metrics| silence.includes(&metrics))
        };
        let unanswered = Err(RetireReason::Unsettled);
        for answer in [Ok(()), Err(RetireReason::Recycling), Err(RetireReason::Closed)] {
            silence.note(at(5), unanswered);
            silence.note(at(7), answer);
        }
        assert_eq!(silent(), [false; 4], "some have answered");
        silence.note(at(10), unanswered);
        assert_eq!(silent(), [false; 4], "one may be busy");
        silence.note(at(12), unanswered);
        assert_eq!(silent(), [true, true, false, false]);
        // It goes on: those that were lent meanwhile, too.
        silence.note(at(13), unanswered);
        assert_eq!(silent(), [true; 4]);
        // Until one answers.
        silence.note(at(20), Ok(()));
        assert_eq!(silent(), [false; 4]);
        // What was asked before it is no news, however late it is told.
        silence.note(at(18), unanswered);
        silence.note(at(19), unanswered);
        silence.note(at(20), unanswered);
        silence.note(at(20), unanswered);
        assert_eq!(silent(), [false; 4]);
        silence.note(at(21), unanswered);
        silence.note(at(21), unanswered);
        assert_eq!(silent(), [true; 4]);
    }

    #[test]
    fn connections_are_counted_from_a_second_before_their_first_limit_until_they_end() {
        let config: Config = "host=a.postgres.database.azure.com".parse().unwrap();
        let seconds = Duration::from_secs;
        for (lifetime, idle, young) in [
            (Some(seconds(60)), None, Some(seconds(53))),
            (Some(seconds(60)), Some(seconds(10)), Some(seconds(9))),
            (None, Some(seconds(10)), Some(seconds(9))),
            (Some(seconds(1)), None, Some(Duration::ZERO)),
            (Some(Duration::ZERO), None, Some(Duration::ZERO)),
            (None, None, None),
        ] {
            let clock = ManualClock::new();
            let config = config.clone().max_lifetime(lifetime).idle_timeout(idle);
            let aged = Aged::default();
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            let mut connection = Box::pin(
                aged.counting(&clock, TimeLimits::of(&config), async { drop(ended.await) }),
            );
            // At once, before it is polled.
            assert_eq!(aged.any(), young == Some(Duration::ZERO), "{config:?}");
            let mut polled = || connection.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            let moment = Duration::from_nanos(1);
            clock.advance(young.unwrap_or(seconds(1_000_000)).saturating_sub(moment));
            assert!(polled().is_pending());
            assert_eq!(aged.any(), young == Some(Duration::ZERO), "{config:?}");
            clock.advance(moment);
            assert!(polled().is_pending());
            assert_eq!(aged.any(), young.is_some(), "{config:?}");
            end.send(()).unwrap();
            assert!(polled().is_ready());
            assert!(!aged.any(), "{config:?}");
        }
    }

    #[test]
    fn idle_is_what_has_not_been_lent_for_that_long_and_old_what_was_made_before_that() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let config: Config = "host=a.postgres.database.azure.com".parse().unwrap();
        let config = config.max_lifetime(Duration::from_secs(60));
        let limited = config.clone().idle_timeout(Duration::from_secs(10));
        let unlimited = config.clone().max_lifetime(None);
        for (created, used, by_default, by_both) in [
            (0, None, None, None),
            (20, None, None, Some(RetireReason::Idle)),
            (20, Some(5), None, None),
            (50, Some(15), None, Some(RetireReason::Idle)),
            (61, Some(5), Some(RetireReason::Age), Some(RetireReason::Age)),
        ] {
            let metrics =
                Metrics { created: ago(created), recycled: used.map(ago), recycle_count: 0 };
            assert_eq!(TimeLimits::of(&config).reached(&metrics), by_default, "{metrics:?}");
            assert_eq!(TimeLimits::of(&limited).reached(&metrics), by_both, "{metrics:?}");
            assert_eq!(TimeLimits::of(&unlimited).reached(&metrics), None, "{metrics:?}");
        }
    }
}
