//! The endpoint that returns tokens of managed identities, and its protocol as data. The endpoint
//! is on the same machine or close to it.

use std::{
    io::ErrorKind::ConnectionRefused,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use reqwest::{
    Method, Request, Url,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{
    ManagedIdentityHost, UserAssignedId, endpoint_url,
    host::Selector,
    http::{Answer, Http, HttpError, TRY_LIMIT},
    key_file::Agent,
    pinned::{self, Thumbprint},
    retry::Retry,
    secret::Secret,
    shown,
};
use crate::{
    credential::{ConfigError, answer},
    lock::Lock,
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient, Unavailable},
        Scope, Token,
    },
};

/// The protocol of one host's endpoint.
pub(super) struct Protocol {
    pub(super) host: ManagedIdentityHost,
    /// The name of the endpoint, for messages.
    pub(super) name: &'static str,
    /// The variable with the endpoint's URL.
    pub(super) url: &'static str,
    /// The variable with the secret that every request contains, and the secret's header.
    pub(super) secret: Option<(&'static str, &'static str)>,
    /// The `api-version`. `None` if the request is a form with only the resource.
    pub(super) api_version: Option<&'static str>,
    pub(super) retry: Retry,
    /// The resource that the identities are assigned to, for messages.
    pub(super) owner: &'static str,
    /// The statuses of a response that means that `owner` does not have the identity.
    pub(super) no_identity: &'static [u16],
    /// Other refusals: their statuses, what they mean, and what to do about them.
    pub(super) refusals: &'static [(&'static [u16], &'static str, &'static str)],
}

pub(super) struct Endpoint {
    pub(super) protocol: &'static Protocol,
    pub(super) url: Url,
    /// The name of a header, and the secret that it contains.
    secret: Option<(&'static str, Secret)>,
    /// The identity to request a token for. `None`: the host's default identity.
    pub(super) selector: Option<Selector>,
    /// The thumbprint of the only certificate to trust. `None`: the platform's certificates.
    pub(super) thumbprint: Option<Thumbprint>,
    /// The Azure Arc agent, which requires the content of a key file.
    pub(super) agent: Option<Agent>,
    /// Another possible cause of the error for a missing endpoint.
    pub(super) hint: &'static str,
    /// Whether the endpoint is known to exist: variables name it, or it has responded before.
    pub(super) known: AtomicBool,
    /// Whether the endpoint has returned a token.
    pub(super) succeeded: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(
        protocol: &'static Protocol,
        url: &str,
        secret: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let secret = match (protocol.secret, secret) {
            (Some((variable, header)), Some(secret)) => {
                let invalid = ConfigError::invalid(variable, "a value for an HTTP header");
                Some((header, Secret::new("", secret).ok_or(invalid)?))
            }
            _ => None,
        };
        Ok(Self {
            protocol,
            url: endpoint_url(protocol.url, url)?,
            secret,
            selector: None,
            thumbprint: None,
            agent: None,
            hint: "",
            known: AtomicBool::new(protocol.retry.may_start_later()),
            succeeded: AtomicBool::new(false),
        })
    }

    /// Sets the identity that is used if no other identity is selected. On Azure Machine Learning,
    /// the endpoint does not select the compute's own identity (`DEFAULT_IDENTITY_CLIENT_ID`) by
    /// default.
    pub(super) fn with_default(mut self, client_id: Option<&str>) -> Result<Self, ConfigError> {
        const SETTING: &str = "DEFAULT_IDENTITY_CLIENT_ID";
        if let Some(client_id) = client_id {
            let id = UserAssignedId::ClientId(client_id.to_owned());
            self.selector = Some(Selector::new(self.protocol.host, id, SETTING)?);
        }
        Ok(self)
    }

    /// Trusts only the certificate with this thumbprint (`IDENTITY_SERVER_THUMBPRINT`).
    pub(super) fn pinned(mut self, thumbprint: &str) -> Result<Self, ConfigError> {
        let expected = "an https:// URL, because IDENTITY_SERVER_THUMBPRINT is set";
        ConfigError::unless(self.url.scheme() == "https", self.protocol.url, expected)?;
        let expected = "a certificate's SHA-1 thumbprint: 40 hexadecimal digits";
        let invalid = ConfigError::invalid("IDENTITY_SERVER_THUMBPRINT", expected);
        self.thumbprint = Some(Thumbprint::parse(thumbprint).ok_or(invalid)?);
        Ok(self)
    }

    pub(super) fn request(&self, scope: &Scope) -> Request {
        let mut url = self.url.clone();
        let mut request = match self.protocol.api_version {
            Some(version) => {
                url.query_pairs_mut()
                    .append_pair("api-version", version)
                    .append_pair("resource", scope.resource())
                    .extend_pairs(self.selector.as_ref().map(Selector::pair));
                Request::new(Method::GET, url)
            }
            None => form(url, scope),
        };
        let (name, value) = match &self.secret {
            Some((header, secret)) => (*header, secret.header()),
            // Protects the endpoint from forged requests: a browser, or a server that is tricked
            // into fetching a URL, cannot add a header.
            None => ("metadata", HeaderValue::from_static("true")),
        };
        request.headers_mut().insert(name, value);
        request
    }

    pub(super) async fn get_token(
        &self,
        http: &Http,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let sent = Lock::default();
        let one_try = async || match &self.agent {
            Some(agent) => self.ask_agent(agent, http, scope, &sent).await,
            None => http.send_once(self.request(scope), TRY_LIMIT).await,
        };
        let token = |answer| self.token(answer, scope, sent.lock().as_ref());
        token(http.repeat(one_try, &self.protocol.retry, token).await)
    }

    fn token(
        &self,
        answer: Result<Answer, HttpError>,
        scope: &Scope,
        sent: Option<&Secret>,
    ) -> Result<Token, CredentialError> {
        let answer = answer.map_err(|error| self.no_answer(error))?;
        if answer.status.is_success() {
            let token = answer::token(&answer.body, answer.asked_at)
                .map_err(|error| self.no_answer(HttpError::Unusable(error)))?;
            self.known.store(true, Relaxed);
            self.succeeded.store(true, Relaxed);
            return Ok(token);
        }
        if self.is_imds() {
            self.recognise_imds(&answer)?;
        }
        Err(self.refusal(&answer, scope, sent))
    }

    fn refusal(&self, answer: &Answer, scope: &Scope, sent: Option<&Secret>) -> CredentialError {
        let Protocol { name, ref retry, owner, no_identity, refusals, .. } = *self.protocol;
        let secret = sent.or(self.secret.as_ref().map(|(_, secret)| secret));
        let said = answer::description(&answer.body, secret.map(Secret::text));
        let status = answer.status.as_u16();
        if (retry.is_transient)(answer) {
            let reason = said.map(|said| format!(": {said}")).unwrap_or_default();
            let hint = match status {
                500 => format!("; a wrong scope also causes this ({scope})"),
                _ => String::new(),
            };
            let message = format!(
                "{name} returned {} on every attempt{reason}: try again later{hint}",
                answer.status
            );
            return CredentialError::new(Transient, message).with_retry_after(answer.retry_after);
        }
        let reason = said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
        let says = |words: &str| said.as_ref().is_some_and(|said| said.contains(words));
        if let (401 | 403, Some((secret, _))) = (status, self.protocol.secret) {
            let (url, what) = (self.protocol.url, secret.to_lowercase().replace('_', " "));
            let message = format!(
                "{name} rejected the {what} ({status}){reason}: {url} and {secret} must be those of \
                 this process"
            );
            return CredentialError::new(Refused, message);
        }
        let known = refusals.iter().find(|(statuses, ..)| statuses.contains(&status));
        let message = match (known, &self.selector) {
            (Some((_, what, advice)), _) => {
                format!("{name} {what} ({status}){reason}; {advice}")
            }
            (None, _) if !no_identity.contains(&status) => {
                format!("{name} ({}) returned {}{reason}", shown(&self.url), answer.status)
            }
            // Errors of Entra are about the resource, not about this machine.
            (None, _) if says("AADSTS") => format!("{name} does not issue this token{reason}"),
            (None, Some(Selector { id, optional, .. })) => {
                // Both kinds of IDs are GUIDs, and Service Connector sets the object ID.
                let advice = match id {
                    UserAssignedId::ClientId(_) => {
                        ", or, if this is its object (principal) ID, use its client ID"
                    }
                    _ => ", or select another",
                };
                let message =
                    format!("identity {id} is not assigned to {owner}{reason}; assign it{advice}");
                let succeeded = self.succeeded.load(Relaxed);
                if *optional && self.is_imds() && says("Identity not found") && !succeeded {
                    return CredentialError::new(Unavailable, message)
                        .with_source(HttpError::NotAssigned);
                }
                message
            }
            (None, None) if says("Multiple user assigned identities") => format!(
                "{owner} has several user-assigned identities{reason}; set AZURE_CLIENT_ID to the \
                 client ID of one of them"
            ),
            (None, None) => {
                let message = format!(
                    "{owner} has no system-assigned identity{reason}; enable it, or set \
                     AZURE_CLIENT_ID to the client ID of a user-assigned identity"
                );
                // On a machine without an identity, a developer may be logged in.
                let kind = if self.is_imds() { Unavailable } else { Refused };
                return CredentialError::new(kind, message);
            }
        };
        CredentialError::new(Refused, message)
    }

    pub(super) fn is_imds(&self) -> bool {
        self.protocol.host == ManagedIdentityHost::Imds
    }

    fn no_answer(&self, error: HttpError) -> CredentialError {
        match self.protocol.host {
            ManagedIdentityHost::Imds => self.no_imds(error),
            ManagedIdentityHost::AzureArc => self.no_agent(error),
            _ => self.unavailable_now(error),
        }
    }

    /// Returns the error for an endpoint that exists, so it is usually transient.
    pub(super) fn unavailable_now(&self, error: HttpError) -> CredentialError {
        let (name, url) = (self.protocol.name, shown(&self.url));
        let (kind, message) = match &error {
            HttpError::Unreachable(error) if error.kind() == ConnectionRefused => {
                let variable = self.protocol.url;
                let message = format!(
                    "{name} is not listening at {url} ({variable}): it may still be starting; \
                     otherwise, {variable} must be that of this process"
                );
                (Transient, message)
            }
            HttpError::Unreachable(error)
                if self.thumbprint.is_some() && pinned::is_mismatch(error) =>
            {
                let message = format!(
                    "the certificate of {url} does not match IDENTITY_SERVER_THUMBPRINT; no \
                     request was sent"
                );
                (Refused, message)
            }
            _ => (Transient, format!("cannot get a token from {name} ({url})")),
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
