//! Credentials that use the login of a command-line tool on a developer's machine.

mod az;
mod azd;
mod process;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use az::AzureCli;
pub use azd::AzureDeveloperCli;

use super::{
    ConfigError, Environment,
    answer::{InvalidAnswer, object_with},
    config_error::{check_tenant, is_word},
};
use crate::{
    clock::{Clock, SystemClock, timeout},
    excerpt::{excerpt, excerpt_of_end},
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient, Unavailable},
        Scope, Token, TokenCredential, TokenRequest,
    },
};
use process::{OUTPUT_LIMIT, Output};

/// The properties of a command-line tool.
#[derive(Debug)]
struct Tool {
    /// The tool's name, such as `Azure CLI`.
    name: &'static str,
    /// The command, such as `az`.
    command: &'static str,
    /// The subcommand that prints a token, as a user would type it.
    subcommand: &'static str,
    /// Further arguments of the subcommand.
    arguments: &'static [&'static str],
    /// The option that selects a tenant.
    tenant_option: &'static str,
    /// The command to log in with.
    login: &'static str,
    /// The page that describes how to install it.
    install: &'static str,
    /// The extension of its file on Windows.
    windows_extension: &'static str,
    /// The field of its output with the token.
    token: &'static str,
    /// The field with the expiry of the token.
    expiry: &'static str,
    /// The field with the expiry as a local time.
    local_expiry: Option<&'static str>,
    /// Reads the reason of a failure from the tool's standard error.
    reason: fn(&str) -> Failure,
}

impl Tool {
    /// Parses the token in the tool's standard output.
    fn read(&self, stdout: &[u8]) -> Result<Token, InvalidAnswer> {
        let object = object_with(self.token, stdout)?;
        object.token(self.token, self.expiry, || object.time(self.local_expiry?))
    }
}

/// The failure that a tool reports.
struct Failure {
    /// The tool's message.
    said: String,
    /// Whether the user must log in first.
    logged_out: bool,
}

/// A tool and the settings to run it with. `Debug` shows only the names of the environment
/// variables.
#[derive(Debug)]
pub(super) struct Cli {
    tool: &'static Tool,
    executable: PathBuf,
    tenant: Option<String>,
    subscription: Option<String>,
    environment: Environment,
    pub(super) time_limit: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

/// Builds an [`AzureCli`] or an [`AzureDeveloperCli`].
#[derive(Debug)]
#[must_use]
pub struct CliBuilder<T> {
    pub(super) cli: Cli,
    credential: fn(Arc<Cli>) -> T,
}

impl<T> CliBuilder<T> {
    fn new(tool: &'static Tool, credential: fn(Arc<Cli>) -> T) -> Self {
        let cli = Cli {
            tool,
            executable: tool.command.into(),
            tenant: None,
            subscription: None,
            environment: Environment::from_process(),
            time_limit: Duration::from_secs(30),
            clock: Arc::new(SystemClock::new()),
        };
        Self { cli, credential }
    }

    /// Sets the tenant (its ID or domain) to request the token from. Default: the tenant that the
    /// tool is logged in to.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.cli.tenant = Some(tenant.into());
        self
    }

    /// Sets the command. Default: `az` or `azd`. A path should be absolute, because the command
    /// does not run in the current directory. On Windows, `.cmd` (`az`) or `.exe` (`azd`) is added
    /// to a name without an extension.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.cli.executable = path.into();
        self
    }

    /// Sets the environment variables of the command, including its `PATH`. Default:
    /// [`Environment::from_process`], read when the builder is created.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.cli.environment = environment;
        self
    }

    /// Sets how long the command may take. Default: 30 s. `az` takes up to 13 s on some machines.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.cli.time_limit = limit;
        self
    }

    /// Sets the clock for the time limit. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.cli.clock = Arc::new(clock);
        self
    }

    /// Builds the credential. This runs no command.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if the tenant or the subscription contains an invalid character.
    pub fn build(self) -> Result<T, ConfigError> {
        if let Some(tenant) = &self.cli.tenant {
            check_tenant("tenant", tenant)?;
        }
        if let Some(subscription) = &self.cli.subscription {
            ConfigError::unless(
                is_word(subscription, "._- "),
                "subscription",
                "a subscription's ID, or a name of letters, digits, blanks and . _ -",
            )?;
        }
        Ok(self.ready())
    }

    fn ready(mut self) -> T {
        let extension = cfg!(windows).then_some(self.cli.tool.windows_extension);
        self.cli.executable = process::file_to_run(&self.cli.executable, extension);
        (self.credential)(Arc::new(self.cli))
    }
}

impl Cli {
    /// Runs the tool for a token of `scope`.
    async fn token(&self, scope: &Scope) -> Result<Token, CredentialError> {
        let Tool { name, command, subcommand, .. } = self.tool;
        // On Windows, `az` runs in a shell: see `process::file_to_run`. The builder has already
        // checked the tenant and the subscription.
        if !is_word(scope.as_str(), "._:/-") {
            let message = format!("the scope {scope:?} cannot be passed to the {name}");
            return Err(CredentialError::new(Refused, message));
        }
        let running = process::run(self, self.arguments(scope));
        match timeout(self.clock.as_ref(), self.time_limit, running).await {
            // Dropping the future has killed the process.
            Err(_) => Err(CredentialError::new(
                Transient,
                format!(
                    "the {name} did not respond within {:?} and was killed: check that `{command} \
                     {subcommand}` works, or set a longer `Entra CLI Timeout` or `time_limit`",
                    self.time_limit
                ),
            )),
            Ok(Err(error)) => Err(self.cannot_run(error)),
            Ok(Ok(output)) if output.status.success() => {
                let read = if output.stdout.len() > OUTPUT_LIMIT {
                    Err(InvalidAnswer::TooLong { limit: OUTPUT_LIMIT })
                } else {
                    self.tool.read(&output.stdout)
                };
                read.map_err(|error| {
                    let message = format!(
                        "the {name} did not print a token: check that `{command} {subcommand} \
                         --output json` works"
                    );
                    CredentialError::new(Refused, message).with_source(error)
                })
            }
            Ok(Ok(output)) => Err(self.failure(&output)),
        }
    }

    fn arguments<'a>(&'a self, scope: &'a Scope) -> Vec<&'a str> {
        let mut arguments: Vec<_> = self.tool.subcommand.split(' ').collect();
        arguments.extend(["--output", "json"]);
        arguments.extend(self.tool.arguments);
        arguments.extend(["--scope", scope.as_str()]);
        if let Some(tenant) = &self.tenant {
            arguments.extend([self.tool.tenant_option, tenant]);
        }
        if let Some(subscription) = &self.subscription {
            arguments.extend(["--subscription", subscription]);
        }
        arguments
    }

    fn not_installed(&self) -> CredentialError {
        let Tool { name, install, .. } = self.tool;
        let message = format!("the {name} is not installed, or not in PATH; see {install}");
        CredentialError::new(Unavailable, message)
    }

    fn cannot_run(&self, error: io::Error) -> CredentialError {
        let Tool { name, command, .. } = self.tool;
        let mut advice = "";
        if error.kind() == io::ErrorKind::NotFound {
            if !process::is_installed(self) {
                return self.not_installed();
            }
            advice = ", because the interpreter that its first line names is missing: reinstall it";
        }
        let message = format!("the {name} ({command}) cannot be run{advice}");
        CredentialError::new(Unavailable, message).with_source(error)
    }

    fn failure(&self, output: &Output) -> CredentialError {
        let Tool { name, command, login, reason, .. } = self.tool;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let Failure { said, logged_out } = reason(&stderr);
        // Standard output of this length may be a token.
        let secret = std::str::from_utf8(&output.stdout).ok().filter(|text| text.len() >= 64);
        // The error is in the last lines of a traceback.
        let is_long = said.contains("Traceback");
        let said = if is_long { excerpt_of_end(&said, secret) } else { excerpt(&said, secret) };
        let said = if said.is_empty() { said } else { format!(" (it says: {said})") };
        // The exit code for an unknown command is 127 in a shell and 9009 in cmd.exe.
        if matches!(output.status.code(), Some(127 | 9009))
            || stderr.contains("is not recognized as an internal")
        {
            let by_shell = [": not found", ": command not found", "' is not recognized"];
            let is_absent = |end| stderr.contains(&format!("{command}{end}"));
            if stderr.trim().is_empty() || by_shell.into_iter().any(is_absent) {
                return self.not_installed();
            }
            let message = format!("a program that the {name} needs is missing: reinstall it{said}");
            return CredentialError::new(Unavailable, message);
        }
        // A command with the scope or the claims that a policy requires, without which the login
        // would not be enough.
        let advised = stderr.find(&format!("{login} --"));
        let advised =
            advised.and_then(|start| stderr[start..].split(['`', '\'', '\r', '\n']).next());
        let advised = advised.map(|command| advised_command(command, secret));
        if logged_out {
            let login = advised.as_deref().unwrap_or(login);
            let message = format!("the {name} is not logged in: run `{login}`{said}");
            return CredentialError::new(Unavailable, message);
        }
        let network = "connection aborted|connection refused|connection reset|connectionerror|\
                       failed to establish a new connection|max retries exceeded|\
                       name or service not known|temporary failure in name resolution|\
                       getaddrinfo failed|i/o timeout|no such host|timed out";
        let lower = stderr.to_lowercase();
        // A process that was killed by a signal has no exit code.
        let is_transient =
            output.status.code().is_none() || network.split('|').any(|mark| lower.contains(mark));
        let kind = if is_transient { Transient } else { Refused };
        let advice = advised.map(|command| format!(": run `{command}`")).unwrap_or_default();
        let message = format!("the {name} failed with {}{advice}{said}", output.status);
        CredentialError::new(kind, message)
    }
}

/// The maximum length of a claims challenge that is shown. Most have a few hundred characters.
const LONGEST_CHALLENGE: usize = 1_024;

/// Returns an excerpt of the command that a tool advises. The claims challenge looks like a part of
/// a token, but is shown, because it is not secret and the command does not work without it.
fn advised_command(command: &str, secret: Option<&str>) -> String {
    let (login, claims) = command.split_once(" --claims-challenge ").unwrap_or((command, ""));
    let claims = claims.trim().trim_matches('"');
    if claims.len() > LONGEST_CHALLENGE || !is_word(claims, "+/=_-") {
        return excerpt(command, secret);
    }
    format!("{} --claims-challenge \"{claims}\"", excerpt(login, secret))
}

/// Implements the traits of a credential that runs a tool.
macro_rules! credentials {
    ($($credential:ty),*) => {$(
        impl Default for $credential {
            fn default() -> Self {
                Self::new()
            }
        }

        #[async_trait]
        impl TokenCredential for $credential {
            fn name(&self) -> String {
                self.0.tool.name.into()
            }

            async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
                self.0.token(&request.scope).await
            }
        }
    )*};
}

credentials!(AzureCli, AzureDeveloperCli);

#[cfg(test)]
mod tests {
    use super::*;

    fn options_and_commands_are_refused<T>(builder: fn() -> CliBuilder<T>) {
        for bad in ["", "-x", "a b", "a&b", "a;b", "$(x)", "a\"b", "a\nb", "é"] {
            assert!(builder().tenant(bad).build().is_err(), "{bad:?}");
        }
        assert!(builder().tenant("contoso.onmicrosoft.com").build().is_ok());
    }

    #[test]
    fn a_setting_cannot_add_an_option_or_a_command() {
        options_and_commands_are_refused(AzureCli::builder);
        options_and_commands_are_refused(AzureDeveloperCli::builder);
        for bad in ["", "-x", "a&b", "a;b", "$(x)", "a\"b", "a\nb", "é"] {
            assert!(AzureCli::builder().subscription(bad).build().is_err(), "{bad:?}");
        }
        assert!(AzureCli::builder().subscription("My Team_1.0-test").build().is_ok());
    }
}
