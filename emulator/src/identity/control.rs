//! How the endpoint behaves, and what it was asked: set and read by tests while
//! it runs.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{IdentityEndpoint, hosts::azure_arc::Agent};
use crate::jwt::{Issuer, Principal, seconds};

/// Requests remembered at most: a benchmark must not fill the memory.
const LOG_LENGTH: usize = 10_000;

/// What the tokens handed out are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// Seconds from now to the token's `exp`, 24 hours by default; below zero,
    /// tokens arrive expired.
    pub lifetime_seconds: i64,
    /// Characters of a token, 2,000 by default.
    pub length: usize,
    /// Seconds to answer as `refresh_in`; `None`, the default, leaves it out.
    pub refresh_in: Option<u64>,
    /// A wrong audience to sign for, in place of the resource asked for.
    pub audience: Option<String>,
    /// Whether the same token is handed out until its `exp`, as the real
    /// endpoints do; off by default: every request has a token signed.
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

/// An answer without a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status with this body.
    Status(u16, String),
    /// 429, with `Retry-After` in seconds if given.
    Throttled(Option<u64>),
    /// This status with this `Location`.
    Redirect(u16, String),
    /// The request is read and never answered.
    Silence,
    /// 200 with a page of HTML, as captive portals and proxies answer.
    Html,
    /// 200 with JSON that ends half-way.
    TruncatedJson,
    /// 200 without a body.
    EmptyBody,
}

/// A request as it arrived. Secrets are compared, not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// `GET`, ….
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Names and values, decoded, in their order.
    pub query: Vec<(String, String)>,
    /// The same of the body, if it is a form.
    pub form: Vec<(String, String)>,
    /// The `Metadata` header.
    pub metadata: Option<String>,
    /// Whether `X-IDENTITY-HEADER` was right; `None` if it was not there.
    pub identity_header_is_right: Option<bool>,
    /// The same of the header `Secret`.
    pub secret_is_right: Option<bool>,
    /// The same of the Azure Arc agent's key (`Authorization: Basic`).
    pub key_is_right: Option<bool>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// Whether it came over TLS.
    pub over_tls: bool,
}

impl Received {
    /// The first value of this name in the query.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        let pair = self.query.iter().find(|(key, _)| key == name);
        pair.map(|(_, value)| value.as_str())
    }
}

impl IdentityEndpoint {
    /// Changes what tokens are like, from the next answer on. Tokens that were
    /// kept for repeating are dropped.
    pub fn configure_tokens(&self, change: impl FnOnce(&mut TokenSettings)) {
        let mut inner = self.state.lock();
        change(&mut inner.tokens);
        inner.kept.clear();
    }

    /// Waits this long before every answer.
    pub fn set_latency(&self, latency: Duration) {
        self.state.lock().latency = latency;
    }

    /// Answers the next `count` requests with `fault`. It takes the place of
    /// an earlier fault.
    pub fn fail_next(&self, count: u64, fault: Fault) {
        self.state.lock().fault = (count > 0).then_some(Plan { fault, skip: 0, left: Some(count) });
    }

    /// Answers `skip` requests properly (the first of the Azure Arc agent's
    /// two, say), and every later one with `fault` until
    /// [`recover`](Self::recover).
    pub fn fail_after(&self, skip: u64, fault: Fault) {
        self.state.lock().fault = Some(Plan { fault, skip, left: None });
    }

    /// Answers every request with `fault` until [`recover`](Self::recover).
    pub fn fail(&self, fault: Fault) {
        self.fail_after(0, fault);
    }

    /// Answers properly again. Requests already met with
    /// [`Fault::Silence`] stay unanswered.
    pub fn recover(&self) {
        self.state.lock().fault = None;
    }

    /// Makes requests wait, counted but undecided, until
    /// [`release`](Self::release): faults and settings are looked at then.
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    /// Lets the waiting requests go on.
    pub fn release(&self) {
        self.state.held.send_replace(false);
    }

    /// Completes when `count` requests have arrived since the start.
    pub async fn wait_for_requests(&self, count: u64) {
        let mut arrived = self.state.arrived.subscribe();
        // The sender lives in `self`: it cannot be gone while this waits.
        let _ = arrived.wait_for(|arrived| *arrived >= count).await;
    }

    /// Requests that arrived, probes and bad ones included.
    pub fn requests(&self) -> u64 {
        *self.state.arrived.borrow()
    }

    /// Requests that asked for this resource.
    pub fn requests_for(&self, resource: &str) -> u64 {
        let inner = self.state.lock();
        inner.by_resource.get(resource).copied().unwrap_or_default()
    }

    /// Answers that carried a token, a repeated one included.
    pub fn tokens_handed_out(&self) -> u64 {
        self.state.lock().handed_out
    }

    /// What `/health` answers: 200 if the application may use everything (the
    /// default), else 503.
    pub fn set_ready(&self, ready: bool) {
        self.state.ready.store(ready, Ordering::Relaxed);
    }

    /// What arrived, oldest first: the last 10,000 requests.
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().log.iter().cloned().collect()
    }
}

fn random_secret() -> String {
    uuid::Uuid::new_v4().simple().to_string().to_uppercase()
}

/// Shared by the handles and the connections.
pub(super) struct State {
    issuer: Arc<Issuer>,
    secret: String,
    agent: Agent,
    ready: AtomicBool,
    held: watch::Sender<bool>,
    arrived: watch::Sender<u64>,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) system_assigned: Option<Principal>,
    pub(super) user_assigned: Vec<Principal>,
    tokens: TokenSettings,
    latency: Duration,
    fault: Option<Plan>,
    kept: BTreeMap<(String, String), Signed>,
    by_resource: BTreeMap<String, u64>,
    handed_out: u64,
    log: VecDeque<Received>,
}

/// Which requests fail.
struct Plan {
    fault: Fault,
    /// Requests before that are answered properly.
    skip: u64,
    /// How many fail; `None`: all.
    left: Option<u64>,
}

/// A token and what the answer says about it.
#[derive(Clone)]
pub(super) struct Signed {
    pub(super) token: String,
    pub(super) not_before: u64,
    pub(super) expires_on: u64,
    pub(super) refresh_in: Option<u64>,
}

impl State {
    pub(super) fn new(
        issuer: Arc<Issuer>,
        secret: Option<String>,
        system_assigned: Option<Principal>,
        user_assigned: Vec<Principal>,
    ) -> io::Result<Self> {
        let inner = Inner {
            system_assigned,
            user_assigned,
            tokens: TokenSettings::default(),
            latency: Duration::ZERO,
            fault: None,
            kept: BTreeMap::new(),
            by_resource: BTreeMap::new(),
            handed_out: 0,
            log: VecDeque::new(),
        };
        Ok(Self {
            issuer,
            secret: secret.unwrap_or_else(random_secret),
            agent: Agent::new()?,
            ready: true.into(),
            held: watch::Sender::new(false),
            arrived: watch::Sender::new(0),
            inner: Mutex::new(inner),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Writes a request down; whoever waits for it sees it in the log.
    pub(super) fn record(&self, request: Received) {
        let mut inner = self.lock();
        let mut parameters = request.query.iter().chain(&request.form);
        if let Some((_, resource)) = parameters.find(|(name, _)| name == "resource") {
            *inner.by_resource.entry(resource.clone()).or_default() += 1;
        }
        if inner.log.len() == LOG_LENGTH {
            inner.log.pop_front();
        }
        inner.log.push_back(request);
        drop(inner);
        self.arrived.send_modify(|arrived| *arrived += 1);
    }

    /// Waits while requests are held back, then for the latency, and says
    /// whether this request fails.
    pub(super) async fn admit(&self) -> Option<Fault> {
        let mut held = self.held.subscribe();
        // The sender lives in `self`: it cannot be gone while this waits.
        let _ = held.wait_for(|held| !held).await;
        let (latency, fault) = {
            let mut inner = self.lock();
            (inner.latency, inner.next_fault())
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        fault
    }

    pub(super) fn sign(&self, principal: &Principal, resource: &str) -> Signed {
        let settings = self.lock().tokens.clone();
        let now = SystemTime::now();
        let lifetime = Duration::from_secs(settings.lifetime_seconds.unsigned_abs());
        let expires_on = if settings.lifetime_seconds < 0 {
            now.checked_sub(lifetime)
        } else {
            now.checked_add(lifetime)
        }
        .unwrap_or(now);
        let audience = settings.audience.as_deref().unwrap_or(resource);
        Signed {
            token: self.issuer.sign(principal, audience, expires_on, settings.length),
            not_before: seconds(now),
            expires_on: seconds(expires_on),
            refresh_in: settings.refresh_in,
        }
    }

    /// A token for an answer: the one kept, if tokens are to be repeated.
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
}

impl Inner {
    fn next_fault(&mut self) -> Option<Fault> {
        let plan = self.fault.as_mut()?;
        if plan.skip > 0 {
            plan.skip -= 1;
            return None;
        }
        let fault = plan.fault.clone();
        if let Some(left) = &mut plan.left {
            *left -= 1;
            if *left == 0 {
                self.fault = None;
            }
        }
        Some(fault)
    }
}
