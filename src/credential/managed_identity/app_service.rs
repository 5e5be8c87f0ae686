//! App Service, Functions and Container Apps: "How to use managed identities
//! for App Service and Azure Functions", section "REST endpoint reference".

use reqwest::{
    Method, Request, Url,
    header::{HeaderName, HeaderValue},
};
use zeroize::Zeroizing;

use super::{
    UserAssignedId, answer, endpoint_url, exhausted,
    http::{Http, HttpError},
    retry::Retry,
    shown, token_url,
};
use crate::{
    credential::ConfigError,
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient},
        Scope, Token,
    },
};

const API_VERSION: &str = "2019-08-01";
const WHO: &str = "the App Service identity endpoint";

pub(super) struct AppService {
    url: Url,
    header: HeaderValue,
    /// The same, to be found in what comes back.
    secret: Zeroizing<String>,
}

impl AppService {
    /// With the values of `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    pub(super) fn new(url: &str, header: &str) -> Result<Self, ConfigError> {
        let mut value = HeaderValue::from_str(header)
            .map_err(|_| ConfigError::invalid("IDENTITY_HEADER", "a value for an HTTP header"))?;
        value.set_sensitive(true);
        Ok(Self {
            url: endpoint_url("IDENTITY_ENDPOINT", url)?,
            header: value,
            secret: Zeroizing::new(header.to_owned()),
        })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    fn request(&self, scope: &Scope, id: Option<&UserAssignedId>) -> Request {
        let url = token_url(&self.url, API_VERSION, scope, id);
        let mut request = Request::new(Method::GET, url);
        let name = HeaderName::from_static("x-identity-header");
        request.headers_mut().insert(name, self.header.clone());
        request
    }

    pub(super) async fn get_token(
        &self,
        http: &Http,
        id: Option<&UserAssignedId>,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let retry = &Retry::APP_SERVICE;
        let answer = http
            .send(|| self.request(scope, id), retry)
            .await
            .map_err(|error| self.no_answer(error))?;
        if answer.status.is_success() {
            return answer::token(&answer.body, answer.asked_at)
                .map_err(|error| self.no_answer(HttpError::Unusable(error)));
        }
        let reason = answer::description(&answer.body, Some(&self.secret));
        if retry.passes(answer.status) {
            return Err(exhausted(WHO, &answer, reason));
        }
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        let message = match (answer.status.as_u16(), id) {
            (400, Some(id)) => format!(
                "identity {id} is not assigned to this app{reason}; assign it, or give the client \
                 ID of one that is"
            ),
            (400, None) => format!(
                "this app has no system-assigned identity{reason}; switch it on, or give the \
                 client ID of a user-assigned one (AZURE_CLIENT_ID)"
            ),
            (401 | 403, _) => format!(
                "{WHO} did not accept the identity header ({}){reason}; IDENTITY_ENDPOINT and \
                 IDENTITY_HEADER must be those of this process",
                answer.status
            ),
            _ => format!("{WHO} ({}) answered {}{reason}", shown(&self.url), answer.status),
        };
        Err(CredentialError::new(Refused, message))
    }

    /// The variables say that it is there: it may be back soon.
    fn no_answer(&self, error: HttpError) -> CredentialError {
        let message = format!("{WHO} ({}) gave no token", shown(&self.url));
        CredentialError::new(Transient, message).with_source(error)
    }
}
