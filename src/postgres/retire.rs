use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::{Duration, Instant},
};

use deadpool_postgres::{ClientWrapper, Metrics};

use super::Config;
use crate::connect::{RetireReason, jittered};

/// Returns why a connection must not be used again, without sending a request.
pub(crate) fn unfit(
    config: &Config,
    client: &ClientWrapper,
    metrics: &Metrics,
) -> Option<RetireReason> {
    if client.is_closed() {
        return Some(RetireReason::Closed);
    }
    time_limit_reached(config, metrics)
}

/// Returns which time limit the connection has reached, according to its pool's metrics. These use
/// [`Instant`] and not the injected clock.
fn time_limit_reached(config: &Config, metrics: &Metrics) -> Option<RetireReason> {
    let age = metrics.age();
    let lifetime = config.max_lifetime.map(|limit| jittered(limit, jitter(metrics.created)));
    if lifetime.is_some_and(|lifetime| age >= lifetime) {
        return Some(RetireReason::Age);
    }
    let used = metrics.recycled.map_or(Duration::ZERO, |used| used - metrics.created);
    let idle = age.saturating_sub(used);
    config.idle_timeout.is_some_and(|limit| idle >= limit).then_some(RetireReason::Idle)
}

/// Returns a number from 0 to 1 that is fixed for one connection and differs between connections.
fn jitter(created: Instant) -> f64 {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(created);
    f64::from(u32::try_from(hash % 1_000).unwrap_or_default()) / 1_000.0
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // deadpool's metrics use it.
mod tests {
    use super::*;

    #[test]
    fn jitter_is_constant_for_a_connection_and_differs_between_connections() {
        let now = Instant::now();
        let all: Vec<_> = (0..100).map(|at| jitter(now + Duration::from_millis(at))).collect();
        assert!(all.iter().all(|jitter| (0.0..=1.0).contains(jitter)));
        assert!(all.iter().any(|jitter| *jitter < all[0]) || all.iter().any(|j| *j > all[0]));
        assert_eq!(jitter(now).to_bits(), jitter(now).to_bits());
    }

    #[test]
    fn connections_are_retired_at_their_idle_timeout_and_maximum_lifetime() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let config: Config = "host=a.postgres.database.azure.com".parse().unwrap();
        let config = config.max_lifetime(Duration::from_secs(60));
        let limited = config.clone().idle_timeout(Duration::from_secs(10));
        let unlimited = config.clone().max_lifetime(None);
        for (created, used, by_default, by_both) in [
            (0, None, None, None),
            (20, None, None, Some(RetireReason::Idle)),
            (20, Some(5), None, None),
            (39, Some(15), None, Some(RetireReason::Idle)),
            (61, Some(5), Some(RetireReason::Age), Some(RetireReason::Age)),
        ] {
            let metrics =
                Metrics { created: ago(created), recycled: used.map(ago), recycle_count: 0 };
            assert_eq!(time_limit_reached(&config, &metrics), by_default, "{metrics:?}");
            assert_eq!(time_limit_reached(&limited, &metrics), by_both, "{metrics:?}");
            assert_eq!(time_limit_reached(&unlimited, &metrics), None, "{metrics:?}");
        }
    }
}
