//! A page that shows the pools of both databases at work. `/metrics` has the same numbers for
//! Prometheus, and the log has spans.
#![allow(clippy::disallowed_methods)] // Applications use the real clock.

mod load;
mod pool;
mod routes;
mod samples;
mod telemetry;

use std::{
    env,
    error::Error,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32},
    },
};

use entra_pool::{
    azure_sql,
    credential::{self, DefaultCredential, Environment},
    postgres,
    token::Identity,
};
use entra_pool_emulator::emulator::Emulator;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, signal, sync::watch};

use pool::Pool;
use samples::Samples;

type BoxError = Box<dyn Error + Send + Sync>;

const AZURE_SQL: &str = "AZURE_SQL_CONNECTIONSTRING";
const POSTGRES: &str = "AZURE_POSTGRESQL_CONNECTIONSTRING";

/// The state that the routes and the tasks share.
struct App {
    pools: [Pool; 2],
    /// Requests per second to each pool.
    load: AtomicU32,
    /// Present if no database is configured.
    emulator: Option<Emulator>,
    /// The emulator's identity endpoint refuses connections.
    identity_is_down: AtomicBool,
    samples: watch::Sender<Samples>,
    metrics: PrometheusHandle,
}

#[tokio::main]
async fn main() -> ExitCode {
    telemetry::log();
    match application().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error as &dyn Error, "stopped with an error");
            ExitCode::FAILURE
        }
    }
}

async fn application() -> Result<(), BoxError> {
    let metrics = telemetry::metrics()?;
    let size = variable("POOL_SIZE").map_or(Ok(4), |size| size.parse())?;
    let mut emulator = None;
    let (credential, azure_sql, postgres) = match (variable(AZURE_SQL), variable(POSTGRES)) {
        (Some(azure_sql), Some(postgres)) => (credential::from_env()?, azure_sql, postgres),
        // For a demonstration, the emulator runs in this process. Your service has only the
        // branch above.
        (None, None) => {
            let emulator = emulator.insert(Emulator::start().await?);
            // Short, so that refreshes are visible.
            emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 60);
            let environment = Environment::from_pairs(emulator.env());
            let credential = DefaultCredential::new().environment(environment).build()?;
            (credential, emulator.azure_sql_string(), emulator.postgres_url())
        }
        _ => return Err(format!("set both {AZURE_SQL} and {POSTGRES}, or neither").into()),
    };
    // Both databases share it. It caches a token for each.
    let identity = Identity::new(credential);
    let azure_sql = azure_sql::connector_with(&identity, &azure_sql)?;
    let postgres = postgres::connector_with(&identity, &postgres)?;
    // With the emulator, there is load from the start.
    let load = AtomicU32::new(if emulator.is_some() { 20 } else { 0 });
    let app = Arc::new(App {
        pools: [
            Pool::azure_sql(azure_sql.pool_builder().max_size(size).build()),
            Pool::postgres(postgres.pool_builder().max_size(size).build(), postgres),
        ],
        load,
        emulator,
        identity_is_down: AtomicBool::new(false),
        samples: watch::Sender::default(),
        metrics,
    });
    if app.emulator.is_none() {
        // Connects, so that a wrong setting or a missing user is reported now.
        let [azure_sql, postgres] = &app.pools;
        tokio::try_join!(azure_sql.warm_up(), postgres.warm_up())?;
    }
    tokio::spawn(load::run(app.clone()));
    tokio::spawn(samples::take(app.clone()));

    let address = variable("LISTEN").unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&address).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    tokio::select! {
        served = async { axum::serve(listener, routes::router(app.clone())).await } => served?,
        stopped = stop() => stopped?,
    }
    let [azure_sql, postgres] = &app.pools;
    tokio::join!(azure_sql.close(), postgres.close());
    Ok(())
}

/// The environment variable, unless it is empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Completes on SIGTERM or Ctrl-C.
async fn stop() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            interrupt = signal::ctrl_c() => interrupt,
        }
    }
    #[cfg(not(unix))]
    signal::ctrl_c().await
}
