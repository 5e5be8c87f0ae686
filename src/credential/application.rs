#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

use azure_core::{
    cloud::CustomConfiguration, credentials::TokenCredential as AzureCredential,
    http::ClientOptions,
};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
};
use zeroize::Zeroizing;

use super::{
    AzureCoreCredential, ConfigError, Environment,
    adapter::{Proof, azure_error},
    config_error::{check_tenant, is_word},
    entra,
};
use crate::Cloud;

/// An application that Entra knows (a service principal, or a managed identity
/// that trusts other issuers): its tenant and client ID. How it proves who it is
/// makes the credential, over `azure_identity`.
///
/// Whom it asks: `AZURE_AUTHORITY_HOST` if set, else
/// `https://login.microsoftonline.com`; [`cloud`](Self::cloud) says otherwise.
///
/// | proof | |
/// |---|---|
/// | [`client_secret`](Self::client_secret) | a password, which lasts until a date: where nothing better is to be had |
/// | `client_certificate` (feature `client-certificate`) | a certificate's key |
/// | [`workload_identity`](Self::workload_identity) | a file with another issuer's token: Kubernetes |
/// | [`azure_pipelines`](Self::azure_pipelines) | a service connection |
/// | [`client_assertion`](Self::client_assertion) | whatever you can sign or ask another issuer for |
///
/// ```
/// use entra_pool::{Cloud, credential::Application};
///
/// let id = "11111111-2222-3333-4444-555555555555";
/// let shop = Application::new("contoso.onmicrosoft.com", id)?.cloud(Cloud::UsGovernment);
/// let credential = shop.workload_identity("/var/run/secrets/tokens/azure")?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Application {
    pub(super) tenant: String,
    pub(super) client_id: String,
    authority: String,
    #[cfg(test)]
    pub(super) http: Option<Arc<dyn azure_core::http::HttpClient>>,
}

/// The variable that says whom applications ask.
const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";

impl Application {
    /// The application `client_id` of `tenant` (its ID or domain).
    ///
    /// ```
    /// use entra_pool::credential::Application;
    ///
    /// let app = Application::new("contoso.onmicrosoft.com", "11111111-2222-3333-4444-555555555555")?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A tenant or client ID with characters that none has; an
    /// `AZURE_AUTHORITY_HOST` that is no `https://` URL.
    pub fn new(
        tenant: impl Into<String>,
        client_id: impl Into<String>,
    ) -> Result<Self, ConfigError> {
        let (tenant, client_id) = (tenant.into(), client_id.into());
        let environment = Environment::from_process();
        Self::named(&environment, None, ("tenant", &tenant), ("client_id", &client_id))
    }

    /// From the variables of these names; `needed_by` is what wants them set.
    pub(super) fn from_environment(
        environment: &Environment,
        cloud: Option<Cloud>,
        names: [&'static str; 2],
        needed_by: &'static str,
    ) -> Result<Self, ConfigError> {
        let [tenant, client_id] = names.map(|name| required(environment, name, needed_by));
        Self::named(environment, cloud, tenant?, client_id?)
    }

    pub(super) fn named(
        environment: &Environment,
        cloud: Option<Cloud>,
        (tenant_name, tenant): Named<'_>,
        (client_id_name, client_id): Named<'_>,
    ) -> Result<Self, ConfigError> {
        check_tenant(tenant_name, tenant)?;
        let expected = "a client ID, such as 11111111-2222-3333-4444-555555555555";
        ConfigError::unless(is_word(client_id, "._:/-"), client_id_name, expected)?;
        Ok(Self {
            tenant: tenant.to_owned(),
            client_id: client_id.to_owned(),
            authority: authority(environment, cloud)?,
            #[cfg(test)]
            http: None,
        })
    }

    /// Asks this cloud's authority, whatever `AZURE_AUTHORITY_HOST` says.
    #[must_use]
    pub fn cloud(mut self, cloud: Cloud) -> Self {
        cloud.authority_host().clone_into(&mut self.authority);
        self
    }

    /// Proves who it is by a client secret.
    ///
    /// See [Microsoft identity platform and the OAuth 2.0 client credentials flow](https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow).
    ///
    /// # Errors
    ///
    /// An empty secret. Whether it is right, the first token tells.
    ///
    /// ```
    /// # use entra_pool::credential::Application;
    /// let id = "11111111-2222-3333-4444-555555555555";
    /// let secret = std::env::var("SHOP_SECRET").unwrap_or("secret".into());
    /// let credential = Application::new("contoso.onmicrosoft.com", id)?.client_secret(secret)?;
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    pub fn client_secret(
        self,
        secret: impl Into<String>,
    ) -> Result<AzureCoreCredential, ConfigError> {
        let secret = Zeroizing::new(secret.into());
        not_empty("secret", &secret)?;
        let proof = Proof::of(&secret);
        let name = format!("service principal {}", self.client_id);
        Ok(self.credential(name, proof.clone(), move |this| {
            let options = ClientSecretCredentialOptions { client_options: this.client_options()? };
            ClientSecretCredential::new(
                &this.tenant,
                this.client_id.clone(),
                proof.secret(),
                Some(options),
            )
        }))
    }

    /// Told to `azure_identity`, which would read the process' variables
    /// otherwise.
    pub(super) fn client_options(&self) -> azure_core::Result<ClientOptions> {
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host.clone_from(&self.authority);
        #[cfg(not(test))]
        let transport = entra::transport()?;
        #[cfg(test)]
        let transport =
            self.http.clone().map_or_else(entra::transport, |http| Ok(entra::over(http)))?;
        Ok(ClientOptions {
            cloud: Some(Arc::new(cloud.into())),
            transport: Some(transport),
            retry: entra::retries(),
            ..ClientOptions::default()
        })
    }

    pub(super) fn assertion_options(&self) -> azure_core::Result<ClientAssertionCredentialOptions> {
        Ok(ClientAssertionCredentialOptions { client_options: self.client_options()? })
    }

    /// A credential that `make` makes anew whenever the last one's token will
    /// not do any more. `proof` is removed from errors.
    pub(super) fn credential<C: AzureCredential + 'static>(
        self,
        name: String,
        proof: Proof,
        make: impl Fn(&Self) -> azure_core::Result<Arc<C>> + Send + Sync + 'static,
    ) -> AzureCoreCredential {
        let authority = Some(self.authority.clone());
        AzureCoreCredential::new(name, authority, proof, Box::new(move || Ok(make(&self)?)))
    }
}

/// The name of a setting, for errors, and its value.
pub(super) type Named<'a> = (&'static str, &'a str);

/// The variable, or an error that says what wants it.
pub(super) fn required<'a>(
    environment: &'a Environment,
    setting: &'static str,
    needed_by: &'static str,
) -> Result<Named<'a>, ConfigError> {
    let value = environment.checked(setting)?;
    Ok((setting, value.ok_or(ConfigError::Missing { setting, needed_by })?))
}

/// An error if this is not an `https://` URL without user and password.
pub(super) fn check_https((name, url): Named<'_>) -> Result<(), ConfigError> {
    let is_right = url::Url::parse(url).is_ok_and(|url| {
        let open = url.username().is_empty() && url.password().is_none();
        url.scheme() == "https" && url.has_host() && open
    });
    ConfigError::unless(is_right, name, "an https:// URL with a host")
}

pub(super) fn not_empty(name: &'static str, value: &str) -> Result<(), ConfigError> {
    ConfigError::unless(!value.is_empty(), name, "not empty")
}

/// Where tokens are asked for: what the variable says, else the cloud's.
fn authority(environment: &Environment, cloud: Option<Cloud>) -> Result<String, ConfigError> {
    let Some(authority) = environment.checked(AUTHORITY)? else {
        return Ok(cloud.unwrap_or(Cloud::Public).authority_host().to_owned());
    };
    // `login.microsoftonline.us` without a scheme is how some write it.
    let authority =
        if authority.contains("://") { authority.into() } else { format!("https://{authority}") };
    check_https((AUTHORITY, &authority))?;
    Ok(authority)
}

/// The content of a file that `setting` names; one that is empty is as good as
/// none.
pub(super) fn read(setting: &str, file: &Path) -> azure_core::Result<Zeroizing<Vec<u8>>> {
    let error =
        |problem: String| azure_error(format!("{setting}: the file {} {problem}", file.display()));
    match std::fs::read(file).map(Zeroizing::new) {
        Ok(content) if content.trim_ascii().is_empty() => Err(error("is empty".into())),
        Ok(content) => Ok(content),
        Err(reason) => Err(error(format!("cannot be read: {reason}"))),
    }
}
