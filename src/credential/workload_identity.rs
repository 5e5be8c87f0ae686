use std::path::PathBuf;

use azure_identity::{
    ClientAssertionCredentialOptions, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};

use super::{
    AzureCoreCredential, ConfigError, Environment,
    azure_cli::{TENANT_EXPECTED, is_word},
    service_principal::{client_options, cloud},
};

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
pub fn workload_identity() -> Result<AzureCoreCredential, ConfigError> {
    from_environment(&Environment::from_process())
}

pub(super) fn from_environment(
    environment: &Environment,
) -> Result<AzureCoreCredential, ConfigError> {
    let get = |name| {
        let missing = || ConfigError::missing(name, "workload identity");
        environment.get(name).map(str::to_owned).ok_or_else(missing)
    };
    let file = PathBuf::from(get("AZURE_FEDERATED_TOKEN_FILE")?);
    let tenant = get("AZURE_TENANT_ID")?;
    let client_id = get("AZURE_CLIENT_ID")?;
    if !is_word(&tenant, ".-") {
        return Err(ConfigError::invalid("AZURE_TENANT_ID", TENANT_EXPECTED));
    }
    let cloud = cloud(environment)?;
    let name = format!("workload identity {client_id}");
    Ok(AzureCoreCredential::made(
        name,
        Box::new(move || {
            let options = WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions {
                    client_options: client_options(&cloud),
                },
                client_id: Some(client_id.clone()),
                tenant_id: Some(tenant.clone()),
                token_file_path: Some(file.clone()),
            };
            let credential = WorkloadIdentityCredential::new(Some(options))?;
            Ok(credential)
        }),
    ))
}
