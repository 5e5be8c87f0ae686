//! Runs the emulator until Ctrl-C or SIGTERM and prints the variables for clients, or runs it
//! while a command runs.

#![allow(clippy::disallowed_methods)] // Servers use the real clock.

mod command;
mod health;
mod services;
mod settings;
mod variables;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use command::Signals;
use services::Services;
use settings::{Arguments, Settings};

/// Why the program exits with an error.
enum Failure {
    /// A setting cannot be used: exit status 2, like clap's.
    Settings(String),
    /// Anything else: exit status 1.
    Run(String),
}

impl Failure {
    fn start(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                Self::Run(format!("{error}: choose another port (see --help), or 0 for a free one"))
            }
            _ => Self::Run(format!("cannot start {what}: {error}")),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (status, problem) = match run(Arguments::parse()).await {
        Ok(code) => return code,
        Err(Failure::Settings(problem)) => (2, problem),
        Err(Failure::Run(problem)) => (1, problem),
    };
    eprintln!("error: {problem}");
    ExitCode::from(status)
}

async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let settings = Settings::read(arguments.settings, arguments.config.as_deref())
        .map_err(Failure::Settings)?;
    if arguments.health {
        return health::check(settings.bind, settings.identity_port())
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| Failure::Run(format!("not healthy: {error}")));
    }
    let command = arguments.command;
    // stdout belongs to the command.
    let log = if command.is_empty() { LevelFilter::INFO } else { LevelFilter::WARN };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(arguments.log.unwrap_or(log))
        .init();
    // Before the variables are printed: a caller may send a signal right afterwards.
    let mut signals = Signals::catch()
        .map_err(|error| Failure::Run(format!("cannot listen for signals: {error}")))?;
    let services = Services::start(&settings).await?;
    if let Some(program) = command.first() {
        services.set_ready();
        let status = command::run(&command, &services.variables, &mut signals).await;
        return status
            .map_err(|error| Failure::Run(format!("cannot run '{}': {error}", program.display())));
    }
    print!("{}", arguments.print.write(&services.variables));
    // Afterwards, so that a caller who waits for this finds all variables in the output.
    services.set_ready();
    tracing::info!("ready: Ctrl-C stops the emulator and removes its temporary files");
    signals.any().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
