//! Where this program runs: the one place that decides which endpoint is asked,
//! and by which name it knows a user-assigned identity.

use std::{fmt, path::Path};

use super::{
    UserAssignedId, azure_arc,
    endpoint::Endpoint,
    imds,
    key_file::Agent,
    protocols::{APP_SERVICE, AZURE_ARC, AZURE_ML, CLOUD_SHELL, INSTALLED_ARC, SERVICE_FABRIC},
};
use crate::credential::{ConfigError, Environment, Problem};

/// Where managed identities are had from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManagedIdentityHost {
    /// App Service, Functions, Container Apps.
    AppService,
    /// A Service Fabric cluster. Which identity an application gets is set
    /// there.
    ServiceFabric,
    /// A machine of one's own that Azure Arc manages: its system-assigned
    /// identity.
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

/// A user-assigned identity, and the request's parameter that selects it.
#[derive(Debug)]
pub(super) struct Selector {
    pub(super) id: UserAssignedId,
    pub(super) parameter: &'static str,
    /// Whether a machine that does not have this identity makes way for the next credential.
    pub(super) optional: bool,
}

impl Selector {
    /// # Errors
    ///
    /// It cannot be an ID, or the host would ignore it and give another identity's token.
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

    /// As it goes into a request.
    pub(super) fn pair(&self) -> (&'static str, &str) {
        (self.parameter, self.id.value())
    }
}

/// The name by which the host knows such a selector, or what to do where it
/// knows none.
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
        (Host::AzureMl, ObjectId(_) | ResourceId(_)) => Err("give the identity's client ID"),
        (Host::AzureArc, _) => Err("select none to get the machine's system-assigned identity"),
        (Host::CloudShell, _) => Err("select none to get tokens of the user who is logged in"),
        (Host::ServiceFabric, _) => {
            Err("select none: the cluster's configuration says which identity an application gets")
        }
    }
}

/// The names above: no endpoint's URL may bring one along.
pub(super) const PARAMETERS: [&str; 6] =
    ["client_id", "clientid", "object_id", "principal_id", "mi_res_id", "msi_res_id"];

const AUTHORITY: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";

/// The endpoint of the host that the variables tell of. The order is that of
/// Microsoft's libraries (MSAL, azidentity). What a process' variables say goes
/// before what is installed on its machine.
///
/// # Errors
///
/// A variable that cannot be right.
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
    if get("IDENTITY_ENDPOINT")?.is_some() {
        imds.hint = "; IDENTITY_ENDPOINT is set, but not used, because IDENTITY_HEADER is not set";
    }
    Ok(imds)
}
