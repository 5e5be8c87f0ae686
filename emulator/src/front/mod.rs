//! Login fronts: they accept logins with Entra tokens and relay to a real engine.
//!
//! A front speaks the database's protocol to the client and checks the token: signature,
//! audience, validity, principal. Then it logs in to the engine with a password and
//! relays every further byte, so that SQL is the engine's own. Nothing that a client
//! sends reaches the engine before the token was checked.

pub mod azure_sql;
pub mod postgres;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{io::AsyncRead, sync::watch};

pub use crate::azure_sql::Fault;
use crate::{
    azure_sql::fault,
    jwt::{Issuer, Refusal, Verified},
    times::Times,
};

/// The account with which a front logs in to the engine for a principal.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineLogin {
    /// The engine's name for the account.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for EngineLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What a front has counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrontCounters {
    /// TCP connections that were accepted.
    pub connections: u64,
    /// The accepted connections that are open now.
    pub open_connections: u64,
    /// Logins that succeeded.
    pub logins: u64,
    /// Logins that the front or the engine refused.
    pub refused_logins: u64,
    /// Faults that have come about.
    pub faults: u64,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrontStage {
    /// The TCP connection is open; nothing was read from it.
    Accept,
    /// The client has asked for TLS and has no answer.
    Tls,
    /// The token has arrived and is not checked.
    Login,
    /// The token is checked; the engine has not heard of the login.
    Engine,
    /// The engine has accepted the login; the client does not know it.
    LoginAnswer,
}

/// What a test can make a front do, and what the front has counted. `E` is an error of
/// the database's protocol.
#[derive(Debug)]
pub struct FrontControl<E> {
    counters: watch::Sender<FrontCounters>,
    plan: Mutex<Plan<E>>,
}

#[derive(Debug)]
struct Plan<E> {
    faults: Times<(FrontStage, Fault)>,
    login_failures: Times<E>,
    /// By so much tokens are older here than by the machine's clock.
    ahead: Duration,
}

impl<E: Clone> FrontControl<E> {
    pub(crate) fn new() -> Self {
        let plan = Plan {
            faults: Times::default(),
            login_failures: Times::default(),
            ahead: Duration::ZERO,
        };
        Self { counters: watch::Sender::default(), plan: Mutex::new(plan) }
    }

    /// What was counted so far.
    pub fn counters(&self) -> FrontCounters {
        *self.counters.borrow()
    }

    /// Completes when the counters are as `wanted`, without polling.
    pub async fn wait_until(&self, wanted: impl FnMut(&FrontCounters) -> bool) {
        let mut counters = self.counters.subscribe();
        // The sender lives in `self`, so it cannot be dropped during the wait.
        let _ = counters.wait_for(wanted).await;
    }

    /// The next `times` connections that reach `stage` get this fault. Faults that were
    /// asked for before come first; `usize::MAX` is for ever.
    pub fn disturb(&self, times: usize, stage: FrontStage, fault: Fault) {
        self.plan().faults.push(times, (stage, fault));
    }

    /// The next `times` logins fail with `error`, whatever their token; `usize::MAX` is
    /// for ever.
    pub fn fail_logins(&self, times: usize, error: E) {
        self.plan().login_failures.push(times, error);
    }

    /// Drops the faults and failures that have not come about.
    pub fn calm(&self) {
        let mut plan = self.plan();
        plan.faults.clear();
        plan.login_failures.clear();
    }

    /// Checks tokens as if so much more time had passed.
    pub fn age_tokens(&self, by: Duration) {
        self.plan().ahead += by;
    }

    pub(crate) fn verify(
        &self,
        issuer: &Issuer,
        audience: &str,
        token: &str,
    ) -> Result<Verified, Refusal> {
        let now = SystemTime::now() + self.plan().ahead;
        issuer.verify_at(token, audience, now)
    }

    pub(crate) fn next_login_failure(&self) -> Option<E> {
        self.plan().login_failures.next()
    }

    /// Counts a connection as open while the returned value lives.
    pub(crate) fn open(&self) -> OpenConnection<'_> {
        self.count(|counters| {
            counters.connections += 1;
            counters.open_connections += 1;
        });
        OpenConnection(&self.counters)
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut FrontCounters)) {
        self.counters.send_modify(change);
    }

    /// Goes through a stage. Returns an error if a fault ends the connection in it.
    pub(crate) async fn pass(
        &self,
        stage: FrontStage,
        client: &mut (impl AsyncRead + Unpin),
    ) -> std::io::Result<()> {
        let next = self.plan().faults.next_where(|(at, _)| *at == stage);
        let Some((_, fault)) = next else { return Ok(()) };
        self.count(|counters| counters.faults += 1);
        fault::happen(fault, fault::closed(client)).await
    }

    fn plan(&self) -> MutexGuard<'_, Plan<E>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct OpenConnection<'a>(&'a watch::Sender<FrontCounters>);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|counters| counters.open_connections -= 1);
    }
}
