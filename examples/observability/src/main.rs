//! Both databases behind one service, which tells how its pools, logins and tokens are:
//! Prometheus at `/metrics`, and in the log as spans.

mod routes;
mod telemetry;

use std::{num::NonZeroUsize, process::ExitCode};

use entra_pool::{azure_sql, postgres};
use examples_common::{
    BoxError, Database, serve,
    settings::{self, AzureSqlSettings},
};
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
    let AzureSqlSettings { connection_string: orders, listen } = AzureSqlSettings::from_env()?;
    let menu = settings::optional("AZURE_POSTGRESQL_CONNECTIONSTRING")?;
    let size = settings::optional("POOL_SIZE")?.map_or(4, NonZeroUsize::get);

    let orders = Database::open(orders).await?;
    let azure_sql = orders.azure_sql()?.pool_builder().max_size(size).build();

    let menu = Database::open(menu).await?;
    let connector = menu.postgres()?;
    let postgres = connector.pool_builder().max_size(size).build();

    let app = App { azure_sql: azure_sql.clone(), postgres: postgres.clone(), connector, metrics };
    let close = async {
        tokio::join!(azure_sql::close_and_wait(&azure_sql), postgres::close_and_wait(&postgres));
    };
    serve(routes::router(app), listen, close).await?;
    Ok(())
}
