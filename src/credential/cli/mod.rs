//! The command-line tools that developers are logged in to.

mod az;
mod azd;
mod process;

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use az::AzureCli;
pub use azd::AzureDeveloperCli;

use super::{
    ConfigError, Environment,
    answer::InvalidAnswer,
    config_error::{check_tenant, is_word},
};
use crate::{
    clock::{Clock, SystemClock, timeout},
    excerpt::excerpt,
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient, Unavailable},
        Scope, Token, TokenCredential, TokenRequest,
    },
};
use process::{OUTPUT_LIMIT, Output};

/// What is known about one tool.
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
    /// Reads the token from its standard output.
    token: fn(&[u8]) -> Result<Token, InvalidAnswer>,
    /// Reads the reason of a failure from its standard error.
    reason: fn(&str) -> Failure,
}

/// What a tool reports about its failure.
struct Failure {
    /// In its words.
    said: String,
    /// Whether the user must log in first.
    logged_out: bool,
}

/// A tool, and how it is run.
struct Cli {
    tool: &'static Tool,
    executable: PathBuf,
    tenant: Option<String>,
    subscription: Option<String>,
    environment: Environment,
    time_limit: Duration,
    clock: Arc<dyn Clock>,
}

/// Builds an [`AzureCli`] or an [`AzureDeveloperCli`].
#[must_use]
pub struct CliBuilder<T> {
    cli: Cli,
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
            time_limit: Duration::from_secs(10),
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

    /// How long the command may take. Default: 10 s.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.cli.time_limit = limit;
        self
    }

    /// The clock for the time limit. Default: [`SystemClock`].
    pub fn clock(self, clock: impl Clock) -> Self {
        self.shared_clock(Arc::new(clock))
    }

    pub(super) fn shared_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.cli.clock = clock;
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

    fn ready(self) -> T {
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
                    (self.tool.token)(&output.stdout)
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
        if error.kind() == io::ErrorKind::NotFound {
            return self.not_installed();
        }
        let Tool { name, command, .. } = self.tool;
        let message = format!("the {name} ({command}) cannot be run");
        CredentialError::new(Unavailable, message).with_source(error)
    }

    fn failure(&self, output: &Output) -> CredentialError {
        let Tool { name, login, reason, .. } = self.tool;
        let stderr = String::from_utf8_lossy(&output.stderr);
        // 127: of a shell; 9009: of cmd.
        if matches!(output.status.code(), Some(127 | 9009))
            || stderr.contains("is not recognized as an internal")
        {
            return self.not_installed();
        }
        let Failure { said, logged_out } = reason(&stderr);
        // Its standard output is a secret, if it is long enough for one.
        let secret = std::str::from_utf8(&output.stdout).ok().filter(|text| text.len() >= 64);
        let said = excerpt(&said, secret);
        let said = if said.is_empty() { said } else { format!(" (it says: {said})") };
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
            "Temporary failure in name resolution",
            "connection refused",
            "connection reset",
            "getaddrinfo failed",
            "i/o timeout",
            "no such host",
            "timed out",
        ];
        // A process that a signal has ended has no code.
        let passes =
            output.status.code().is_none() || network.iter().any(|mark| stderr.contains(mark));
        let kind = if passes { Transient } else { Refused };
        CredentialError::new(kind, format!("the {name} failed with {}{said}", output.status))
    }
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

/// Without the environment's values.
impl fmt::Debug for Cli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cli")
            .field("executable", &self.executable)
            .field("tenant", &self.tenant)
            .field("subscription", &self.subscription)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for CliBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CliBuilder").field(&self.cli).finish()
    }
}

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
