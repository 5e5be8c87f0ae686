//! Service Fabric: "How to leverage a Service Fabric application's managed
//! identity to access Azure services".
//!
//! Its endpoint speaks TLS with a certificate that nobody vouches for: the
//! environment tells its SHA-1 thumbprint instead.

use std::{error::Error, io, sync::Arc};

use async_trait::async_trait;
use reqwest::Url;

use super::{
    Endpoint, ManagedIdentityHost,
    host::Selector,
    http::{Http, HttpError},
    local::Local,
    pinned::{self, Thumbprint},
    retry::Retry,
    shown,
};
use crate::{
    clock::Clock,
    credential::ConfigError,
    token::{CredentialError, CredentialErrorKind::Refused, Scope, Token},
};

const API_VERSION: &str = "2019-07-01-preview";
const HEADER: &str = "secret";

pub(super) struct ServiceFabric {
    local: Local,
    thumbprint: Thumbprint,
}

impl ServiceFabric {
    /// With the values of `IDENTITY_ENDPOINT`, `IDENTITY_HEADER` and
    /// `IDENTITY_SERVER_THUMBPRINT`.
    pub(super) fn new(url: &str, header: &str, thumbprint: &str) -> Result<Self, ConfigError> {
        const ENDPOINT: &str = "IDENTITY_ENDPOINT";
        let local = Local::new("the Service Fabric token service", ENDPOINT, url, &Retry::LOCAL)?;
        let expected = "an https:// URL, as there is a thumbprint (IDENTITY_SERVER_THUMBPRINT)";
        ConfigError::unless(local.url().scheme() == "https", ENDPOINT, expected)?;
        let thumbprint = Thumbprint::parse(thumbprint).ok_or_else(|| {
            let expected = "a certificate's SHA-1 thumbprint: 40 hexadecimal digits";
            ConfigError::invalid("IDENTITY_SERVER_THUMBPRINT", expected)
        })?;
        Ok(Self { local: local.with_secret("IDENTITY_HEADER", header)?, thumbprint })
    }
}

#[async_trait]
impl Endpoint for ServiceFabric {
    fn host(&self) -> ManagedIdentityHost {
        ManagedIdentityHost::ServiceFabric
    }

    fn url(&self) -> &Url {
        self.local.url()
    }

    fn http(&self, clock: Arc<dyn Clock>) -> Result<Http, ConfigError> {
        Ok(Http::pinned(pinned::client_config(self.thumbprint)?, clock))
    }

    /// The cluster decides whose token it is.
    async fn get_token(
        &self,
        http: &Http,
        _: Option<&Selector>,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let local = &self.local;
        let request = || local.request(API_VERSION, scope, None, HEADER);
        let answer = match http.send(request, local.retry()).await {
            Err(HttpError::Unreachable(error)) if is_another_certificate(&error) => {
                return Err(CredentialError::new(
                    Refused,
                    format!(
                        "what answers at {} has another certificate than \
                         IDENTITY_SERVER_THUMBPRINT says; nothing was sent to it",
                        shown(local.url())
                    ),
                )
                .with_source(HttpError::Unreachable(error)));
            }
            answer => answer,
        };
        local.token(answer, |refusal| match refusal.status {
            404 => Some(format!(
                "this application has no managed identity{}; give it one in the cluster's \
                 configuration",
                refusal.reason
            )),
            401 | 403 => Some(format!(
                "{} did not accept the secret ({}){}; IDENTITY_ENDPOINT and IDENTITY_HEADER must \
                 be those of this process",
                local.who(),
                refusal.status,
                refusal.reason
            )),
            _ => None,
        })
    }
}

fn is_another_certificate(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if this.downcast_ref().is_some_and(pinned::is_mismatch) {
            return true;
        }
        // The source of an `io::Error` passes over the error that it holds.
        cause = match this.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => this.source(),
        };
    }
    false
}
