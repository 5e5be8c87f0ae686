//! The credential that the environment tells of.

use std::sync::Arc;

use super::{
    AzureCli, Chain, ConfigError, Environment, ManagedIdentity, UserAssignedId,
    chain::NotConfigured,
};
use crate::{
    clock::{Clock, SystemClock},
    token::TokenCredential,
};

type Shared = Arc<dyn TokenCredential>;

const CLIENT_ID: &str = "AZURE_CLIENT_ID";
const TENANT_ID: &str = "AZURE_TENANT_ID";
const SECRET: &str = "AZURE_CLIENT_SECRET";
const CERTIFICATE: &str = "AZURE_CLIENT_CERTIFICATE_PATH";
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const SELECTION: &str = "AZURE_TOKEN_CREDENTIALS";

const ALLOWED: &str = "prod, dev, EnvironmentCredential, WorkloadIdentityCredential, \
                       ManagedIdentityCredential, AzureCliCredential";

#[derive(Clone, Copy)]
enum Member {
    Environment,
    WorkloadIdentity,
    ManagedIdentity,
    AzureCli,
}

/// What every member is built from.
pub(super) struct Setting {
    pub(super) environment: Environment,
    pub(super) clock: Arc<dyn Clock>,
    /// Which managed identity, if not the one that `AZURE_CLIENT_ID` names;
    /// service principals and workload identities are none of its business.
    pub(super) user_assigned: Option<UserAssignedId>,
}

impl Setting {
    pub(super) fn of(environment: Environment) -> Self {
        Self { environment, clock: Arc::new(SystemClock::new()), user_assigned: None }
    }
}

pub(super) fn build(setting: &Setting) -> Result<Shared, ConfigError> {
    use Member::{AzureCli, Environment, ManagedIdentity, WorkloadIdentity};
    let environment = &setting.environment;
    let selection = environment.get(SELECTION).map(str::trim);
    let members: &[Member] = match selection.map(str::to_ascii_lowercase).as_deref() {
        None => &[Environment, WorkloadIdentity, ManagedIdentity, AzureCli],
        Some("prod") => &[Environment, WorkloadIdentity, ManagedIdentity],
        Some("dev") => &[AzureCli],
        Some("environmentcredential") => return only(Environment, setting),
        Some("workloadidentitycredential") => return only(WorkloadIdentity, setting),
        Some("managedidentitycredential") => return only(ManagedIdentity, setting),
        Some("azureclicredential") => return only(AzureCli, setting),
        Some(_) => {
            let value = selection.unwrap_or_default().to_owned();
            return Err(ConfigError::UnknownCredential { value, allowed: ALLOWED });
        }
    };
    let members: Result<Vec<_>, _> = members.iter().map(|member| member.build(setting)).collect();
    Ok(Arc::new(Chain::new(members?)))
}

/// One that was asked for by name must be there.
fn only(member: Member, setting: &Setting) -> Result<Shared, ConfigError> {
    let environment = &setting.environment;
    let required: &[&'static str] = match member {
        Member::Environment => &[SECRET, TENANT_ID, CLIENT_ID],
        Member::WorkloadIdentity => &[TOKEN_FILE, TENANT_ID, CLIENT_ID],
        Member::ManagedIdentity => {
            return Ok(Arc::new(managed_identity(setting, false)?));
        }
        Member::AzureCli => &[],
    };
    match required.iter().find(|name| environment.get(name).is_none()) {
        // A certificate in the secret's place is told of by `build`.
        Some(_)
            if matches!(member, Member::Environment) && environment.get(CERTIFICATE).is_some() =>
        {
            member.build(setting)
        }
        Some(missing) => Err(ConfigError::missing(missing, SELECTION)),
        None => member.build(setting),
    }
}

impl Member {
    /// The credential, or one that says why there is none. An error if the
    /// environment is half set for it: to go on would be to log in as somebody
    /// else.
    fn build(self, setting: &Setting) -> Result<Shared, ConfigError> {
        let environment = &setting.environment;
        match self {
            Self::Environment => service_principal(environment),
            Self::WorkloadIdentity => workload_identity(environment),
            Self::ManagedIdentity => match managed_identity(setting, true) {
                Ok(identity) => Ok(Arc::new(identity)),
                // In Cloud Shell the Azure CLI is logged in.
                Err(error @ ConfigError::UnsupportedHost { .. }) => {
                    Ok(not_configured("managed identity", error.to_string()))
                }
                Err(error) => Err(error),
            },
            Self::AzureCli => {
                let cli = AzureCli::builder().environment(environment.clone());
                Ok(Arc::new(cli.shared_clock(setting.clock.clone()).build()?))
            }
        }
    }
}

fn not_configured(name: &'static str, reason: impl Into<String>) -> Shared {
    Arc::new(NotConfigured { name, reason: reason.into() })
}

fn managed_identity(setting: &Setting, probe: bool) -> Result<ManagedIdentity, ConfigError> {
    let from_environment =
        || setting.environment.get(CLIENT_ID).map(|id| UserAssignedId::ClientId(id.to_owned()));
    let builder = match (&setting.user_assigned, from_environment()) {
        (Some(id), _) => ManagedIdentity::user_assigned(id.clone()),
        (None, Some(id)) => ManagedIdentity::user_assigned(id).id_setting(CLIENT_ID),
        (None, None) => ManagedIdentity::system_assigned(),
    };
    let builder = builder.environment(setting.environment.clone());
    builder.shared_clock(setting.clock.clone()).probe(probe).build()
}

fn service_principal(environment: &Environment) -> Result<Shared, ConfigError> {
    let set = |name: &&str| environment.get(name).is_some();
    if set(&CERTIFICATE) {
        return Err(if set(&SECRET) {
            ConfigError::Contradiction { first: SECRET, second: CERTIFICATE }
        } else {
            ConfigError::invalid(CERTIFICATE, "unset: client certificates are not supported yet")
        });
    }
    if !set(&SECRET) {
        let reason = "AZURE_CLIENT_SECRET (with AZURE_TENANT_ID and AZURE_CLIENT_ID) is not set";
        return Ok(not_configured("service principal", reason));
    }
    if let Some(missing) = [TENANT_ID, CLIENT_ID].iter().find(|name| !set(name)) {
        return Err(ConfigError::missing(missing, SECRET));
    }
    #[cfg(feature = "azure-identity")]
    return Ok(Arc::new(super::service_principal::from_environment(environment)?));
    #[cfg(not(feature = "azure-identity"))]
    return Err(ConfigError::FeatureDisabled {
        setting: SECRET,
        credential: "a service principal",
        feature: "azure-identity",
    });
}

fn workload_identity(environment: &Environment) -> Result<Shared, ConfigError> {
    if environment.get(TOKEN_FILE).is_none() {
        let reason = "AZURE_FEDERATED_TOKEN_FILE is not set";
        return Ok(not_configured("workload identity", reason));
    }
    #[cfg(feature = "azure-identity")]
    return Ok(Arc::new(super::workload_identity::from_environment(environment)?));
    #[cfg(not(feature = "azure-identity"))]
    return Err(ConfigError::FeatureDisabled {
        setting: TOKEN_FILE,
        credential: "workload identity",
        feature: "azure-identity",
    });
}
