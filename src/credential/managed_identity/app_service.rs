//! App Service, Functions and Container Apps: "How to use managed identities
//! for App Service and Azure Functions", section "REST endpoint reference".

use async_trait::async_trait;
use reqwest::Url;

use super::{
    Endpoint, ManagedIdentityHost,
    host::Selector,
    http::Http,
    local::{Local, not_assigned},
    retry::Retry,
};
use crate::{
    credential::ConfigError,
    token::{CredentialError, Scope, Token},
};

const API_VERSION: &str = "2019-08-01";
const HEADER: &str = "x-identity-header";

pub(super) struct AppService(Local);

impl AppService {
    /// With the values of `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    pub(super) fn new(url: &str, header: &str) -> Result<Self, ConfigError> {
        let who = "the App Service identity endpoint";
        let local = Local::new(who, "IDENTITY_ENDPOINT", url, &Retry::APP_SERVICE)?;
        Ok(Self(local.with_secret("IDENTITY_HEADER", header)?))
    }
}

#[async_trait]
impl Endpoint for AppService {
    fn host(&self) -> ManagedIdentityHost {
        ManagedIdentityHost::AppService
    }

    fn url(&self) -> &Url {
        self.0.url()
    }

    async fn get_token(
        &self,
        http: &Http,
        selector: Option<&Selector>,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let Self(local) = self;
        let request = || local.request(API_VERSION, scope, selector.map(Selector::pair), HEADER);
        let answer = http.send(request, local.retry()).await;
        local.token(answer, |refusal| match (refusal.status, selector) {
            (400, Some(selector)) => Some(not_assigned(selector, "this app", refusal)),
            (400, None) => Some(format!(
                "this app has no system-assigned identity{}; switch it on, or give the client ID \
                 of a user-assigned one (AZURE_CLIENT_ID)",
                refusal.reason
            )),
            (401 | 403, _) => Some(format!(
                "{} did not accept the identity header ({}){}; IDENTITY_ENDPOINT and \
                 IDENTITY_HEADER must be those of this process",
                local.who(),
                refusal.status,
                refusal.reason
            )),
            _ => None,
        })
    }
}
