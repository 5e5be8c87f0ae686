//! What each metric is called, and how it is recorded. The table of them is on the
//! module's page, which a test compares with this file.
// Without a database, only the token's are recorded.
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

/// One metric, by its name.
#[derive(Debug)]
pub(crate) struct Metric(&'static str);

/// Defines a constant for each metric, and describes all of them.
macro_rules! define {
    ($($metric:ident: $describe:ident, $unit:ident, $name:literal, $what:literal;)*) => {
        $(pub(crate) const $metric: Metric = Metric($name);)*

        /// Tells the recorder what each metric is, and its unit. To be called once, behind the
        /// installation of the recorder, which forgets what it is told before.
        pub fn describe() {
            $(metrics::$describe!($name, Unit::$unit, $what);)*
        }

        #[cfg(test)]
        const ALL: &[(&str, &str, Unit)] = &[$(($name, stringify!($describe), Unit::$unit)),*];
    };
}

define! {
    CREATE_TIME: describe_histogram, Seconds, "db.client.connection.create_time",
        "The time a connect took, tries and token included.";
    WAIT_TIME: describe_histogram, Seconds, "db.client.connection.wait_time",
        "The time a checkout took.";
    TIMEOUTS: describe_counter, Count, "db.client.connection.timeouts",
        "Checkouts that ended with a time limit of the pool's.";
    CONNECTION_COUNT: describe_gauge, Count, "db.client.connection.count",
        "The connections that a pool has, by state.";
    CONNECTION_MAX: describe_gauge, Count, "db.client.connection.max",
        "The connections that a pool may have.";
    PENDING_REQUESTS: describe_gauge, Count, "db.client.connection.pending_requests",
        "The callers that wait for a connection.";
    LOGIN_REFUSED: describe_counter, Count, "entra_pool.login.refused",
        "Connects that ended in a refused login.";
    LOGIN_RENEWED: describe_counter, Count, "entra_pool.login.renewed",
        "Refused logins that were tried again with another token.";
    LOGIN_RETRIED: describe_counter, Count, "entra_pool.login.retried",
        "Connects that were tried again after a transient error.";
    RETIRED: describe_counter, Count, "entra_pool.connection.retired",
        "Connections that were not used again.";
    TOKEN_REQUESTS: describe_counter, Count, "entra_pool.token.requests",
        "Requests for a token that have ended.";
    TOKEN_REQUEST_DURATION: describe_histogram, Seconds, "entra_pool.token.request.duration",
        "The time a request for a token took.";
    TOKEN_EXPIRY: describe_gauge, Seconds, "entra_pool.token.expiry",
        "When the token that is held ends, in seconds since 1970 (UTC).";
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

    pub(crate) fn record(&self, labels: Labels, took: Duration) {
        metrics::histogram!(self.0, labels.0).record(took);
    }
}

/// The labels of one measurement. Their values are of few: words of this crate, names
/// of the configuration and of the caller.
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

    /// As OpenTelemetry has it: only what failed has an `error.type`.
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

    /// The cells of the rows of the page's table of metrics.
    fn rows() -> Vec<Vec<&'static str>> {
        include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `"))
            .map(|row| row.trim_end_matches(" |").split(" | ").collect())
            .filter(|row: &Vec<_>| row.len() == 4)
            .collect()
    }

    #[test]
    fn the_page_has_every_metric_and_no_other() {
        let mut documented: Vec<_> = rows()
            .into_iter()
            .map(|row| (row[0].trim_end_matches('`').to_owned(), row[1].to_owned()))
            .collect();
        let mut there: Vec<_> = ALL
            .iter()
            .map(|(name, describe, unit)| {
                let unit = if *unit == Unit::Seconds { ", s" } else { "" };
                ((*name).to_owned(), format!("{}{unit}", describe.trim_start_matches("describe_")))
            })
            .collect();
        documented.sort();
        there.sort();
        assert_eq!(documented, there);
    }
}
