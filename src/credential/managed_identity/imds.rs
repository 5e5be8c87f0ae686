//! The Instance Metadata Service: "How to use managed identities for Azure
//! resources on an Azure VM to acquire an access token".

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use reqwest::{Method, Request, Url};

use super::{
    Endpoint, ManagedIdentityHost,
    answer::{self, InvalidAnswer},
    endpoint_url, exhausted,
    host::Selector,
    http::{Answer, Http, HttpError},
    metadata_header,
    retry::Retry,
    shown, token_url,
};
use crate::{
    credential::ConfigError,
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient, Unavailable},
        Scope, Token,
    },
};

pub(super) const DEFAULT: &str = "http://169.254.169.254";

const PATH: &str = "/metadata/identity/oauth2/token";
const API_VERSION: &str = "2018-02-01";
const ELSEWHERE: &str = "outside Azure, log in with `az login`, or use a service principal";

/// On a machine in Azure the answer takes a few milliseconds; elsewhere
/// nobody may ever answer.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Imds {
    url: Url,
    /// It has given a token.
    met: AtomicBool,
}

impl Imds {
    pub(super) fn at(setting: &'static str, url: &str) -> Result<Self, ConfigError> {
        let mut url = endpoint_url(setting, url)?;
        if url.path() == "/" {
            url.set_path(PATH);
        }
        Ok(Self { url, met: AtomicBool::new(false) })
    }

    fn request(&self, scope: &Scope, selector: Option<&Selector>) -> Request {
        let url = token_url(&self.url, API_VERSION, scope, selector.map(Selector::pair));
        let mut request = Request::new(Method::GET, url);
        metadata_header(&mut request);
        request
    }

    fn refusal(&self, answer: &Answer, selector: Option<&Selector>) -> CredentialError {
        let reason = answer::description(&answer.body, None);
        let is_json = answer::is_json_object(&answer.body);
        if Retry::IMDS.passes(answer.status) && (answer.status != 404 || is_json) {
            return exhausted("IMDS", answer, reason);
        }
        if is_another(answer) || !is_json {
            return self.another(answer);
        }
        let text = reason.as_deref().unwrap_or_default();
        // Entra's own words are about the resource, not about this machine.
        let by_entra = text.contains("AADSTS");
        let several = text.contains("Multiple user assigned identities");
        let told = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        match (answer.status.as_u16(), selector) {
            (400, _) if by_entra => {
                CredentialError::new(Refused, format!("IMDS gives no such token{told}"))
            }
            (400, Some(selector)) => CredentialError::new(
                Refused,
                format!(
                    "identity {} is not assigned to this machine{told}; assign it, or name one \
                     that is",
                    selector.id
                ),
            ),
            (400, None) if several => CredentialError::new(
                Refused,
                format!(
                    "this machine has several user-assigned identities{told}; give the client ID \
                     of one (AZURE_CLIENT_ID)"
                ),
            ),
            // A machine without an identity may have a developer logged in.
            (400, None) => CredentialError::new(
                Unavailable,
                format!(
                    "this machine has no system-assigned identity{told}; switch it on, or give \
                     the client ID of a user-assigned one (AZURE_CLIENT_ID)"
                ),
            ),
            _ => CredentialError::new(Refused, format!("IMDS answered {}{told}", answer.status)),
        }
    }

    fn another(&self, answer: &Answer) -> CredentialError {
        self.absent(&format!(
            "what answers at {} is not IMDS (status {})",
            shown(&self.url),
            answer.status
        ))
    }

    fn unreachable(&self, error: HttpError) -> CredentialError {
        self.absent(&format!("IMDS ({}) cannot be reached", shown(&self.url))).with_source(error)
    }

    /// There is none, or it is away: one that was there before has not gone for good.
    fn absent(&self, what: &str) -> CredentialError {
        if self.met.load(Ordering::Relaxed) {
            let message = format!("{what}, but was there before; it should pass, try again later");
            return CredentialError::new(Transient, message);
        }
        let message = format!(
            "{what}: this is no machine in Azure, or a firewall or proxy is in the way; {ELSEWHERE}"
        );
        CredentialError::new(Unavailable, message)
    }

    fn no_answer(&self, error: HttpError) -> CredentialError {
        match error {
            HttpError::Unreachable(_) => self.unreachable(error),
            HttpError::Unusable(InvalidAnswer::Html | InvalidAnswer::TooLong { .. }) => {
                let what = format!("what answers at {} is not IMDS", shown(&self.url));
                self.absent(&what).with_source(error)
            }
            error => {
                let message = format!("IMDS ({}) gave no token", shown(&self.url));
                CredentialError::new(Transient, message).with_source(error)
            }
        }
    }
}

#[async_trait]
impl Endpoint for Imds {
    fn host(&self) -> ManagedIdentityHost {
        ManagedIdentityHost::Imds
    }

    fn url(&self) -> &Url {
        &self.url
    }

    /// Whether IMDS is here: without the `Metadata` header it answers 400, and
    /// at once.
    async fn probe(&self, http: &Http) -> Result<(), CredentialError> {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        match http.send_once(Request::new(Method::GET, url), PROBE_LIMIT).await {
            Ok(answer) if is_another(&answer) || answer.status.is_success() => {
                Err(self.another(&answer))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.unreachable(error)),
        }
    }

    async fn get_token(
        &self,
        http: &Http,
        selector: Option<&Selector>,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let answer = http
            .send(|| self.request(scope, selector), &Retry::IMDS)
            .await
            .map_err(|error| self.no_answer(error))?;
        if answer.status.is_success() {
            let token = answer::token(&answer.body, answer.asked_at)
                .map_err(|error| self.no_answer(HttpError::Unusable(error)))?;
            self.met.store(true, Ordering::Relaxed);
            return Ok(token);
        }
        Err(self.refusal(&answer, selector))
    }
}

/// Whether something else answered: Docker Desktop says 403, proxies 404
/// or HTML, portals redirect.
fn is_another(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 300..=399 | 403 | 404) || answer::is_html(&answer.body)
}
