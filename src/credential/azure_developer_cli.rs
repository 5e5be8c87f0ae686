use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;

use super::{
    ConfigError, Environment, InvalidAnswer,
    answer::{date, object},
    command::{Command, Failure, Program, TENANT_EXPECTED, is_word},
};
use crate::{
    clock::Clock,
    token::{CredentialError, Token, TokenCredential, TokenRequest},
};

/// Whoever is logged in to the Azure Developer CLI (`azd auth login`): for a
/// developer's machine, and for pipelines that `azd pipeline config` has made.
///
/// Runs `azd auth token` on every call. All that [`AzureCli`](super::AzureCli)
/// says of running `az` and of its failures holds here, too.
///
/// See [`azd auth`](https://learn.microsoft.com/azure/developer/azure-developer-cli/reference#azd-auth).
///
/// ```
/// use entra_pool::credential::AzureDeveloperCli;
///
/// let as_logged_in = AzureDeveloperCli::new();
/// let of_another_tenant = AzureDeveloperCli::builder().tenant("contoso.onmicrosoft.com").build()?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct AzureDeveloperCli(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    command: Command,
    tenant: Option<String>,
}

/// Builds an [`AzureDeveloperCli`].
#[derive(Debug)]
#[must_use]
pub struct AzureDeveloperCliBuilder(Settings);

static PROGRAM: Program = Program {
    name: "Azure Developer CLI",
    command: "azd",
    subcommand: "auth token",
    login: "azd auth login",
    install: "https://learn.microsoft.com/azure/developer/azure-developer-cli/install-azd",
    windows_extension: "exe",
    reason,
};

impl AzureDeveloperCli {
    /// `azd` as found by `PATH`, with the tenant that it is logged in to.
    ///
    /// ```
    /// use entra_pool::{credential::AzureDeveloperCli, token::Identity};
    ///
    /// let identity = Identity::new(AzureDeveloperCli::new());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::builder().ready()
    }

    /// Sets what [`new`](Self::new) leaves at its default.
    ///
    /// ```
    /// use entra_pool::credential::AzureDeveloperCli;
    ///
    /// let cli = AzureDeveloperCli::builder().tenant("contoso.onmicrosoft.com").build()?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn builder() -> AzureDeveloperCliBuilder {
        let command = Command::new(&PROGRAM);
        AzureDeveloperCliBuilder(Settings { command, tenant: None })
    }
}

impl Default for AzureDeveloperCli {
    fn default() -> Self {
        Self::new()
    }
}

impl AzureDeveloperCliBuilder {
    /// The tenant (its ID or domain) to ask for the token. Default: the one it
    /// is logged in to.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.0.tenant = Some(tenant.into());
        self
    }

    /// The command. Default: `azd`. A path should be absolute: the command does
    /// not run in the current directory.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.command.executable = path.into();
        self
    }

    /// The variables that the command gets, its `PATH` among them. Default:
    /// [`Environment::from_process`], read by [`build`](Self::build).
    pub fn environment(mut self, environment: Environment) -> Self {
        self.0.command.environment = Some(environment);
        self
    }

    /// How long the command may take. Default: 10 s.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.0.command.time_limit = limit;
        self
    }

    /// What waits and measures. Default:
    /// [`SystemClock`](crate::clock::SystemClock).
    pub fn clock(self, clock: impl Clock) -> Self {
        self.shared_clock(Arc::new(clock))
    }

    pub(super) fn shared_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.0.command.clock = clock;
        self
    }

    /// Checks the settings. Nothing is run.
    ///
    /// # Errors
    ///
    /// A tenant that has other characters than these have.
    pub fn build(self) -> Result<AzureDeveloperCli, ConfigError> {
        if !self.0.tenant.as_deref().is_none_or(|tenant| is_word(tenant, ".-")) {
            return Err(ConfigError::invalid("tenant", TENANT_EXPECTED));
        }
        Ok(self.ready())
    }

    fn ready(self) -> AzureDeveloperCli {
        AzureDeveloperCli(Arc::new(Settings { command: self.0.command.ready(), ..self.0 }))
    }
}

#[async_trait]
impl TokenCredential for AzureDeveloperCli {
    fn name(&self) -> String {
        "Azure Developer CLI".into()
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        let Settings { command, tenant } = &*self.0;
        let scope = request.scope.as_str();
        let mut arguments =
            vec!["auth", "token", "--output", "json", "--no-prompt", "--scope", scope];
        if let Some(tenant) = tenant {
            arguments.extend(["--tenant-id", tenant]);
        }
        command.token(&request.scope, &arguments, token).await
    }
}

fn token(stdout: &[u8]) -> Result<Token, InvalidAnswer> {
    let object = object(stdout)?;
    let mut secret = object.secret("token")?;
    let expires_on = object
        .get("expiresOn")
        .as_ref()
        .and_then(Value::as_str)
        .and_then(date)
        .ok_or(InvalidAnswer::Field { field: "expiresOn", problem: "absent or not a date" })?;
    Ok(Token::new(std::mem::take(&mut *secret), expires_on))
}

/// With `--output json`, errors are JSON, too: messages for the console, a line
/// each, and in newer versions an object that also advises `azd auth login`,
/// whatever the error.
fn reason(stderr: &str) -> Failure {
    let mut messages = Vec::new();
    for line in stderr.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let read = serde_json::from_str::<Value>(line).ok();
        let text = |path: &str| read.as_ref()?.pointer(path)?.as_str();
        match (&read, text("/data/message").or(text("/error")).or(text("/message"))) {
            (_, Some(message)) => messages.push(message.trim().to_owned()),
            (Some(_), None) => {}
            (None, None) => messages.push(line.to_owned()),
        }
    }
    let said = messages.join(" ");
    let lower = said.to_lowercase();
    // AADSTS70043: a sign-in policy has ended the login.
    let logged_out = ["not logged in", "reauthentication required", "login expired", "aadsts70043"]
        .iter()
        .any(|words| lower.contains(words));
    Failure { said, logged_out }
}

impl fmt::Debug for AzureDeveloperCli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureDeveloperCli")
            .field("executable", &self.0.command.executable)
            .field("tenant", &self.0.tenant)
            .field("time_limit", &self.0.command.time_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_expiry_is_a_date_and_must_be_there() {
        let good = r#"{"token":"opaque","expiresOn":"1970-01-01T01:00:00Z"}"#;
        let expires_on = token(good.as_bytes()).unwrap().expires_on();
        assert_eq!(expires_on, SystemTime::UNIX_EPOCH + Duration::from_secs(3600));
        for (bad, field) in [
            (r#"{"token":"opaque"}"#, "expiresOn"),
            (r#"{"token":"opaque","expiresOn":"soon"}"#, "expiresOn"),
            (r#"{"expiresOn":"1970-01-01T01:00:00Z"}"#, "token"),
        ] {
            let error = token(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, InvalidAnswer::Field { field: f, .. } if f == field), "{bad}");
        }
    }

    #[test]
    fn the_advice_to_log_in_is_not_taken_for_the_reason() {
        let console = |message: &str| {
            format!(
                r#"{{"type":"consoleMessage","timestamp":"2026-01-01T00:00:00Z","data":{{"message":"{message}"}}}}"#
            )
        };
        for (stderr, said, logged_out) in [
            (
                console("\\nERROR: not logged in, run `azd auth login` to login\\n"),
                "ERROR: not logged in, run `azd auth login` to login",
                true,
            ),
            (
                "ERROR: not logged in, run azd auth login to login\n".into(),
                "ERROR: not logged in, run azd auth login to login",
                true,
            ),
            (console("reauthentication required"), "reauthentication required", true),
            (console("AADSTS70043: login expired"), "AADSTS70043: login expired", true),
            (
                format!(
                    "{}\n{}\n",
                    console("\\n"),
                    r#"{"error":"(invalid_tenant) AADSTS90002: Tenant 'x' not found.","message":"Authentication with Azure failed.","suggestion":"Run 'azd auth login' to sign in again."}"#
                ),
                " (invalid_tenant) AADSTS90002: Tenant 'x' not found.",
                false,
            ),
            ("{}".into(), "", false),
            (String::new(), "", false),
        ] {
            let failure = reason(&stderr);
            assert_eq!((failure.said.as_str(), failure.logged_out), (said, logged_out), "{stderr}");
        }
    }

    #[test]
    fn nothing_that_could_be_an_option_or_a_command_is_passed_on() {
        for bad in ["", "-x", "a b", "a&b", "a;b", "$(x)", "a\"b", "a\nb", "é"] {
            assert!(AzureDeveloperCli::builder().tenant(bad).build().is_err(), "{bad:?}");
        }
        assert!(AzureDeveloperCli::builder().tenant("contoso.onmicrosoft.com").build().is_ok());
    }
}
