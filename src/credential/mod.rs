//! Credentials, which request tokens from an identity provider.
//!
//! [`from_env`] suits most programs. It detects where the program runs, so the same code works on
//! a laptop, in CI and in Azure.
//!
//! | host | credential that [`from_env`] uses | required settings |
//! |---|---|---|
//! | App Service, Functions, Container Apps | [`ManagedIdentity`] | nothing: Azure sets `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` |
//! | virtual machine, scale set, AKS node | [`ManagedIdentity`] (IMDS) | nothing |
//! | any of these, with a user-assigned identity | [`ManagedIdentity`] | `AZURE_CLIENT_ID`: the identity's client ID |
//! | Azure Machine Learning | [`ManagedIdentity`] | nothing: Azure sets `MSI_ENDPOINT`, `MSI_SECRET` and `DEFAULT_IDENTITY_CLIENT_ID`; `AZURE_CLIENT_ID` for another user-assigned identity |
//! | Azure Arc-enabled server | [`ManagedIdentity`] (system-assigned) | nothing: the agent is found by `IDENTITY_ENDPOINT` and `IMDS_ENDPOINT`, or by its files; the program's user must be in the group `himds` |
//! | Service Fabric | [`ManagedIdentity`] (the cluster decides which) | nothing: Azure sets `IDENTITY_ENDPOINT`, `IDENTITY_HEADER` and `IDENTITY_SERVER_THUMBPRINT` |
//! | Cloud Shell | [`ManagedIdentity`] (the user who is logged in) | nothing: Azure sets `MSI_ENDPOINT` |
//! | AKS pod with workload identity | [`Application::workload_identity`] | nothing: its webhook sets `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and `AZURE_FEDERATED_TOKEN_FILE` |
//! | CI or a server elsewhere, with a client secret | [`Application::client_secret`] | `AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_CLIENT_SECRET` |
//! | the same, with a certificate (feature `client-certificate`) | `Application::client_certificate` | `AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_CLIENT_CERTIFICATE_PATH` (PKCS#12), and `AZURE_CLIENT_CERTIFICATE_PASSWORD` if it has one |
//! | Azure Pipelines with a service connection | [`Application::azure_pipelines`] | `AZURE_TOKEN_CREDENTIALS=AzurePipelinesCredential`, and the variables that [`Application::azure_pipelines`] describes |
//! | a developer's machine | [`AzureCli`] | nothing; log in with `az login` |
//! | the same, without `az` | [`AzureDeveloperCli`] | nothing; log in with `azd auth login` |
//! | GitHub Actions, other clouds | none: use [`Application::client_assertion`] | |
//! | any other | none: use [`from_azure_core`], or implement [`TokenCredential`] | |
//!
//! [`Application`] needs the feature `azure-identity`, which is enabled by default.
//!
//! If a login fails, run [`entra-whoami`](crate::manual::whoami): it reports which credential was
//! found and which principal its token identifies, and checks each step of the login.
//!
//! These credentials do not cache tokens: [`TokenCache`](crate::token::TokenCache) does that. No
//! request is sent and no command is run before the first token is requested. Environment
//! variables are read once, when a credential is built, except for two that `azure_identity`
//! reads itself (`SYSTEM_OIDCREQUESTURI`, `AZURE_CLIENT_SEND_CERTIFICATE_CHAIN`).

mod adapter;
mod answer;
#[cfg(feature = "azure-identity")]
mod application;
mod chain;
mod cli;
mod config_error;
mod default;
#[cfg(feature = "azure-identity")]
mod entra;
mod environment;
mod managed_identity;

use std::sync::Arc;

pub use adapter::AzureCoreCredential;
use answer::InvalidAnswer;
#[cfg(feature = "azure-identity")]
pub use application::Application;
pub use chain::Chain;
pub use cli::{AzureCli, AzureDeveloperCli, CliBuilder};
pub use config_error::ConfigError;
use config_error::Problem;
pub use environment::Environment;
pub use managed_identity::{
    ManagedIdentity, ManagedIdentityBuilder, ManagedIdentityHost, UserAssignedId,
};

use crate::token::TokenCredential;
pub use default::DefaultCredential;
#[cfg(feature = "azure-sql")]
pub(crate) use default::Member;

/// Returns the credential described by the environment of this process. To build it with other
/// settings, use [`DefaultCredential`].
///
/// The first available credential of these is used: a service principal (`AZURE_CLIENT_SECRET` or
/// `AZURE_CLIENT_CERTIFICATE_PATH`), workload identity (`AZURE_FEDERATED_TOKEN_FILE`), managed
/// identity, the Azure CLI, the Azure Developer CLI. Once a credential has returned a token, only
/// that credential is used ([`Chain`]). [`probe`](ManagedIdentityBuilder::probe) describes how IMDS
/// is detected and when it is skipped.
///
/// | variable | meaning |
/// |---|---|
/// | `AZURE_TOKEN_CREDENTIALS` | `prod`: the first three credentials; `dev`: the last two; or the name of one credential: `EnvironmentCredential`, `WorkloadIdentityCredential`, `ManagedIdentityCredential`, `AzureCliCredential`, `AzureDeveloperCliCredential`, `AzurePipelinesCredential` |
/// | `AZURE_CLIENT_ID` | the application or the user-assigned identity; the CLIs remain in the chain, as in the Azure SDKs |
/// | `AZURE_TENANT_ID` | the application's tenant |
/// | `AZURE_CLIENT_SECRET`, or `AZURE_CLIENT_CERTIFICATE_PATH` (and `_PASSWORD`) | the service principal's secret or certificate |
/// | `AZURE_AUTHORITY_HOST` | the authority that applications request tokens from. Default: that of the database's cloud, if a connection string is passed to `pool`; otherwise that of the public cloud |
/// | `AZURE_POD_IDENTITY_AUTHORITY_HOST` | the URL of IMDS. Default: `http://169.254.169.254` |
///
/// A connection string can name the identity as well (`User Id` on Azure SQL,
/// `entra_client_id` on PostgreSQL). This excludes every credential that logs in as another
/// identity: the CLIs, and a service principal with another client ID. The other credentials
/// request a token for the named identity.
///
/// If no credential is available, the first request for a token fails within 5 s. The error
/// lists every credential with its reason, and states what to do.
///
/// # Errors
///
/// [`ConfigError`], if settings contradict each other or are incomplete. Skipping such a credential
/// could select the wrong identity.
///
/// ```
/// use entra_pool::{credential, token::Identity};
///
/// let identity = Identity::new(credential::from_env()?);
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
pub fn from_env() -> Result<Arc<dyn TokenCredential>, ConfigError> {
    DefaultCredential::new().build()
}

/// Adapts a credential from the Azure SDK for Rust (`azure_core`). `name` appears in logs and
/// errors.
///
/// ```
/// use std::sync::Arc;
/// use entra_pool::{credential::from_azure_core, token::Identity};
///
/// fn identity(theirs: Arc<dyn azure_core::credentials::TokenCredential>) -> Identity {
///     Identity::new(from_azure_core("our vault", theirs))
/// }
/// ```
///
/// If the credential caches tokens, as several in `azure_identity` do, it cannot replace a token
/// that a server has refused. Use [`from_azure_core_factory`] for such a credential.
#[must_use]
pub fn from_azure_core(
    name: impl Into<String>,
    credential: Arc<dyn azure_core::credentials::TokenCredential>,
) -> AzureCoreCredential {
    from_azure_core_factory(name, move || Ok(credential.clone()))
}

/// Adapts a credential from the Azure SDK for Rust (`azure_core`) that caches tokens. `factory`
/// creates the credential again whenever its last token is about to expire or was refused, so
/// that the cache does not return the old token. `name` appears in logs and errors.
///
/// ```
/// use std::sync::Arc;
/// use entra_pool::{credential::from_azure_core_factory, token::Identity};
///
/// fn identity<C, F>(make: F) -> Identity
/// where
///     C: azure_core::credentials::TokenCredential + 'static,
///     F: Fn() -> azure_core::Result<C> + Send + Sync + 'static,
/// {
///     Identity::new(from_azure_core_factory("our vault", move || Ok(Arc::new(make()?))))
/// }
/// ```
#[must_use]
pub fn from_azure_core_factory<F>(name: impl Into<String>, factory: F) -> AzureCoreCredential
where
    F: Fn() -> azure_core::Result<Arc<dyn azure_core::credentials::TokenCredential>>
        + Send
        + Sync
        + 'static,
{
    AzureCoreCredential::new(name.into(), None, adapter::Proof::default(), Box::new(factory))
}
