//! Callers that give up.

use std::time::Duration;

use tokio::{task::JoinSet, time::timeout};

/// 400 callers with limits of 1 to 90 ms, of `rounds` tries each, call `get`, which returns whether
/// there was a connection. Returns how often there was, and the most that `open` counted meanwhile.
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
