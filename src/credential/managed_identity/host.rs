//! Detects the host of this program. Only this module decides which endpoint is used, and which
//! parameter selects a user-assigned identity.

use std::{fmt, path::Path};

use super::{
    UserAssignedId, azure_arc,
    endpoint::Endpoint,
    imds,
    key_file::Agent,
    protocols::{APP_SERVICE, AZURE_ARC, AZURE_ML, CLOUD_SHELL, INSTALLED_ARC, SERVICE_FABRIC},
};
use crate::credential::{ConfigError, Environment, Problem};

/// The Azure service whose endpoint issues tokens for managed identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManagedIdentityHost {
    /// App Service, Functions, Container Apps.
    AppService,
    /// A Service Fabric cluster. The cluster's configuration decides which identity an application
    /// gets.
    ServiceFabric,
    /// A server outside of Azure that is managed with Azure Arc: its system-assigned identity.
    AzureArc,
    /// Azure Machine Learning: user-assigned identities by client ID only.
    AzureMl,
    /// Cloud Shell: tokens of the user who is logged in.
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

/// A user-assigned identity, and the request parameter that selects it.
#[derive(Debug)]
pub(super) struct Selector {
    pub(super) id: UserAssignedId,
    pub(super) parameter: &'static str,
    /// Whether a chain tries its next credential if the machine does not have this identity.
    pub(super) optional: bool,
}

impl Selector {
    /// Returns an error if the ID is invalid, or if the host would ignore it and return the token of
    /// another identity.
    pub(super) fn new(
        host: ManagedIdentityHost,
        id: UserAssignedId,
        setting: &'static str,
    ) -> Result<Self, ConfigError> {
        id.check(setting)?;
        let selector = id.kind();
        let parameter = parameter(host, &id).map_err(|advice| Problem::IgnoredSelector {
            setting,
            selector,
            host,
            advice,
        })?;
        Ok(Self { id, parameter, optional: false })
    }

    /// Returns the query parameter for a request.
    pub(super) fn pair(&self) -> (&'static str, &str) {
        (self.parameter, self.id.value())
    }
}

/// Returns the name of the host's parameter for this kind of ID, or what to do if the host has no
/// such parameter.
fn parameter(host: ManagedIdentityHost, id: &UserAssignedId) -> Result<&'static str, &'static str> {
    use ManagedIdentityHost as Host;
    use UserAssignedId::{ClientId, ObjectId, ResourceId};
    match (host, id) {
        (Host::AppService | Host::Imds, ClientId(_)) => Ok("client_id"),
        (Host::AppService, ObjectId(_)) => Ok("principal_id"),
        (Host::AppService, ResourceId(_)) => Ok("mi_res_id"),
        (Host::Imds, ObjectId(_)) => Ok("object_id"),
        (Host::Imds, ResourceId(_)) => Ok("msi_res_id"),
        (Host::AzureMl, ClientId(_)) => Ok("clientid"),
        (Host::AzureMl, ObjectId(_) | ResourceId(_)) => Err("use the identity's client ID"),
        (Host::AzureArc, _) => Err("remove it to use the machine's system-assigned identity"),
        (Host::CloudShell, _) => Err("remove it to get tokens of the user who is logged in"),
        (Host::ServiceFabric, _) => {
            Err("remove it: the cluster's configuration decides which identity an application gets")
        }
    }
}

/// The names of the parameters that select an identity. The URL of an endpoint must not contain
/// them.
pub(super) const PARAMETERS: [&str; 6] =
    ["client_id", "clientid", "object_id", "principal_id", "mi_res_id", "msi_res_id"];

const AUTHORITY: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";

/// Returns the endpoint of the host that the variables describe. The order is that of Microsoft's
/// libraries (MSAL, azidentity). The variables of the process take precedence over an agent that
/// is installed on the machine.
///
/// # Errors
///
/// [`ConfigError`], if a variable is invalid.
pub(super) fn find(
    environment: &Environment,
    arc_root: Option<&Path>,
) -> Result<Endpoint, ConfigError> {
    let get = |name| environment.checked(name);
    let agent = Agent::new(environment, arc_root);
    if let (Some(url), header @ Some(_)) = (get("IDENTITY_ENDPOINT")?, get("IDENTITY_HEADER")?) {
        return match get("IDENTITY_SERVER_THUMBPRINT")? {
            Some(thumbprint) => Endpoint::new(&SERVICE_FABRIC, url, header)?.pinned(thumbprint),
            None => Endpoint::new(&APP_SERVICE, url, header),
        };
    }
    if let (Some(url), Some(_)) = (get("IDENTITY_ENDPOINT")?, get("IMDS_ENDPOINT")?) {
        return Endpoint::azure_arc(&AZURE_ARC, url, agent);
    }
    if let Some(url) = get("MSI_ENDPOINT")? {
        return match get("MSI_SECRET")? {
            None => Endpoint::new(&CLOUD_SHELL, url, None),
            secret => Endpoint::new(&AZURE_ML, url, secret)?
                .with_default(get("DEFAULT_IDENTITY_CLIENT_ID")?),
        };
    }
    let named = get(AUTHORITY)?;
    if named.is_none() && agent.is_installed() {
        return Endpoint::azure_arc(&INSTALLED_ARC, azure_arc::DEFAULT, agent);
    }
    let mut imds = Endpoint::imds(AUTHORITY, named.unwrap_or(imds::DEFAULT))?;
    imds.hint = match (get("IDENTITY_ENDPOINT")?, get("IDENTITY_HEADER")?) {
        (Some(_), _) => {
            "; IDENTITY_ENDPOINT is set, but not used, because IDENTITY_HEADER is not set"
        }
        (None, Some(_)) => {
            "; IDENTITY_HEADER is set, but not used, because IDENTITY_ENDPOINT is not set"
        }
        (None, None) => "",
    };
    Ok(imds)
}
