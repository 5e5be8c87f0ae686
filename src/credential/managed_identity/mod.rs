mod azure_arc;
mod builder;
mod connection;
mod endpoint;
mod host;
mod http;
mod imds;
mod key_file;
mod pinned;
mod protocols;
mod retry;
mod secret;
mod user_assigned;

use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;
use reqwest::Url;

pub use builder::ManagedIdentityBuilder;
pub use host::ManagedIdentityHost;
pub use user_assigned::UserAssignedId;

use super::ConfigError;
use crate::token::{CredentialError, Token, TokenCredential, TokenRequest};
use endpoint::Endpoint;
use http::{Http, HttpError};

/// The managed identity of the machine or app that this program runs on.
///
/// The environment determines the token endpoint; see the table in
/// [`credential`](crate::credential). Cloning is cheap.
///
/// - App Service, Functions, Container Apps, Azure Arc, Azure Machine Learning, Cloud Shell,
///   Service Fabric: up to three attempts, 1 s apart. An endpoint that refuses connections may
///   still be starting, so the request is retried every second for 10 s.
/// - IMDS (virtual machines, scale sets, AKS nodes): up to four attempts, with pauses of 1, 2 and
///   4 s. While IMDS is being updated (410), the request is retried for up to 70 s. `Retry-After`
///   takes precedence.
///
/// The limits of a request are 2 s to connect and 20 s in total (Azure Arc needs two requests).
/// Proxies (`HTTP_PROXY`, …) are never used, and redirects are never followed.
///
/// See [Managed identities for Azure resources](https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/overview).
///
/// ```
/// use entra_pool::credential::{ManagedIdentity, UserAssignedId};
///
/// let of_the_machine = ManagedIdentity::system_assigned().build()?;
///
/// let id = UserAssignedId::ClientId("11111111-2222-3333-4444-555555555555".into());
/// let of_our_own = ManagedIdentity::user_assigned(id).build()?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct ManagedIdentity(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    http: Http,
    probe: bool,
}

impl ManagedIdentity {
    /// Returns a builder for the system-assigned identity of the machine or app. In Cloud Shell,
    /// this is the user who is logged in.
    ///
    /// ```
    /// use entra_pool::credential::ManagedIdentity;
    ///
    /// let identity = ManagedIdentity::system_assigned().build()?;
    /// println!("tokens come from {}", identity.host());
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn system_assigned() -> ManagedIdentityBuilder {
        ManagedIdentityBuilder::new(None)
    }

    /// Returns a builder for a user-assigned identity of the machine or app.
    ///
    /// | host | client ID | object ID | resource ID |
    /// |---|---|---|---|
    /// | App Service, Functions, Container Apps; IMDS | yes | yes | yes |
    /// | Azure Machine Learning | yes | | |
    /// | Azure Arc, Cloud Shell, Service Fabric | | | |
    ///
    /// In all other cases the host would ignore the ID and return another identity's token, so
    /// [`build`](ManagedIdentityBuilder::build) fails.
    ///
    /// ```
    /// use entra_pool::credential::{ManagedIdentity, UserAssignedId};
    ///
    /// let id = UserAssignedId::ClientId("11111111-2222-3333-4444-555555555555".into());
    /// let identity = ManagedIdentity::user_assigned(id).build()?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn user_assigned(id: UserAssignedId) -> ManagedIdentityBuilder {
        ManagedIdentityBuilder::new(Some(id))
    }

    /// Returns the host whose endpoint issues the tokens.
    #[must_use]
    pub fn host(&self) -> ManagedIdentityHost {
        self.0.endpoint.protocol.host
    }
}

#[async_trait]
impl TokenCredential for ManagedIdentity {
    fn name(&self) -> String {
        match &self.0.endpoint.selector {
            None => format!("managed identity ({})", self.host()),
            Some(selector) => format!("managed identity ({}, {})", self.host(), selector.id),
        }
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        // A rejected token is requested in the same way: the endpoints cache tokens, and there is
        // no supported way to bypass their caches.
        let Inner { endpoint, http, probe } = &*self.0;
        // Other endpoints need no probe, because variables or files show that they exist.
        if *probe && endpoint.is_imds() {
            endpoint.probe_imds(http).await?;
        }
        endpoint.get_token(http, &request.scope).await
    }
}

impl fmt::Debug for ManagedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedIdentity")
            .field("host", &self.host())
            .field("endpoint", &shown(&self.0.endpoint.url))
            .field("id", &self.0.endpoint.selector.as_ref().map(|selector| &selector.id))
            .finish_non_exhaustive()
    }
}

/// Parses the URL of an endpoint: HTTP(S) with a host. The URL must not contain a password, because
/// errors show it. It must not contain a parameter that selects an identity, because that could
/// contradict the setting for the identity.
fn endpoint_url(setting: &'static str, url: &str) -> Result<Url, ConfigError> {
    let selects = |name: &str| host::PARAMETERS.iter().any(|own| name.eq_ignore_ascii_case(own));
    let url = Url::parse(url).ok();
    let selects = url.iter().any(|url| url.query_pairs().any(|(name, _)| selects(&name)));
    let expected = "a URL without a parameter that selects an identity: set AZURE_CLIENT_ID, or \
                    build the credential with ManagedIdentity::user_assigned";
    ConfigError::unless(!selects, setting, expected)?;
    let expected = "an http:// or https:// URL with a host, without user and password";
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .filter(|url| url.username().is_empty() && url.password().is_none())
        .ok_or(ConfigError::invalid(setting, expected))
}

/// Returns the URL of an endpoint without its query, for messages.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Returns the warning to log if a chain uses another credential after this failure, because that
/// could be the wrong identity.
pub(super) fn warning(error: &CredentialError) -> Option<&'static str> {
    match error.source()?.downcast_ref()? {
        HttpError::NoAnswer(_) | HttpError::ConnectionLost(_) => Some(
            "the managed identity endpoint accepted a connection but did not respond, so another \
             credential is used: in Azure, set AZURE_TOKEN_CREDENTIALS=prod and restart",
        ),
        HttpError::NotAssigned => Some(
            "the identity of AZURE_CLIENT_ID is not assigned to this machine, so another identity \
             is used: assign it, or unset AZURE_CLIENT_ID",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Environment;

    fn build(variables: &[(&str, &str)]) -> Result<ManagedIdentity, ConfigError> {
        let environment = Environment::from_pairs(variables.iter().copied());
        let builder = ManagedIdentity::system_assigned().environment(environment);
        builder.azure_arc_root("/nowhere").build()
    }

    const ENDPOINT: (&str, &str) = ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token");
    const THUMBPRINT: &str = "A9993E364706816ABA3E25717850C26C9CD0D89D";
    const HEADER: (&str, &str) = ("IDENTITY_HEADER", "s3cret");
    const MSI: (&str, &str) = ("MSI_ENDPOINT", "http://127.0.0.1:1/oauth2/token");

    #[test]
    fn the_variables_determine_the_host() {
        use ManagedIdentityHost::{AppService, AzureArc, AzureMl, CloudShell, Imds, ServiceFabric};
        let thumbprint = ("IDENTITY_SERVER_THUMBPRINT", THUMBPRINT);
        let fabric = ("IDENTITY_ENDPOINT", "https://localhost:2377/metadata/identity/oauth2/token");
        let imds = ("IMDS_ENDPOINT", "http://localhost:40342");
        let secret = ("MSI_SECRET", "x");
        for (variables, expected) in [
            (&[][..], Imds),
            (&[ENDPOINT], Imds),
            (&[HEADER], Imds),
            (&[ENDPOINT, ("IDENTITY_HEADER", "")], Imds),
            (&[ENDPOINT, HEADER], AppService),
            // App Service also sets the older pair.
            (&[ENDPOINT, HEADER, MSI, secret], AppService),
            (&[ENDPOINT, HEADER, imds], AppService),
            (&[fabric, HEADER, thumbprint], ServiceFabric),
            (&[fabric, HEADER, thumbprint, imds, MSI, secret], ServiceFabric),
            (&[fabric, thumbprint], Imds),
            (&[ENDPOINT, imds], AzureArc),
            (&[ENDPOINT, imds, thumbprint, MSI, secret], AzureArc),
            (&[imds], Imds),
            (&[MSI, secret], AzureMl),
            (&[MSI], CloudShell),
            (&[secret], Imds),
        ] {
            assert_eq!(build(variables).unwrap().host(), expected, "{variables:?}");
        }
    }

    #[test]
    fn an_installed_arc_agent_is_used_unless_variables_name_another_host() {
        use ManagedIdentityHost::{AppService, AzureArc, AzureMl, CloudShell, Imds};
        let root = tempfile::tempdir().unwrap();
        let program = if cfg!(windows) {
            "AzureConnectedMachineAgent/himds.exe"
        } else {
            "opt/azcmagent/bin/himds"
        };
        let program = root.path().join(program);
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(program, "").unwrap();
        let imds = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:2");
        for (variables, expected) in [
            (&[][..], AzureArc),
            (&[ENDPOINT], AzureArc),
            (&[ENDPOINT, HEADER], AppService),
            (&[MSI], CloudShell),
            (&[MSI, ("MSI_SECRET", "x")], AzureMl),
            (&[imds], Imds),
        ] {
            let environment = Environment::from_pairs(variables.iter().copied());
            let builder = ManagedIdentity::system_assigned().environment(environment);
            let identity = builder.azure_arc_root(root.path()).build().unwrap();
            assert_eq!(identity.host(), expected, "{variables:?}");
            if expected == AzureArc {
                let url = "http://127.0.0.1:40342/metadata/identity/oauth2/token";
                assert_eq!(identity.0.endpoint.url.as_str(), url);
            }
        }
    }

    #[test]
    fn an_invalid_setting_is_named_without_its_value() {
        for url in ["not a url", "ftp://host", "http://", "/msi/token", "http://u:p4ss@host/"] {
            for (name, other) in [(ENDPOINT.0, HEADER), ("AZURE_POD_IDENTITY_AUTHORITY_HOST", MSI)]
            {
                let other = if name == ENDPOINT.0 { other } else { ("OTHER", "x") };
                let error = build(&[(name, url), other]).unwrap_err().to_string();
                assert!(error.starts_with(name) && !error.contains("p4ss"), "{error}");
            }
        }
        let error = build(&[ENDPOINT, ("IDENTITY_HEADER", "s3\ncret")]).unwrap_err().to_string();
        assert!(error.starts_with("IDENTITY_HEADER") && !error.contains("cret"), "{error}");
        let id = UserAssignedId::ClientId("shop".into());
        let error = ManagedIdentity::user_assigned(id).build().unwrap_err().to_string();
        assert!(error.starts_with("user_assigned must be"), "{error}");
    }

    #[test]
    fn an_explicit_endpoint_overrides_the_environment() {
        let environment = Environment::from_pairs([ENDPOINT, HEADER]);
        let identity = ManagedIdentity::system_assigned()
            .environment(environment)
            .imds_endpoint("http://127.0.0.1:2/")
            .build()
            .unwrap();
        assert_eq!(identity.host(), ManagedIdentityHost::Imds);
        let url = &identity.0.endpoint.url;
        assert_eq!(url.as_str(), "http://127.0.0.1:2/metadata/identity/oauth2/token");
        let own = Endpoint::imds("imds_endpoint", "http://127.0.0.1:2/own/path").unwrap();
        assert_eq!(own.url.path(), "/own/path");
    }
}
