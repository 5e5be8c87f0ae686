//! Azure Machine Learning, compute instances and clusters: App Service's older
//! protocol with names of its own (azidentity, MSAL; there is no other
//! specification).

use async_trait::async_trait;
use reqwest::Url;

use super::{
    Endpoint, ManagedIdentityHost, UserAssignedId,
    host::Selector,
    http::Http,
    local::{Local, not_assigned},
    retry::Retry,
};
use crate::{
    credential::ConfigError,
    token::{CredentialError, Scope, Token},
};

const API_VERSION: &str = "2017-09-01";
const HEADER: &str = "secret";

pub(super) struct AzureMl {
    local: Local,
    /// The compute's own identity, if it has been given one: Azure ML wants to
    /// be told.
    default: Option<Selector>,
}

impl AzureMl {
    /// With the values of `MSI_ENDPOINT`, `MSI_SECRET` and
    /// `DEFAULT_IDENTITY_CLIENT_ID`.
    pub(super) fn new(url: &str, secret: &str, default: Option<&str>) -> Result<Self, ConfigError> {
        let who = "the Azure Machine Learning identity endpoint";
        let local = Local::new(who, "MSI_ENDPOINT", url, &Retry::LOCAL)?;
        let default = default.map(|client_id| {
            const SETTING: &str = "DEFAULT_IDENTITY_CLIENT_ID";
            let id = UserAssignedId::ClientId(client_id.to_owned());
            id.check(SETTING)?;
            Selector::new(ManagedIdentityHost::AzureMl, id, SETTING)
        });
        Ok(Self { local: local.with_secret("MSI_SECRET", secret)?, default: default.transpose()? })
    }
}

#[async_trait]
impl Endpoint for AzureMl {
    fn host(&self) -> ManagedIdentityHost {
        ManagedIdentityHost::AzureMl
    }

    fn url(&self) -> &Url {
        self.local.url()
    }

    async fn get_token(
        &self,
        http: &Http,
        selector: Option<&Selector>,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let Self { local, default } = self;
        let selector = selector.or(default.as_ref());
        let request = || local.request(API_VERSION, scope, selector.map(Selector::pair), HEADER);
        let answer = http.send(request, local.retry()).await;
        local.token(answer, |refusal| match (refusal.status, selector) {
            (400 | 404, Some(selector)) => Some(not_assigned(selector, "this compute", refusal)),
            (400 | 404, None) => Some(format!(
                "this compute has no system-assigned identity{}; switch it on, or give the client \
                 ID of a user-assigned one (AZURE_CLIENT_ID)",
                refusal.reason
            )),
            (401 | 403, _) => Some(format!(
                "{} did not accept the secret ({}){}; MSI_ENDPOINT and MSI_SECRET must be those of \
                 this process",
                local.who(),
                refusal.status,
                refusal.reason
            )),
            _ => None,
        })
    }
}
