//! The protocols of the endpoints that variables of the environment name, and what their
//! refusals mean.

use super::{
    ManagedIdentityHost,
    local::{Protocol, not_assigned, not_switched_on},
    retry::Retry,
};

/// App Service, Functions and Container Apps: "How to use managed identities for App Service
/// and Azure Functions", section "REST endpoint reference".
pub(super) static APP_SERVICE: Protocol = Protocol {
    host: ManagedIdentityHost::AppService,
    who: "the App Service identity endpoint",
    url: "IDENTITY_ENDPOINT",
    secret: Some(("IDENTITY_HEADER", "x-identity-header")),
    api_version: Some("2019-08-01"),
    retry: Retry::APP_SERVICE,
    explain: |refusal| match (refusal.status, refusal.selector) {
        (400, Some(selector)) => Some(not_assigned(selector, "this app", &refusal.reason)),
        (400, None) => {
            Some(not_switched_on("this app has no system-assigned identity", &refusal.reason))
        }
        (401 | 403, _) => Some(format!(
            "the App Service identity endpoint did not accept the identity header ({}){}; \
             IDENTITY_ENDPOINT and IDENTITY_HEADER must be those of this process",
            refusal.status, refusal.reason
        )),
        _ => None,
    },
};

/// Azure Machine Learning, compute instances and clusters: App Service's older protocol with
/// different names (azidentity, MSAL; there is no other specification).
pub(super) static AZURE_ML: Protocol = Protocol {
    host: ManagedIdentityHost::AzureMl,
    who: "the Azure Machine Learning identity endpoint",
    url: "MSI_ENDPOINT",
    secret: Some(("MSI_SECRET", "secret")),
    api_version: Some("2017-09-01"),
    retry: Retry::LOCAL,
    explain: |refusal| match (refusal.status, refusal.selector) {
        (400 | 404, Some(selector)) => {
            Some(not_assigned(selector, "this compute", &refusal.reason))
        }
        (400 | 404, None) => {
            Some(not_switched_on("this compute has no system-assigned identity", &refusal.reason))
        }
        (401 | 403, _) => Some(format!(
            "the Azure Machine Learning identity endpoint did not accept the secret ({}){}; \
             MSI_ENDPOINT and MSI_SECRET must be those of this process",
            refusal.status, refusal.reason
        )),
        _ => None,
    },
};

/// Service Fabric: "How to leverage a Service Fabric application's managed identity to access
/// Azure services".
///
/// The endpoint uses TLS with a certificate that no authority has signed: the environment
/// has its SHA-1 thumbprint. The cluster decides which identity an application gets.
pub(super) static SERVICE_FABRIC: Protocol = Protocol {
    host: ManagedIdentityHost::ServiceFabric,
    who: "the Service Fabric token service",
    url: "IDENTITY_ENDPOINT",
    secret: Some(("IDENTITY_HEADER", "secret")),
    api_version: Some("2019-07-01-preview"),
    retry: Retry::LOCAL,
    explain: |refusal| match refusal.status {
        404 => Some(format!(
            "this application has no managed identity{}; give it one in the cluster's \
             configuration",
            refusal.reason
        )),
        401 | 403 => Some(format!(
            "the Service Fabric token service did not accept the secret ({}){}; IDENTITY_ENDPOINT \
             and IDENTITY_HEADER must be those of this process",
            refusal.status, refusal.reason
        )),
        _ => None,
    },
};

/// Cloud Shell: tokens of the user who is logged in there ("Azure Cloud Shell frequently asked
/// questions" names the variable; azidentity and MSAL the protocol).
pub(super) static CLOUD_SHELL: Protocol = Protocol {
    host: ManagedIdentityHost::CloudShell,
    who: "the Cloud Shell token endpoint",
    url: "MSI_ENDPOINT",
    secret: None,
    api_version: None,
    retry: Retry::LOCAL,
    explain: |refusal| match refusal.status {
        400 | 401 | 403 => Some(format!(
            "the Cloud Shell token endpoint gives no such token ({}){}; open Cloud Shell anew, or \
             run `az login` there and use the Azure CLI \
             (AZURE_TOKEN_CREDENTIALS=AzureCliCredential)",
            refusal.status, refusal.reason
        )),
        _ => None,
    },
};

/// Azure Arc: see [`AzureArc`](super::azure_arc::AzureArc).
pub(super) static AZURE_ARC: Protocol = Protocol {
    host: ManagedIdentityHost::AzureArc,
    who: "the Azure Arc agent",
    url: "IDENTITY_ENDPOINT",
    secret: None,
    api_version: Some("2020-06-01"),
    retry: Retry::LOCAL,
    explain: |refusal| match refusal.status {
        400 => Some(format!(
            "the Azure Arc agent gives no such token{}; the machine must be connected (`azcmagent \
             show`)",
            refusal.reason
        )),
        401 | 403 => Some(format!(
            "the Azure Arc agent did not accept the key that it asked for ({}){}",
            refusal.status, refusal.reason
        )),
        _ => None,
    },
};
