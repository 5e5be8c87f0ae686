use std::{env, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::time::interval;
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use crate::BoxError;

/// Bounds of the histograms' buckets, in seconds: OpenTelemetry's for databases.
const BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// A histogram keeps each value until a scrape, or this upkeep if there are no scrapes, sorts it
/// into a bucket.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Starts the log: a line for each event, and for each span when it ends. `RUST_LOG` sets the
/// filter (with `entra_pool::telemetry=debug`, entra-pool's spans are logged), `LOG_FORMAT=json`
/// writes JSON.
pub(crate) fn log() {
    let filter = env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse_lossy(filter))
        .with_span_events(FmtSpan::CLOSE);
    if env::var("LOG_FORMAT").is_ok_and(|format| format == "json") {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
}

/// Installs the recorder of the metrics, and returns the handle that renders a scrape.
///
/// # Errors
///
/// A recorder is already installed.
pub(crate) fn metrics() -> Result<PrometheusHandle, BoxError> {
    let handle = PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets(&BUCKETS)?
        .install_recorder()?;
    entra_pool::telemetry::describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut interval = interval(UPKEEP_EVERY);
        loop {
            interval.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}
