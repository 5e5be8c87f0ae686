//! What entra-pool's example applications share and its users need not care for:
//! each has this around its own routes and statements.
//!
//! ```no_run
//! use entra_pool::azure_sql;
//! use examples_common::{BoxError, Database, run, serve, settings};
//!
//! #[tokio::main]
//! async fn main() -> std::process::ExitCode {
//!     run(application()).await
//! }
//!
//! async fn application() -> Result<(), BoxError> {
//!     let database = Database::open(settings::optional(settings::AZURE_SQL)?).await?;
//!     let pool = database.azure_sql()?.pool();
//!     database.set_up_azure_sql(&pool, "CREATE TABLE …").await?;
//!     let router = axum::Router::new().with_state(pool.clone());
//!     serve(router, settings::listen()?, azure_sql::close_and_wait(&pool)).await?;
//!     Ok(())
//! }
//! ```
#![deny(missing_docs, unreachable_pub)]
#![allow(clippy::disallowed_methods)] // An application lives in real time.

mod cross_origin;
mod database;
pub mod entry;
pub mod health;
pub mod html;
mod log;
pub mod problem;
pub mod rows;
mod serve;
pub mod settings;
#[cfg(feature = "testing")]
pub mod testing;

use std::{
    error::Error,
    io::{self, IsTerminal},
    process::ExitCode,
    str::FromStr,
};

use tracing_subscriber::{
    EnvFilter,
    filter::LevelFilter,
    fmt::{MakeWriter, format::JsonFields},
};

pub use database::Database;
pub use problem::Problem;
pub use serve::serve;

/// Any error, on its way to the end of the program.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Runs `application` to its end, with a log; why it failed is the log's last line.
///
/// `RUST_LOG` says what is logged (default `info`), `LOG_FORMAT=json` how: one JSON
/// object a line, for Azure Monitor and the like.
pub async fn run(application: impl Future<Output = Result<(), BoxError>>) -> ExitCode {
    run_logging_to(io::stdout, io::stdout().is_terminal(), application).await
}

/// [`run`], with the log on the standard error: for what prints its result.
pub async fn run_printing(application: impl Future<Output = Result<(), BoxError>>) -> ExitCode {
    run_logging_to(io::stderr, io::stderr().is_terminal(), application).await
}

async fn run_logging_to(
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
    is_terminal: bool,
    application: impl Future<Output = Result<(), BoxError>>,
) -> ExitCode {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let log =
        tracing_subscriber::fmt().with_env_filter(filter.from_env_lossy()).with_writer(writer);
    let format = settings::optional("LOG_FORMAT");
    match format {
        Ok(Some(LogFormat::Json)) => {
            log.fmt_fields(JsonFields::new()).event_format(log::Json).init()
        }
        _ => log.with_ansi(is_terminal).init(),
    }
    let outcome = match format {
        Ok(_) => application.await,
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error as &dyn Error, "ended");
            ExitCode::FAILURE
        }
    }
}

/// `LOG_FORMAT`.
enum LogFormat {
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("it is neither text nor json"),
        }
    }
}
