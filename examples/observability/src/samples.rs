//! Samples the pools each second, for the page.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::time::interval;

use crate::{
    App,
    pool::{Observed, Pool},
};

/// Two minutes of samples, each as JSON.
pub(crate) type Samples = VecDeque<Arc<str>>;

const KEPT: usize = 120;

#[derive(Debug, Serialize)]
pub(crate) struct Sample {
    pools: [PoolSample; 2],
    load: u32,
    /// `None` if the databases are not emulated.
    identity_is_down: Option<bool>,
}

#[derive(Debug, Serialize)]
struct PoolSample {
    title: &'static str,
    name: String,
    max: usize,
    used: usize,
    idle: usize,
    waiting: usize,
    /// The median of the checkouts since the last sample, in milliseconds.
    median: Option<f64>,
    p95: Option<f64>,
    /// The number since the last sample.
    checkouts: usize,
    failures: u32,
    error: Option<String>,
    logins: u64,
    refused: u64,
    retried: u64,
    retired: Vec<(String, u64)>,
    token: TokenSample,
}

/// The token's times are in seconds from now.
#[derive(Debug, Serialize)]
struct TokenSample {
    credential: String,
    principal: Option<String>,
    expires_in: Option<u64>,
    refresh_in: Option<u64>,
    requests: u64,
    failures: u64,
    error: Option<String>,
}

/// Takes a sample each second.
pub(crate) async fn take(app: Arc<App>) {
    let mut interval = interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        match serde_json::to_string(&sample(&app, Pool::take_observed)) {
            Ok(json) => app.samples.send_modify(|samples| {
                samples.truncate(KEPT - 1);
                samples.push_front(json.into());
            }),
            Err(error) => tracing::error!(%error, "cannot take a sample"),
        }
    }
}

/// Returns the current values. The counts are those since the last sample, and the next sample has
/// them as well.
pub(crate) fn current(app: &App) -> Sample {
    sample(app, Pool::observed)
}

fn sample(app: &App, observed: impl Fn(&Pool) -> Observed) -> Sample {
    let [azure_sql, postgres] = &app.pools;
    Sample {
        pools: [of_pool(azure_sql, observed(azure_sql)), of_pool(postgres, observed(postgres))],
        load: app.load.load(Ordering::Relaxed),
        identity_is_down: app
            .emulator
            .as_ref()
            .map(|_| app.identity_is_down.load(Ordering::Relaxed)),
    }
}

fn of_pool(pool: &Pool, mut observed: Observed) -> PoolSample {
    let (status, report) = (pool.status(), pool.report());
    observed.checkouts.sort_unstable();
    let quantile = |share: usize| {
        let last = observed.checkouts.len().checked_sub(1)?;
        Some(observed.checkouts[last * share / 100].as_secs_f64() * 1e3)
    };
    let now = SystemTime::now();
    let from_now = |time: SystemTime| time.duration_since(now).unwrap_or_default().as_secs();
    let token = report.token;
    PoolSample {
        title: pool.title,
        name: pool.name().to_owned(),
        max: status.max_size,
        used: status.size.saturating_sub(status.available),
        idle: status.available,
        waiting: status.waiting,
        median: quantile(50),
        p95: quantile(95),
        checkouts: observed.checkouts.len(),
        failures: observed.failures,
        error: observed.error,
        logins: report.logins,
        refused: report.refused,
        retried: report.retried,
        retired: report.retired.iter().map(|(why, count)| (why.to_string(), *count)).collect(),
        token: TokenSample {
            credential: token.credential,
            principal: token.principal,
            expires_in: token.expires_on.map(from_now),
            refresh_in: token.refresh_at.map(from_now),
            requests: token.requests,
            failures: token.failures,
            error: token.last_error.map(|error| error.to_string()),
        },
    }
}
