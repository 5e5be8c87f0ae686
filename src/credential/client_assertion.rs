use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;
use azure_core::{
    error::{Error as AzureError, ErrorKind},
    http::ClientMethodOptions,
};
use azure_identity::{ClientAssertion, ClientAssertionCredential};

use super::{
    Application, AzureCoreCredential,
    adapter::{Proof, azure_error},
};

impl Application {
    /// Proves who it is by an assertion: a JWT that you sign, or that an issuer
    /// which the application trusts (a federated identity credential) gives
    /// you: GitHub Actions, another cloud, ….
    ///
    /// `assertion` is asked for one whenever a token is.
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
        let proof = Proof::default();
        self.credential(name, proof.clone(), move |this| {
            ClientAssertionCredential::new(
                this.tenant.clone(),
                this.client_id.clone(),
                Asked(assertion.clone(), proof.clone()),
                Some(this.assertion_options()?),
            )
        })
    }
}

/// A function in the clothes of `azure_identity`.
struct Asked<F>(Arc<F>, Proof);

#[async_trait]
impl<F, A, E> ClientAssertion for Asked<F>
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
                let message = format!("there is no client assertion: {error}");
                Err(AzureError::with_error(ErrorKind::Credential, error, message))
            }
        }
    }
}

impl<F> fmt::Debug for Asked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}
