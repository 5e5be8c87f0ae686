//! The endpoint's behaviour and its log of requests, which tests set and read while it
//! runs.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{IdentityEndpoint, IdentityOptions};
use crate::{
    jwt::{Issuer, Principal, epoch, seconds},
    times::Times,
};

/// The length of the log, so that a benchmark does not fill the memory.
const LOG_LENGTH: usize = 10_000;

/// The directory of the Azure Arc agent's keys, below its root.
const ARC_KEYS: &str =
    if cfg!(windows) { "AzureConnectedMachineAgent/Tokens" } else { "var/opt/azcmagent/tokens" };

/// The properties of issued tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// Seconds from now to the token's `exp`; 24 hours by default. With a negative number,
    /// tokens have already expired when they arrive.
    pub lifetime_seconds: i64,
    /// The number of characters; 2,000 by default.
    pub length: usize,
    /// The seconds in `refresh_in`; `None`, the default, leaves it out.
    pub refresh_in: Option<u64>,
    /// A wrong audience instead of the requested resource.
    pub audience: Option<String>,
    /// Whether the same token is returned until its `exp`, like the real endpoints do. By
    /// default, every request gets a new token.
    pub repeat_until_expiry: bool,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            lifetime_seconds: 24 * 60 * 60,
            length: 2_000,
            refresh_in: None,
            audience: None,
            repeat_until_expiry: false,
        }
    }
}

/// A response without a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status with this body.
    Status(u16, String),
    /// 429, with `Retry-After` in seconds if given.
    Throttled(Option<u64>),
    /// This status with this `Location`.
    Redirect(u16, String),
    /// The request is read and gets no response.
    Silence,
}

/// A request. Secrets are compared and not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The method, such as `GET`.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query's names and values, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The body's names and values, if it is a form.
    pub form: Vec<(String, String)>,
    /// The `Metadata` header.
    pub metadata: Option<String>,
    /// Whether the header `X-IDENTITY-HEADER` is right; `None` without the header.
    pub identity_header_is_right: Option<bool>,
    /// Whether the header `Secret` is right; `None` without the header.
    pub secret_is_right: Option<bool>,
    /// Whether the Azure Arc agent's key (`Authorization: Basic`) is right; `None` without
    /// the header.
    pub key_is_right: Option<bool>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// Whether the request arrived over TLS.
    pub over_tls: bool,
}

impl Received {
    /// Returns the first value of this name in the query.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        let pair = self.query.iter().find(|(key, _)| key == name);
        pair.map(|(_, value)| value.as_str())
    }
}

impl IdentityEndpoint {
    /// Changes the properties of tokens from the next response on. The endpoint drops tokens
    /// that it has kept to return them again.
    pub fn configure_tokens(&self, change: impl FnOnce(&mut TokenSettings)) {
        let mut inner = self.state.lock();
        change(&mut inner.tokens);
        inner.kept.clear();
    }

    /// Delays every response by this time.
    pub fn set_latency(&self, latency: Duration) {
        self.state.lock().latency = latency;
    }

    /// Responds to the next `count` requests with `fault`, which replaces an earlier fault.
    pub fn fail_next(&self, count: usize, fault: Fault) {
        let mut inner = self.state.lock();
        inner.faults.clear();
        inner.faults.push(count, Some(fault));
    }

    /// Responds properly to `skip` requests (for example, to the first of the Azure Arc
    /// agent's two), and to every later request with `fault` until
    /// [`recover`](Self::recover).
    pub fn fail_after(&self, skip: usize, fault: Fault) {
        let mut inner = self.state.lock();
        inner.faults.clear();
        inner.faults.push(skip, None);
        inner.faults.push(usize::MAX, Some(fault));
    }

    /// Responds to every request with `fault` until [`recover`](Self::recover).
    pub fn fail(&self, fault: Fault) {
        self.fail_after(0, fault);
    }

    /// Responds properly again. Requests that met [`Fault::Silence`] get no response.
    pub fn recover(&self) {
        self.state.lock().faults.clear();
    }

    /// Makes requests wait until [`release`](Self::release). They are counted at once;
    /// faults and settings apply when they continue.
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    /// Continues the waiting requests.
    pub fn release(&self) {
        self.state.held.send_replace(false);
    }

    /// Completes when `count` requests have arrived since the start.
    pub async fn wait_for_requests(&self, count: u64) {
        let mut arrived = self.state.arrived.subscribe();
        // `self` owns the sender, so it is not dropped during the wait.
        let _ = arrived.wait_for(|arrived| *arrived >= count).await;
    }

    /// The number of requests, including probes and bad requests.
    pub fn requests(&self) -> u64 {
        *self.state.arrived.borrow()
    }

    /// The number of requests for this resource among the last 10,000 requests.
    pub fn requests_for(&self, resource: &str) -> u64 {
        let wanted = |(name, value): &(String, String)| name == "resource" && value == resource;
        let inner = self.state.lock();
        let asks = |it: &&Received| it.query.iter().chain(&it.form).any(wanted);
        inner.log.iter().filter(asks).count() as u64
    }

    /// The number of responses with a token.
    pub fn tokens_handed_out(&self) -> u64 {
        self.state.lock().handed_out
    }

    /// Sets the status of `/health`: 200 if `ready`, the default, and 503 otherwise.
    pub fn set_ready(&self, ready: bool) {
        self.state.lock().starting = !ready;
    }

    /// Makes the Azure Arc agent answer with this `WWW-Authenticate` and write no key;
    /// `None` restores its own.
    pub fn set_azure_arc_challenge(&self, challenge: Option<String>) {
        self.state.lock().arc_challenge = challenge;
    }

    /// All keys that the Azure Arc agent has written.
    pub fn azure_arc_keys(&self) -> Vec<String> {
        self.state.lock().arc_keys.iter().map(|(key, _)| key.clone()).collect()
    }

    /// The last 10,000 requests, oldest first.
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().log.iter().cloned().collect()
    }
}

/// Shared by the handles and the connections.
pub(super) struct State {
    issuer: Arc<Issuer>,
    pub(super) secret: String,
    /// The root directory of the Azure Arc agent's machine.
    pub(super) arc_root: TempDir,
    held: watch::Sender<bool>,
    arrived: watch::Sender<u64>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) system_assigned: Option<Principal>,
    pub(super) user_assigned: Vec<Principal>,
    tokens: TokenSettings,
    latency: Duration,
    /// What happens to the next requests; `None` is a proper response.
    faults: Times<Option<Fault>>,
    kept: BTreeMap<(String, String), Signed>,
    handed_out: u64,
    /// Whether `/health` answers 503.
    starting: bool,
    log: VecDeque<Received>,
    /// The Azure Arc agent's keys, and whether each was used.
    arc_keys: Vec<(String, bool)>,
    arc_challenge: Option<String>,
}

/// A token and the numbers in its response.
#[derive(Clone)]
pub(super) struct Signed {
    pub(super) token: String,
    pub(super) not_before: u64,
    pub(super) expires_on: u64,
    pub(super) refresh_in: Option<u64>,
}

impl State {
    pub(super) fn new(issuer: Arc<Issuer>, options: &IdentityOptions) -> io::Result<Self> {
        let random_secret = || uuid::Uuid::new_v4().simple().to_string().to_uppercase();
        let arc_root = tempfile::Builder::new().prefix("entra-pool-arc-").tempdir()?;
        std::fs::create_dir_all(arc_root.path().join(ARC_KEYS))?;
        let inner = Inner {
            system_assigned: options.system_assigned.clone(),
            user_assigned: options.user_assigned.clone(),
            ..Inner::default()
        };
        Ok(Self {
            issuer,
            secret: options.secret.clone().unwrap_or_else(random_secret),
            arc_root,
            held: watch::Sender::new(false),
            arrived: watch::Sender::new(0),
            inner: Mutex::new(inner),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.lock().starting
    }

    /// Logs a request before it wakes the tests that wait for it.
    pub(super) fn record(&self, request: Received) {
        let mut inner = self.lock();
        if inner.log.len() == LOG_LENGTH {
            inner.log.pop_front();
        }
        inner.log.push_back(request);
        drop(inner);
        self.arrived.send_modify(|arrived| *arrived += 1);
    }

    /// Waits while requests are held back, then for the latency. Returns the fault that the
    /// request must fail with.
    pub(super) async fn admit(&self) -> Option<Fault> {
        let mut held = self.held.subscribe();
        // `self` owns the sender, so it is not dropped during the wait.
        let _ = held.wait_for(|held| !held).await;
        let (latency, fault) = {
            let mut inner = self.lock();
            (inner.latency, inner.faults.next().flatten())
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        fault
    }

    pub(super) fn sign(&self, principal: &Principal, resource: &str) -> Signed {
        let settings = self.lock().tokens.clone();
        let not_before = seconds(SystemTime::now());
        let expires_on = not_before.saturating_add_signed(settings.lifetime_seconds);
        let audience = settings.audience.as_deref().unwrap_or(resource);
        Signed {
            token: self.issuer.sign(principal, audience, epoch(expires_on), settings.length),
            not_before,
            expires_on,
            refresh_in: settings.refresh_in,
        }
    }

    /// A token for a response: the kept token, if tokens are to be returned again.
    pub(super) fn hand_out(&self, principal: &Principal, resource: &str) -> Signed {
        let key = (principal.object_id.clone(), resource.to_owned());
        {
            let mut inner = self.lock();
            inner.handed_out += 1;
            let now = seconds(SystemTime::now());
            if inner.tokens.repeat_until_expiry
                && let Some(kept) = inner.kept.get(&key).filter(|kept| kept.expires_on > now)
            {
                return kept.clone();
            }
        }
        let signed = self.sign(principal, resource);
        self.lock().kept.insert(key, signed.clone());
        signed
    }

    /// Writes a key for the Azure Arc agent's client and returns the challenge, which has
    /// the key's path.
    pub(super) fn challenge(&self) -> String {
        let mut inner = self.lock();
        if let Some(challenge) = &inner.arc_challenge {
            return challenge.clone();
        }
        let key = uuid::Uuid::new_v4().simple().to_string();
        let file = format!("{}.key", uuid::Uuid::new_v4());
        let path = self.arc_root.path().join(ARC_KEYS).join(file);
        if let Err(error) = std::fs::write(&path, &key) {
            tracing::warn!(%error, "cannot write the Azure Arc agent's key");
        }
        inner.arc_keys.push((key, false));
        format!("Basic realm={}", path.display())
    }

    /// Whether this `Authorization` has a key of the Azure Arc agent that was not used yet.
    pub(super) fn accept_key(&self, authorization: &str) -> bool {
        let mut inner = self.lock();
        let given = authorization.strip_prefix("Basic ");
        let key = inner.arc_keys.iter_mut().find(|(key, used)| Some(&**key) == given && !used);
        key.map(|(_, used)| *used = true).is_some()
    }
}
