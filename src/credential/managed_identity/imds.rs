//! The Instance Metadata Service: "How to use managed identities for Azure
//! resources on an Azure VM to acquire an access token".

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use reqwest::{Method, Request};

use super::{
    Ask, Endpoint,
    connection::Connection,
    endpoint_url,
    http::{Answer, Http, HttpError, TRY_LIMIT},
    local::Local,
    protocols::IMDS,
    shown,
};
use crate::{
    credential::{ConfigError, InvalidAnswer, answer},
    token::{
        CredentialError,
        CredentialErrorKind::{Transient, Unavailable},
        Token,
    },
};

pub(super) const DEFAULT: &str = "http://169.254.169.254";

const PATH: &str = "/metadata/identity/oauth2/token";

/// How long the probe waits for the TCP connection. IMDS accepts within milliseconds.
/// Many networks drop packets to this address, and a developer waits for this time there.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How long the probe is repeated once a connection was accepted. A busy IMDS takes more
/// than a second for its first answer; some networks accept any connection and never answer.
const PROBE_BUDGET: Duration = Duration::from_secs(3);

/// The time limit of the first probe, and the pause after a connection that broke.
const PROBE_STEP: Duration = Duration::from_secs(1);

pub(super) struct Imds {
    local: Local,
    /// It has answered as only IMDS does.
    seen: AtomicBool,
    /// What else may be wrong where there is no IMDS, for the error.
    hint: &'static str,
}

impl Imds {
    pub(super) fn at(setting: &'static str, url: &str) -> Result<Self, ConfigError> {
        let mut url = endpoint_url(setting, url)?;
        if url.path() == "/" {
            url.set_path(PATH);
        }
        let local = Local::new(&IMDS, url.as_str(), None)?;
        Ok(Self { local, seen: AtomicBool::new(false), hint: "" })
    }

    pub(super) fn with_hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    /// Whether IMDS itself has answered, with any status, which is remembered. Otherwise, another
    /// service at its address has; until IMDS has returned a token, this is reported as a machine
    /// without IMDS.
    fn recognise(&self, answer: &Answer) -> Result<(), CredentialError> {
        if is_imds(answer) {
            self.seen.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let (url, status) = (shown(&self.local.url), answer.status);
        let what = format!("what answers at {url} is not IMDS (status {status})");
        Err(self.absent(&what, &self.local.met))
    }

    fn no_answer(&self, error: HttpError) -> CredentialError {
        let url = shown(&self.local.url);
        let failed = match &error {
            HttpError::Unreachable(_) => {
                self.absent(&format!("IMDS ({url}) cannot be reached"), &self.seen)
            }
            HttpError::Unusable(InvalidAnswer::Html | InvalidAnswer::TooLong { .. }) => {
                self.absent(&format!("what answers at {url} is not IMDS"), &self.local.met)
            }
            _ => CredentialError::new(Transient, format!("IMDS ({url}) gave no token")),
        };
        failed.with_source(error)
    }

    /// There is none; or, if it is `known` to be there, it is away for a while only.
    fn absent(&self, what: &str, known: &AtomicBool) -> CredentialError {
        if known.load(Ordering::Relaxed) {
            let message = format!("{what}, but was there before; it should pass, try again later");
            return CredentialError::new(Transient, message);
        }
        let message = format!(
            "{what}: this is no machine in Azure, or a firewall or proxy is in the way; outside \
             Azure, log in with `az login`, or use a service principal{}",
            self.hint
        );
        CredentialError::new(Unavailable, message)
    }
}

/// Whether this is an answer of IMDS. azidentity and azure-identity go by JSON alone, and take
/// anything else for a proxy's: Docker Desktop says 403, meshes 503, portals redirect. We add what
/// IMDS also says of itself: its name in `Server`, and 410, which means that it is being updated
/// and which proxies do not use.
///
/// On hosted agents of Azure Pipelines, IMDS answers the probe, and a request for a token with
/// 404 and no body: these machines have no identity (Azure/azure-sdk-for-js#27608).
fn is_imds(answer: &Answer) -> bool {
    if answer.status == 404 && answer.body.is_empty() {
        return false;
    }
    let named = answer.server.as_ref().is_some_and(|name| name.as_bytes().starts_with(b"IMDS/"));
    named || answer.status == 410 || answer::is_json_object(&answer.body)
}

/// Whether IMDS may answer otherwise later. Another service at its address will not become IMDS.
pub(super) fn passes(answer: &Answer) -> bool {
    is_imds(answer) && matches!(answer.status.as_u16(), 404 | 408 | 410 | 429 | 500..=599)
}

#[async_trait]
impl Endpoint for Imds {
    fn local(&self) -> &Local {
        &self.local
    }

    /// Whether IMDS is here: without the `Metadata` header it answers 400, and at once. A
    /// connection that is accepted but not answered is not given up before [`PROBE_BUDGET`].
    async fn probe(&self, http: &Http) -> Result<(), CredentialError> {
        if self.seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let connected = Connection::open(&self.local.url, None, http.clock(), CONNECT_LIMIT).await;
        connected.map_err(|error| self.no_answer(error))?;
        let mut url = self.local.url.clone();
        url.query_pairs_mut()
            .extend_pairs(IMDS.api_version.map(|version| ("api-version", version)));
        let start = http.clock().monotonic();
        let left = || PROBE_BUDGET.saturating_sub(http.clock().monotonic().saturating_sub(start));
        let (mut limit, mut silent) = (PROBE_STEP, None);
        loop {
            let error = match http.send_once(Request::new(Method::GET, url.clone()), limit).await {
                Ok(answer) => return self.recognise(&answer),
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
                    shown(&self.local.url)
                );
                return Err(self.absent(&what, &self.seen).with_source(error));
            }
            silent = Some(error);
        }
    }

    async fn get_token(&self, ask: Ask<'_>) -> Result<Token, CredentialError> {
        let one_try = || ask.http.send_once(self.local.request(&ask), TRY_LIMIT);
        let answer = ask.http.repeat(one_try, &IMDS.retry).await;
        if let Ok(answer) = &answer
            && !answer.status.is_success()
        {
            self.recognise(answer)?;
        }
        let token = self.local.token(answer, &ask, |error| self.no_answer(error))?;
        self.seen.store(true, Ordering::Relaxed);
        Ok(token)
    }
}
