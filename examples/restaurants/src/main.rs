//! Restaurants and their reviews, with photos: PostgreSQL and Azure Blob Storage with one
//! identity.

mod cross_origin;
mod database;
mod entry;
mod forms;
mod image;
mod pages;
mod photos;
mod routes;
mod upload;

use std::process::ExitCode;

use entra_pool::{credential, postgres, token::Identity};
use examples_common::{BoxError, run, serve, settings};

use photos::Photos;
use routes::App;

/// Service Connector's name for the variable.
const POSTGRES: &str = "AZURE_POSTGRESQL_CONNECTIONSTRING";

#[tokio::main]
async fn main() -> ExitCode {
    run(application()).await
}

async fn application() -> Result<(), BoxError> {
    let listen = settings::listen()?;
    // Logs in to both services. It caches a token for each.
    let identity = Identity::new(credential::from_env()?);

    let missing = || settings::invalid(POSTGRES, "it is not set");
    let url = settings::optional::<String>(POSTGRES)?.ok_or_else(missing)?;
    let connector = postgres::connector_with(&identity, &url)?;
    let pool = connector.pool();
    let photos = Photos::open(identity)?;
    // Connects, so that a wrong setting or a missing role is reported now.
    connector.warm_up(&pool, 1).await.map_err(postgres::Error::from)?;

    let app = App { pool: pool.clone(), photos };
    serve(routes::router(app), listen, postgres::close_and_wait(&pool)).await?;
    Ok(())
}
