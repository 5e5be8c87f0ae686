//! Restaurants and their reviews, with photos: PostgreSQL and Azure Blob Storage with
//! one credential.

mod config;
mod database;
mod entry;
mod image;
mod pages;
mod photos;
mod routes;
mod upload;

use std::process::ExitCode;

use entra_pool::postgres;
use examples_common::{BoxError, Database, run, serve};

use config::Config;
use photos::Photos;
use routes::App;

#[tokio::main]
async fn main() -> ExitCode {
    run(application()).await
}

async fn application() -> Result<(), BoxError> {
    let config = Config::from_env()?;
    let database = Database::open(config.connection_string).await?;
    let (connector, identity) = database.postgres_and_identity()?;
    let pool = connector.pool();
    database.set_up_postgres(&pool, database::SETUP).await?;
    let photos = Photos::open(config.photos, identity)?;
    if database.is_emulated() {
        photos.set_up().await?;
    }
    let app = App { pool: pool.clone(), connector, photos };
    serve(routes::router(app), config.listen, postgres::close_and_wait(&pool)).await?;
    Ok(())
}
