//! Streams the rows of a query as Arrow record batches: as a table, as CSV and as JSON. In Azure
//! it logs in with the system-assigned identity.
#![allow(clippy::disallowed_methods)] // Applications use the real clock.

mod azure_sql;
mod batches;
mod format;
mod numeric;
mod postgres;
mod report;
mod routes;
mod value;

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use entra_pool::{azure_sql as sql, postgres as pg};
use examples_common::{
    BoxError, run, serve,
    settings::{self, Listen},
};

use format::{Format, Writer};
use report::{Pool, Source};

/// `setup.sql` and `setup.postgres.sql` create its table.
const QUERY: &str = "SELECT id, item, amount, sold_on FROM sales ORDER BY id";

#[tokio::main]
async fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => run(answer_requests()).await,
        Some("print") => run(print()).await,
        Some(_) => run(async { Err("usage: report [print]".into()) }).await,
    }
}

async fn answer_requests() -> Result<(), BoxError> {
    // Functions sets the port on which its host expects the program.
    let listen = match settings::optional("FUNCTIONS_CUSTOMHANDLER_PORT")? {
        Some(port) => Listen::at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?,
        None => settings::listen()?,
    };
    let source = source().await?;
    serve(routes::router(source.clone()), listen, close(&source.pool)).await?;
    Ok(())
}

async fn print() -> Result<(), BoxError> {
    let source = source().await?;
    let failed = |_| BoxError::from("the query failed: see the log above");
    let mut report = source.run().await.map_err(failed)?;
    let mut writer = Writer::new(Format::Table);
    while let Some(batch) = report.next().await.map_err(failed)? {
        io::stdout().write_all(&writer.write(&batch)?)?;
    }
    close(&source.pool).await;
    Ok(())
}

/// Connects, so that a wrong setting or a missing user is reported at the start.
async fn source() -> Result<Source, BoxError> {
    let query = settings::optional("REPORT_QUERY")?.unwrap_or_else(|| QUERY.to_owned());
    let database = settings::optional::<String>("REPORT_DATABASE")?;
    let pool = match database.as_deref() {
        None | Some("azure-sql") => {
            let connector = sql::connector_from_env()?;
            let pool = connector.pool();
            connector.warm_up(&pool, 1).await.map_err(sql::Error::from)?;
            Pool::AzureSql(pool)
        }
        Some("postgresql") => {
            let connector = pg::connector_from_env()?;
            let pool = connector.pool();
            connector.warm_up(&pool, 1).await.map_err(pg::Error::from)?;
            Pool::Postgres(pool)
        }
        Some(_) => return Err(settings::invalid("REPORT_DATABASE", "use azure-sql or postgresql")),
    };
    Ok(Source { pool, query: query.into() })
}

async fn close(pool: &Pool) {
    match pool {
        Pool::AzureSql(pool) => sql::close_and_wait(pool).await,
        Pool::Postgres(pool) => pg::close_and_wait(pool).await,
    }
}
