use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};
use zeroize::Zeroizing;

use super::{
    Application, AzureCoreCredential, ConfigError, adapter::Proof, application::not_empty,
};

impl Application {
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
            let options = ClientSecretCredentialOptions { client_options: this.client_options() };
            ClientSecretCredential::new(
                &this.tenant,
                this.client_id.clone(),
                proof.secret(),
                Some(options),
            )
        }))
    }
}
