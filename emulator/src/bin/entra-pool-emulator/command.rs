//! The command after `--`, which runs with the variables in its environment.

use std::{
    ffi::OsString,
    io,
    process::{ExitCode, ExitStatus},
};

use tokio::process::{Child, Command};
#[cfg(unix)]
use tokio::signal::unix::{Signal as Interrupt, Signal as Terminate, SignalKind, signal};
#[cfg(windows)]
use tokio::signal::windows::{CtrlBreak as Terminate, CtrlC as Interrupt, ctrl_break, ctrl_c};

use crate::variables::Variable;

/// Ctrl-C, and SIGTERM or, on Windows, Ctrl-Break.
pub(crate) struct Signals {
    interrupt: Interrupt,
    terminate: Terminate,
}

impl Signals {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> io::Result<Self> {
        #[cfg(unix)]
        let (interrupt, terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        #[cfg(windows)]
        let (interrupt, terminate) = (ctrl_c()?, ctrl_break()?);
        Ok(Self { interrupt, terminate })
    }

    /// Completes with the first signal.
    pub(crate) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs the command, and returns its exit code when it has exited.
pub(crate) async fn run(
    command: &[OsString],
    variables: &[Variable],
    signals: &mut Signals,
) -> io::Result<ExitCode> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .envs(variables.iter().map(|variable| (variable.name, &variable.value)))
        .kill_on_drop(true)
        .spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => return status.map(exit_code),
            // A terminal also sends Ctrl-C to the command, which decides when to exit.
            _ = signals.interrupt.recv() => {}
            _ = signals.terminate.recv() => terminate(&mut child)?,
        }
    }
}

/// Sends SIGTERM. Windows has no such signal: the command is killed.
fn terminate(child: &mut Child) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(id) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
        return Ok(rustix::process::kill_process(id, rustix::process::Signal::TERM)?);
    }
    child.start_kill()
}

/// If a signal ended the command, the code is 128 plus its number, as in shells.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code();
    #[cfg(unix)]
    let code = code.or(std::os::unix::process::ExitStatusExt::signal(&status).map(|it| 128 + it));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
