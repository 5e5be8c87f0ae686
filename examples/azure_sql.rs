//! Shows the user and the database of a login to Azure SQL.
//!
//! ```sh
//! cargo run --example azure_sql -- \
//!     'Server=tcp:NAME.database.windows.net;Database=DATABASE;Authentication=Active Directory Default'
//! ```
//!
//! With the emulator: `cargo run -p entra-pool-emulator` prints the string, and the variables to
//! set.

use std::{error::Error, iter::successors, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else { return ExitCode::SUCCESS };
    let causes = successors(Some(&*error), |cause: &&dyn Error| (*cause).source());
    for cause in causes {
        eprintln!("{cause}");
    }
    ExitCode::FAILURE
}

async fn run() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("entra_pool=info").init();
    let connection_string = std::env::args().nth(1).ok_or("usage: azure_sql CONNECTION_STRING")?;

    let pool = entra_pool::azure_sql::pool(&connection_string)?;
    let mut conn = pool.get().await?;
    let row = conn
        .query("SELECT SUSER_SNAME(), DB_NAME(), @P1 + 1", &[&41_i32])
        .await?
        .into_row()
        .await?
        .ok_or("the query returned no row")?;
    let (user, database): (Option<&str>, Option<&str>) = (row.get(0), row.get(1));
    println!("logged in as {user:?} to {database:?}; 41 + 1 = {:?}", row.get::<i32, _>(2));

    println!("{:#?}", pool.manager().connector().report());
    Ok(())
}
