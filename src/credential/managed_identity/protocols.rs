//! The protocols of the endpoints of managed identities, and the meaning of their refusals.

use super::{ManagedIdentityHost, endpoint::Protocol, retry::Retry};

/// App Service, Functions and Container Apps: "How to use managed identities for App Service
/// and Azure Functions", section "REST endpoint reference".
pub(super) static APP_SERVICE: Protocol = Protocol {
    host: ManagedIdentityHost::AppService,
    name: "the App Service identity endpoint",
    url: "IDENTITY_ENDPOINT",
    secret: Some(("IDENTITY_HEADER", "x-identity-header")),
    api_version: Some("2019-08-01"),
    retry: Retry::APP_SERVICE,
    owner: "this app",
    no_identity: &[400],
    refusals: &[],
};

/// Azure Machine Learning, compute instances and clusters: App Service's older protocol with
/// different names. Only the source code of azidentity and MSAL documents it.
pub(super) static AZURE_ML: Protocol = Protocol {
    host: ManagedIdentityHost::AzureMl,
    name: "the Azure Machine Learning identity endpoint",
    url: "MSI_ENDPOINT",
    secret: Some(("MSI_SECRET", "secret")),
    api_version: Some("2017-09-01"),
    retry: Retry::LOCAL,
    owner: "this compute",
    no_identity: &[400, 404],
    refusals: &[],
};

/// Service Fabric: "How to leverage a Service Fabric application's managed identity to access
/// Azure services".
///
/// The endpoint uses TLS with a self-signed certificate, whose SHA-1 thumbprint is in the
/// environment. The cluster decides which identity an application gets.
pub(super) static SERVICE_FABRIC: Protocol = Protocol {
    host: ManagedIdentityHost::ServiceFabric,
    name: "the Service Fabric token service",
    url: "IDENTITY_ENDPOINT",
    secret: Some(("IDENTITY_HEADER", "secret")),
    api_version: Some("2019-07-01-preview"),
    retry: Retry::LOCAL,
    owner: "this application",
    no_identity: &[],
    refusals: &[(
        &[404],
        "has no managed identity for this application",
        "assign one in the cluster's configuration",
    )],
};

/// Cloud Shell: tokens of the user who is logged in. The variable is documented in "Azure Cloud
/// Shell frequently asked questions", the protocol by the source code of azidentity and MSAL.
pub(super) static CLOUD_SHELL: Protocol = Protocol {
    host: ManagedIdentityHost::CloudShell,
    name: "the Cloud Shell token endpoint",
    url: "MSI_ENDPOINT",
    secret: None,
    api_version: None,
    retry: Retry::LOCAL,
    owner: "this shell",
    no_identity: &[],
    refusals: &[(
        &[400, 401, 403],
        "does not issue this token",
        "reopen Cloud Shell, or run `az login` there and use the Azure CLI \
                 (AZURE_TOKEN_CREDENTIALS=AzureCliCredential)",
    )],
};

/// Azure Arc: see [`Endpoint::azure_arc`](super::endpoint::Endpoint::azure_arc).
pub(super) const AZURE_ARC: Protocol = Protocol {
    host: ManagedIdentityHost::AzureArc,
    name: "the Azure Arc agent",
    url: "IDENTITY_ENDPOINT",
    secret: None,
    api_version: Some("2020-06-01"),
    retry: Retry::LOCAL,
    owner: "this machine",
    no_identity: &[],
    refusals: &[
        (&[400], "does not issue this token", "the machine must be connected (`azcmagent show`)"),
        (
            &[401, 403],
            "rejected the key that it asked for",
            "see the agent's log (`azcmagent logs`)",
        ),
    ],
};

/// Azure Arc, if no variables name the agent and only its files exist.
pub(super) static INSTALLED_ARC: Protocol = Protocol { retry: Retry::INSTALLED, ..AZURE_ARC };

/// The Instance Metadata Service: see [`Endpoint::imds`](super::endpoint::Endpoint::imds).
pub(super) static IMDS: Protocol = Protocol {
    host: ManagedIdentityHost::Imds,
    name: "IMDS",
    url: "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    secret: None,
    api_version: Some("2018-02-01"),
    retry: Retry::IMDS,
    owner: "this machine",
    no_identity: &[400],
    refusals: &[],
};
