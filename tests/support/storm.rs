//! Callers with short timeouts.

use std::time::Duration;

use tokio::{task::JoinSet, time::timeout};

/// 400 callers call `get` `rounds` times each, with timeouts of 1 to 90 ms. Returns how often `get`
/// returned true (it had a connection), and the highest number that `open` returned.
pub async fn served_in_a_storm<G>(
    rounds: u64,
    get: impl Fn() -> G + Clone + Send + 'static,
    open: impl AsyncFn() -> u64,
) -> (usize, u64)
where
    G: Future<Output = bool> + Send,
{
    let mut storm = JoinSet::new();
    for nth in 0..400 {
        let get = get.clone();
        storm.spawn(async move {
            let mut served = 0;
            for round in 0..rounds {
                let limit = Duration::from_millis(1 + (nth * 7 + round * 13) % 90);
                served += usize::from(timeout(limit, get()).await == Ok(true));
            }
            served
        });
    }
    let (mut served, mut most) = (0, 0);
    while !storm.is_empty() {
        most = most.max(open().await);
        let next = timeout(Duration::from_millis(1), storm.join_next()).await;
        served += next.ok().flatten().map_or(0, Result::unwrap);
    }
    (served, most)
}
