//! Both databases behind one service, which tells how its pools, logins and tokens are:
//! Prometheus at `/metrics`, and in the log as spans.

mod health;
mod routes;
mod telemetry;

use std::{num::NonZeroUsize, process::ExitCode};

use entra_pool::{azure_sql, postgres};
use examples_common::{BoxError, serve, settings};
use metrics_exporter_prometheus::PrometheusHandle;

use routes::App;

#[tokio::main]
async fn main() -> ExitCode {
    telemetry::log();
    let ended = match telemetry::metrics() {
        Ok(metrics) => application(metrics).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error as &dyn std::error::Error, "ended");
            ExitCode::FAILURE
        }
    }
}

async fn application(metrics: PrometheusHandle) -> Result<(), BoxError> {
    let listen = settings::listen()?;
    let size = settings::optional("POOL_SIZE")?.map_or(4, NonZeroUsize::get);
    let orders = azure_sql::pool_from_env()?.manager().connector().clone();
    let azure_sql = orders.pool_builder().max_size(size).build();
    let name = "AZURE_POSTGRESQL_CONNECTIONSTRING";
    let url = settings::optional::<String>(name)?;
    let connector =
        postgres::connector(&url.ok_or_else(|| settings::invalid(name, "it is not set"))?)?;
    let postgres = connector.pool_builder().max_size(size).build();

    let app = App { azure_sql: azure_sql.clone(), postgres: postgres.clone(), connector, metrics };
    let close = async {
        tokio::join!(azure_sql::close_and_wait(&azure_sql), postgres::close_and_wait(&postgres));
    };
    serve(routes::router(app), listen, close).await?;
    Ok(())
}
