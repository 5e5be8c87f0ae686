use std::path::PathBuf;

use azure_identity::{WorkloadIdentityCredential, WorkloadIdentityCredentialOptions};

use super::{
    Application, AzureCoreCredential, ConfigError, Environment,
    adapter::Proof,
    application::{not_empty, read, required},
};
use crate::Cloud;

const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";

impl Application {
    /// Proves who it is by another issuer's token, in a file: that of a
    /// Kubernetes service account. See [`workload_identity`], which needs no
    /// arguments.
    ///
    /// The file is read when a token is asked for and the last reading is old.
    /// If it is missing, empty or unreadable, nobody is asked, and the error
    /// names it.
    ///
    /// # Errors
    ///
    /// An empty path.
    ///
    /// ```
    /// # use entra_pool::credential::Application;
    /// let id = "11111111-2222-3333-4444-555555555555";
    /// let shop = Application::new("contoso.onmicrosoft.com", id)?;
    /// let credential = shop.workload_identity("/var/run/secrets/tokens/azure")?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn workload_identity(
        self,
        token_file: impl Into<PathBuf>,
    ) -> Result<AzureCoreCredential, ConfigError> {
        let file = token_file.into();
        not_empty("token_file", &file.to_string_lossy())?;
        Ok(self.workload_identity_named("token_file", file))
    }

    fn workload_identity_named(self, setting: &'static str, file: PathBuf) -> AzureCoreCredential {
        let name = format!("workload identity {}", self.client_id);
        let proof = Proof::default();
        self.credential(name, proof.clone(), move |this| {
            // `azure_identity` would send an empty one.
            let token = read(setting, &file)?;
            proof.set(std::str::from_utf8(&token).unwrap_or_default());
            WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                credential_options: this.assertion_options()?,
                client_id: Some(this.client_id.clone()),
                tenant_id: Some(this.tenant.clone()),
                token_file_path: Some(file.clone()),
            }))
        })
    }
}

/// Workload identity: a Kubernetes service account's token, in a file, is
/// exchanged for one of Entra. Over `azure_identity`.
///
/// Reads `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and `AZURE_FEDERATED_TOKEN_FILE`,
/// which the webhook of AKS sets, now; the file, whenever a token is asked for
/// and the last reading is old.
///
/// See [Use Microsoft Entra Workload ID with Azure Kubernetes Service](https://learn.microsoft.com/azure/aks/workload-identity-overview).
///
/// # Errors
///
/// A variable is not set. Whether the file is there, the first token tells.
///
/// ```no_run
/// let credential = entra_pool::credential::workload_identity()?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
pub fn workload_identity() -> Result<AzureCoreCredential, ConfigError> {
    from_environment(&Environment::from_process(), None)
}

pub(super) fn from_environment(
    environment: &Environment,
    cloud: Option<Cloud>,
) -> Result<AzureCoreCredential, ConfigError> {
    const NEEDED_BY: &str = "workload identity";
    let (_, file) = required(environment, TOKEN_FILE, NEEDED_BY)?;
    let names = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"];
    let application = Application::from_environment(environment, cloud, names, NEEDED_BY)?;
    Ok(application.workload_identity_named(TOKEN_FILE, file.into()))
}
