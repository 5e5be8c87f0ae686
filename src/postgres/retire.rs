use std::{
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::{Duration, Instant},
};

use deadpool_postgres::Metrics;

use super::Config;
use crate::telemetry;

/// Why a connection was not used again.
///
/// That its token has expired is no reason: PostgreSQL looks at it once, at the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetireReason {
    /// It was closed, or reading or writing failed.
    Closed,
    /// A query was dropped and would not end; it was cancelled.
    Unsettled,
    /// Older than the maximum lifetime.
    Age,
    /// Not used for as long as the idle limit.
    Idle,
    /// The server refused what [`Recycling`](super::Recycling) has it do.
    Recycling,
}

impl RetireReason {
    pub(super) const ALL: [Self; 5] =
        [Self::Closed, Self::Unsettled, Self::Age, Self::Idle, Self::Recycling];
}

impl telemetry::Reason for RetireReason {
    fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Unsettled => "unsettled",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::Recycling => "recycling",
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
        })
    }
}

/// What a pool's metrics may say against using a connection again.
///
/// They are of [`Instant`], deadpool's own, and not of the injected clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// Before that age no limit is reached: all that most checkouts compare.
    earliest: Duration,
    lifetime: Duration,
    idle: Duration,
}

impl TimeLimits {
    pub(crate) fn of(config: &Config) -> Self {
        let [lifetime, idle] =
            [config.max_lifetime, config.idle_timeout].map(|limit| limit.unwrap_or(Duration::MAX));
        Self { earliest: least(lifetime).min(idle), lifetime, idle }
    }

    pub(crate) fn reached(&self, metrics: &Metrics) -> Option<RetireReason> {
        // The clock is read once, and not at all where there is no limit: this is
        // done at every checkout.
        if self.earliest == Duration::MAX {
            return None;
        }
        let age = metrics.age();
        if age < self.earliest {
            return None;
        }
        if age >= jittered(self.lifetime, metrics.created) {
            return Some(RetireReason::Age);
        }
        let used = metrics.recycled.map_or(Duration::ZERO, |used| used - metrics.created);
        (age.saturating_sub(used) >= self.idle).then_some(RetireReason::Idle)
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
    use super::*;

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
