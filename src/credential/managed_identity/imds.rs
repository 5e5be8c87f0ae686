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
    connection::Connection,
    endpoint_url, exhausted,
    host::Selector,
    http::{Answer, Http, HttpError},
    in_brackets,
    local::{not_assigned, not_switched_on},
    metadata_header,
    retry::Retry,
    shown, token_request,
};
use crate::{
    credential::{ConfigError, InvalidAnswer, answer},
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient, Unavailable},
        Scope, Token,
    },
};

pub(super) const DEFAULT: &str = "http://169.254.169.254";

const PATH: &str = "/metadata/identity/oauth2/token";
const API_VERSION: &str = "2018-02-01";

/// How long the probe waits for the TCP connection. IMDS accepts within milliseconds.
/// Many networks drop packets to this address, and a developer waits for this time there.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How long the probe is repeated once a connection was accepted. A busy IMDS takes more
/// than a second for its first answer; some networks accept any connection and never answer.
const PROBE_BUDGET: Duration = Duration::from_secs(3);

/// The time limit of the first probe, and the pause after a connection that broke.
const PROBE_STEP: Duration = Duration::from_secs(1);

pub(super) struct Imds {
    url: Url,
    /// It has answered as only IMDS does.
    seen: AtomicBool,
    /// It has given a token.
    met: AtomicBool,
}

impl Imds {
    pub(super) fn at(setting: &'static str, url: &str) -> Result<Self, ConfigError> {
        let mut url = endpoint_url(setting, url)?;
        if url.path() == "/" {
            url.set_path(PATH);
        }
        Ok(Self { url, seen: AtomicBool::new(false), met: AtomicBool::new(false) })
    }

    fn request(&self, scope: &Scope, selector: Option<&Selector>) -> Request {
        let mut request = token_request(&self.url, API_VERSION, scope, selector);
        metadata_header(&mut request);
        request
    }

    fn refusal(&self, answer: &Answer, selector: Option<&Selector>) -> CredentialError {
        let reason = answer::description(&answer.body, None);
        let is_imds = self.recognises(answer);
        if Retry::IMDS.passes(answer.status) && (answer.status != 404 || is_imds) {
            return exhausted("IMDS", answer, reason);
        }
        if !is_imds {
            // On hosted agents of Azure Pipelines, IMDS answers the probe, and a request for
            // a token with 404 and no body: these machines have no identity
            // (Azure/azure-sdk-for-js#27608).
            let no_identity = answer.status == 404 && answer.body.is_empty();
            return self.another(answer, if no_identity { &self.met } else { &self.seen });
        }
        let text = reason.as_deref().unwrap_or_default();
        // Entra's own words are about the resource, not about this machine.
        let by_entra = text.contains("AADSTS");
        let several = text.contains("Multiple user assigned identities");
        let reason = in_brackets(reason);
        let (kind, message) = match (answer.status.as_u16(), selector) {
            (400, _) if by_entra => (Refused, format!("IMDS gives no such token{reason}")),
            (400, None) if several => {
                let message = format!(
                    "this machine has several user-assigned identities{reason}; give the client \
                     ID of one (AZURE_CLIENT_ID)"
                );
                (Refused, message)
            }
            (400, Some(selector)) => (Refused, not_assigned(selector, "this machine", &reason)),
            // A machine without an identity may have a developer logged in.
            (400, None) => {
                let problem = "this machine has no system-assigned identity";
                (Unavailable, not_switched_on(problem, &reason))
            }
            _ => (Refused, format!("IMDS answered {}{reason}", answer.status)),
        };
        CredentialError::new(kind, message)
    }

    /// Whether IMDS itself has answered, with whatever status; it is remembered. azidentity and
    /// azure-identity go by JSON alone, and take anything else for a proxy's: Docker Desktop
    /// says 403, meshes 503, portals redirect. We add what IMDS also says of itself: its name
    /// in `Server`, and 410, which means that it is being updated and which proxies do not use.
    fn recognises(&self, answer: &Answer) -> bool {
        let named =
            answer.server.as_ref().is_some_and(|name| name.as_bytes().starts_with(b"IMDS/"));
        let is_imds = named || answer.status == 410 || answer::is_json_object(&answer.body);
        self.seen.fetch_or(is_imds, Ordering::Relaxed);
        is_imds
    }

    fn another(&self, answer: &Answer, known: &AtomicBool) -> CredentialError {
        let (url, status) = (shown(&self.url), answer.status);
        absent(&format!("what answers at {url} is not IMDS (status {status})"), known)
    }

    fn no_answer(&self, error: HttpError) -> CredentialError {
        let url = shown(&self.url);
        let failed = match &error {
            HttpError::Unreachable(_) => {
                absent(&format!("IMDS ({url}) cannot be reached"), &self.seen)
            }
            HttpError::Unusable(InvalidAnswer::Html | InvalidAnswer::TooLong { .. }) => {
                absent(&format!("what answers at {url} is not IMDS"), &self.seen)
            }
            _ => CredentialError::new(Transient, format!("IMDS ({url}) gave no token")),
        };
        failed.with_source(error)
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

    /// Whether IMDS is here: without the `Metadata` header it answers 400, and at once. A
    /// connection that is accepted but not answered is not given up before [`PROBE_BUDGET`].
    async fn probe(&self, http: &Http) -> Result<(), CredentialError> {
        if self.seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let connected = Connection::open(&self.url, None, http.clock(), CONNECT_LIMIT).await;
        connected.map_err(|error| self.no_answer(error))?;
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        let start = http.clock().monotonic();
        let left = || PROBE_BUDGET.saturating_sub(http.clock().monotonic().saturating_sub(start));
        let (mut limit, mut silent) = (PROBE_STEP, None);
        loop {
            let error = match http.send_once(Request::new(Method::GET, url.clone()), limit).await {
                Ok(answer) if self.recognises(&answer) => return Ok(()),
                Ok(answer) => return Err(self.another(&answer, &self.seen)),
                Err(error @ HttpError::Unusable(_)) => return Err(self.no_answer(error)),
                Err(error) => error,
            };
            if !matches!(error, HttpError::NoAnswer(_)) {
                http.clock().sleep(PROBE_STEP.min(left())).await;
            }
            // What it did after it had accepted a connection is what matters.
            let error = match (error, silent.take()) {
                (HttpError::Unreachable(_), Some(silent)) => silent,
                (error, _) => error,
            };
            limit = left();
            if limit.is_zero() {
                let what = format!(
                    "IMDS ({}) accepted a connection, but has not answered within {PROBE_BUDGET:?}",
                    shown(&self.url)
                );
                return Err(absent(&what, &self.seen).with_source(error));
            }
            silent = Some(error);
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
            self.seen.store(true, Ordering::Relaxed);
            self.met.store(true, Ordering::Relaxed);
            return Ok(token);
        }
        Err(self.refusal(&answer, selector))
    }
}

/// There is none; or, if it is `known` to be there, it is away for a while only.
fn absent(what: &str, known: &AtomicBool) -> CredentialError {
    if known.load(Ordering::Relaxed) {
        let message = format!("{what}, but was there before; it should pass, try again later");
        return CredentialError::new(Transient, message);
    }
    let message = format!(
        "{what}: this is no machine in Azure, or a firewall or proxy is in the way; outside Azure, \
         log in with `az login`, or use a service principal"
    );
    CredentialError::new(Unavailable, message)
}
