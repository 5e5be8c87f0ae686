//! The protocols of Azure's hosts.
//!
//! - App Service, Functions, Container Apps: "How to use managed identities for App
//!   Service and Azure Functions", REST endpoint reference.
//! - Service Fabric: "How to leverage a Service Fabric application's managed identity to
//!   access Azure services". Over TLS; the application knows the certificate's thumbprint.
//! - Azure Arc: "Authenticate against Azure resources with Azure Arc-enabled servers". A
//!   client must present a key that the agent has written to a file, a new one for every
//!   request. The agent has a separate port, where its path is that of IMDS.
//! - Azure Machine Learning: App Service's older protocol.
//! - Cloud Shell: tokens of the logged-in user.
//! - IMDS: "How to use managed identities for Azure resources on an Azure VM to acquire an
//!   access token".
//!
//! For the last three, the requests are those of azidentity and MSAL.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::control::{Inner, Received, Signed, State};
use crate::jwt::{Principal, PrincipalKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    AppService,
    AzureArc,
    AzureMl,
    CloudShell,
    Imds,
    ServiceFabric,
}

use Host::{AppService, AzureArc, AzureMl, CloudShell, Imds, ServiceFabric};

/// The user of Cloud Shell.
pub(super) fn cloud_shell_user() -> Principal {
    Principal::new("shell-user@contoso.com", PrincipalKind::User)
}

impl Host {
    /// The host with this path.
    pub(super) fn of(request: &Received) -> Option<Self> {
        let hosts: &[Self] = match request.over_tls {
            true => &[ServiceFabric],
            false => &[AppService, AzureArc, AzureMl, CloudShell, Imds],
        };
        hosts.iter().copied().find(|host| host.path() == request.path)
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            AppService => "/msi/token",
            AzureArc => "/arc/metadata/identity/oauth2/token",
            AzureMl => "/ml/msi/token",
            CloudShell => "/oauth2/token",
            Imds | ServiceFabric => "/metadata/identity/oauth2/token",
        }
    }

    pub(super) fn method(self) -> &'static str {
        if self == CloudShell { "POST" } else { "GET" }
    }

    fn api_version(self) -> Option<&'static str> {
        match self {
            AppService => Some("2019-08-01"),
            AzureArc => Some("2020-06-01"),
            AzureMl => Some("2017-09-01"),
            CloudShell => None,
            Imds => Some("2018-02-01"),
            ServiceFabric => Some("2019-07-01-preview"),
        }
    }

    /// The parameters that select a user-assigned identity. Others are ignored, as the
    /// real endpoints do.
    fn selectors(self) -> &'static [&'static str] {
        match self {
            // Microsoft's page has `principal_id`, its SDKs send `object_id`.
            AppService => &["client_id", "principal_id", "object_id", "mi_res_id"],
            AzureMl => &["clientid"],
            Imds => &["client_id", "object_id", "msi_res_id"],
            AzureArc | CloudShell | ServiceFabric => &[],
        }
    }

    /// The principal and the resource that a token is requested for.
    pub(super) fn read<'a>(
        self,
        state: &State,
        request: &'a Received,
    ) -> Result<(Principal, &'a str), Refusal> {
        self.check(state, request)?;
        let parameters = if self == CloudShell { &request.form } else { &request.query };
        let resource = resource(parameters)?;
        Ok((self.select(&state.lock(), request)?, resource))
    }

    fn check(self, state: &State, request: &Received) -> Result<(), Refusal> {
        match self {
            AppService if request.identity_header_is_right != Some(true) => {
                return Err(unauthorized("the X-IDENTITY-HEADER is missing or wrong"));
            }
            AzureMl | ServiceFabric if request.secret_is_right != Some(true) => {
                return Err(unauthorized("Secret is not found in the request headers."));
            }
            AzureArc | CloudShell | Imds if request.metadata.as_deref() != Some("true") => {
                return Err(bad_request("Required metadata header not specified"));
            }
            _ => {}
        }
        if let Some(known) = self.api_version() {
            let version = request
                .query_value("api-version")
                .ok_or_else(|| bad_request("Required query variable 'api-version' is missing"))?;
            if version != known {
                return Err(bad_request(format!(
                    "api-version '{version}' is not supported: '{known}' is"
                )));
            }
        }
        match request.key_is_right {
            None if self == AzureArc => Err(Refusal {
                challenge: Some(state.challenge()),
                ..unauthorized("Missing Basic Authorization header")
            }),
            Some(false) if self == AzureArc => {
                Err(unauthorized("the key is wrong, or has been used"))
            }
            _ => Ok(()),
        }
    }

    fn select(self, inner: &Inner, request: &Received) -> Result<Principal, Refusal> {
        let mut given = self
            .selectors()
            .iter()
            .filter_map(|name| request.query_value(name).map(|id| (*name, id)));
        let selector = given.next();
        if given.next().is_some() {
            return Err(bad_request("More than one identity is specified"));
        }
        let principal = match (self, selector, inner.user_assigned.as_slice()) {
            (CloudShell, ..) => Some(cloud_shell_user()),
            (_, Some((name, id)), all) => all.iter().find(|it| is_it(it, name, id)).cloned(),
            // The default of a virtual machine, if there is just one.
            (Imds, None, [only]) => inner.system_assigned.as_ref().or(Some(only)).cloned(),
            (Imds, None, [_, _, ..]) if inner.system_assigned.is_none() => {
                return Err(bad_request(
                    "Multiple user assigned identities exist, please specify the clientId / \
                     resourceId of the identity in the token request",
                ));
            }
            _ => inner.system_assigned.clone(),
        };
        principal.ok_or_else(|| match self {
            AppService => bad_request(
                "No managed identity found for the ClientId, ResourceId or PrincipalId specified",
            ),
            AzureMl => bad_request("No MSI found for specified ClientId"),
            AzureArc => bad_request("The machine is not connected"),
            ServiceFabric => Refusal {
                status: StatusCode::NOT_FOUND,
                error: "ManagedIdentityNotFound",
                ..bad_request("Managed identity is not found.")
            },
            CloudShell | Imds => bad_request("Identity not found"),
        })
    }

    /// The response with a token.
    pub(super) fn token(self, principal: &Principal, resource: &str, signed: &Signed) -> Value {
        let mut answer = json!({
            "access_token": signed.token,
            "expires_on": signed.expires_on.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        });
        if matches!(self, AzureMl | ServiceFabric) {
            answer["expires_on"] = signed.expires_on.into();
        } else if let Some(refresh_in) = signed.refresh_in {
            answer["refresh_in"] = refresh_in.to_string().into();
        }
        if self != ServiceFabric {
            answer["client_id"] = principal.client_id.as_str().into();
        }
        if matches!(self, AzureArc | CloudShell | Imds) {
            // Entra rounds down: of 24 hours, 86399 seconds are left.
            let seconds = signed.expires_on.saturating_sub(signed.not_before).saturating_sub(1);
            answer["expires_in"] = seconds.to_string().into();
            answer["ext_expires_in"] = seconds.to_string().into();
            answer["not_before"] = signed.not_before.to_string().into();
        }
        answer
    }

    pub(super) fn refusal(self, refusal: &Refusal) -> Value {
        let Refusal { status, error, description, .. } = refusal;
        match self {
            AppService => json!({"statusCode": status.as_u16(), "message": description}),
            AzureMl => json!({"StatusCode": status.as_u16(), "Message": description}),
            AzureArc | Imds => json!({"error": error, "error_description": description}),
            CloudShell | ServiceFabric => {
                json!({"error": {"code": error, "message": description}})
            }
        }
    }
}

/// Whether `id` is this principal's ID of the kind that the parameter `name` selects.
fn is_it(principal: &Principal, name: &str, id: &str) -> bool {
    let own = match name {
        "client_id" | "clientid" => Some(principal.client_id.clone()),
        "object_id" | "principal_id" => Some(principal.object_id.clone()),
        _ => principal.resource_id(),
    };
    own.is_some_and(|own| own.eq_ignore_ascii_case(id))
}

/// A response that refuses a token.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    error: &'static str,
    pub(super) description: String,
    /// `WWW-Authenticate`.
    pub(super) challenge: Option<String>,
}

fn bad_request(description: impl Into<String>) -> Refusal {
    let (status, description) = (StatusCode::BAD_REQUEST, description.into());
    Refusal { status, error: "invalid_request", description, challenge: None }
}

fn unauthorized(description: &str) -> Refusal {
    let status = StatusCode::UNAUTHORIZED;
    Refusal { status, error: "unauthorized", ..bad_request(description) }
}

/// A resource is an application ID URI or a client ID; a scope is neither.
fn resource(parameters: &[(String, String)]) -> Result<&str, Refusal> {
    let resource = parameters.iter().find(|(name, _)| name == "resource");
    let Some((_, resource)) = resource.filter(|(_, resource)| !resource.is_empty()) else {
        return Err(bad_request("Required query variable 'resource' is missing"));
    };
    if is_resource(resource) && !resource.ends_with("/.default") {
        return Ok(resource);
    }
    let description = format!(
        "AADSTS500011: The resource principal named {resource} was not found in the tenant"
    );
    Err(Refusal { error: "invalid_resource", ..bad_request(description) })
}

/// Whether this is an application ID URI or a client ID.
pub(crate) fn is_resource(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| url.has_host()) || uuid::Uuid::try_parse(text).is_ok()
}
