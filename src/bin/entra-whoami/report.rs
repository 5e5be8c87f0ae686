use std::{
    error::Error,
    iter::successors,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use entra_pool::clock::{Clock, SystemClock};
use serde_json::{Value, json};

/// The results of the steps, which are printed one by one, or as one JSON object at the end. Clones
/// share the results.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    json: bool,
    coloured: bool,
    results: Arc<Mutex<Results>>,
}

#[derive(Debug, Default)]
struct Results {
    /// A clock that was started with the current step.
    clock: SystemClock,
    /// The current step and the following ones.
    ahead: Vec<&'static str>,
    /// The details of the current step.
    notes: Vec<(&'static str, String)>,
    steps: Vec<Value>,
}

impl Report {
    pub(crate) fn new(json: bool, coloured: bool) -> Self {
        Self { json, coloured, results: Arc::default() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Results) -> T) -> T {
        change(&mut self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the steps. The first step begins now.
    pub(crate) fn plan(&self, steps: &[&'static str]) {
        self.with(|results| results.ahead = steps.to_vec());
    }

    /// Adds a detail of the current step. It replaces an earlier detail with the same label.
    pub(crate) fn note(&self, label: &'static str, value: impl Into<String>) {
        let value = value.into().replace(char::is_control, "?");
        self.with(|results| {
            results.notes.retain(|(known, _)| *known != label);
            results.notes.push((label, value));
        });
    }

    /// If this is the current step, records that it passed and begins the next one.
    pub(crate) fn passed(&self, step: &str) {
        self.with(|results| {
            if results.ahead.first() == Some(&step) {
                self.close(true, results);
            }
        });
    }

    fn close(&self, passed: bool, results: &mut Results) {
        let seconds = std::mem::take(&mut results.clock).monotonic().as_secs_f64();
        let step = results.ahead.remove(0);
        let notes = std::mem::take(&mut results.notes);
        if !self.json {
            let mark = match (passed, self.coloured) {
                (true, false) => "✔",
                (true, true) => "\x1b[32m✔\x1b[0m",
                (false, false) => "✘",
                (false, true) => "\x1b[31m✘\x1b[0m",
            };
            println!("{mark} {step:<8} {seconds:>8.3} s");
            notes.iter().for_each(|(label, value)| println!("    {label:<10} {value}"));
        }
        let mut entry = json!({ "step": step, "passed": passed, "seconds": seconds });
        for (label, value) in notes {
            entry[label.to_lowercase().replace(' ', "_")] = value.into();
        }
        results.steps.push(entry);
    }

    /// Prints the rest of the report and returns the exit code. An error fails the current step.
    pub(crate) fn finish(self, outcome: Result<(), Box<dyn Error>>) -> ExitCode {
        let error = outcome.map_or_else(|error| messages(&*error), |()| Vec::new());
        let passed = error.is_empty();
        if !passed {
            self.with(|results| self.close(false, results));
        }
        let Results { ahead, steps, .. } = self.with(std::mem::take);
        if self.json {
            println!("{:#}", json!({ "passed": passed, "steps": steps, "error": error }));
        } else if !passed {
            println!("\n{}", error.join("\n  because: "));
            if !ahead.is_empty() {
                println!("\nNot tried: {}.", ahead.join(", "));
            }
        }
        if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Returns the messages of an error and of its causes, without repetitions.
pub(crate) fn messages<'e>(error: &'e (dyn Error + 'static)) -> Vec<String> {
    let source = |error: &&'e (dyn Error + 'static)| (*error).source();
    let mut messages: Vec<_> = successors(Some(error), source).map(ToString::to_string).collect();
    messages.dedup();
    // This message of tokio-postgres only wraps the server's error, which is its source.
    messages.retain(|message| message != "db error");
    messages
}
