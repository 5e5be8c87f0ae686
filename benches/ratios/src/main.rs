//! Ratios of entra-pool to its peers, measured in one run on one machine.
//!
//! `cargo bench -p ratios` prints a table. `-- --full` also runs the peers'
//! cases that take longer than 10 s. Further words select rows.
#![allow(clippy::disallowed_methods)] // Measures real time.

mod allocations;
mod azure_sql;
mod front;
mod postgres;
#[path = "../../../tests/support/mod.rs"]
mod support;
mod table;
mod token_cache;

fn main() {
    // cargo passes `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let full = words.iter().any(|word| word == "--full");
    let selected: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let wanted =
        move |what: &str| selected.is_empty() || selected.iter().any(|word| what.contains(*word));
    let mut rows = token_cache::rows(full, &wanted);
    rows.extend(azure_sql::rows(&wanted));
    // Before the next rows, which run on one core.
    rows.extend(front::rows(&wanted));
    rows.extend(postgres::rows(&wanted));
    table::print(&rows);
}
