//! Runs the emulator until Ctrl-C or SIGTERM and prints what to connect with.

#![allow(clippy::disallowed_methods)] // A server lives in real time.

mod health;
mod services;
mod settings;
mod variables;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;

use services::Services;
use settings::{Arguments, Settings, SettingsError};

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0}: choose another port, or 0 for a free one")]
    PortInUse(io::Error),
    #[error("cannot start {0}: {1}")]
    Start(&'static str, io::Error),
    #[error("cannot write {path}: {1}", path = .0.display())]
    Write(PathBuf, io::Error),
    #[error("not healthy: {0}")]
    Health(io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

impl Failure {
    fn start(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse(error),
            _ => Self::Start(what, error),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(if matches!(failure, Failure::Settings(_)) { 2 } else { 1 })
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (print, log) = (arguments.print, arguments.log);
    let (env_file, health) = (arguments.env_file.clone(), arguments.health);
    let settings = Settings::read(arguments)?;
    if health {
        return health::ask(settings.bind(), settings.identity_port()).map_err(Failure::Health);
    }
    let terminal = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(terminal)
        .with_max_level(log)
        .init();
    // Signals are heard from here on, not from when everything is printed.
    let stop = signals().map_err(Failure::Signals)?;
    let services = Services::start(&settings).await?;
    let variables = services.variables();
    // Removed at the end, whatever the end is.
    let _env_file = match env_file {
        Some(path) => {
            let text = variables::Format::Dotenv.write(&variables);
            Some(variables::SecretFile::create(&path, &text).map_err(|e| Failure::Write(path, e))?)
        }
        None => None,
    };
    services.set_ready();
    print!("{}", print.write(&variables));
    tracing::info!("everything listens; Ctrl-C stops it and removes its files");
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
