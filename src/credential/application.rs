#[cfg(test)]
mod tests;

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use azure_core::{
    cloud::CustomConfiguration,
    credentials::TokenCredential as AzureCredential,
    error::{Error as AzureError, ErrorKind},
    http::{ClientMethodOptions, ClientOptions},
};
use azure_identity::{
    AzurePipelinesCredential, AzurePipelinesCredentialOptions, ClientAssertion,
    ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use zeroize::Zeroizing;

use super::{
    AzureCoreCredential, ConfigError, Environment,
    adapter::{Proof, azure_error},
    config_error::{Problem, check_tenant, is_word},
    entra,
};
use crate::Cloud;

/// An application that is registered in Entra: a service principal, or a managed identity that
/// trusts other issuers.
///
/// It consists of a tenant and a client ID. Each method in this table adds a proof of the
/// application's identity and returns a credential that uses `azure_identity`.
///
/// Tokens are requested from `AZURE_AUTHORITY_HOST` if it is set, otherwise from
/// `https://login.microsoftonline.com`. [`cloud`](Self::cloud) overrides both.
///
/// | method | proof |
/// |---|---|
/// | [`client_secret`](Self::client_secret) | a password that expires: use it only if no other proof is possible |
/// | `client_certificate` (feature `client-certificate`) | the key of a certificate |
/// | [`workload_identity`](Self::workload_identity) | a file with another issuer's token, as in Kubernetes |
/// | [`azure_pipelines`](Self::azure_pipelines) | a service connection |
/// | [`client_assertion`](Self::client_assertion) | a JWT that you sign or get from another issuer |
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

/// The variable with the authority that applications request tokens from.
const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";

/// The credential that needs the variables of a pipeline, for errors.
const PIPELINES: &str = "Azure Pipelines";

impl Application {
    /// Returns the application `client_id` in `tenant` (the tenant's ID or domain).
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
    /// [`ConfigError`], if the tenant or the client ID contains invalid characters, or if
    /// `AZURE_AUTHORITY_HOST` is not an `https://` URL.
    pub fn new(
        tenant: impl Into<String>,
        client_id: impl Into<String>,
    ) -> Result<Self, ConfigError> {
        let (tenant, client_id) = (tenant.into(), client_id.into());
        let environment = Environment::from_process();
        Self::named(&environment, None, ("tenant", &tenant), ("client_id", &client_id))
    }

    /// Reads the variables of these names. `needed_by` is the setting or credential that requires
    /// them.
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

    /// Requests tokens from this cloud's authority, even if `AZURE_AUTHORITY_HOST` is set.
    #[must_use]
    pub fn cloud(mut self, cloud: Cloud) -> Self {
        cloud.authority_host().clone_into(&mut self.authority);
        self
    }

    /// Authenticates the application with a client secret.
    ///
    /// See [Microsoft identity platform and the OAuth 2.0 client credentials flow](https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow).
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if the secret is empty. A wrong secret fails the first token request.
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
        let name = format!("service principal {}", self.client_id);
        Ok(self.credential(name, Proof::of(&secret), |this, proof| {
            let options = ClientSecretCredentialOptions { client_options: this.client_options()? };
            let (client_id, secret) = (this.client_id.clone(), proof.secret());
            ClientSecretCredential::new(&this.tenant, client_id, secret, Some(options))
        }))
    }

    /// Authenticates the application with the key of a certificate: a PKCS#12 file (`.pfx`,
    /// `.p12`) with an RSA key, and its password if it has one.
    ///
    /// The file is read when a token is requested, so a renewed certificate is used without a
    /// restart. Set `AZURE_CLIENT_SEND_CERTIFICATE_CHAIN` to `1` or `true` in this process's
    /// environment to send the certificate chain, for applications that trust by subject name.
    ///
    /// Requires the feature `client-certificate`, which links OpenSSL.
    ///
    /// See [Microsoft identity platform application authentication certificate credentials](https://learn.microsoft.com/entra/identity-platform/certificate-credentials).
    ///
    /// ```
    /// # use entra_pool::credential::Application;
    /// let id = "11111111-2222-3333-4444-555555555555";
    /// let shop = Application::new("contoso.onmicrosoft.com", id)?;
    /// let credential = shop.client_certificate("/etc/shop/identity.pfx", None);
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    #[cfg(feature = "client-certificate")]
    #[must_use]
    pub fn client_certificate(
        self,
        file: impl Into<PathBuf>,
        password: Option<String>,
    ) -> AzureCoreCredential {
        self.client_certificate_named("file", file.into(), password)
    }

    #[cfg(feature = "client-certificate")]
    pub(super) fn client_certificate_named(
        self,
        setting: &'static str,
        file: PathBuf,
        password: Option<String>,
    ) -> AzureCoreCredential {
        use azure_core::credentials::SecretBytes;
        use azure_identity::{ClientCertificateCredential, ClientCertificateCredentialOptions};

        let has_password = password.is_some();
        let proof = Proof::of(&Zeroizing::new(password.unwrap_or_default()));
        let name = format!("service principal {} (certificate)", self.client_id);
        self.credential(name, proof, move |this, proof| {
            let content = read(setting, &file)?;
            if content.trim_ascii_start().starts_with(b"-----BEGIN") {
                return Err(azure_error(format!(
                    "{setting}: the file {file} is PEM, not PKCS#12: convert it with `openssl \
                     pkcs12 -export -in {file} -out identity.pfx`",
                    file = file.display()
                )));
            }
            let options = ClientCertificateCredentialOptions {
                client_options: this.client_options()?,
                password: has_password.then(|| proof.secret()),
            };
            ClientCertificateCredential::new(
                this.tenant.clone(),
                this.client_id.clone(),
                SecretBytes::new(content.to_vec()),
                Some(options),
            )
            .map_err(|error| {
                let message = format!(
                    "{setting}: the file {} cannot be used, or its password is wrong: {error}",
                    file.display()
                );
                AzureError::with_error(ErrorKind::Credential, error, message)
            })
        })
    }

    /// Authenticates the application with another issuer's token in a file, such as that of a
    /// Kubernetes service account. [`from_env`](super::from_env) finds the file where AKS sets its
    /// variables.
    ///
    /// The file is read when a token is requested and the cached content is old. If the file is
    /// missing, empty or unreadable, no request is sent, and the error names the file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if the path is empty.
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

    /// Returns the workload identity that these variables describe. The webhook of AKS sets them.
    pub(super) fn workload_identity_of(
        environment: &Environment,
        cloud: Option<Cloud>,
    ) -> Result<AzureCoreCredential, ConfigError> {
        const NEEDED_BY: &str = "workload identity";
        let (setting, file) = required(environment, "AZURE_FEDERATED_TOKEN_FILE", NEEDED_BY)?;
        let names = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"];
        let application = Self::from_environment(environment, cloud, names, NEEDED_BY)?;
        Ok(application.workload_identity_named(setting, file.into()))
    }

    fn workload_identity_named(self, setting: &'static str, file: PathBuf) -> AzureCoreCredential {
        let name = format!("workload identity {}", self.client_id);
        self.credential(name, Proof::default(), move |this, proof| {
            // `azure_identity` would send an empty token.
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

    /// Authenticates the application with a service connection of Azure Pipelines that uses
    /// workload identity federation.
    ///
    /// In a step of the task `AzureCLI@2` or `AzurePowerShell@5`, [`from_env`](super::from_env)
    /// does this if `AZURE_TOKEN_CREDENTIALS` is `AzurePipelinesCredential`. The task sets
    /// `AZURESUBSCRIPTION_TENANT_ID`, `AZURESUBSCRIPTION_CLIENT_ID` and
    /// `AZURESUBSCRIPTION_SERVICE_CONNECTION_ID`. You must pass the access token to the step:
    /// `env: { SYSTEM_ACCESSTOKEN: $(System.AccessToken) }`. See
    /// [Predefined variables](https://learn.microsoft.com/azure/devops/pipelines/build/variables#systemaccesstoken).
    ///
    /// `azure_identity` reads `SYSTEM_OIDCREQUESTURI`, which is set in every job, from this
    /// process's environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if the ID contains invalid characters, if the access token is empty, or if
    /// `SYSTEM_OIDCREQUESTURI` is not set (outside of Azure Pipelines) or is not an `https://` URL.
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

    /// Returns the credential for the service connection that these variables describe.
    pub(super) fn azure_pipelines_of(
        environment: &Environment,
        cloud: Option<Cloud>,
    ) -> Result<AzureCoreCredential, ConfigError> {
        let names = ["AZURESUBSCRIPTION_TENANT_ID", "AZURESUBSCRIPTION_CLIENT_ID"];
        let application = Self::from_environment(environment, cloud, names, PIPELINES)?;
        let connection = "AZURESUBSCRIPTION_SERVICE_CONNECTION_ID";
        let connection = required(environment, connection, PIPELINES)?;
        let (_, token) = required(environment, "SYSTEM_ACCESSTOKEN", PIPELINES)?;
        application.service_connection(environment, connection, token)
    }

    fn service_connection(
        self,
        environment: &Environment,
        (setting, connection): Named<'_>,
        token: &str,
    ) -> Result<AzureCoreCredential, ConfigError> {
        let expected = "a service connection's ID, such as 66666666-7777-8888-9999-000000000000";
        ConfigError::unless(is_word(connection, "-"), setting, expected)?;
        // The access token is sent to this URL.
        check_https(required(environment, "SYSTEM_OIDCREQUESTURI", PIPELINES)?)?;
        let connection = connection.to_owned();
        let name = format!("Azure Pipelines service connection {connection}");
        Ok(self.credential(name, Proof::of(token), move |this, proof| {
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

    /// Authenticates the application with an assertion: a JWT that you sign, or that you get from
    /// an issuer that the application trusts (a federated identity credential), such as GitHub
    /// Actions or another cloud.
    ///
    /// `assertion` is called for every token request.
    ///
    /// See [Workload identity federation](https://learn.microsoft.com/entra/workload-id/workload-identity-federation).
    ///
    /// ```
    /// # use entra_pool::credential::Application;
    /// # async fn ask_our_issuer() -> Result<String, std::io::Error> { Ok("eyJ…".into()) }
    /// let id = "11111111-2222-3333-4444-555555555555";
    /// let shop = Application::new("contoso.onmicrosoft.com", id)?;
    /// let credential = shop.client_assertion(|| async { ask_our_issuer().await });
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    #[must_use]
    pub fn client_assertion<F, A, E>(self, assertion: F) -> AzureCoreCredential
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let assertion = Arc::new(assertion);
        let name = format!("application {} (client assertion)", self.client_id);
        self.credential(name, Proof::default(), move |this, proof| {
            ClientAssertionCredential::new(
                this.tenant.clone(),
                this.client_id.clone(),
                AssertionSource(assertion.clone(), proof.clone()),
                Some(this.assertion_options()?),
            )
        })
    }

    /// Returns options that name the authority. Otherwise, `azure_identity` would read it from the
    /// process's environment.
    fn client_options(&self) -> azure_core::Result<ClientOptions> {
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

    fn assertion_options(&self) -> azure_core::Result<ClientAssertionCredentialOptions> {
        Ok(ClientAssertionCredentialOptions { client_options: self.client_options()? })
    }

    /// Returns a credential whose inner credential `make` creates again whenever the token is about
    /// to expire or was refused. `proof` is removed from errors.
    fn credential<C: AzureCredential + 'static>(
        self,
        name: String,
        proof: Proof,
        make: impl Fn(&Self, &Proof) -> azure_core::Result<Arc<C>> + Send + Sync + 'static,
    ) -> AzureCoreCredential {
        let authority = Some(self.authority.clone());
        let factory = {
            let proof = proof.clone();
            Box::new(move || -> azure_core::Result<_> { Ok(make(&self, &proof)? as _) })
        };
        AzureCoreCredential::new(name, authority, proof, factory)
    }
}

/// Adapts a closure to `azure_identity`'s `ClientAssertion`.
struct AssertionSource<F>(Arc<F>, Proof);

#[async_trait]
impl<F, A, E> ClientAssertion for AssertionSource<F>
where
    F: Fn() -> A + Send + Sync,
    A: Future<Output = Result<String, E>> + Send,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        match (self.0)().await {
            Ok(assertion) if assertion.trim().is_empty() => {
                Err(azure_error("the client assertion is empty".to_owned()))
            }
            Ok(assertion) => {
                self.1.set(&assertion);
                Ok(assertion)
            }
            Err(error) => {
                let error = error.into();
                let message = format!("cannot get a client assertion: {error}");
                Err(AzureError::with_error(ErrorKind::Credential, error, message))
            }
        }
    }
}

impl<F> fmt::Debug for AssertionSource<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AssertionSource")
    }
}

/// The name of a setting, for errors, and its value.
pub(super) type Named<'a> = (&'static str, &'a str);

/// Returns the variable, or an error that names the setting or credential that requires it.
pub(super) fn required<'a>(
    environment: &'a Environment,
    setting: &'static str,
    needed_by: &'static str,
) -> Result<Named<'a>, ConfigError> {
    let value = environment.checked(setting)?;
    Ok((setting, value.ok_or(Problem::Missing { setting, needed_by })?))
}

/// Returns an error unless this is an `https://` URL without user and password.
fn check_https((name, url): Named<'_>) -> Result<(), ConfigError> {
    let is_valid = url::Url::parse(url).is_ok_and(|url| {
        let open = url.username().is_empty() && url.password().is_none();
        url.scheme() == "https" && url.has_host() && open
    });
    ConfigError::unless(is_valid, name, "an https:// URL with a host")
}

fn not_empty(name: &'static str, value: &str) -> Result<(), ConfigError> {
    ConfigError::unless(!value.is_empty(), name, "not empty")
}

/// Returns the authority to request tokens from: that of the variable, otherwise that of the cloud.
fn authority(environment: &Environment, cloud: Option<Cloud>) -> Result<String, ConfigError> {
    let Some(authority) = environment.checked(AUTHORITY)? else {
        return Ok(cloud.unwrap_or(Cloud::Public).authority_host().to_owned());
    };
    // Some users write `login.microsoftonline.us` without a scheme.
    let authority =
        if authority.contains("://") { authority.into() } else { format!("https://{authority}") };
    check_https((AUTHORITY, &authority))?;
    Ok(authority)
}

/// Reads the file that `setting` names. An empty file is an error.
fn read(setting: &str, file: &Path) -> azure_core::Result<Zeroizing<Vec<u8>>> {
    let error =
        |problem: String| azure_error(format!("{setting}: the file {} {problem}", file.display()));
    match std::fs::read(file).map(Zeroizing::new) {
        Ok(content) if content.trim_ascii().is_empty() => Err(error("is empty".into())),
        Ok(content) => Ok(content),
        Err(reason) => Err(error(format!("cannot be read: {reason}"))),
    }
}
