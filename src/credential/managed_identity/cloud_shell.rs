//! Cloud Shell: tokens of the user who is logged in there ("Azure Cloud Shell
//! frequently asked questions" names the variable; azidentity and MSAL the
//! protocol).

use async_trait::async_trait;
use reqwest::{
    Method, Request, Url,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{
    Endpoint, ManagedIdentityHost, host::Selector, http::Http, local::Local, metadata_header,
    retry::Retry,
};
use crate::{
    credential::ConfigError,
    token::{CredentialError, Scope, Token},
};

pub(super) struct CloudShell(Local);

impl CloudShell {
    /// With the value of `MSI_ENDPOINT`.
    pub(super) fn new(url: &str) -> Result<Self, ConfigError> {
        Local::new("the Cloud Shell token endpoint", "MSI_ENDPOINT", url, &Retry::LOCAL).map(Self)
    }

    fn request(&self, scope: &Scope) -> Request {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let body = form.append_pair("resource", scope.resource()).finish();
        let mut request = Request::new(Method::POST, self.0.url().clone());
        metadata_header(&mut request);
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        *request.body_mut() = Some(body.into());
        request
    }
}

#[async_trait]
impl Endpoint for CloudShell {
    fn host(&self) -> ManagedIdentityHost {
        ManagedIdentityHost::CloudShell
    }

    fn url(&self) -> &Url {
        self.0.url()
    }

    /// There is nobody to select.
    async fn get_token(
        &self,
        http: &Http,
        _: Option<&Selector>,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let Self(local) = self;
        let answer = http.send(|| self.request(scope), local.retry()).await;
        local.token(answer, |refusal| match refusal.status {
            400 | 401 | 403 => Some(format!(
                "{} gives no such token ({}){}; open Cloud Shell anew, or run `az login` there and \
                 use the Azure CLI (AZURE_TOKEN_CREDENTIALS=AzureCliCredential)",
                local.who(),
                refusal.status,
                refusal.reason
            )),
            _ => None,
        })
    }
}
