//! The printed table, and helpers for its rows.

use std::time::Duration;

use entra_pool::azure_sql::deadpool::Runtime as PoolRuntime;
use tokio::runtime::Runtime;

/// Whether a row with this name is selected.
pub(crate) type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// The default time limit of entra-pool's pools, for the peers: it costs some time at
/// every checkout.
pub(crate) const WAIT: (PoolRuntime, Duration) = (PoolRuntime::Tokio1, Duration::from_secs(15));

/// One row: the measured work, and the result of each side.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) ours: String,
    pub(crate) peer: String,
    pub(crate) floor: String,
    pub(crate) ratio: String,
}

pub(crate) fn print(rows: &[Row]) {
    println!("| what | ours | peer | floor | ratio |");
    println!("|---|---|---|---|---|");
    for Row { what, ours, peer, floor, ratio } in rows {
        println!("| {what} | {ours} | {peer} | {floor} | {ratio} |");
    }
}

/// At most three digits, with a suitable unit.
pub(crate) fn time(duration: Duration) -> String {
    let nanos = duration.as_secs_f64() * 1e9;
    let (value, unit) = match nanos {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    match value {
        v if v < 10.0 => format!("{v:.2} {unit}"),
        v if v < 100.0 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

pub(crate) fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

pub(crate) fn over(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

pub(crate) fn on_one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
