use azure_identity::{AzurePipelinesCredential, AzurePipelinesCredentialOptions};
use zeroize::Zeroizing;

use super::{
    Application, AzureCoreCredential, ConfigError, Environment,
    adapter::Proof,
    application::{Named, check_https, not_empty, required},
    config_error::is_word,
};
use crate::Cloud;

const TENANT_ID: &str = "AZURESUBSCRIPTION_TENANT_ID";
const CLIENT_ID: &str = "AZURESUBSCRIPTION_CLIENT_ID";
const CONNECTION_ID: &str = "AZURESUBSCRIPTION_SERVICE_CONNECTION_ID";
const ACCESS_TOKEN: &str = "SYSTEM_ACCESSTOKEN";
const NEEDED_BY: &str = "Azure Pipelines";
const REQUEST_URI: &str = "SYSTEM_OIDCREQUESTURI";

impl Application {
    /// Proves who it is by a service connection of Azure Pipelines that uses
    /// workload identity federation. See [`azure_pipelines`], which needs no
    /// arguments.
    ///
    /// `azure_identity` reads `SYSTEM_OIDCREQUESTURI`, which every job has, from
    /// this process' environment.
    ///
    /// # Errors
    ///
    /// An ID with characters that none has; an empty access token;
    /// `SYSTEM_OIDCREQUESTURI` not set (this is no job of Azure Pipelines) or no
    /// `https://` URL.
    ///
    /// ```no_run
    /// # use entra_pool::credential::Application;
    /// let id = "11111111-2222-3333-4444-555555555555";
    /// let access_token = std::env::var("SYSTEM_ACCESSTOKEN").unwrap_or_default();
    /// let credential = Application::new("contoso.onmicrosoft.com", id)?
    ///     .azure_pipelines("66666666-7777-8888-9999-000000000000", access_token)?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn azure_pipelines(
        self,
        service_connection_id: impl Into<String>,
        system_access_token: impl Into<String>,
    ) -> Result<AzureCoreCredential, ConfigError> {
        let token = Zeroizing::new(system_access_token.into());
        not_empty("system_access_token", &token)?;
        let connection = service_connection_id.into();
        let environment = Environment::from_process();
        self.service_connection(&environment, ("service_connection_id", &connection), &token)
    }

    fn service_connection(
        self,
        environment: &Environment,
        (setting, connection): Named<'_>,
        token: &str,
    ) -> Result<AzureCoreCredential, ConfigError> {
        let expected = "a service connection's ID, such as 66666666-7777-8888-9999-000000000000";
        ConfigError::unless(is_word(connection, "-"), setting, expected)?;
        // The access token goes there.
        check_https(required(environment, REQUEST_URI, NEEDED_BY)?)?;
        let connection = connection.to_owned();
        let proof = Proof::of(token);
        let name = format!("Azure Pipelines service connection {connection}");
        Ok(self.credential(name, proof.clone(), move |this| {
            let options =
                AzurePipelinesCredentialOptions { credential_options: this.assertion_options()? };
            AzurePipelinesCredential::new(
                this.tenant.clone(),
                this.client_id.clone(),
                &connection,
                proof.secret(),
                Some(options),
            )
        }))
    }
}

/// The service connection of an Azure Pipelines job, in a step of the task
/// `AzureCLI@2` or `AzurePowerShell@5`. Over `azure_identity`.
///
/// Reads `AZURESUBSCRIPTION_TENANT_ID`, `AZURESUBSCRIPTION_CLIENT_ID` and
/// `AZURESUBSCRIPTION_SERVICE_CONNECTION_ID`, which the task sets,
/// `SYSTEM_OIDCREQUESTURI`, which every job has, and `SYSTEM_ACCESSTOKEN`, which
/// the step must be given: `env: { SYSTEM_ACCESSTOKEN: $(System.AccessToken) }`.
///
/// See [Predefined variables](https://learn.microsoft.com/azure/devops/pipelines/build/variables#systemaccesstoken).
///
/// # Errors
///
/// A variable is not set or has a value that cannot be right.
///
/// ```no_run
/// let credential = entra_pool::credential::azure_pipelines()?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
pub fn azure_pipelines() -> Result<AzureCoreCredential, ConfigError> {
    from_environment(&Environment::from_process(), None)
}

pub(super) fn from_environment(
    environment: &Environment,
    cloud: Option<Cloud>,
) -> Result<AzureCoreCredential, ConfigError> {
    let names = [TENANT_ID, CLIENT_ID];
    let application = Application::from_environment(environment, cloud, names, NEEDED_BY)?;
    let connection = required(environment, CONNECTION_ID, NEEDED_BY)?;
    let (_, token) = required(environment, ACCESS_TOKEN, NEEDED_BY)?;
    application.service_connection(environment, connection, token)
}
