//! Measures several sides in turns. Each turn has another order, because the server still closes
//! the connection of the side before.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

/// One turn of a side. Its result is dropped after the measurement.
type Turn = Pin<Box<dyn Future<Output = Box<dyn Any>>>>;

/// One side of a table.
pub(crate) struct Side {
    name: &'static str,
    turn: Box<dyn FnMut() -> Turn>,
}

impl Side {
    pub(crate) fn new<F>(name: &'static str, mut turn: impl FnMut() -> F + 'static) -> Self
    where
        F: Future<Output: Any> + 'static,
    {
        let turn = Box::new(move || {
            let turn = turn();
            Box::pin(async move { Box::new(turn.await) as Box<dyn Any> }) as Turn
        });
        Self { name, turn }
    }
}

/// Prints the median and the 99th percentile of each side, and the ratio to the first.
pub(crate) fn table(what: &str, runtime: &Runtime, turns: usize, mut sides: Vec<Side>) {
    let mut times = vec![Vec::with_capacity(turns); sides.len()];
    let mut order: Vec<_> = (0..sides.len()).collect();
    let mut random = fastrand::Rng::with_seed(0);
    runtime.block_on(async {
        for turn in 0..=turns {
            random.shuffle(&mut order);
            for &side in &order {
                let (side, times) = (&mut sides[side], &mut times[side]);
                let start = Instant::now();
                let kept = (side.turn)().await;
                let time = start.elapsed();
                drop(kept);
                // Lets the tasks run in which drivers close connections.
                tokio::task::yield_now().await;
                // The first turn connects.
                if turn > 0 {
                    times.push(time);
                }
            }
        }
    });
    println!("\n{what}, {turns} turns:\n\n| | p50 | p99 | p50 / entra-pool |\n|---|---|---|---|");
    let mut ours = None;
    for (side, times) in sides.iter().zip(&mut times) {
        times.sort_unstable();
        let median = times[turns / 2];
        let ratio = median.as_secs_f64() / ours.get_or_insert(median).as_secs_f64();
        println!(
            "| {} | {} | {} | {ratio:.2} |",
            side.name,
            micros(median),
            micros(times[turns * 99 / 100])
        );
    }
}

fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}

/// A runtime for the sides. The servers have their own threads.
pub(crate) fn on_one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
