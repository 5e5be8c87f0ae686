//! Runs a command-line tool, and kills it together with its child processes.

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};
use zeroize::Zeroizing;

use super::Cli;
use crate::clock::timeout;

/// The process group of a running tool, which is killed when this is dropped. In some packages,
/// `az` is a shell script, and killing the shell does not kill the interpreter that it waits for.
/// On Windows, only the tool itself is killed. (Ctrl-C in a terminal does not reach the group.)
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) {
            use rustix::process::{Pid, Signal, kill_process_group};
            // The group may have exited already.
            let _ = Pid::from_raw(leader).map(|leader| kill_process_group(leader, Signal::KILL));
        }
    }
}

/// The maximum size of each output stream. Further output is read and discarded.
pub(super) const OUTPUT_LIMIT: usize = 64 * 1024;

/// The timeout for reading the rest of the output after the command has exited: a child process
/// that is still running may keep the pipe open forever.
const GRACE: Duration = Duration::from_millis(500);

/// Runs the tool until it exits. The caller has checked that `arguments` contain no character
/// that is special to a shell.
pub(super) async fn run(cli: &Cli, arguments: Vec<&str>) -> io::Result<Output> {
    let mut child = command(cli, arguments)?.spawn()?;
    let mut group = Group(child.id());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    // Allocated with its full size: a buffer that grows leaves copies of the token in memory.
    let mut stdout = Zeroizing::new(Vec::with_capacity(OUTPUT_LIMIT + 1));
    let mut stderr = Zeroizing::new(Vec::new());
    let status = {
        let reading = async {
            tokio::join!(read(out, &mut stdout), read(err, &mut stderr));
        };
        tokio::pin!(reading);
        // A tool whose output is not read would block.
        let is_read = tokio::select! {
            () = &mut reading => true,
            _ = child.wait() => false,
        };
        let status = child.wait().await?;
        // The tool has exited. Child processes that it left running are not killed.
        group.0 = None;
        if !is_read {
            let _ = timeout(cli.clock.as_ref(), GRACE, reading).await;
        }
        status
    };
    Ok(Output { status, stdout, stderr })
}

/// Returns whether the file of the tool exists, although it cannot be run.
pub(super) fn is_installed(cli: &Cli) -> bool {
    let folders = cli.environment.get("PATH").unwrap_or("/");
    // An absolute path replaces the folder.
    std::env::split_paths(folders).any(|folder| folder.join(&cli.executable).is_file())
}

fn command(cli: &Cli, arguments: Vec<&str>) -> io::Result<Command> {
    let file = &cli.executable;
    // The message of `cmd.exe` would be in the user's language.
    if cfg!(windows) && file.components().count() > 1 && !file.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut command = Command::new(file);
    command.current_dir(if cfg!(windows) {
        cli.environment.get("SYSTEMROOT").unwrap_or(r"C:\Windows")
    } else {
        "/bin"
    });
    command.args(arguments).env_clear().envs(cli.environment.iter());
    // The Azure CLI's `expiresOn` is a local time without a zone, so the zone is set to UTC.
    // Without the other variables, `az` prints colour codes and warnings around its output.
    let only = [("TZ", "UTC"), ("AZURE_CORE_NO_COLOR", "true")];
    command.envs(only).env("AZURE_CORE_ONLY_SHOW_ERRORS", "true");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    Ok(command)
}

/// Returns the file to run. On Windows, this extension is added to a name without an extension.
///
/// `az.cmd` does not need an explicit `cmd /D /C`. The standard library runs a program whose name
/// ends in `.cmd` or `.bat` as `cmd.exe /e:ON /v:OFF /d /c "…"`, with the `cmd.exe` of the system
/// folder (`/d`: without the registry's `AutoRun` commands). Since Rust 1.77.2 it also quotes each
/// argument for `cmd.exe`, and fails if an argument cannot be quoted (CVE-2024-24576). Sources:
/// `make_bat_command_line` in std's `sys/args/windows.rs`, and the documentation of `std::process`,
/// "Batch file special handling". It searches for a bare name in `PATH`, never in the current
/// directory, and does not try `PATHEXT`.
pub(super) fn file_to_run(executable: &Path, extension: Option<&str>) -> PathBuf {
    match extension {
        Some(extension) if executable.extension().is_none() => executable.with_extension(extension),
        _ => executable.to_owned(),
    }
}

pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Zeroizing<Vec<u8>>,
    pub(super) stderr: Zeroizing<Vec<u8>>,
}

/// Reads a stream to its end, and keeps the first [`OUTPUT_LIMIT`] bytes and one more. An error
/// counts as the end.
async fn read(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = Zeroizing::new(vec![0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let room = (OUTPUT_LIMIT + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..length.min(room)]);
        if room == 0 {
            // If the caller has disabled tokio's budget, a pipe that is always full would prevent
            // the time limit from being checked.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_windows_a_name_without_an_extension_gets_the_extension_of_the_tool() {
        for (executable, extension, expected) in [
            ("az", None, "az"),
            ("/opt/az (2)/az", None, "/opt/az (2)/az"),
            ("az", Some("cmd"), "az.cmd"),
            ("azd", Some("exe"), "azd.exe"),
            ("AZ.CMD", Some("cmd"), "AZ.CMD"),
            ("az.bat", Some("cmd"), "az.bat"),
            (
                "C:/Program Files (x86)/CLI2/wbin/az",
                Some("cmd"),
                "C:/Program Files (x86)/CLI2/wbin/az.cmd",
            ),
            ("C:/a & b/100%/x^y/az", Some("cmd"), "C:/a & b/100%/x^y/az.cmd"),
            ("C:/v1.2/az", Some("cmd"), "C:/v1.2/az.cmd"),
            ("C:/az.cmd", Some("cmd"), "C:/az.cmd"),
        ] {
            let file = file_to_run(Path::new(executable), extension);
            assert_eq!(file, Path::new(expected), "{executable} {extension:?}");
        }
    }
}
