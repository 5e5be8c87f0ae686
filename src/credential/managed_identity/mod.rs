mod answer;
mod app_service;
mod http;
mod imds;
mod retry;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use reqwest::Url;

pub use answer::InvalidAnswer;
pub(super) use answer::{date, object, point_in_time, secret};

use super::{ConfigError, Environment};
use crate::{
    clock::{Clock, SystemClock},
    token::{
        CredentialError, CredentialErrorKind::Transient, Scope, Token, TokenCredential,
        TokenRequest,
    },
};
use app_service::AppService;
use http::{Answer, Http};
use imds::Imds;

/// The identity that Azure has given the machine or app this program runs on.
///
/// Which endpoint is asked follows from the environment; see the table in
/// [`credential`](crate::credential). Cheap to clone.
///
/// - App Service, Functions, Container Apps: up to three tries, 1 s apart.
/// - IMDS (virtual machines, scale sets, AKS nodes): up to five tries with
///   pauses of 1, 2, 4 and 8 s; an update of IMDS (410) is waited out for up to
///   70 s. `Retry-After` wins.
///
/// A try takes 2 s to connect and 20 s in all at most. Proxies
/// (`HTTP_PROXY`, …) are never used, redirects never followed.
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
    id: Option<UserAssignedId>,
    http: Http,
    probe: bool,
    /// Whether the probe has been answered as IMDS answers.
    probed: AtomicBool,
}

/// One of several identities that a machine or app can have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UserAssignedId {
    /// The client ID of the identity: a GUID, not its object (principal) ID.
    ClientId(String),
}

impl UserAssignedId {
    fn check(&self, setting: &'static str) -> Result<(), ConfigError> {
        let Self::ClientId(id) = self;
        if is_guid(id) {
            Ok(())
        } else {
            Err(ConfigError::invalid(
                setting,
                "a client ID, such as 11111111-2222-3333-4444-555555555555",
            ))
        }
    }
}

impl fmt::Display for UserAssignedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::ClientId(id) = self;
        write!(f, "client ID {id}")
    }
}

/// Where managed identities are had from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManagedIdentityHost {
    /// App Service, Functions, Container Apps.
    AppService,
    /// A Service Fabric cluster. Not supported yet.
    ServiceFabric,
    /// A machine of one's own that Azure Arc manages. Not supported yet.
    AzureArc,
    /// Azure Machine Learning. Not supported yet.
    AzureMl,
    /// Cloud Shell. Not supported yet; the Azure CLI is logged in there.
    CloudShell,
    /// The Instance Metadata Service: virtual machines, scale sets, AKS nodes.
    Imds,
}

impl fmt::Display for ManagedIdentityHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AppService => "App Service",
            Self::ServiceFabric => "Service Fabric",
            Self::AzureArc => "Azure Arc",
            Self::AzureMl => "Azure Machine Learning",
            Self::CloudShell => "Cloud Shell",
            Self::Imds => "IMDS",
        })
    }
}

/// Builds a [`ManagedIdentity`].
#[derive(Debug)]
#[must_use]
pub struct ManagedIdentityBuilder {
    id: Option<UserAssignedId>,
    id_setting: &'static str,
    imds_endpoint: Option<String>,
    environment: Option<Environment>,
    clock: Arc<dyn Clock>,
    probe: bool,
}

impl ManagedIdentity {
    /// The one identity that lives and dies with the machine or app.
    pub fn system_assigned() -> ManagedIdentityBuilder {
        ManagedIdentityBuilder {
            id: None,
            id_setting: "user_assigned",
            imds_endpoint: None,
            environment: None,
            clock: Arc::new(SystemClock::new()),
            probe: false,
        }
    }

    /// One of the identities that were assigned to the machine or app.
    pub fn user_assigned(id: UserAssignedId) -> ManagedIdentityBuilder {
        ManagedIdentityBuilder { id: Some(id), ..Self::system_assigned() }
    }

    /// Whom tokens are asked from.
    #[must_use]
    pub fn host(&self) -> ManagedIdentityHost {
        match &self.0.endpoint {
            Endpoint::AppService(_) => ManagedIdentityHost::AppService,
            Endpoint::Imds(_) => ManagedIdentityHost::Imds,
        }
    }
}

impl ManagedIdentityBuilder {
    /// Asks IMDS, at this URL (`http://169.254.169.254`), whatever the
    /// environment says. A path is kept if there is one.
    pub fn imds_endpoint(mut self, url: impl Into<String>) -> Self {
        self.imds_endpoint = Some(url.into());
        self
    }

    /// The variables by which the host is found. Default:
    /// [`Environment::from_process`], read by [`build`](Self::build).
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// What waits and measures. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Whether IMDS is asked for a sign of life (one request, 1 s) before it is
    /// asked for the first token; without one the credential is
    /// [unavailable](crate::token::CredentialErrorKind::Unavailable). For a
    /// member of a [`Chain`](super::Chain), which shall be gone past soon where
    /// there is no IMDS. Default: no. Other hosts need no probe and get none.
    pub fn probe(mut self, probe: bool) -> Self {
        self.probe = probe;
        self
    }

    /// Where the ID came from, for an error.
    pub(super) fn id_setting(mut self, setting: &'static str) -> Self {
        self.id_setting = setting;
        self
    }

    pub(super) fn shared_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Finds the host and checks the settings. Nothing is requested.
    ///
    /// # Errors
    ///
    /// An ID that is no GUID; a variable that should be a URL and is not; a
    /// host that is not supported yet.
    pub fn build(self) -> Result<ManagedIdentity, ConfigError> {
        if let Some(id) = &self.id {
            id.check(self.id_setting)?;
        }
        let environment = self.environment.unwrap_or_else(Environment::from_process);
        let endpoint = match &self.imds_endpoint {
            Some(url) => Endpoint::Imds(Imds::at("imds_endpoint", url)?),
            None => Endpoint::find(&environment)?,
        };
        let http = Http::new(endpoint.url(), self.clock)?;
        Ok(ManagedIdentity(Arc::new(Inner {
            endpoint,
            id: self.id,
            http,
            probe: self.probe,
            probed: AtomicBool::new(false),
        })))
    }
}

enum Endpoint {
    AppService(AppService),
    Imds(Imds),
}

impl Endpoint {
    /// The endpoint of the host that the variables tell of. The order is that
    /// of Microsoft's libraries (MSAL, azidentity).
    fn find(environment: &Environment) -> Result<Self, ConfigError> {
        let set = |name| environment.get(name).is_some();
        let unsupported = |host, found_by| Err(ConfigError::UnsupportedHost { host, found_by });
        match (environment.get("IDENTITY_ENDPOINT"), environment.get("IDENTITY_HEADER")) {
            (Some(_), Some(_)) if set("IDENTITY_SERVER_THUMBPRINT") => unsupported(
                ManagedIdentityHost::ServiceFabric,
                "IDENTITY_ENDPOINT, IDENTITY_HEADER and IDENTITY_SERVER_THUMBPRINT are set",
            ),
            (Some(url), Some(header)) => Ok(Self::AppService(AppService::new(url, header)?)),
            (Some(_), None) if set("IMDS_ENDPOINT") => unsupported(
                ManagedIdentityHost::AzureArc,
                "IDENTITY_ENDPOINT and IMDS_ENDPOINT are set",
            ),
            _ if set("MSI_ENDPOINT") && set("MSI_SECRET") => {
                unsupported(ManagedIdentityHost::AzureMl, "MSI_ENDPOINT and MSI_SECRET are set")
            }
            _ if set("MSI_ENDPOINT") => {
                unsupported(ManagedIdentityHost::CloudShell, "MSI_ENDPOINT is set")
            }
            _ => {
                const VARIABLE: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
                let url = environment.get(VARIABLE).unwrap_or(imds::DEFAULT);
                Ok(Self::Imds(Imds::at(VARIABLE, url)?))
            }
        }
    }

    fn url(&self) -> &Url {
        match self {
            Self::AppService(app_service) => app_service.url(),
            Self::Imds(imds) => imds.url(),
        }
    }
}

#[async_trait]
impl TokenCredential for ManagedIdentity {
    fn name(&self) -> String {
        match &self.0.id {
            None => format!("managed identity ({})", self.host()),
            Some(id) => format!("managed identity ({}, {id})", self.host()),
        }
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        // There is nothing to pass by for a rejected token: the endpoints
        // cache, and offer no supported way around that.
        let Inner { endpoint, id, http, probe, probed } = &*self.0;
        match endpoint {
            Endpoint::AppService(app_service) => {
                app_service.get_token(http, id.as_ref(), &request.scope).await
            }
            Endpoint::Imds(imds) => {
                if *probe && !probed.load(Ordering::Relaxed) {
                    imds.probe(http).await?;
                    probed.store(true, Ordering::Relaxed);
                }
                imds.get_token(http, id.as_ref(), &request.scope).await
            }
        }
    }
}

impl fmt::Debug for ManagedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedIdentity")
            .field("host", &self.host())
            .field("endpoint", &shown(self.0.endpoint.url()))
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}

/// An endpoint's URL: HTTP(S) with a host, and without a password, which would
/// be shown in errors.
fn endpoint_url(setting: &'static str, url: &str) -> Result<Url, ConfigError> {
    Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .filter(|url| url.username().is_empty() && url.password().is_none())
        .ok_or_else(|| {
            ConfigError::invalid(
                setting,
                "an http:// or https:// URL with a host, without user and password",
            )
        })
}

/// An endpoint for messages.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// The endpoint's URL with the parameters that both hosts know by these names.
fn token_url(endpoint: &Url, api_version: &str, scope: &Scope, id: Option<&UserAssignedId>) -> Url {
    let mut url = endpoint.clone();
    let mut query = url.query_pairs_mut();
    query.append_pair("api-version", api_version).append_pair("resource", scope.resource());
    if let Some(UserAssignedId::ClientId(client_id)) = id {
        query.append_pair("client_id", client_id);
    }
    drop(query);
    url
}

/// An endpoint that was asked again and again, in vain.
fn exhausted(who: &str, answer: &Answer, description: Option<String>) -> CredentialError {
    let reason = description.map(|reason| format!(": {reason}")).unwrap_or_default();
    let message = format!(
        "{who} answered {} to every try{reason}; it should pass, try again later",
        answer.status
    );
    CredentialError::new(Transient, message).with_retry_after(answer.retry_after)
}

fn is_guid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(variables: &[(&str, &str)]) -> Result<ManagedIdentity, ConfigError> {
        let environment = Environment::from_pairs(variables.iter().copied());
        ManagedIdentity::system_assigned().environment(environment).build()
    }

    const ENDPOINT: (&str, &str) = ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token");
    const HEADER: (&str, &str) = ("IDENTITY_HEADER", "s3cret");
    const MSI: (&str, &str) = ("MSI_ENDPOINT", "http://127.0.0.1:1/oauth2/token");

    #[test]
    fn the_host_is_found_by_its_variables() {
        use ManagedIdentityHost::{AppService, AzureArc, AzureMl, CloudShell, Imds, ServiceFabric};
        let thumbprint = ("IDENTITY_SERVER_THUMBPRINT", "AB12");
        let imds = ("IMDS_ENDPOINT", "http://localhost:40342");
        let secret = ("MSI_SECRET", "x");
        for (variables, expected) in [
            (&[][..], Imds),
            (&[ENDPOINT], Imds),
            (&[HEADER], Imds),
            (&[ENDPOINT, ("IDENTITY_HEADER", "")], Imds),
            (&[ENDPOINT, HEADER], AppService),
            // App Service sets the older pair, too.
            (&[ENDPOINT, HEADER, MSI, secret], AppService),
            (&[ENDPOINT, HEADER, imds], AppService),
            (&[ENDPOINT, HEADER, thumbprint], ServiceFabric),
            (&[ENDPOINT, imds], AzureArc),
            (&[MSI, secret], AzureMl),
            (&[MSI], CloudShell),
            (&[secret], Imds),
        ] {
            let found = match build(variables) {
                Ok(identity) => identity.host(),
                Err(ConfigError::UnsupportedHost { host, .. }) => host,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(found, expected, "{variables:?}");
        }
        let error = build(&[MSI]).unwrap_err().to_string();
        assert!(error.contains("Cloud Shell (MSI_ENDPOINT is set)"), "{error}");
    }

    #[test]
    fn a_setting_that_cannot_be_right_is_named_and_not_shown() {
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
        for id in [
            "",
            "shop",
            "11111111222233334444555555555555",
            "11111111-2222-3333-4444-55555555555g",
            "{11111111-2222-3333-4444-555555555555}",
        ] {
            let id = UserAssignedId::ClientId(id.into());
            let built = ManagedIdentity::user_assigned(id).build();
            assert!(matches!(built, Err(ConfigError::Invalid { setting: "user_assigned", .. })));
        }
    }

    #[test]
    fn what_is_said_beats_the_environment() {
        let environment = Environment::from_pairs([ENDPOINT, HEADER]);
        let identity = ManagedIdentity::system_assigned()
            .environment(environment)
            .imds_endpoint("http://127.0.0.1:2/")
            .build()
            .unwrap();
        assert_eq!(identity.host(), ManagedIdentityHost::Imds);
        let url = identity.0.endpoint.url();
        assert_eq!(url.as_str(), "http://127.0.0.1:2/metadata/identity/oauth2/token");
        let own = Imds::at("imds_endpoint", "http://127.0.0.1:2/own/path").unwrap();
        assert_eq!(own.url().path(), "/own/path");
    }
}
