//! Endpoints that variables of the environment name: Azure runs them next to the program.

use async_trait::async_trait;
use reqwest::{
    Method, Request, Url,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{
    Endpoint, ManagedIdentityHost, UserAssignedId, endpoint_url, exhausted,
    host::Selector,
    http::{Answer, Http, HttpError},
    in_brackets, metadata_header,
    pinned::{self, Thumbprint},
    retry::Retry,
    secret::Secret,
    shown, token_request,
};
use crate::{
    credential::{ConfigError, answer},
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient},
        Scope, Token,
    },
};

/// What is known about one host's endpoint.
pub(super) struct Protocol {
    pub(super) host: ManagedIdentityHost,
    /// The endpoint, for messages.
    pub(super) who: &'static str,
    /// The variable with the endpoint's URL.
    pub(super) url: &'static str,
    /// The variable with the secret that every request carries, and the secret's header.
    pub(super) secret: Option<(&'static str, &'static str)>,
    /// The `api-version`. `None` if the request is a form that has only the resource.
    pub(super) api_version: Option<&'static str>,
    pub(super) retry: Retry,
    /// What a refusal means on this host, and what to do about it.
    pub(super) explain: fn(&Refusal<'_>) -> Option<String>,
}

/// A refusal that a later try would not change.
pub(super) struct Refusal<'a> {
    pub(super) status: u16,
    /// The endpoint's own text, in brackets after a blank, or nothing.
    pub(super) reason: String,
    pub(super) selector: Option<&'a Selector>,
}

/// The message for an identity that the machine or app (`to`) does not have.
pub(super) fn not_assigned(selector: &Selector, to: &str, reason: &str) -> String {
    let id = &selector.id;
    format!("identity {id} is not assigned to {to}{reason}; assign it, or name one that is")
}

/// The message that there is no system-assigned identity: `problem`, and what to do.
pub(super) fn not_switched_on(problem: &str, reason: &str) -> String {
    format!(
        "{problem}{reason}; switch it on, or give the client ID of a user-assigned one \
         (AZURE_CLIENT_ID)"
    )
}

pub(super) struct Local {
    protocol: &'static Protocol,
    url: Url,
    /// The name of the header and the secret that it carries.
    secret: Option<(&'static str, Secret)>,
    /// The identity to ask for if none was selected.
    default: Option<Selector>,
    /// The thumbprint of the only certificate to trust.
    thumbprint: Option<Thumbprint>,
}

impl Local {
    pub(super) fn new(
        protocol: &'static Protocol,
        url: &str,
        secret: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let url = endpoint_url(protocol.url, url)?;
        let secret = match (protocol.secret, secret) {
            (Some((variable, header)), Some(secret)) => {
                let invalid = ConfigError::invalid(variable, "a value for an HTTP header");
                Some((header, Secret::new("", secret).ok_or(invalid)?))
            }
            _ => None,
        };
        Ok(Self { protocol, url, secret, default: None, thumbprint: None })
    }

    /// Asks for this identity if none is selected. The endpoint of an Azure Machine Learning
    /// compute does not choose the compute's own (`DEFAULT_IDENTITY_CLIENT_ID`) by itself.
    pub(super) fn with_default(mut self, client_id: Option<&str>) -> Result<Self, ConfigError> {
        const SETTING: &str = "DEFAULT_IDENTITY_CLIENT_ID";
        if let Some(client_id) = client_id {
            let id = UserAssignedId::ClientId(client_id.to_owned());
            self.default = Some(Selector::new(self.protocol.host, id, SETTING)?);
        }
        Ok(self)
    }

    /// Trusts only the certificate with this thumbprint (`IDENTITY_SERVER_THUMBPRINT`).
    pub(super) fn pinned(mut self, thumbprint: &str) -> Result<Self, ConfigError> {
        let expected = "an https:// URL, as there is a thumbprint (IDENTITY_SERVER_THUMBPRINT)";
        ConfigError::unless(self.url.scheme() == "https", self.protocol.url, expected)?;
        let expected = "a certificate's SHA-1 thumbprint: 40 hexadecimal digits";
        let invalid = ConfigError::invalid("IDENTITY_SERVER_THUMBPRINT", expected);
        self.thumbprint = Some(Thumbprint::parse(thumbprint).ok_or(invalid)?);
        Ok(self)
    }

    pub(super) fn request(&self, scope: &Scope, selector: Option<&Selector>) -> Request {
        let mut request = match self.protocol.api_version {
            Some(version) => token_request(&self.url, version, scope, selector),
            None => form(&self.url, scope),
        };
        match &self.secret {
            Some((header, secret)) => {
                request.headers_mut().insert(*header, secret.header());
            }
            None => metadata_header(&mut request),
        }
        request
    }

    /// The token of an answer.
    pub(super) fn token(
        &self,
        answer: Result<Answer, HttpError>,
        selector: Option<&Selector>,
    ) -> Result<Token, CredentialError> {
        let Protocol { who, ref retry, explain, .. } = *self.protocol;
        let answer = answer.map_err(|error| self.no_answer(error))?;
        if answer.status.is_success() {
            return answer::token(&answer.body, answer.asked_at)
                .map_err(|error| self.no_answer(HttpError::Unusable(error)));
        }
        let secret = answer.sent.as_ref().or(self.secret.as_ref().map(|(_, secret)| secret));
        let reason = answer::description(&answer.body, secret.map(Secret::text));
        if retry.passes(answer.status) {
            return Err(exhausted(who, &answer, reason));
        }
        let (status, reason) = (answer.status.as_u16(), in_brackets(reason));
        let refusal = Refusal { status, reason, selector };
        let message = explain(&refusal).unwrap_or_else(|| {
            format!("{who} ({}) answered {}{}", shown(&self.url), answer.status, refusal.reason)
        });
        Err(CredentialError::new(Refused, message))
    }

    /// Variables name the endpoint, so that it may be available again soon.
    fn no_answer(&self, error: HttpError) -> CredentialError {
        let (who, url) = (self.protocol.who, shown(&self.url));
        let (kind, message) = match &error {
            HttpError::Unreachable(error)
                if self.thumbprint.is_some() && pinned::is_mismatch(error) =>
            {
                let message = format!(
                    "what answers at {url} has another certificate than \
                     IDENTITY_SERVER_THUMBPRINT says; nothing was sent to it"
                );
                (Refused, message)
            }
            _ => (Transient, format!("{who} ({url}) gave no token")),
        };
        CredentialError::new(kind, message).with_source(error)
    }
}

fn form(endpoint: &Url, scope: &Scope) -> Request {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    let body = form.append_pair("resource", scope.resource()).finish();
    let mut request = Request::new(Method::POST, endpoint.clone());
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, form);
    *request.body_mut() = Some(body.into());
    request
}

#[async_trait]
impl Endpoint for Local {
    fn host(&self) -> ManagedIdentityHost {
        self.protocol.host
    }

    fn url(&self) -> &Url {
        &self.url
    }

    fn thumbprint(&self) -> Option<&Thumbprint> {
        self.thumbprint.as_ref()
    }

    async fn get_token(
        &self,
        http: &Http,
        selector: Option<&Selector>,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let selector = selector.or(self.default.as_ref());
        let request = || self.request(scope, selector);
        self.token(http.send(request, &self.protocol.retry).await, selector)
    }
}
