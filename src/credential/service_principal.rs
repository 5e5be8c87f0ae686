use std::sync::Arc;

use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::Secret,
    http::ClientOptions,
};
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};

use super::{
    AzureCoreCredential, ConfigError, Environment,
    azure_cli::{TENANT_EXPECTED, is_word},
};

/// A service principal with a client secret, over `azure_identity`.
///
/// The authority is that of `AZURE_AUTHORITY_HOST` if set, else
/// `https://login.microsoftonline.com`. Secrets last until a date: prefer a
/// managed identity in Azure, and workload identity in Kubernetes and CI.
///
/// See [Microsoft identity platform and the OAuth 2.0 client credentials flow](https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow).
///
/// # Errors
///
/// A tenant with characters that none has; an empty client ID or secret.
/// Whether they are right, the first token tells.
///
/// ```
/// # fn main() -> Result<(), entra_pool::credential::ConfigError> {
/// let credential = entra_pool::credential::client_secret(
///     "contoso.onmicrosoft.com",
///     "11111111-2222-3333-4444-555555555555",
///     std::env::var("SHOP_SECRET").unwrap_or("secret".into()),
/// )?;
/// # Ok(())
/// # }
/// ```
pub fn client_secret(
    tenant: impl Into<String>,
    client_id: impl Into<String>,
    secret: impl Into<String>,
) -> Result<AzureCoreCredential, ConfigError> {
    let environment = Environment::from_process();
    build(&environment, ["tenant", "client_id", "secret"], tenant, client_id, secret)
}

/// The same from `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and
/// `AZURE_CLIENT_SECRET`.
pub(super) fn from_environment(
    environment: &Environment,
) -> Result<AzureCoreCredential, ConfigError> {
    let names = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"];
    let get = |name| environment.get(name).unwrap_or_default();
    build(environment, names, get(names[0]), get(names[1]), get(names[2]))
}

fn build(
    environment: &Environment,
    names: [&'static str; 3],
    tenant: impl Into<String>,
    client_id: impl Into<String>,
    secret: impl Into<String>,
) -> Result<AzureCoreCredential, ConfigError> {
    let (tenant, client_id, secret) = (tenant.into(), client_id.into(), secret.into());
    if !is_word(&tenant, ".-") {
        return Err(ConfigError::invalid(names[0], TENANT_EXPECTED));
    }
    for (name, value) in [(names[1], &client_id), (names[2], &secret)] {
        if value.is_empty() {
            return Err(ConfigError::invalid(name, "not empty"));
        }
    }
    let cloud = cloud(environment)?;
    let name = format!("service principal {client_id}");
    let secret = Secret::new(secret);
    Ok(AzureCoreCredential::made(
        name,
        Box::new(move || {
            let options = ClientSecretCredentialOptions { client_options: client_options(&cloud) };
            let options = Some(options);
            let credential =
                ClientSecretCredential::new(&tenant, client_id.clone(), secret.clone(), options)?;
            Ok(credential)
        }),
    ))
}

/// Where tokens are asked for. Told to `azure_identity`, which would read the
/// process' variables otherwise.
pub(super) fn cloud(environment: &Environment) -> Result<Arc<CloudConfiguration>, ConfigError> {
    const VARIABLE: &str = "AZURE_AUTHORITY_HOST";
    let Some(authority) = environment.get(VARIABLE) else {
        return Ok(Arc::new(CloudConfiguration::AzurePublic));
    };
    // `login.microsoftonline.us` without a scheme is how some write it.
    let authority =
        if authority.contains("://") { authority.into() } else { format!("https://{authority}") };
    let is_https =
        url::Url::parse(&authority).is_ok_and(|url| url.scheme() == "https" && url.has_host());
    if !is_https {
        return Err(ConfigError::invalid(VARIABLE, "an https:// URL with a host"));
    }
    let mut custom = CustomConfiguration::default();
    custom.authority_host = authority;
    Ok(Arc::new(custom.into()))
}

pub(super) fn client_options(cloud: &Arc<CloudConfiguration>) -> ClientOptions {
    ClientOptions { cloud: Some(cloud.clone()), ..ClientOptions::default() }
}
