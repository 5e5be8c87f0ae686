//! Builds the credential that the environment describes.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "azure-identity")]
use super::Application;
use super::{
    AzureCli, AzureDeveloperCli, Chain, CliBuilder, ConfigError, Environment, ManagedIdentity,
    ManagedIdentityHost, Problem, UserAssignedId, chain::NotConfigured,
};
use crate::{
    Cloud,
    clock::{Clock, SystemClock},
    token::TokenCredential,
};

type Shared = Arc<dyn TokenCredential>;

const CLIENT_ID: &str = "AZURE_CLIENT_ID";
const TENANT_ID: &str = "AZURE_TENANT_ID";
const SECRET: &str = "AZURE_CLIENT_SECRET";
const CERTIFICATE: &str = "AZURE_CLIENT_CERTIFICATE_PATH";
#[cfg(feature = "client-certificate")]
const CERTIFICATE_PASSWORD: &str = "AZURE_CLIENT_CERTIFICATE_PASSWORD";
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const SELECTION: &str = "AZURE_TOKEN_CREDENTIALS";

pub(super) const ALLOWED: &str = "prod, dev, EnvironmentCredential, WorkloadIdentityCredential, \
                       ManagedIdentityCredential, AzureCliCredential, \
                       AzureDeveloperCliCredential, AzurePipelinesCredential";

/// The credentials that can be selected by name: in `AZURE_TOKEN_CREDENTIALS`, or as the
/// `Authentication` of a connection string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    /// The service principal of the environment.
    Environment,
    /// The service principal that a connection string names.
    #[cfg_attr(not(feature = "azure-sql"), allow(dead_code))]
    ServicePrincipal,
    WorkloadIdentity,
    ManagedIdentity,
    AzureCli,
    AzureDeveloperCli,
    AzurePipelines,
}

/// Builds the credential that the environment describes. You can replace the environment and the
/// clock, and select a cloud and an identity.
///
/// [`from_env`](super::from_env) is short for `DefaultCredential::new().build()`, and describes
/// which credential is chosen.
///
/// ```
/// use entra_pool::credential::{DefaultCredential, Environment};
///
/// let variables = [("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")];
/// let environment = Environment::from_pairs(variables);
/// let credential = DefaultCredential::new().environment(environment).build()?;
/// assert_eq!(credential.name(), "Azure CLI");
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct DefaultCredential {
    environment: Environment,
    clock: Arc<dyn Clock>,
    /// The identity that a connection string names, and its setting. Members of other identities
    /// are not used. (`AZURE_CLIENT_ID` also selects a managed identity. It may be set for other
    /// software, so it excludes no member, and a machine without that identity is skipped.)
    user_assigned: Option<(UserAssignedId, &'static str)>,
    cloud: Option<Cloud>,
    cli_timeout: Option<Duration>,
    /// The setting that selects the members, for errors.
    selection: &'static str,
}

impl Default for DefaultCredential {
    fn default() -> Self {
        Self::new()
    }
}

impl DefaultCredential {
    /// Creates a builder with the environment of this process and the system clock.
    pub fn new() -> Self {
        Self {
            environment: Environment::from_process(),
            clock: Arc::new(SystemClock::new()),
            user_assigned: None,
            cloud: None,
            cli_timeout: None,
            selection: SELECTION,
        }
    }

    /// Reads these variables instead of the process's. (Azure Pipelines'
    /// `SYSTEM_OIDCREQUESTURI` must be in both.)
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Sets the cloud whose authority issues tokens for service principals and workload
    /// identities, unless `AZURE_AUTHORITY_HOST` is set. Default: the public cloud.
    pub fn cloud(mut self, cloud: impl Into<Option<Cloud>>) -> Self {
        self.cloud = cloud.into();
        self
    }

    /// Uses only credentials that log in as this identity. `setting` is the name of the setting
    /// that contains the ID, for errors.
    pub fn user_assigned(mut self, id: UserAssignedId, setting: &'static str) -> Self {
        self.user_assigned = Some((id, setting));
        self
    }

    /// Sets how long `az` or `azd` may take for a token (`Entra CLI Timeout`). Default: 30 s.
    pub fn cli_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.cli_timeout = limit.into();
        self
    }

    /// Sets the clock. Default: the system clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the credential. This sends no request and runs no command.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if settings contradict each other or are incomplete. Skipping such a
    /// credential could select the wrong identity.
    pub fn build(self) -> Result<Arc<dyn TokenCredential>, ConfigError> {
        use Member::{
            AzureCli, AzureDeveloperCli, AzurePipelines, Environment, ManagedIdentity,
            WorkloadIdentity,
        };
        let selection = self.environment.checked(SELECTION)?.map(str::trim);
        let members = match selection.map(str::to_ascii_lowercase).as_deref() {
            None => &[Environment, WorkloadIdentity, ManagedIdentity, AzureCli, AzureDeveloperCli],
            Some("prod") => &[Environment, WorkloadIdentity, ManagedIdentity][..],
            Some("dev") => &[AzureCli, AzureDeveloperCli],
            Some("environmentcredential") => return self.single(Environment),
            Some("workloadidentitycredential") => return self.single(WorkloadIdentity),
            Some("managedidentitycredential") => return self.single(ManagedIdentity),
            Some("azureclicredential") => return self.single(AzureCli),
            Some("azuredeveloperclicredential") => return self.single(AzureDeveloperCli),
            Some("azurepipelinescredential") => return self.single(AzurePipelines),
            Some(_) => {
                let value = selection.unwrap_or_default().to_owned();
                return Err(Problem::UnknownCredential { value }.into());
            }
        };
        self.check_identity(members)?;
        let members: Result<Vec<_>, _> =
            members.iter().map(|member| self.chain_member(*member)).collect();
        let identity_setting = self.user_assigned.map(|(_, setting)| setting);
        Ok(Arc::new(Chain::for_identity(members?, identity_setting)))
    }

    /// Returns the credential that a connection string's `Authentication` names.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn only(self, member: Member) -> Result<Arc<dyn TokenCredential>, ConfigError> {
        Self { selection: "Authentication", ..self }.single(member)
    }

    /// Returns the service principal with this tenant, client ID and secret, each with the name of
    /// its setting. Missing values are read from environment variables.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    #[cfg_attr(not(feature = "azure-identity"), allow(unused_variables, clippy::unused_self))]
    pub(crate) fn service_principal(
        self,
        [tenant, client_id, secret]: [(&'static str, Option<&str>); 3],
    ) -> Result<Arc<dyn TokenCredential>, ConfigError> {
        #[cfg(not(feature = "azure-identity"))]
        return Err(feature_disabled(secret.0, "a service principal"));
        #[cfg(feature = "azure-identity")]
        {
            let Self { environment, cloud, .. } = &self;
            let of = |(name, given), variable, needed_by| match given {
                Some(given) => Ok((name, given)),
                None => super::application::required(environment, variable, needed_by),
            };
            let client_id = of(client_id, CLIENT_ID, "a service principal without User Id")?;
            let without_tenant = "a service principal without a tenant (Entra Tenant=TENANT, or User Id=CLIENT_ID@TENANT)";
            let tenant = of(tenant, TENANT_ID, without_tenant)?;
            let (_, secret) = of(secret, SECRET, "a service principal without Password")?;
            let application = Application::named(environment, *cloud, tenant, client_id)?;
            Ok(Arc::new(application.client_secret(secret)?))
        }
    }

    /// Returns a member of a chain. If the member would log in as another identity than the one
    /// that the connection string names, it is replaced by an unavailable member with that reason.
    fn chain_member(&self, member: Member) -> Result<Shared, ConfigError> {
        let credential = self.credential(member)?;
        Ok(match (&self.user_assigned, self.other_identity(member)) {
            (Some((id, by)), Some(other)) => {
                let reason = format!("not used, because it logs in as {other}, not as {id} ({by})");
                not_configured(credential.name(), reason)
            }
            _ => credential,
        })
    }

    /// Returns a member that was selected by name. It must be configured.
    fn single(&self, member: Member) -> Result<Shared, ConfigError> {
        self.check_identity(&[member])?;
        let required = match member {
            Member::ManagedIdentity => return Ok(Arc::new(self.managed_identity(false)?)),
            Member::Environment if !self.is_set(CERTIFICATE) => Some(SECRET),
            Member::WorkloadIdentity => Some(TOKEN_FILE),
            _ => None,
        };
        self.check_set(required.as_slice(), self.selection)?;
        // This returns an error for any other missing setting.
        self.credential(member)
    }

    /// Returns an error if all of these members would log in as another identity than the one
    /// that the connection string names.
    fn check_identity(&self, members: &[Member]) -> Result<(), ConfigError> {
        let others = members.iter().map(|member| self.other_identity(*member));
        match (&self.user_assigned, others.collect::<Option<Vec<_>>>()) {
            (Some((id, by)), Some(others)) => Err(Problem::OtherIdentity {
                selection: self.selection,
                allowed: others.join(" and "),
                setting: by,
                id: id.to_string(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Returns the identity that the member logs in as, if it differs from the one that the
    /// connection string names; `None` for a member that is not configured.
    fn other_identity(&self, member: Member) -> Option<String> {
        let (id, _) = self.user_assigned.as_ref()?;
        let application = |name| {
            let own = self.environment.get(name)?;
            let is_same =
                matches!(id, UserAssignedId::ClientId(id) if id.eq_ignore_ascii_case(own));
            (!is_same).then(|| format!("client ID {own} ({name})"))
        };
        match member {
            Member::Environment if self.is_set(SECRET) || self.is_set(CERTIFICATE) => {
                application(CLIENT_ID)
            }
            // Workload identity can request a token for any client ID, but for no other kind of ID.
            Member::WorkloadIdentity if matches!(id, UserAssignedId::ClientId(_)) => None,
            Member::WorkloadIdentity if self.is_set(TOKEN_FILE) => application(CLIENT_ID),
            Member::AzurePipelines => application("AZURESUBSCRIPTION_CLIENT_ID"),
            Member::AzureCli => Some("the account of `az login`".to_owned()),
            Member::AzureDeveloperCli => Some("the account of `azd auth login`".to_owned()),
            // A managed identity sends the ID with its request, or refuses it when it is built.
            Member::Environment
            | Member::ServicePrincipal
            | Member::WorkloadIdentity
            | Member::ManagedIdentity => None,
        }
    }

    /// Returns the member's credential, or an unavailable one if it is not configured. Incomplete
    /// settings are an error, because skipping the member could select the wrong identity.
    fn credential(&self, member: Member) -> Result<Shared, ConfigError> {
        match member {
            Member::Environment | Member::ServicePrincipal => self.environment_principal(),
            Member::WorkloadIdentity if !self.is_set(TOKEN_FILE) => {
                Ok(not_configured("workload identity", "AZURE_FEDERATED_TOKEN_FILE is not set"))
            }
            #[cfg(feature = "azure-identity")]
            Member::WorkloadIdentity => self.workload_identity(),
            Member::ManagedIdentity => match self.managed_identity(true) {
                Ok(identity) => Ok(Arc::new(identity)),
                // `AZURE_CLIENT_ID` was not intended for this credential, so it may be skipped.
                Err(error) if self.is_for_others(&error) => {
                    Ok(not_configured("managed identity", error.to_string()))
                }
                Err(error) => Err(error),
            },
            Member::AzureCli => self.cli(AzureCli::builder()),
            Member::AzureDeveloperCli => self.cli(AzureDeveloperCli::builder()),
            #[cfg(feature = "azure-identity")]
            Member::AzurePipelines => {
                let Self { environment, cloud, .. } = self;
                Ok(Arc::new(Application::azure_pipelines_of(environment, *cloud)?))
            }
            #[cfg(not(feature = "azure-identity"))]
            Member::WorkloadIdentity => Err(feature_disabled(TOKEN_FILE, "workload identity")),
            #[cfg(not(feature = "azure-identity"))]
            Member::AzurePipelines => Err(feature_disabled(self.selection, "Azure Pipelines")),
        }
    }

    /// Returns the service principal of the environment.
    fn environment_principal(&self) -> Result<Shared, ConfigError> {
        let proof = match (self.is_set(SECRET), self.is_set(CERTIFICATE)) {
            (true, true) => {
                return Err(Problem::Conflict { first: SECRET, second: CERTIFICATE }.into());
            }
            (false, false) => {
                let reason =
                    "AZURE_CLIENT_SECRET (with AZURE_TENANT_ID and AZURE_CLIENT_ID) is not set";
                return Ok(not_configured("service principal", reason));
            }
            (true, false) => SECRET,
            (false, true) => CERTIFICATE,
        };
        let names = [TENANT_ID, CLIENT_ID];
        self.check_set(&names, proof)?;
        if proof == CERTIFICATE && !cfg!(feature = "client-certificate") {
            return Err(Problem::FeatureDisabled {
                setting: CERTIFICATE,
                credential: "a client certificate",
                feature: "client-certificate",
            }
            .into());
        }
        #[cfg(not(feature = "azure-identity"))]
        return Err(feature_disabled(SECRET, "a service principal"));
        #[cfg(feature = "azure-identity")]
        {
            let Self { environment, cloud, .. } = self;
            let application = Application::from_environment(environment, *cloud, names, proof)?;
            let value = environment.checked(proof)?.unwrap_or_default();
            #[cfg(feature = "client-certificate")]
            if proof == CERTIFICATE {
                let password = environment.get(CERTIFICATE_PASSWORD).map(str::to_owned);
                let certificate =
                    application.client_certificate_named(CERTIFICATE, value.into(), password);
                return Ok(Arc::new(certificate));
            }
            Ok(Arc::new(application.client_secret(value)?))
        }
    }

    #[cfg(feature = "azure-identity")]
    fn workload_identity(&self) -> Result<Shared, ConfigError> {
        let mut environment = self.environment.clone();
        // As in Microsoft.Data.SqlClient, the client ID also selects one of a pod's identities.
        if let Some((id @ UserAssignedId::ClientId(client_id), by)) = &self.user_assigned {
            id.check(by)?;
            environment = environment.with(CLIENT_ID, client_id);
        }
        Ok(Arc::new(Application::workload_identity_of(&environment, self.cloud)?))
    }

    fn managed_identity(&self, probe: bool) -> Result<ManagedIdentity, ConfigError> {
        let mut builder = match (&self.user_assigned, self.environment.checked(CLIENT_ID)?) {
            (Some((id, by)), _) => ManagedIdentity::user_assigned(id.clone()).id_setting(by),
            (None, Some(id)) => {
                let id = UserAssignedId::ClientId(id.to_owned());
                ManagedIdentity::user_assigned(id).id_setting(CLIENT_ID)
            }
            (None, None) => ManagedIdentity::system_assigned(),
        };
        // `AZURE_CLIENT_ID` may be set for other software, and the next credential may be intended.
        builder.optional = self.user_assigned.is_none() && probe && !self.is_set(SELECTION);
        builder.clock = self.clock.clone();
        builder.environment(self.environment.clone()).probe(probe).build()
    }

    /// Returns whether `AZURE_CLIENT_ID`, which cannot select this managed identity, is probably
    /// intended for the service principal or the workload identity, or for other software (if only
    /// the Azure Arc agent's files, and no variables, name the managed identity).
    fn is_for_others(&self, error: &ConfigError) -> bool {
        let for_applications =
            [SECRET, CERTIFICATE, TOKEN_FILE].iter().any(|name| self.is_set(name));
        match &error.0 {
            Problem::IgnoredSelector { setting: CLIENT_ID, host, .. } => {
                let by_files =
                    *host == ManagedIdentityHost::AzureArc && !self.is_set("IDENTITY_ENDPOINT");
                for_applications || by_files
            }
            Problem::Invalid { setting: CLIENT_ID, .. } => for_applications,
            _ => false,
        }
    }

    fn cli<T: TokenCredential + 'static>(
        &self,
        builder: CliBuilder<T>,
    ) -> Result<Shared, ConfigError> {
        let mut builder = builder.environment(self.environment.clone());
        builder.cli.clock = self.clock.clone();
        builder.cli.time_limit = self.cli_timeout.unwrap_or(builder.cli.time_limit);
        Ok(Arc::new(builder.build()?))
    }

    fn is_set(&self, name: &str) -> bool {
        self.environment.get(name).is_some()
    }

    /// Returns an error if one of these variables is not set.
    fn check_set(
        &self,
        names: &[&'static str],
        needed_by: &'static str,
    ) -> Result<(), ConfigError> {
        let missing = names.iter().find(|name| !self.is_set(name));
        missing.map_or(Ok(()), |setting| Err(Problem::Missing { setting, needed_by }.into()))
    }
}

fn not_configured(name: impl Into<String>, reason: impl Into<String>) -> Shared {
    Arc::new(NotConfigured { name: name.into(), reason: reason.into() })
}

#[cfg(not(feature = "azure-identity"))]
fn feature_disabled(setting: &'static str, credential: &'static str) -> ConfigError {
    Problem::FeatureDisabled { setting, credential, feature: "azure-identity" }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Reason, Scope, TokenRequest};

    const TENANT: (&str, &str) = (TENANT_ID, "contoso.onmicrosoft.com");
    const CLIENT: (&str, &str) = (CLIENT_ID, "11111111-2222-3333-4444-555555555555");
    const SECRET_SET: (&str, &str) = (SECRET, "s3cret");
    const FILE: (&str, &str) = (TOKEN_FILE, "/nowhere/token");

    fn of(variables: &[(&str, &str)]) -> Result<String, String> {
        let environment = Environment::from_pairs(variables.iter().copied());
        match DefaultCredential::new().environment(environment).build() {
            Ok(credential) => Ok(credential.name()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_variables_select_the_members_of_the_chain() {
        let select = |value| (SELECTION, value);
        for (variables, expected) in [
            (
                &[][..],
                "the first available of: service principal, workload identity, managed identity \
                 (IMDS), Azure CLI, Azure Developer CLI",
            ),
            (
                &[select("PROD")],
                "the first available of: service principal, workload identity, managed identity \
                 (IMDS)",
            ),
            (&[select("dev")], "the first available of: Azure CLI, Azure Developer CLI"),
            (&[select("AzureCliCredential")], "Azure CLI"),
            (&[select("AzureDeveloperCliCredential")], "Azure Developer CLI"),
            (&[select("managedidentitycredential")], "managed identity (IMDS)"),
            (
                &[("MSI_ENDPOINT", "http://127.0.0.1:1")],
                "the first available of: service principal, workload identity, managed identity \
                 (Cloud Shell), Azure CLI, Azure Developer CLI",
            ),
        ] {
            assert_eq!(of(variables).as_deref(), Ok(expected), "{variables:?}");
        }
    }

    #[cfg(feature = "azure-identity")]
    #[test]
    fn service_principals_and_workload_identities_are_found() {
        let principal = "service principal 11111111-2222-3333-4444-555555555555";
        let workload = "workload identity 11111111-2222-3333-4444-555555555555";
        let environment = (SELECTION, "EnvironmentCredential");
        assert_eq!(of(&[TENANT, CLIENT, SECRET_SET, environment]).as_deref(), Ok(principal));
        let selection = (SELECTION, "WorkloadIdentityCredential");
        assert_eq!(of(&[TENANT, CLIENT, FILE, selection]).as_deref(), Ok(workload));
        let all = of(&[TENANT, CLIENT, SECRET_SET, FILE]).unwrap();
        assert!(all.contains(&format!("{principal}, {workload}, managed")), "{all}");
        // The client ID belongs to the application, although the host would ignore it.
        let shell = ("MSI_ENDPOINT", "http://127.0.0.1:1");
        for credential in [&[TENANT, CLIENT, SECRET_SET, shell], &[TENANT, CLIENT, FILE, shell]] {
            let all = of(credential).unwrap();
            assert!(all.contains("managed identity, Azure CLI"), "{all}");
        }
        let authority = ("AZURE_AUTHORITY_HOST", "http://login.example");
        let error = of(&[TENANT, CLIENT, SECRET_SET, authority]).unwrap_err();
        assert!(error.starts_with("AZURE_AUTHORITY_HOST must be an https://"), "{error}");
    }

    #[cfg(feature = "azure-identity")]
    #[test]
    fn applications_use_the_authority_of_the_databases_cloud() {
        let of = |variables: &[(&str, &str)], cloud| {
            let environment = Environment::from_pairs(variables.iter().copied());
            let chain =
                DefaultCredential::new().environment(environment).cloud(cloud).build().unwrap();
            format!("{chain:?}")
        };
        for (cloud, authority) in [
            (None, "https://login.microsoftonline.com"),
            (Some(Cloud::UsGovernment), "https://login.microsoftonline.us"),
            (Some(Cloud::China), "https://login.chinacloudapi.cn"),
        ] {
            let shown = of(&[TENANT, CLIENT, SECRET_SET, FILE], cloud);
            assert_eq!(shown.matches(authority).count(), 2, "{shown}");
            assert!(!shown.contains("s3cret"), "{shown}");
            let own = ("AZURE_AUTHORITY_HOST", "https://login.example");
            let shown = of(&[TENANT, CLIENT, SECRET_SET, FILE, own], cloud);
            assert_eq!(shown.matches("https://login.example").count(), 2, "{shown}");
        }
    }

    #[test]
    fn incomplete_settings_are_an_error_and_select_no_other_identity() {
        let certificate = (CERTIFICATE, "/c.pem");
        for (variables, words) in [
            (&[SECRET_SET][..], "AZURE_TENANT_ID is not set, but AZURE_CLIENT_SECRET needs it"),
            (&[SECRET_SET, TENANT], "AZURE_CLIENT_ID is not set, but AZURE_CLIENT_SECRET needs it"),
            (
                &[SECRET_SET, certificate],
                "AZURE_CLIENT_SECRET and AZURE_CLIENT_CERTIFICATE_PATH are both set",
            ),
            (
                &[certificate, CLIENT],
                "AZURE_TENANT_ID is not set, but AZURE_CLIENT_CERTIFICATE_PATH",
            ),
            (
                &[certificate, (SELECTION, "EnvironmentCredential")],
                "AZURE_TENANT_ID is not set, but AZURE_CLIENT_CERTIFICATE_PATH",
            ),
            (&[(CLIENT_ID, "shop")], "AZURE_CLIENT_ID must be a client ID"),
            (
                &[CLIENT, ("MSI_ENDPOINT", "http://127.0.0.1:1")],
                "AZURE_CLIENT_ID selects an identity by its client ID, which Cloud Shell would ignore",
            ),
            (
                &[(SELECTION, "EnvironmentCredential")],
                "AZURE_CLIENT_SECRET is not set, but AZURE_TOKEN_CREDENTIALS needs it",
            ),
            (
                &[(SELECTION, "WorkloadIdentityCredential"), TENANT],
                "AZURE_FEDERATED_TOKEN_FILE is not set",
            ),
            (&[(SELECTION, "production")], r#"is "production"; it must be one of prod, dev, "#),
        ] {
            let error = of(variables).unwrap_err();
            assert!(error.contains(words) && !error.contains("s3cret"), "{error}");
        }
        if !cfg!(feature = "client-certificate") {
            let error = of(&[TENANT, CLIENT, certificate]).unwrap_err();
            assert!(error.contains("needs entra-pool's feature `client-certificate`"), "{error}");
        }
        if cfg!(feature = "azure-identity") {
            let error = of(&[(SELECTION, "AzurePipelinesCredential")]).unwrap_err();
            assert!(error.starts_with("AZURESUBSCRIPTION_TENANT_ID is not set"), "{error}");
            let error = of(&[FILE]).unwrap_err();
            assert!(error.contains("AZURE_TENANT_ID is not set, but workload"), "{error}");
        } else {
            for setting in [SECRET_SET, FILE, (SELECTION, "AzurePipelinesCredential")] {
                let error = of(&[TENANT, CLIENT, setting]).unwrap_err();
                assert!(error.contains("needs entra-pool's feature `azure-identity`"), "{error}");
            }
        }
    }

    #[cfg(feature = "azure-identity")]
    #[tokio::test]
    async fn a_missing_token_file_is_reported_when_a_token_is_requested() {
        let selection = (SELECTION, "WorkloadIdentityCredential");
        let environment = Environment::from_pairs([TENANT, CLIENT, FILE, selection]);
        let credential = DefaultCredential::new().environment(environment).build().unwrap();
        let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
        let error = credential.get_token(request).await.unwrap_err().to_string();
        let named = "AZURE_FEDERATED_TOKEN_FILE: the file /nowhere/token cannot be read";
        assert!(error.contains(named), "{error}");
    }

    #[cfg(feature = "azure-identity")]
    #[test]
    fn a_connection_string_can_select_a_workload_identity() {
        let chosen = |id: &str| {
            let environment = Environment::from_pairs([TENANT, CLIENT, FILE]);
            let user_assigned = Some(UserAssignedId::ClientId(id.to_owned()));
            let user_assigned = user_assigned.map(|id| (id, "User Id"));
            DefaultCredential { environment, user_assigned, ..DefaultCredential::new() }
                .workload_identity()
        };
        let other = "99999999-2222-3333-4444-555555555555";
        assert_eq!(chosen(other).unwrap().name(), format!("workload identity {other}"));
        let refused = chosen("shop").unwrap_err().to_string();
        assert!(refused.contains("User Id must be a client ID"), "{refused}");
    }

    /// Returns the chain's error, which lists its members.
    #[cfg(feature = "azure-identity")]
    async fn exhausted(variables: &[(&str, &str)], id: UserAssignedId) -> Result<String, String> {
        let absent = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1"), ("PATH", "/x")];
        let variables = variables.iter().copied().chain(absent);
        let setting = DefaultCredential {
            user_assigned: Some((id, "User Id")),
            environment: Environment::from_pairs(variables),
            ..DefaultCredential::new()
        };
        let chain = setting.build().map_err(|error| error.to_string())?;
        let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
        Ok(chain.get_token(request).await.unwrap_err().to_string())
    }

    #[cfg(feature = "azure-identity")]
    #[tokio::test]
    async fn only_members_that_log_in_as_the_named_identity_are_used() {
        let other = || UserAssignedId::ClientId("99999999-2222-3333-4444-555555555555".into());
        let object = || UserAssignedId::ObjectId(CLIENT.1.into());
        let members = exhausted(&[TENANT, CLIENT, SECRET_SET], other()).await.unwrap();
        let left_out = "\n- service principal 11111111-2222-3333-4444-555555555555: not used, \
                        because it logs in as client ID 11111111-2222-3333-4444-555555555555 \
                        (AZURE_CLIENT_ID), not as client ID 99999999-2222-3333-4444-555555555555 \
                        (User Id)";
        assert!(members.contains(left_out), "{members}");
        let cli = "\n- Azure CLI: not used, because it logs in as the account of `az login`";
        assert!(members.contains(cli) && members.contains("\nUser Id names"), "{members}");
        assert!(!members.contains("run `az login`"), "{members}");
        // A member that is not configured is listed with that reason.
        let members = exhausted(&[CLIENT], other()).await.unwrap();
        assert!(members.contains("\n- service principal: AZURE_CLIENT_SECRET"), "{members}");
        // Workload identity supports client IDs only.
        let members = exhausted(&[TENANT, CLIENT, FILE], object()).await.unwrap();
        let left_out = "\n- workload identity 11111111-2222-3333-4444-555555555555: not used";
        assert!(members.contains(left_out), "{members}");

        let same = || UserAssignedId::ClientId(CLIENT.1.to_uppercase());
        for (selection, id, allowed) in [
            ("EnvironmentCredential", same(), None),
            ("EnvironmentCredential", other(), Some("client ID 11111111")),
            ("EnvironmentCredential", object(), Some("client ID 11111111")),
            ("WorkloadIdentityCredential", other(), None),
            ("WorkloadIdentityCredential", object(), Some("client ID 11111111")),
            ("AzurePipelinesCredential", other(), Some("client ID 77777777")),
            ("AzureCliCredential", same(), Some("the account of `az login`")),
            ("dev", same(), Some("the account of `az login` and the account of `azd auth login`")),
        ] {
            let pipelines = ("AZURESUBSCRIPTION_CLIENT_ID", "77777777-2222-3333-4444-555555555555");
            let variables = [TENANT, CLIENT, SECRET_SET, FILE, pipelines, (SELECTION, selection)];
            let environment = Environment::from_pairs(variables);
            let user_assigned = Some((id, "User Id"));
            let setting =
                DefaultCredential { environment, user_assigned, ..DefaultCredential::new() };
            let built = setting.build();
            match (built, allowed) {
                (Ok(_), None) => {}
                (Err(error), Some(allowed)) => {
                    let words = format!("AZURE_TOKEN_CREDENTIALS allows only {allowed}");
                    assert!(error.to_string().starts_with(&words), "{error}");
                }
                (built, _) => {
                    panic!("{selection}: {:?}", built.map(|credential| credential.name()))
                }
            }
        }
    }

    #[cfg(feature = "azure-identity")]
    #[test]
    fn the_client_id_of_a_service_principal_may_be_invalid_for_a_managed_identity() {
        let name = of(&[TENANT, (CLIENT_ID, "shop"), SECRET_SET]).unwrap();
        assert!(name.starts_with("the first available of: service principal"), "{name}");
    }

    #[test]
    fn a_client_id_for_other_software_is_accepted_next_to_an_installed_arc_agent() {
        let ignored = |host| {
            let problem = Problem::IgnoredSelector {
                setting: CLIENT_ID,
                selector: "client ID",
                host,
                advice: "",
            };
            ConfigError::from(problem)
        };
        let by_files = Environment::from_pairs([CLIENT]);
        let by_variables = Environment::from_pairs([("IDENTITY_ENDPOINT", "http://127.0.0.1:1")]);
        let (arc, fabric) = (ManagedIdentityHost::AzureArc, ManagedIdentityHost::ServiceFabric);
        let is_for_others = |environment: &Environment, host| {
            let setting = DefaultCredential::new().environment(environment.clone());
            setting.is_for_others(&ignored(host))
        };
        assert!(is_for_others(&by_files, arc));
        assert!(!is_for_others(&by_variables, arc));
        assert!(!is_for_others(&by_files, fabric));
    }
}
