//! Endpoints that variables of the environment name: Azure runs them next to the program.

use std::{
    io::ErrorKind::ConnectionRefused,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use reqwest::{
    Method, Request, Url,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{
    Ask, Endpoint, ManagedIdentityHost, UserAssignedId, endpoint_url,
    host::Selector,
    http::{Answer, HttpError, TRY_LIMIT},
    pinned::{self, Thumbprint},
    retry::Retry,
    secret::Secret,
    shown,
};
use crate::{
    credential::{ConfigError, answer},
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient, Unavailable},
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
    /// What has the identities, for messages.
    pub(super) owner: &'static str,
    /// The statuses of a refusal because `owner` does not have the identity.
    pub(super) no_identity: &'static [u16],
    /// Other refusals: their statuses, what they mean, and what to do about them.
    pub(super) refusals: &'static [(&'static [u16], &'static str, &'static str)],
}

pub(super) struct Local {
    pub(super) protocol: &'static Protocol,
    pub(super) url: Url,
    /// The name of the header and the secret that it carries.
    secret: Option<(&'static str, Secret)>,
    /// The identity to ask for if none was selected.
    default: Option<Selector>,
    /// The thumbprint of the only certificate to trust. `None`: the platform's certificates.
    pub(super) thumbprint: Option<Thumbprint>,
    /// It has given a token.
    pub(super) met: AtomicBool,
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
        let met = AtomicBool::new(false);
        Ok(Self { protocol, url, secret, default: None, thumbprint: None, met })
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

    pub(super) fn request(&self, Ask { selector, scope, .. }: &Ask<'_>) -> Request {
        let mut url = self.url.clone();
        let mut request = match self.protocol.api_version {
            Some(version) => {
                url.query_pairs_mut()
                    .append_pair("api-version", version)
                    .append_pair("resource", scope.resource())
                    .extend_pairs(selector.map(Selector::pair));
                Request::new(Method::GET, url)
            }
            None => form(url, scope),
        };
        let (name, value) = match &self.secret {
            Some((header, secret)) => (*header, secret.header()),
            // Keeps out requests that somebody else has forged: a browser, or a server that is
            // made to fetch a URL, cannot add a header.
            None => ("metadata", HeaderValue::from_static("true")),
        };
        request.headers_mut().insert(name, value);
        request
    }

    /// The token of an answer.
    pub(super) fn token(
        &self,
        answer: Result<Answer, HttpError>,
        ask: &Ask<'_>,
        no_answer: impl Fn(HttpError) -> CredentialError,
    ) -> Result<Token, CredentialError> {
        let answer = answer.map_err(&no_answer)?;
        if answer.status.is_success() {
            let token = answer::token(&answer.body, answer.asked_at)
                .map_err(|error| no_answer(HttpError::Unusable(error)))?;
            self.met.store(true, Ordering::Relaxed);
            return Ok(token);
        }
        Err(self.refusal(&answer, ask))
    }

    fn refusal(&self, answer: &Answer, ask: &Ask<'_>) -> CredentialError {
        let Protocol { who, ref retry, owner, no_identity, refusals, .. } = *self.protocol;
        let secret = answer.sent.as_ref().or(self.secret.as_ref().map(|(_, secret)| secret));
        let said = answer::description(&answer.body, secret.map(Secret::text));
        let status = answer.status.as_u16();
        if (retry.passes)(answer) {
            let reason = said.map(|said| format!(": {said}")).unwrap_or_default();
            let hint = match status {
                500 => format!("; a wrong scope also causes this ({})", ask.scope),
                _ => String::new(),
            };
            let message = format!(
                "{who} answered {} to every try{reason}; it should pass, try again later{hint}",
                answer.status
            );
            return CredentialError::new(Transient, message).with_retry_after(answer.retry_after);
        }
        let reason = said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
        let says = |words: &str| said.as_ref().is_some_and(|said| said.contains(words));
        if let (401 | 403, Some((secret, _))) = (status, self.protocol.secret) {
            let (url, what) = (self.protocol.url, secret.to_lowercase().replace('_', " "));
            let message = format!(
                "{who} did not accept the {what} ({status}){reason}: {url} and {secret} must be \
                 those of this process"
            );
            return CredentialError::new(Refused, message);
        }
        let known = refusals.iter().find(|(statuses, ..)| statuses.contains(&status));
        let message = match (known, ask.selector) {
            (Some((_, what, advice)), _) => {
                format!("{who} {what} ({status}){reason}; {advice}")
            }
            (None, _) if !no_identity.contains(&status) => {
                format!("{who} ({}) answered {}{reason}", shown(&self.url), answer.status)
            }
            // Entra's own words are about the resource, not about this machine.
            (None, _) if says("AADSTS") => format!("{who} gives no such token{reason}"),
            (None, Some(Selector { id, optional, .. })) => {
                // IDs of both kinds are GUIDs, and Service Connector sets the object ID.
                let advice = match id {
                    UserAssignedId::ClientId(_) => {
                        ", or, if this is its object (principal) ID, give its client ID"
                    }
                    _ => ", or select another",
                };
                let message =
                    format!("identity {id} is not assigned to {owner}{reason}; assign it{advice}");
                let met = self.met.load(Ordering::Relaxed);
                if *optional && self.is_imds() && says("Identity not found") && !met {
                    return CredentialError::new(Unavailable, message)
                        .with_source(HttpError::NotAssigned);
                }
                message
            }
            (None, None) if says("Multiple user assigned identities") => format!(
                "{owner} has several user-assigned identities{reason}; give the client ID of one \
                 (AZURE_CLIENT_ID)"
            ),
            (None, None) => {
                let message = format!(
                    "{owner} has no system-assigned identity{reason}; switch it on, or give the \
                     client ID of a user-assigned one (AZURE_CLIENT_ID)"
                );
                // A machine without an identity may have a developer logged in.
                let kind = if self.is_imds() { Unavailable } else { Refused };
                return CredentialError::new(kind, message);
            }
        };
        CredentialError::new(Refused, message)
    }

    fn is_imds(&self) -> bool {
        self.protocol.host == ManagedIdentityHost::Imds
    }

    /// Variables name the endpoint, so that it may be available again soon.
    pub(super) fn no_answer(&self, error: HttpError) -> CredentialError {
        let (who, url) = (self.protocol.who, shown(&self.url));
        let (kind, message) = match &error {
            HttpError::Unreachable(error) if error.kind() == ConnectionRefused => {
                let variable = self.protocol.url;
                let message = format!(
                    "{who} does not listen at {url} ({variable}): it may start later than this \
                     program; otherwise, {variable} must be that of this process"
                );
                (Transient, message)
            }
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

fn form(endpoint: Url, scope: &Scope) -> Request {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    let body = form.append_pair("resource", scope.resource()).finish();
    let mut request = Request::new(Method::POST, endpoint);
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, form);
    *request.body_mut() = Some(body.into());
    request
}

#[async_trait]
impl Endpoint for Local {
    fn local(&self) -> &Local {
        self
    }

    async fn get_token(&self, ask: Ask<'_>) -> Result<Token, CredentialError> {
        let ask = Ask { selector: ask.selector.or(self.default.as_ref()), ..ask };
        let one_try = || ask.http.send_once(self.request(&ask), TRY_LIMIT);
        let answer = ask.http.repeat(one_try, &self.protocol.retry).await;
        self.token(answer, &ask, |error| self.no_answer(error))
    }
}
