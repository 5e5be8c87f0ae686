use std::sync::Arc;

use super::{Cli, CliBuilder, Failure, Tool};

/// A credential for the account of the Azure CLI (`az login`), on a developer's machine.
///
/// Every call runs `az account get-access-token`, which takes about a second. `az` is looked up in
/// `PATH`, but never in the current directory. It is killed if it takes longer than the
/// [time limit](CliBuilder::time_limit). Errors and logs never contain its standard output.
///
/// - If it is not installed or not logged in, the error is
///   [`Unavailable`](crate::token::CredentialErrorKind::Unavailable).
/// - If it takes too long or has no network, the error is
///   [`Transient`](crate::token::CredentialErrorKind::Transient).
/// - For any other failure, the error is [`Refused`](crate::token::CredentialErrorKind::Refused)
///   and contains the command's standard error.
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
#[derive(Debug, Clone)]
pub struct AzureCli(pub(super) Arc<Cli>);

static AZ: Tool = Tool {
    name: "Azure CLI",
    command: "az",
    subcommand: "account get-access-token",
    arguments: &[],
    tenant_option: "--tenant",
    login: "az login",
    install: "https://learn.microsoft.com/cli/azure/install-azure-cli",
    windows_extension: "cmd",
    token: "accessToken",
    expiry: "expires_on",
    // Versions of the Azure CLI before 2.54.0 print only this field, which is a local time.
    local_expiry: Some("expiresOn"),
    // `az login` alone does not fix errors of Entra (AADSTS…), such as those of conditional access.
    reason: |stderr| Failure {
        said: stderr.to_owned(),
        logged_out: (stderr.contains("az login") || stderr.contains("az account set"))
            && !stderr.contains("AADSTS"),
    },
};

impl AzureCli {
    /// Uses the `az` in `PATH`, with its current account and tenant.
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

    /// Returns a builder, to change settings from their defaults.
    ///
    /// ```
    /// use entra_pool::credential::AzureCli;
    ///
    /// let cli = AzureCli::builder().tenant("contoso.onmicrosoft.com").build()?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn builder() -> CliBuilder<Self> {
        CliBuilder::new(&AZ, Self)
    }
}

impl CliBuilder<AzureCli> {
    /// Sets the subscription (its name or ID) whose account is used. Default: the current
    /// subscription.
    pub fn subscription(mut self, subscription: impl Into<String>) -> Self {
        self.cli.subscription = Some(subscription.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::credential::InvalidAnswer;

    fn expiry(json: &str) -> Result<u64, InvalidAnswer> {
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        AZ.read(json.as_bytes()).map(|token| since(token.expires_on()).as_secs())
    }

    #[test]
    fn the_expiry_comes_from_the_seconds_or_else_the_token_or_else_the_local_time() {
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
}
