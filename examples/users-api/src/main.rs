//! Users with first and last name in Azure SQL: create, list, get. With an OpenAPI
//! document and Swagger UI at `/docs`; over a pool of one connection.

mod config;
mod database;
mod routes;
mod user;

use std::process::ExitCode;

use entra_pool::azure_sql::{self, Manager};
use examples_common::{BoxError, Database, run, serve};

use config::Config;

#[tokio::main]
async fn main() -> ExitCode {
    run(application()).await
}

async fn application() -> Result<(), BoxError> {
    let config = Config::from_env()?;
    let database = Database::open(config.connection_string).await?;
    let manager = Manager::new(database.azure_sql()?);
    let pool = azure_sql::builder(manager).max_size(config.pool_size.get()).build()?;
    database.set_up_azure_sql(&pool, database::SETUP).await?;
    azure_sql::keep_fresh(&pool);
    serve(routes::router(pool.clone()), config.listen, azure_sql::close_and_wait(&pool)).await?;
    Ok(())
}
