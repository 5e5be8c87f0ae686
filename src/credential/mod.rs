//! Who asks for the token.
//!
//! [`from_env`] is right for most programs: it finds out where it runs, so that
//! the same program works on a laptop, in CI and in Azure.
//!
//! | where it runs | what [`from_env`] uses | what must be set |
//! |---|---|---|
//! | App Service, Functions, Container Apps | [`ManagedIdentity`] | nothing: Azure sets `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` |
//! | virtual machine, scale set, AKS node | [`ManagedIdentity`] (IMDS) | nothing |
//! | either of these, user-assigned identity | [`ManagedIdentity`] | `AZURE_CLIENT_ID`: the identity's client ID |
//! | Azure Machine Learning | [`ManagedIdentity`] | nothing: Azure sets `MSI_ENDPOINT`, `MSI_SECRET` and `DEFAULT_IDENTITY_CLIENT_ID`; `AZURE_CLIENT_ID` for another user-assigned identity |
//! | a machine of Azure Arc | [`ManagedIdentity`] (system-assigned) | nothing: the agent is found by `IDENTITY_ENDPOINT` and `IMDS_ENDPOINT`, or by its files; the program's user must be in the group `himds` |
//! | Service Fabric | [`ManagedIdentity`] (the cluster says which) | nothing: Azure sets `IDENTITY_ENDPOINT`, `IDENTITY_HEADER` and `IDENTITY_SERVER_THUMBPRINT` |
//! | Cloud Shell | [`ManagedIdentity`] (the user who is logged in) | nothing: Azure sets `MSI_ENDPOINT` |
//! | AKS pod with workload identity | [`Application::workload_identity`] | nothing: its webhook sets `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and `AZURE_FEDERATED_TOKEN_FILE` |
//! | CI, a server elsewhere, with a secret | [`Application::client_secret`] | `AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_CLIENT_SECRET` |
//! | the same with a certificate (feature `client-certificate`) | `Application::client_certificate` | `AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_CLIENT_CERTIFICATE_PATH` (PKCS#12), and `AZURE_CLIENT_CERTIFICATE_PASSWORD` if it has one |
//! | Azure Pipelines with a service connection | [`Application::azure_pipelines`] | `AZURE_TOKEN_CREDENTIALS=AzurePipelinesCredential`, and what [`Application::azure_pipelines`] describes |
//! | a developer's machine | [`AzureCli`] | nothing; log in with `az login` |
//! | the same without `az` | [`AzureDeveloperCli`] | nothing; log in with `azd auth login` |
//! | GitHub Actions, other clouds | [`Application::client_assertion`], not found by [`from_env`] | |
//! | anywhere else | [`from_azure_core`], or a [`TokenCredential`] of your own | |
//!
//! What has [`Application`] in it needs the feature `azure-identity`, which is
//! on by default.
//!
//! When a login fails, [`entra-whoami`](crate::manual::whoami) shows which of these was
//! found and which principal its token identifies, and checks each step of the login.
//!
//! Credentials here do not cache: that is
//! [`TokenCache`](crate::token::TokenCache)'s office. Nothing is requested, and
//! no command run, until a token is asked for. Variables of the environment are
//! read when a credential is built, and then only; but for two that `azure_identity`
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

/// The credential that the environment of this process describes. [`DefaultCredential`] builds
/// it with other settings.
///
/// In this order, the first that is there: a service principal
/// (`AZURE_CLIENT_SECRET` or `AZURE_CLIENT_CERTIFICATE_PATH`), workload identity
/// (`AZURE_FEDERATED_TOKEN_FILE`), managed identity, the Azure CLI, the Azure
/// Developer CLI. Once one of them has given a token, it stays with that one
/// ([`Chain`]). How IMDS is found, and when it is passed over:
/// [`probe`](ManagedIdentityBuilder::probe).
///
/// | variable | |
/// |---|---|
/// | `AZURE_TOKEN_CREDENTIALS` | `prod`: the first three; `dev`: the last two; or one: `EnvironmentCredential`, `WorkloadIdentityCredential`, `ManagedIdentityCredential`, `AzureCliCredential`, `AzureDeveloperCliCredential`, `AzurePipelinesCredential` |
/// | `AZURE_CLIENT_ID` | which application, or which user-assigned identity; the CLIs are asked all the same, as in the Azure SDKs |
/// | `AZURE_TENANT_ID` | the application's tenant |
/// | `AZURE_CLIENT_SECRET`, or `AZURE_CLIENT_CERTIFICATE_PATH` (and `_PASSWORD`) | the service principal's |
/// | `AZURE_AUTHORITY_HOST` | whom applications ask, in other clouds; else the public cloud, or that of the database which a pool's `connect` is given |
/// | `AZURE_POD_IDENTITY_AUTHORITY_HOST` | where IMDS is, if not at `http://169.254.169.254` |
///
/// A connection string can name the identity as well (`User Id` on Azure SQL,
/// `entra_client_id` on PostgreSQL). This excludes every credential that logs in as another
/// identity: the CLIs, and a service principal with another client ID. The others ask for a
/// token of the identity that is named.
///
/// Where none is available, the first request for a token fails within 5 s, with
/// an error that lists all of them and says what to do.
///
/// # Errors
///
/// Settings that contradict each other or are half there. To go on to the next
/// credential then would be to log in as somebody else.
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

/// Any credential of the `azure_core` world as one of this crate. `name` is for
/// logs and errors.
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
/// If it caches inside, as several of `azure_identity` do, it cannot be told
/// that a server has refused its token; give
/// [`from_azure_core_factory`] then.
#[must_use]
pub fn from_azure_core(
    name: impl Into<String>,
    credential: Arc<dyn azure_core::credentials::TokenCredential>,
) -> AzureCoreCredential {
    from_azure_core_factory(name, move || Ok(credential.clone()))
}

/// Any credential of the `azure_core` world that can be made anew: that is done
/// whenever its last token nears its end or was refused, so that a cache inside
/// it does not get in the way.
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
