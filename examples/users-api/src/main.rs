//! Users with first and last name in Azure SQL: create, list, get. With an OpenAPI
//! document and Swagger UI at `/docs`; over a pool of one connection.

mod config;
mod database;
mod routes;
mod user;

use std::process::ExitCode;

use entra_pool::azure_sql;
use examples_common::{BoxError, Database, run, serve};

use config::Config;

#[tokio::main]
async fn main() -> ExitCode {
    run(application()).await
}

async fn application() -> Result<(), BoxError> {
    let Config { azure_sql: settings, pool_size } = Config::from_env()?;
    let database = Database::open(settings.connection_string).await?;
    let pool = database.azure_sql()?.pool_builder().max_size(pool_size.get()).build();
    database.set_up_azure_sql(&pool, database::SETUP).await?;
    serve(routes::router(pool.clone()), settings.listen, azure_sql::close_and_wait(&pool)).await?;
    Ok(())
}
