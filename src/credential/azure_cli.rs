use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;

use super::{
    ConfigError, Environment, InvalidAnswer,
    answer::{date, object, point_in_time},
    command::{Command, Failure, Program, TENANT_EXPECTED, is_word},
};
use crate::{
    clock::Clock,
    token::{CredentialError, Token, TokenCredential, TokenRequest},
};

/// Whoever is logged in to the Azure CLI (`az login`): for a developer's
/// machine.
///
/// Runs `az account get-access-token`, which takes about a second, on every
/// call. `az` is found by `PATH`, but never in the current directory. It is
/// killed if it takes longer than the [time
/// limit](AzureCliBuilder::time_limit). Its standard output is never shown.
///
/// - Not installed, or nobody logged in: the error is
///   [`Unavailable`](crate::token::CredentialErrorKind::Unavailable).
/// - It takes too long or has no network:
///   [`Transient`](crate::token::CredentialErrorKind::Transient).
/// - Anything else: [`Refused`](crate::token::CredentialErrorKind::Refused),
///   with what it wrote to its standard error.
///
/// See [`az account get-access-token`](https://learn.microsoft.com/cli/azure/account#az-account-get-access-token).
///
/// ```
/// use entra_pool::credential::AzureCli;
///
/// let of_the_current_account = AzureCli::new();
/// let of_another_tenant = AzureCli::builder().tenant("contoso.onmicrosoft.com").build()?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct AzureCli(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    command: Command,
    tenant: Option<String>,
    subscription: Option<String>,
}

/// Builds an [`AzureCli`].
#[derive(Debug)]
#[must_use]
pub struct AzureCliBuilder(Settings);

static PROGRAM: Program = Program {
    name: "Azure CLI",
    command: "az",
    subcommand: "account get-access-token",
    login: "az login",
    install: "https://learn.microsoft.com/cli/azure/install-azure-cli",
    windows_extension: "cmd",
    reason: |stderr| Failure {
        said: stderr.to_owned(),
        logged_out: stderr.contains("az login") || stderr.contains("az account set"),
    },
};

impl AzureCli {
    /// `az` as found by `PATH`, with its current account and tenant.
    ///
    /// ```
    /// use entra_pool::{credential::AzureCli, token::Identity};
    ///
    /// let identity = Identity::new(AzureCli::new());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::builder().ready()
    }

    /// Sets what [`new`](Self::new) leaves at its default.
    ///
    /// ```
    /// use entra_pool::credential::AzureCli;
    ///
    /// let cli = AzureCli::builder().tenant("contoso.onmicrosoft.com").build()?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn builder() -> AzureCliBuilder {
        let command = Command::new(&PROGRAM);
        AzureCliBuilder(Settings { command, tenant: None, subscription: None })
    }
}

impl Default for AzureCli {
    fn default() -> Self {
        Self::new()
    }
}

impl AzureCliBuilder {
    /// The tenant (its ID or domain) to ask for the token. Default: that of
    /// the current account.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.0.tenant = Some(tenant.into());
        self
    }

    /// The subscription (its name or ID) whose account is used. Default: the
    /// current one.
    pub fn subscription(mut self, subscription: impl Into<String>) -> Self {
        self.0.subscription = Some(subscription.into());
        self
    }

    /// The command. Default: `az`. A path should be absolute: the command does
    /// not run in the current directory. On Windows, a name without an extension
    /// gets `.cmd`.
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
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.0.command.clock = Arc::new(clock);
        self
    }

    pub(super) fn shared_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.0.command.clock = clock;
        self
    }

    /// Checks the settings. Nothing is run.
    ///
    /// # Errors
    ///
    /// A tenant or a subscription that has other characters than these have.
    pub fn build(self) -> Result<AzureCli, ConfigError> {
        if !self.0.tenant.as_deref().is_none_or(|tenant| is_word(tenant, ".-")) {
            return Err(ConfigError::invalid("tenant", TENANT_EXPECTED));
        }
        if !self.0.subscription.as_deref().is_none_or(|name| is_word(name, "._- ")) {
            return Err(ConfigError::invalid(
                "subscription",
                "a subscription's ID, or a name of letters, digits, blanks and . _ -",
            ));
        }
        Ok(self.ready())
    }

    fn ready(self) -> AzureCli {
        AzureCli(Arc::new(Settings { command: self.0.command.ready(), ..self.0 }))
    }
}

#[async_trait]
impl TokenCredential for AzureCli {
    fn name(&self) -> String {
        "Azure CLI".into()
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        let Settings { command, tenant, subscription } = &*self.0;
        let scope = request.scope.as_str();
        let mut arguments =
            vec!["account", "get-access-token", "--output", "json", "--scope", scope];
        if let Some(tenant) = tenant {
            arguments.extend(["--tenant", tenant]);
        }
        if let Some(subscription) = subscription {
            arguments.extend(["--subscription", subscription]);
        }
        command.token(&request.scope, &arguments, token).await
    }
}

fn token(stdout: &[u8]) -> Result<Token, InvalidAnswer> {
    let object = object(stdout)?;
    let mut secret = object.secret("accessToken")?;
    // Without it: Azure CLI older than 2.54.0.
    let expires_on = object.get("expires_on").as_ref().and_then(point_in_time);
    let token = Token::new(std::mem::take(&mut *secret), std::time::SystemTime::UNIX_EPOCH);
    let expires_on = expires_on
        .or_else(|| token.claims()?.expires_on)
        .or_else(|| object.get("expiresOn").as_ref().and_then(Value::as_str).and_then(date))
        .ok_or(InvalidAnswer::Field {
            field: "expires_on",
            problem: "absent or not understood, and so is expiresOn",
        })?;
    Ok(Token::new(token.secret(), expires_on))
}

impl fmt::Debug for AzureCli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureCli")
            .field("executable", &self.0.command.executable)
            .field("tenant", &self.0.tenant)
            .field("subscription", &self.0.subscription)
            .field("time_limit", &self.0.command.time_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn expiry(json: &str) -> Result<u64, InvalidAnswer> {
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        token(json.as_bytes()).map(|token| since(token.expires_on()).as_secs())
    }

    #[test]
    fn the_expiry_is_the_epoch_else_the_tokens_own_else_the_local_time() {
        let all = r#"{"accessToken":"e30.eyJleHAiOjIwMDB9.c2ln","expires_on":1000,"expiresOn":"1970-01-01 01:00:00.000000"}"#;
        assert_eq!(expiry(all), Ok(1000));
        let old = r#"{"accessToken":"e30.eyJleHAiOjIwMDB9.c2ln","expiresOn":"1970-01-01 01:00:00.000000"}"#;
        assert_eq!(expiry(old), Ok(2000));
        let opaque = r#"{"accessToken":"opaque","expiresOn":"1970-01-01 01:00:00.000000"}"#;
        assert_eq!(expiry(opaque), Ok(3600));
        for neither in
            [r#"{"accessToken":"opaque"}"#, r#"{"accessToken":"opaque","expiresOn":"x"}"#]
        {
            assert!(matches!(expiry(neither), Err(InvalidAnswer::Field { .. })), "{neither}");
        }
    }

    #[test]
    fn nothing_that_could_be_an_option_or_a_command_is_passed_on() {
        for bad in ["", "-x", "a b", "a&b", "a;b", "$(x)", "a\"b", "a\nb", "é"] {
            assert!(AzureCli::builder().tenant(bad).build().is_err(), "{bad:?}");
            if bad != "a b" {
                assert!(AzureCli::builder().subscription(bad).build().is_err(), "{bad:?}");
            }
        }
        assert!(AzureCli::builder().tenant("contoso.onmicrosoft.com").build().is_ok());
        assert!(AzureCli::builder().subscription("My Team_1.0-test").build().is_ok());
    }
}
