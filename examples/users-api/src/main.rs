//! Users with first and last name in Azure SQL: create, list, get. With an OpenAPI document and
//! Swagger UI at `/docs`, over a pool of one connection.

mod database;
mod routes;
mod user;

use std::{num::NonZeroUsize, process::ExitCode};

use entra_pool::azure_sql;
use examples_common::{BoxError, run, serve, settings};

#[tokio::main]
async fn main() -> ExitCode {
    run(application()).await
}

async fn application() -> Result<(), BoxError> {
    let listen = settings::listen()?;
    let size = settings::optional("POOL_SIZE")?.map_or(1, NonZeroUsize::get);
    let connector = azure_sql::connector_from_env()?;
    let pool = connector.pool_builder().max_size(size).build();
    // Connects, so that a wrong setting or a missing user is reported now.
    connector.warm_up(&pool, 1).await.map_err(azure_sql::Error::from)?;
    serve(routes::router(pool.clone()), listen, azure_sql::close_and_wait(&pool)).await?;
    Ok(())
}
