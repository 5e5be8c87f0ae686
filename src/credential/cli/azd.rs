use std::sync::Arc;

use serde_json::Value;

use super::{Cli, CliBuilder, Failure, Tool};

/// A credential for the account of the Azure Developer CLI (`azd auth login`), on a developer's
/// machine and in pipelines created with `azd pipeline config`.
///
/// Every call runs `azd auth token`. [`AzureCli`](super::AzureCli) describes how a command is run
/// and which errors are returned.
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
#[derive(Debug, Clone)]
pub struct AzureDeveloperCli(pub(super) Arc<Cli>);

static AZD: Tool = Tool {
    name: "Azure Developer CLI",
    command: "azd",
    subcommand: "auth token",
    arguments: &["--no-prompt"],
    tenant_option: "--tenant-id",
    login: "azd auth login",
    install: "https://learn.microsoft.com/azure/developer/azure-developer-cli/install-azd",
    windows_extension: "exe",
    token: "token",
    expiry: "expiresOn",
    local_expiry: None,
    reason,
};

impl AzureDeveloperCli {
    /// Uses the `azd` in `PATH`, with the tenant that it is logged in to.
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

    /// Returns a builder, to change settings from their defaults.
    ///
    /// ```
    /// use entra_pool::credential::AzureDeveloperCli;
    ///
    /// let cli = AzureDeveloperCli::builder().tenant("contoso.onmicrosoft.com").build()?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn builder() -> CliBuilder<Self> {
        CliBuilder::new(&AZD, Self)
    }
}

/// Reads the reason of a failure. With `--output json`, errors are also JSON: a console message on
/// each line, and in newer versions an object that advises `azd auth login` for every error.
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
    // AADSTS70043: the login has expired because of a sign-in policy.
    let logged_out = ["not logged in", "reauthentication required", "login expired", "aadsts70043"]
        .iter()
        .any(|words| lower.contains(words));
    Failure { said, logged_out }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::credential::InvalidAnswer;

    #[test]
    fn the_expiry_is_a_required_date() {
        let good = r#"{"token":"opaque","expiresOn":"1970-01-01T01:00:00Z"}"#;
        let expires_on = AZD.read(good.as_bytes()).unwrap().expires_on();
        assert_eq!(expires_on, SystemTime::UNIX_EPOCH + Duration::from_secs(3600));
        for (bad, field) in [
            (r#"{"token":"opaque"}"#, "expiresOn"),
            (r#"{"token":"opaque","expiresOn":"soon"}"#, "expiresOn"),
            (r#"{"expiresOn":"1970-01-01T01:00:00Z"}"#, "token"),
        ] {
            let error = AZD.read(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, InvalidAnswer::Field { field: f, .. } if f == field), "{bad}");
        }
    }

    #[test]
    fn the_advice_to_log_in_is_not_the_reason() {
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
}
