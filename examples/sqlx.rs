//! sqlx's pool on Azure Database for PostgreSQL.
//!
//! ```sh
//! cargo run --features sqlx --example sqlx -- \
//!     'postgres://ROLE@NAME.postgres.database.azure.com/DATABASE'
//! ```
//!
//! With the emulator: `cargo run -p entra-pool-emulator` prints the URL, and the variables to set.

use std::error::Error;

use entra_pool::{
    adapters::sqlx::{Pool, options},
    postgres,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("entra_pool=info").init();
    let url = std::env::args().nth(1).ok_or("usage: sqlx URL")?;
    let connector = postgres::connector(&url)?;

    let pool = Pool::new(&connector, options(&connector).max_connections(4)).await?;
    let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&*pool).await?;
    println!("logged in as {role:?}");
    pool.close().await;
    Ok(())
}
