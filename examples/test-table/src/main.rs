//! A web page that shows a column of a table in Azure SQL; in Azure by a user-assigned
//! managed identity, which the connection string names by its client ID.

mod database;
mod routes;

use std::process::ExitCode;

use entra_pool::azure_sql;
use examples_common::{BoxError, Database, run, serve, settings::AzureSqlSettings};

#[tokio::main]
async fn main() -> ExitCode {
    run(application()).await
}

async fn application() -> Result<(), BoxError> {
    let AzureSqlSettings { connection_string, listen } = AzureSqlSettings::from_env()?;
    let database = Database::open(connection_string).await?;
    let pool = database.azure_sql()?.pool();
    database.set_up_azure_sql(&pool, database::SETUP).await?;
    serve(routes::router(pool.clone()), listen, azure_sql::close_and_wait(&pool)).await?;
    Ok(())
}
