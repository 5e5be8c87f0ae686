//! bb8's pools on both databases.
//!
//! ```sh
//! cargo run --features bb8 --example bb8 -- \
//!     'Server=tcp:NAME.database.windows.net;Database=DATABASE' \
//!     'postgres://ROLE@NAME.postgres.database.azure.com/DATABASE'
//! ```
//!
//! With the emulator: `cargo run -p entra-pool-emulator` prints both strings, and the variables to
//! set.

use std::error::Error;

use entra_pool::{adapters::bb8, azure_sql, postgres};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // bb8 does not return the errors of a connect. They are in the log.
    tracing_subscriber::fmt().with_env_filter("entra_pool=info").init();
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: bb8 CONNECTION_STRING URL";
    let (sql, pg) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    azure_sql(&sql).await?;
    postgres(&pg).await
}

async fn azure_sql(connection_string: &str) -> Result<(), Box<dyn Error>> {
    let manager = azure_sql::Manager::new(azure_sql::connector(connection_string)?);
    let pool = bb8::azure_sql::builder(&manager).max_size(4).build(manager).await?;

    let mut conn = pool.get().await?;
    let row = conn.query("SELECT SUSER_SNAME()", &[]).await?.into_row().await?;
    let row = row.ok_or("the query returned no row")?;
    println!("Azure SQL: logged in as {:?}", row.get::<&str, _>(0));
    Ok(())
}

async fn postgres(url: &str) -> Result<(), Box<dyn Error>> {
    let manager = bb8::postgres::Manager::new(postgres::connector(url)?);
    let pool = bb8::postgres::builder(&manager).max_size(4).build(manager).await?;

    let client = pool.get().await?;
    let row = client.query_one("SELECT current_user::text", &[]).await?;
    println!("PostgreSQL: logged in as {:?}", row.get::<_, &str>(0));
    Ok(())
}
