use std::path::PathBuf;

use azure_core::{
    credentials::SecretBytes,
    error::{Error as AzureError, ErrorKind},
};
use azure_identity::{ClientCertificateCredential, ClientCertificateCredentialOptions};
use zeroize::Zeroizing;

use super::{
    Application, AzureCoreCredential,
    adapter::{Proof, azure_error},
    application::read,
};

impl Application {
    /// Proves who it is by the key of a certificate: a PKCS#12 file (`.pfx`,
    /// `.p12`) with an RSA key, and its password if it has one.
    ///
    /// The file is read when a token is asked for, so that a renewed
    /// certificate is found. `AZURE_CLIENT_SEND_CERTIFICATE_CHAIN` (`1` or
    /// `true`, in this process' environment) sends the chain along, for
    /// applications that trust by subject name.
    ///
    /// Needs the feature `client-certificate`, which brings OpenSSL.
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
    #[must_use]
    pub fn client_certificate(
        self,
        file: impl Into<PathBuf>,
        password: Option<String>,
    ) -> AzureCoreCredential {
        self.client_certificate_named("file", file.into(), password)
    }

    pub(super) fn client_certificate_named(
        self,
        setting: &'static str,
        file: PathBuf,
        password: Option<String>,
    ) -> AzureCoreCredential {
        let password = password.map(Zeroizing::new);
        let proof = password.as_ref().map(|password| Proof::of(password));
        let name = format!("service principal {} (certificate)", self.client_id);
        self.credential(name, proof.clone().unwrap_or_default(), move |this| {
            let content = read(setting, &file)?;
            if content.trim_ascii_start().starts_with(b"-----BEGIN") {
                return Err(azure_error(format!(
                    "{setting}: the file {file} is PEM, and PKCS#12 is wanted: `openssl pkcs12 \
                     -export -in {file} -out identity.pfx` makes it",
                    file = file.display()
                )));
            }
            let options = ClientCertificateCredentialOptions {
                client_options: this.client_options()?,
                password: proof.as_ref().map(Proof::secret),
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
}
