//! The rows of a query as Arrow record batches, written as a table, as CSV and as
//! JSON, as they come; in Azure by the system-assigned identity.
#![allow(clippy::disallowed_methods)] // An application lives in real time.

mod azure_sql;
mod batches;
mod config;
mod format;
mod numeric;
mod postgres;
mod report;
mod routes;
mod value;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use entra_pool::{azure_sql as sql, postgres as pg};
use examples_common::{BoxError, Database, run, run_printing, serve};

use config::{Config, DatabaseConfig};
use format::{Format, Writer};
use report::{Pool, Source};

const SETUP_AZURE_SQL: &str = include_str!("../setup.sql");
const SETUP_POSTGRES: &str = include_str!("../setup.postgres.sql");

#[tokio::main]
async fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => run(answer_requests()).await,
        Some("print") => run_printing(print()).await,
        Some(_) => run_printing(async { Err("usage: report [print]".into()) }).await,
    }
}

async fn answer_requests() -> Result<(), BoxError> {
    let config = Config::from_env()?;
    // Kept for as long as this runs: where it is emulated, it goes with it.
    let (_database, pool) = open(config.database).await?;
    let source = Source { pool, query: config.query.into() };
    serve(routes::router(source.clone()), config.listen, close(&source.pool)).await?;
    Ok(())
}

async fn print() -> Result<(), BoxError> {
    let config = Config::from_env()?;
    let (_database, pool) = open(config.database).await?;
    let source = Source { pool, query: config.query.into() };
    let failed = |_| BoxError::from("the query has failed; the log says why");
    let mut report = source.run().await.map_err(failed)?;
    let mut writer = Writer::new(Format::Table);
    while let Some(batch) = report.next().await.map_err(failed)? {
        io::stdout().write_all(&writer.write(&batch)?)?;
    }
    close(&source.pool).await;
    Ok(())
}

async fn open(config: DatabaseConfig) -> Result<(Database, Pool), BoxError> {
    match config {
        DatabaseConfig::AzureSql(connection_string) => {
            let database = Database::open(connection_string).await?;
            let pool = database.azure_sql()?.pool();
            database.set_up_azure_sql(&pool, SETUP_AZURE_SQL).await?;
            Ok((database, Pool::AzureSql(pool)))
        }
        DatabaseConfig::Postgres(url) => {
            let database = Database::open(url).await?;
            let connector = database.postgres()?;
            let pool = connector.pool();
            database.set_up_postgres(&pool, SETUP_POSTGRES).await?;
            Ok((database, Pool::Postgres(pool, connector)))
        }
    }
}

async fn close(pool: &Pool) {
    match pool {
        Pool::AzureSql(pool) => sql::close_and_wait(pool).await,
        Pool::Postgres(pool, _) => pg::close_and_wait(pool).await,
    }
}
