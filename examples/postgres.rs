//! Shows the role and the database of a login to Azure Database for PostgreSQL.
//!
//! ```sh
//! cargo run --example postgres -- 'postgres://ROLE@NAME.postgres.database.azure.com/DATABASE'
//! ```
//!
//! With the emulator: `cargo run -p entra-pool-emulator` prints the URL, and the variables to set.

use std::{error::Error, iter::successors, process::ExitCode};

use entra_pool::postgres;

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
    let url = std::env::args().nth(1).ok_or("usage: postgres URL")?;

    let pool = postgres::pool(&url)?;
    let client = pool.get().await.map_err(postgres::Error::from)?;
    let row = client
        .query_one("SELECT current_user::text, current_database()::text, $1::int4", &[&42_i32])
        .await?;
    let (user, database): (&str, &str) = (row.get(0), row.get(1));
    println!("logged in as {user:?} to {database:?}; the parameter is {}", row.get::<_, i32>(2));

    println!("{:?}", pool.status());
    Ok(())
}
