//! Employees in Azure SQL as JSON: create, list, get. `deploy/` contains its deployment.

mod database;
mod employee;
mod routes;
mod salary;

use std::process::ExitCode;

use entra_pool::azure_sql;
use examples_common::{BoxError, run, serve, settings};

#[tokio::main]
async fn main() -> ExitCode {
    run(application()).await
}

async fn application() -> Result<(), BoxError> {
    let listen = settings::listen()?;
    let pool = azure_sql::pool_from_env()?;
    // Connects, so that a wrong setting or a missing user is reported now.
    pool.manager().connector().warm_up(&pool, 1).await.map_err(azure_sql::Error::from)?;
    serve(routes::router(pool.clone()), listen, azure_sql::close_and_wait(&pool)).await?;
    Ok(())
}
