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

/// The timeout of the probe's TCP connection. IMDS accepts within milliseconds. Many networks drop
/// packets to this address, so programs outside of Azure wait for this time.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// For how long the probe is repeated after a connection was accepted. A busy IMDS can take more
/// than a second for its first response. Some networks accept any connection and never respond.
const PROBE_BUDGET: Duration = Duration::from_secs(3);

/// The time limit of the first probe, and the pause after a lost connection.
const PROBE_STEP: Duration = Duration::from_secs(1);

impl Endpoint {
    /// Returns the endpoint of IMDS at the URL of this setting.
    pub(super) fn imds(setting: &'static str, url: &str) -> Result<Self, ConfigError> {
        let mut url = endpoint_url(setting, url)?;
        if url.path() == "/" {
            url.set_path(PATH);
        }
        Self::new(&IMDS, url.as_str(), None)
    }

    /// Checks that the response is from IMDS, with any status, and records that IMDS exists. A
    /// response from another service at this address means that the machine has no IMDS, unless
    /// IMDS has returned a token before.
    pub(super) fn recognise_imds(&self, answer: &Answer) -> Result<(), CredentialError> {
        if is_imds(answer) {
            self.known.store(true, Relaxed);
            return Ok(());
        }
        let (url, status) = (shown(&self.url), answer.status);
        let what = format!("the service at {url} is not IMDS (status {status})");
        Err(self.absent(&what, &self.succeeded))
    }

    pub(super) fn no_imds(&self, error: HttpError) -> CredentialError {
        let url = shown(&self.url);
        let failed = match &error {
            HttpError::Unreachable(_) => {
                self.absent(&format!("IMDS ({url}) cannot be reached"), &self.known)
            }
            HttpError::Unusable(InvalidAnswer::Html | InvalidAnswer::TooLong { .. }) => {
                self.absent(&format!("the service at {url} is not IMDS"), &self.succeeded)
            }
            _ => CredentialError::new(Transient, format!("cannot get a token from IMDS ({url})")),
        };
        failed.with_source(error)
    }

    /// Returns the error for a missing IMDS. It is transient if IMDS is `known` to exist.
    fn absent(&self, what: &str, known: &AtomicBool) -> CredentialError {
        if known.load(Relaxed) {
            let message = format!("{what}, but IMDS has responded before: try again later");
            return CredentialError::new(Transient, message);
        }
        let message = format!(
            "{what}: this is probably not an Azure machine, or a firewall or proxy blocks IMDS; \
             outside Azure, log in with `az login`, or use a service principal{}",
            self.hint
        );
        CredentialError::new(Unavailable, message)
    }

    /// Checks that IMDS exists: it responds at once with 400 to a request without the `Metadata`
    /// header. If a connection is accepted without a response, the probe is repeated until
    /// [`PROBE_BUDGET`] is used up.
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
            // An error after an accepted connection is more useful than a refused connection.
            let error = match (error, silent.take()) {
                (HttpError::Unreachable(_), Some(silent)) => silent,
                (error, _) => error,
            };
            limit = left();
            if limit.is_zero() {
                let what = format!(
                    "IMDS ({}) accepted a connection, but did not respond within {PROBE_BUDGET:?}",
                    shown(&self.url)
                );
                return Err(self.absent(&what, &self.known).with_source(error));
            }
            silent = Some(error);
        }
    }
}

/// Returns whether this response is from IMDS. azidentity and azure-identity accept only JSON, and
/// treat any other response as that of a proxy: Docker Desktop returns 403, service meshes 503, and
/// portals redirect. This function also accepts the name of IMDS in `Server`, and the status 410,
/// which proxies do not use: it means that IMDS is being updated.
///
/// Hosted agents of Azure Pipelines have no identity: their IMDS responds to the probe, but to a
/// token request with 404 and an empty body (Azure/azure-sdk-for-js#27608).
fn is_imds(answer: &Answer) -> bool {
    if answer.status == 404 && answer.body.is_empty() {
        return false;
    }
    let name = answer.headers.get(SERVER);
    let named = name.is_some_and(|name| name.as_bytes().starts_with(b"IMDS/"));
    named || answer.status == 410 || answer::is_json_object(&answer.body)
}

/// Returns whether this response is a transient failure of IMDS. A failure of another service at
/// its address is not transient, because that service does not become IMDS later.
pub(super) fn is_transient(answer: &Answer) -> bool {
    is_imds(answer) && matches!(answer.status.as_u16(), 404 | 408 | 410 | 429 | 500..=599)
}
