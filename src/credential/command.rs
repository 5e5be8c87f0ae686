//! Runs the command-line tools that developers are logged in to.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command as Process,
};
use zeroize::Zeroizing;

use super::{Environment, InvalidAnswer};
use crate::{
    clock::{Clock, SystemClock, timeout},
    excerpt::excerpt,
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient, Unavailable},
        Scope, Token,
    },
};

/// What is known about one tool.
pub(super) struct Program {
    /// `Azure CLI`.
    pub(super) name: &'static str,
    /// `az`.
    pub(super) command: &'static str,
    /// What gets a token from it, to be tried by hand.
    pub(super) subcommand: &'static str,
    /// What to run to log in.
    pub(super) login: &'static str,
    /// Where to read how to install it.
    pub(super) install: &'static str,
    /// The extension of its file on Windows.
    pub(super) windows_extension: &'static str,
    /// What went wrong, of what it wrote to its standard error.
    pub(super) reason: fn(&str) -> Failure,
}

/// What a tool says about its failure.
pub(super) struct Failure {
    /// In its words.
    pub(super) said: String,
    /// Whether the reason is that somebody must log in first.
    pub(super) logged_out: bool,
}

/// A tool that runs, with what it has started: `az` is a shell's script in some packages,
/// whose end does not end the interpreter that it waits for. Killed when it is dropped; on
/// Windows, the tool alone is. (A terminal's Ctrl-C does not reach it any more.)
struct Group(Option<u32>);

impl Group {
    /// The tool has ended; what it has left running may run.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) {
            use rustix::process::{Pid, Signal, kill_process_group};
            // It may have ended.
            let _ = Pid::from_raw(leader).map(|leader| kill_process_group(leader, Signal::KILL));
        }
    }
}

/// A tool, and how it is run.
#[derive(Clone)]
pub(super) struct Command {
    program: &'static Program,
    pub(super) executable: PathBuf,
    /// This process' own, once it is ready, if no other was given.
    pub(super) environment: Option<Environment>,
    pub(super) time_limit: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

/// Of either stream; more is read and thrown away.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// For the end of the output after the command itself has ended: something
/// that it has started may keep the pipe open for ever.
const GRACE: Duration = Duration::from_millis(500);

pub(super) const TENANT_EXPECTED: &str =
    "a tenant's ID or domain: letters, digits and . -, not starting with -";

/// Letters, digits and these; not to be taken for an option.
pub(super) fn is_word(text: &str, others: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

impl Command {
    pub(super) fn new(program: &'static Program) -> Self {
        Self {
            program,
            executable: program.command.into(),
            environment: None,
            time_limit: Duration::from_secs(10),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// With the environment of now, if none was given.
    pub(super) fn ready(mut self) -> Self {
        self.environment.get_or_insert_with(Environment::from_process);
        self
    }

    /// Runs the tool for a token of `scope`; `token` reads its standard output.
    /// All `arguments` have been checked for characters that a shell minds.
    pub(super) async fn token(
        &self,
        scope: &Scope,
        arguments: &[&str],
        token: fn(&[u8]) -> Result<Token, InvalidAnswer>,
    ) -> Result<Token, CredentialError> {
        let Program { name, command, subcommand, .. } = self.program;
        // On Windows a shell may be involved: see `file_to_run`.
        if !is_word(scope.as_str(), "._:/-") {
            let message = format!("the {name} is not run with {scope:?} as a scope");
            return Err(CredentialError::new(Refused, message));
        }
        match timeout(self.clock.as_ref(), self.time_limit, self.run(arguments)).await {
            // What was run is killed by being dropped.
            Err(_) => Err(CredentialError::new(
                Transient,
                format!(
                    "the {name} has not answered within {:?} and was ended; `{command} \
                     {subcommand}` should take a second or two",
                    self.time_limit
                ),
            )),
            Ok(Err(error)) => Err(self.cannot_run(error)),
            Ok(Ok(output)) if output.status.success() => {
                let read = if output.stdout.len() > OUTPUT_LIMIT {
                    Err(InvalidAnswer::TooLong { limit: OUTPUT_LIMIT })
                } else {
                    token(&output.stdout)
                };
                read.map_err(|error| {
                    let message = format!(
                        "the {name} answered with something that is not a token; does `{command} \
                         {subcommand} --output json` work?"
                    );
                    CredentialError::new(Refused, message).with_source(error)
                })
            }
            Ok(Ok(output)) => Err(self.failure(&output)),
        }
    }

    fn process(&self, arguments: &[&str]) -> io::Result<Process> {
        let extension = cfg!(windows).then_some(self.program.windows_extension);
        let file = file_to_run(&self.executable, extension);
        // `cmd.exe` would say it in the user's language.
        if cfg!(windows) && file.components().count() > 1 && !file.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut process = Process::new(file);
        let variable = |name| self.environment.as_ref().and_then(|all| all.get(name));
        process.current_dir(if cfg!(windows) {
            variable("SYSTEMROOT").unwrap_or(r"C:\Windows")
        } else {
            "/bin"
        });
        process.args(arguments).env_clear();
        if let Some(environment) = &self.environment {
            process.envs(environment.iter());
        }
        // The Azure CLI's `expiresOn` is local time without a zone: be that UTC.
        process.env("TZ", "UTC");
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process.kill_on_drop(true);
        #[cfg(unix)]
        process.process_group(0);
        Ok(process)
    }

    async fn run(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut child = self.process(arguments)?.spawn()?;
        let group = Group(child.id());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        // Made large enough at once: a buffer that grows leaves copies behind.
        let mut stdout = Zeroizing::new(Vec::with_capacity(OUTPUT_LIMIT + 1));
        let mut stderr = Zeroizing::new(Vec::new());
        let status = {
            let reading = async {
                tokio::join!(read(out, &mut stdout), read(err, &mut stderr));
            };
            tokio::pin!(reading);
            // While it runs it must be read from, or it waits for that.
            let early = tokio::select! {
                () = &mut reading => None,
                status = child.wait() => Some(status),
            };
            match early {
                None => {
                    let status = child.wait().await?;
                    group.leave();
                    status
                }
                Some(status) => {
                    group.leave();
                    let _ = timeout(self.clock.as_ref(), GRACE, reading).await;
                    status?
                }
            }
        };
        Ok(Output { status, stdout, stderr })
    }

    fn not_installed(&self) -> CredentialError {
        let Program { name, install, .. } = self.program;
        let message = format!("the {name} is not installed, or not in PATH; see {install}");
        CredentialError::new(Unavailable, message)
    }

    fn cannot_run(&self, error: io::Error) -> CredentialError {
        if error.kind() == io::ErrorKind::NotFound {
            return self.not_installed();
        }
        let Program { name, command, .. } = self.program;
        let message = format!("the {name} ({command}) cannot be run");
        CredentialError::new(Unavailable, message).with_source(error)
    }

    fn failure(&self, output: &Output) -> CredentialError {
        let Program { name, login, reason, .. } = self.program;
        let stderr = String::from_utf8_lossy(&output.stderr);
        // 127: of a shell; 9009: of cmd.
        if matches!(output.status.code(), Some(127 | 9009))
            || stderr.contains("is not recognized as an internal")
        {
            return self.not_installed();
        }
        let Failure { said, logged_out } = reason(&stderr);
        // What is in its standard output is a secret, if it is long enough for one.
        let secret = std::str::from_utf8(&output.stdout).ok().filter(|text| text.len() >= 64);
        let said = excerpt(&said, secret);
        let said = if said.is_empty() { String::new() } else { format!(" (it says: {said})") };
        if logged_out {
            let message = format!("nobody is logged in to the {name}: run `{login}`{said}");
            return CredentialError::new(Unavailable, message);
        }
        let network = [
            "Connection aborted",
            "Connection refused",
            "Connection reset",
            "ConnectionError",
            "Failed to establish a new connection",
            "Max retries exceeded",
            "Name or service not known",
            "Read timed out",
            "Temporary failure in name resolution",
            "connection refused",
            "connection reset",
            "getaddrinfo failed",
            "i/o timeout",
            "no such host",
            "timed out",
        ];
        // Ended by a signal, it has no code.
        let passes =
            output.status.code().is_none() || network.iter().any(|mark| stderr.contains(mark));
        let kind = if passes { Transient } else { Refused };
        CredentialError::new(kind, format!("the {name} failed with {}{said}", output.status))
    }
}

/// The file to run. On Windows a name without an extension gets this one.
///
/// The standard library runs a program whose name ends in `.cmd` or `.bat` by the `cmd.exe` of
/// the system's folder, with the path and each argument quoted, and refuses a path with a
/// quote (documentation of `std::process`, "Batch file special handling"). It looks for a
/// bare name in `PATH`, never in the current directory, and does not try `PATHEXT`.
fn file_to_run(executable: &Path, extension: Option<&str>) -> PathBuf {
    match extension {
        Some(extension) if executable.extension().is_none() => executable.with_extension(extension),
        _ => executable.to_owned(),
    }
}

struct Output {
    status: ExitStatus,
    stdout: Zeroizing<Vec<u8>>,
    stderr: Zeroizing<Vec<u8>>,
}

/// Reads to the end, of which the first [`OUTPUT_LIMIT`] bytes and one more
/// are kept. A stream that breaks has ended.
async fn read(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = Zeroizing::new(vec![0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let room = (OUTPUT_LIMIT + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..length.min(room)]);
        if room == 0 {
            // Where the caller has lifted tokio's budget, a pipe that is always full would
            // leave no time to look at the time limit.
            tokio::task::yield_now().await;
        }
    }
}

/// Without the environment's values.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("executable", &self.executable)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_windows_a_name_without_an_extension_gets_the_one_of_the_tool() {
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
