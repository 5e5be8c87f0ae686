//! The command-line tools that developers are logged in to.

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

/// What is known about one tool.
#[derive(Debug)]
struct Tool {
    /// `Azure CLI`.
    name: &'static str,
    /// `az`.
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
    /// The field of its output that has the token.
    token: &'static str,
    /// The field with the time when the token expires.
    expiry: &'static str,
    /// The field with the same as a local time.
    local_expiry: Option<&'static str>,
    /// Reads the reason of a failure from its standard error.
    reason: fn(&str) -> Failure,
}

impl Tool {
    /// The token in its standard output.
    fn read(&self, stdout: &[u8]) -> Result<Token, InvalidAnswer> {
        let object = object_with(self.token, stdout)?;
        object.token(self.token, self.expiry, || object.time(self.local_expiry?))
    }
}

/// What a tool reports about its failure.
struct Failure {
    /// In its words.
    said: String,
    /// Whether the user must log in first.
    logged_out: bool,
}

/// A tool, and how it is run. Of the environment, `Debug` shows the names only.
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

    /// The tenant (its ID or domain) to request the token from. Default: the tenant that the
    /// tool is logged in to.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.cli.tenant = Some(tenant.into());
        self
    }

    /// The command. Default: `az` or `azd`. A path should be absolute: the command does
    /// not run in the current directory. On Windows, a name without an extension
    /// gets `.cmd` (`az`) or `.exe` (`azd`).
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.cli.executable = path.into();
        self
    }

    /// The environment variables of the command, including its `PATH`. Default:
    /// [`Environment::from_process`], read when the builder is made.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.cli.environment = environment;
        self
    }

    /// How long the command may take. Default: 30 s. `az` takes up to 13 s on some machines.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.cli.time_limit = limit;
        self
    }

    /// The clock for the time limit. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.cli.clock = Arc::new(clock);
        self
    }

    /// Checks the settings. Nothing is run.
    ///
    /// # Errors
    ///
    /// The tenant or the subscription contains a character that neither can have.
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
        // On Windows a shell may be involved: see `process::file_to_run`. The tenant and the
        // subscription have been checked by the builder.
        if !is_word(scope.as_str(), "._:/-") {
            let message = format!("the {name} is not run with {scope:?} as a scope");
            return Err(CredentialError::new(Refused, message));
        }
        let running = process::run(self, self.arguments(scope));
        match timeout(self.clock.as_ref(), self.time_limit, running).await {
            // The process is killed by being dropped.
            Err(_) => Err(CredentialError::new(
                Transient,
                format!(
                    "the {name} has not answered within {:?} and was ended; does `{command} \
                     {subcommand}` work? `Entra CLI Timeout` or `time_limit` allow it more time",
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
                        "the {name} answered with something that is not a token; does `{command} \
                         {subcommand} --output json` work?"
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
        // Its standard output is a secret, if it is long enough for one.
        let secret = std::str::from_utf8(&output.stdout).ok().filter(|text| text.len() >= 64);
        // The last lines of a traceback have the error.
        let is_long = said.contains("Traceback");
        let said = if is_long { excerpt_of_end(&said, secret) } else { excerpt(&said, secret) };
        let said = if said.is_empty() { said } else { format!(" (it says: {said})") };
        // 127: of a shell; 9009: of cmd.
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
        // With the scope or the claims that a policy demands. `login` alone would not do.
        let advised = stderr.find(&format!("{login} --"));
        let advised =
            advised.and_then(|start| stderr[start..].split(['`', '\'', '\r', '\n']).next());
        let advised = advised.map(|command| advised_command(command, secret));
        if logged_out {
            let login = advised.as_deref().unwrap_or(login);
            let message = format!("nobody is logged in to the {name}: run `{login}`{said}");
            return CredentialError::new(Unavailable, message);
        }
        let network = "connection aborted|connection refused|connection reset|connectionerror|\
                       failed to establish a new connection|max retries exceeded|\
                       name or service not known|temporary failure in name resolution|\
                       getaddrinfo failed|i/o timeout|no such host|timed out";
        let lower = stderr.to_lowercase();
        // A process that a signal has ended has no code.
        let passes =
            output.status.code().is_none() || network.split('|').any(|mark| lower.contains(mark));
        let kind = if passes { Transient } else { Refused };
        let advice = advised.map(|command| format!(": run `{command}`")).unwrap_or_default();
        let message = format!("the {name} failed with {}{advice}{said}", output.status);
        CredentialError::new(kind, message)
    }
}

/// Characters of a claims challenge that is shown. Policies demand some hundred.
const LONGEST_CHALLENGE: usize = 1_024;

/// The command that a tool advises. The claims that a policy demands look like a part of a token,
/// but are no secret, and the command does not help without them.
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

    fn refuses_what_could_be_an_option_or_a_command<T>(builder: fn() -> CliBuilder<T>) {
        for bad in ["", "-x", "a b", "a&b", "a;b", "$(x)", "a\"b", "a\nb", "é"] {
            assert!(builder().tenant(bad).build().is_err(), "{bad:?}");
        }
        assert!(builder().tenant("contoso.onmicrosoft.com").build().is_ok());
    }

    #[test]
    fn nothing_that_could_be_an_option_or_a_command_is_passed_on() {
        refuses_what_could_be_an_option_or_a_command(AzureCli::builder);
        refuses_what_could_be_an_option_or_a_command(AzureDeveloperCli::builder);
        for bad in ["", "-x", "a&b", "a;b", "$(x)", "a\"b", "a\nb", "é"] {
            assert!(AzureCli::builder().subscription(bad).build().is_err(), "{bad:?}");
        }
        assert!(AzureCli::builder().subscription("My Team_1.0-test").build().is_ok());
    }
}
