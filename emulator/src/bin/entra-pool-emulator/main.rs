//! Runs the emulator until Ctrl-C or SIGTERM and prints the variables for clients.

#![allow(clippy::disallowed_methods)] // A server lives in real time.

mod health;
mod services;
mod settings;
mod variables;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;

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
                Self::Run(format!("{error}: choose another port, or 0 for a free one"))
            }
            _ => Self::Run(format!("cannot start {what}: {error}")),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (status, problem) = match run(Arguments::parse()).await {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Settings(problem)) => (2, problem),
        Err(Failure::Run(problem)) => (1, problem),
    };
    eprintln!("error: {problem}");
    ExitCode::from(status)
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = Settings::read(arguments.settings, arguments.config.as_deref())
        .map_err(Failure::Settings)?;
    if arguments.health {
        return health::check(settings.bind, settings.identity_port())
            .map_err(|error| Failure::Run(format!("not healthy: {error}")));
    }
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(arguments.log)
        .init();
    // Before the variables are printed: a caller may send a signal right afterwards.
    let stop =
        signals().map_err(|error| Failure::Run(format!("cannot listen for signals: {error}")))?;
    let services = Services::start(&settings).await?;
    print!("{}", arguments.print.write(&services.variables));
    // Afterwards, so that a caller who waits for this finds all variables in the output.
    services.set_ready();
    tracing::info!("ready: Ctrl-C stops the emulator and removes its files");
    stop.await;
    tracing::info!("stopped");
    Ok(())
}

/// Completes with Ctrl-C or SIGTERM.
#[cfg(unix)]
fn signals() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Completes with Ctrl-C.
#[cfg(not(unix))]
fn signals() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
