//! diesel-async's pool on Azure Database for PostgreSQL.
//!
//! ```sh
//! cargo run --features diesel-async --example diesel_async -- \
//!     'postgres://ROLE@NAME.postgres.database.azure.com/DATABASE'
//! ```
//!
//! With the emulator: `cargo run -p entra-pool-emulator` prints the URL, and the variables to set.

use std::error::Error;

use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{RunQueryDsl, pooled_connection::deadpool::Pool};
use entra_pool::{adapters::diesel::manager, postgres};

#[derive(QueryableByName)]
struct Login {
    #[diesel(sql_type = sql_types::Text)]
    role: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("entra_pool=info").init();
    let url = std::env::args().nth(1).ok_or("usage: diesel_async URL")?;
    let connector = postgres::connector(&url)?;

    let pool = Pool::builder(manager(connector)).max_size(4).build()?;
    let mut conn = pool.get().await?;
    let login: Login = sql_query("SELECT current_user::text AS role").get_result(&mut conn).await?;
    println!("logged in as {:?}", login.role);
    Ok(())
}
