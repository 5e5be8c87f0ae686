//! The metrics and their names. A test compares the table in `mod.rs` with this file.
// Without a database, only the metrics of tokens are recorded.
#![cfg_attr(not(any(feature = "azure-sql", feature = "postgres")), allow(dead_code))]

use std::{sync::Arc, time::Duration};

use metrics::{Label, SharedString, Unit};

pub(crate) const SYSTEM_NAME: &str = "db.system.name";
pub(crate) const POOL_NAME: &str = "db.client.connection.pool.name";
pub(crate) const CONNECTION_STATE: &str = "db.client.connection.state";
pub(crate) const ERROR_TYPE: &str = "error.type";
pub(crate) const RETIRE_REASON: &str = "entra_pool.retire.reason";
pub(crate) const TOKEN_SCOPE: &str = "entra_pool.token.scope";
pub(crate) const TOKEN_REASON: &str = "entra_pool.token.reason";
pub(crate) const TOKEN_OUTCOME: &str = "entra_pool.token.outcome";

/// A metric, identified by its name.
#[derive(Debug)]
pub(crate) struct Metric(&'static str);

/// Defines a constant for each metric, and describes all of them.
macro_rules! define {
    ($($metric:ident: $describe:ident, $unit:ident, $name:literal, $what:literal;)*) => {
        $(pub(crate) const $metric: Metric = Metric($name);)*

        /// Registers the description and the unit of each metric. Call it once, after installing
        /// the recorder: earlier descriptions are lost.
        pub fn describe() {
            $(metrics::$describe!($name, Unit::$unit, $what);)*
        }

        #[cfg(test)]
        const ALL: &[(&str, &str, Unit)] = &[$(($name, stringify!($describe), Unit::$unit)),*];
    };
}

define! {
    CREATE_TIME: describe_histogram, Seconds, "db.client.connection.create_time",
        "The duration of a connect, with all retries and the wait for a token.";
    WAIT_TIME: describe_histogram, Seconds, "db.client.connection.wait_time",
        "The duration of a checkout.";
    TIMEOUTS: describe_counter, Count, "db.client.connection.timeouts",
        "Checkouts that timed out.";
    CONNECTION_COUNT: describe_gauge, Count, "db.client.connection.count",
        "The connections that a pool has, by state.";
    CONNECTION_MAX: describe_gauge, Count, "db.client.connection.max",
        "The connections that a pool may have.";
    PENDING_REQUESTS: describe_gauge, Count, "db.client.connection.pending_requests",
        "The callers that wait for a connection.";
    LOGIN_REFUSED: describe_counter, Count, "entra_pool.login.refused",
        "Connects that failed because the login was refused.";
    LOGIN_RENEWED: describe_counter, Count, "entra_pool.login.renewed",
        "Refused logins that were retried with another token.";
    LOGIN_RETRIED: describe_counter, Count, "entra_pool.login.retried",
        "Retries of a connect after a transient error.";
    RETIRED: describe_counter, Count, "entra_pool.connection.retired",
        "Connections that were not used again.";
    TOKEN_REQUESTS: describe_counter, Count, "entra_pool.token.requests",
        "Requests for a token that have ended.";
    TOKEN_REQUEST_DURATION: describe_histogram, Seconds, "entra_pool.token.request.duration",
        "The duration of a request for a token.";
    TOKEN_EXPIRY: describe_gauge, Seconds, "entra_pool.token.expiry",
        "The expiry of the cached token, in seconds since 1970 (UTC).";
}

impl Metric {
    pub(crate) fn count(&self, labels: Labels) {
        metrics::counter!(self.0, labels.0).increment(1);
    }

    pub(crate) fn count_from_zero(&self, labels: Labels) {
        metrics::counter!(self.0, labels.0).increment(0);
    }

    pub(crate) fn set(&self, labels: Labels, value: f64) {
        metrics::gauge!(self.0, labels.0).set(value);
    }

    pub(crate) fn record(&self, labels: Labels, duration: Duration) {
        metrics::histogram!(self.0, labels.0).record(duration);
    }
}

/// The labels of one measurement. Their values are constants of this crate, and names from the
/// configuration or the caller.
#[derive(Debug)]
pub(crate) struct Labels(Vec<Label>);

impl Labels {
    pub(crate) fn of_pool(name: Arc<str>) -> Self {
        Self(vec![Label::new(POOL_NAME, SharedString::from_shared(name))])
    }

    pub(crate) fn of_scope(scope: Arc<str>) -> Self {
        Self(vec![Label::new(TOKEN_SCOPE, SharedString::from_shared(scope))])
    }

    pub(crate) fn with(mut self, key: &'static str, value: &'static str) -> Self {
        self.0.push(Label::from_static_parts(key, value));
        self
    }

    /// As in OpenTelemetry, only failed operations have an `error.type`.
    pub(crate) fn with_error(self, error_type: Option<&'static str>) -> Self {
        match error_type {
            Some(error_type) => self.with(ERROR_TYPE, error_type),
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the cells of each row of the documented table of metrics.
    fn rows() -> Vec<Vec<&'static str>> {
        include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `"))
            .map(|row| row.trim_end_matches(" |").split(" | ").collect())
            .filter(|row: &Vec<_>| row.len() == 4)
            .collect()
    }

    #[test]
    fn the_documentation_lists_exactly_the_metrics_that_exist() {
        let mut documented: Vec<_> = rows()
            .into_iter()
            .map(|row| (row[0].trim_end_matches('`').to_owned(), row[1].to_owned()))
            .collect();
        let mut defined: Vec<_> = ALL
            .iter()
            .map(|(name, describe, unit)| {
                let unit = if *unit == Unit::Seconds { ", s" } else { "" };
                ((*name).to_owned(), format!("{}{unit}", describe.trim_start_matches("describe_")))
            })
            .collect();
        documented.sort();
        defined.sort();
        assert_eq!(documented, defined);
    }
}
