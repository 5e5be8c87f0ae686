//! The Instance Metadata Service: "How to use managed identities for Azure
//! resources on an Azure VM to acquire an access token".

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use reqwest::{Method, Request, header::SERVER};

use super::{
    connection,
    endpoint::Endpoint,
    endpoint_url,
    http::{Answer, Http, HttpError},
    protocols::IMDS,
    shown,
};
use crate::{
    credential::{ConfigError, InvalidAnswer, answer},
    token::{
        CredentialError,
        CredentialErrorKind::{Transient, Unavailable},
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

impl Endpoint {
    /// IMDS at the URL of this setting.
    pub(super) fn imds(setting: &'static str, url: &str) -> Result<Self, ConfigError> {
        let mut url = endpoint_url(setting, url)?;
        if url.path() == "/" {
            url.set_path(PATH);
        }
        Self::new(&IMDS, url.as_str(), None)
    }

    /// Whether IMDS itself has answered, with any status, which is remembered. Otherwise, another
    /// service at its address has; until IMDS has returned a token, this is reported as a machine
    /// without IMDS.
    pub(super) fn recognise_imds(&self, answer: &Answer) -> Result<(), CredentialError> {
        if is_imds(answer) {
            self.known.store(true, Relaxed);
            return Ok(());
        }
        let (url, status) = (shown(&self.url), answer.status);
        let what = format!("what answers at {url} is not IMDS (status {status})");
        Err(self.absent(&what, &self.met))
    }

    pub(super) fn no_imds(&self, error: HttpError) -> CredentialError {
        let url = shown(&self.url);
        let failed = match &error {
            HttpError::Unreachable(_) => {
                self.absent(&format!("IMDS ({url}) cannot be reached"), &self.known)
            }
            HttpError::Unusable(InvalidAnswer::Html | InvalidAnswer::TooLong { .. }) => {
                self.absent(&format!("what answers at {url} is not IMDS"), &self.met)
            }
            _ => CredentialError::new(Transient, format!("IMDS ({url}) gave no token")),
        };
        failed.with_source(error)
    }

    /// There is none; or, if it is `known` to be there, it is away for a while only.
    fn absent(&self, what: &str, known: &AtomicBool) -> CredentialError {
        if known.load(Relaxed) {
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

    /// Whether IMDS is here: without the `Metadata` header it answers 400, and at once. A
    /// connection that is accepted but not answered is not given up before [`PROBE_BUDGET`].
    pub(super) async fn probe_imds(&self, http: &Http) -> Result<(), CredentialError> {
        if self.known.load(Relaxed) {
            return Ok(());
        }
        let connected = connection::open(&self.url, None, http.clock(), CONNECT_LIMIT).await;
        connected.map_err(|error| self.no_imds(error))?;
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .extend_pairs(IMDS.api_version.map(|version| ("api-version", version)));
        let start = http.clock().monotonic();
        let left = || PROBE_BUDGET.saturating_sub(http.clock().monotonic().saturating_sub(start));
        let (mut limit, mut silent) = (PROBE_STEP, None);
        loop {
            let error = match http.send_once(Request::new(Method::GET, url.clone()), limit).await {
                Ok(answer) => return self.recognise_imds(&answer),
                Err(error @ HttpError::Unusable(_)) => return Err(self.no_imds(error)),
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
                return Err(self.absent(&what, &self.known).with_source(error));
            }
            silent = Some(error);
        }
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
    let name = answer.headers.get(SERVER);
    let named = name.is_some_and(|name| name.as_bytes().starts_with(b"IMDS/"));
    named || answer.status == 410 || answer::is_json_object(&answer.body)
}

/// Whether IMDS may answer otherwise later. Another service at its address will not become IMDS.
pub(super) fn passes(answer: &Answer) -> bool {
    is_imds(answer) && matches!(answer.status.as_u16(), 404 | 408 | 410 | 429 | 500..=599)
}
