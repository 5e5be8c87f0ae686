//! Faults that a test can request from a server, and the server's counters.

use std::{
    io,
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::fault::{Fault, Stage};
use crate::{azure_sql::ServerError, times::Times};

/// Faults that a test can request from a server, and the server's counters. `E` is an error of
/// the database's protocol. `usize::MAX` times means for ever.
#[derive(Debug)]
pub struct Behaviour<E = ServerError> {
    pub(crate) counters: watch::Sender<Counters>,
    state: Mutex<State>,
    login_failures: Mutex<Times<Vec<E>>>,
    request_failures: Mutex<Times<E>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    faults: Times<(Stage, Fault)>,
    /// How far the time by which tokens are checked is ahead of the machine's clock.
    ahead: Duration,
    pub(crate) query_delay: Duration,
    pub(crate) routes: Times<(String, u16)>,
    pub(crate) ignores_tokens: bool,
    pub(crate) ignores_resets: bool,
    pub(crate) fed_auth_required: Option<u8>,
    pub(crate) server_name: String,
}

impl<E: Clone> Behaviour<E> {
    pub(crate) fn new() -> Self {
        Self {
            counters: watch::Sender::default(),
            state: Mutex::default(),
            login_failures: Mutex::default(),
            request_failures: Mutex::default(),
        }
    }

    /// The counters so far.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// Completes when `wanted` accepts the counters, without polling.
    pub async fn wait_until(&self, wanted: impl FnMut(&Counters) -> bool) {
        let mut counters = self.counters.subscribe();
        // `self` owns the sender, so it is not dropped during the wait.
        let _ = counters.wait_for(wanted).await;
    }

    /// The next `times` connections that reach `stage` get this fault, after the faults that
    /// were requested before.
    pub fn disturb(&self, times: usize, stage: Stage, fault: Fault) {
        self.state().faults.push(times, (stage, fault));
    }

    /// Waits this long before the answer to each login from now on.
    pub fn delay_logins(&self, delay: Duration) {
        self.disturb(usize::MAX, Stage::Login, Fault::Delay(delay));
    }

    /// The next `times` logins fail with `error`, whatever their token, after the failures that
    /// were requested before.
    pub fn fail_logins(&self, times: usize, error: E) {
        self.fail_logins_with(times, [error]);
    }

    /// The next `times` logins fail with these errors, all in one response.
    pub fn fail_logins_with(&self, times: usize, errors: impl IntoIterator<Item = E>) {
        self.login_failures.lock().push(times, errors.into_iter().collect());
    }

    /// Drops the faults, failures and routes that have not happened yet.
    pub fn calm(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.routes.clear();
        self.login_failures.lock().clear();
        self.request_failures.lock().clear();
    }

    /// Checks tokens as if this much more time had passed. A login with an expired token is
    /// refused. In a session of Azure SQL's stand-in, the next request fails with error 37396,
    /// which closes the connection.
    pub fn age_tokens(&self, by: Duration) {
        self.state().ahead += by;
    }

    /// The time by which tokens are checked.
    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::now() + self.state().ahead
    }

    pub(crate) fn next_fault(&self, at: Stage) -> Option<Fault> {
        let (_, fault) = self.state().faults.next_where(|(stage, _)| *stage == at)?;
        self.count(|it| it.faults += 1);
        Some(fault)
    }

    pub(crate) fn next_login_failures(&self) -> Option<Vec<E>> {
        self.login_failures.lock().next()
    }

    pub(crate) fn next_request_failure(&self) -> Option<E> {
        self.request_failures.lock().next()
    }

    /// Serves a connection and counts it.
    pub(crate) async fn serve(&self, serving: impl Future<Output = io::Result<()>>) {
        self.count(|it| {
            it.connections += 1;
            it.open_connections += 1;
        });
        let _open = OpenConnection(&self.counters);
        if let Err(error) = serving.await {
            tracing::debug!(%error, "a connection to a database failed");
        }
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        self.counters.send_modify(change);
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Faults that only Azure SQL has.
impl Behaviour {
    /// Waits this long before the answer to each request; at the stand-in only.
    pub fn delay_queries(&self, delay: Duration) {
        self.state().query_delay = delay;
    }

    /// The next `times` requests are not run and fail with `error`; their reset bit counts. A
    /// class of 20 or more closes the connection. At the stand-in only. Failures that were
    /// requested before come first.
    pub fn fail_requests(&self, times: usize, error: ServerError) {
        self.request_failures.lock().push(times, error);
    }

    /// The next `times` logins that would succeed are routed to `host` and `port` (ENVCHANGE 20).
    /// Servers that route to each other form a chain or a loop.
    pub fn route_logins(&self, times: usize, host: &str, port: u16) {
        self.state().routes.push(times, (host.to_owned(), port));
    }

    /// Whether logins acknowledge the token (FEATUREEXTACK). Default: yes.
    pub fn acknowledge_tokens(&self, acknowledges: bool) {
        self.state().ignores_tokens = !acknowledges;
    }

    /// Whether the stand-in acknowledges resets of sessions (ENVCHANGE 18). Default: yes.
    pub fn acknowledge_resets(&self, acknowledges: bool) {
        self.state().ignores_resets = !acknowledges;
    }

    /// The value of FEDAUTHREQUIRED in the answer to PRELOGIN. Default: 1.
    pub fn require_fed_auth(&self, value: u8) {
        self.state().fed_auth_required = Some(value);
    }

    /// The server's name in the last LOGIN7; empty before the first.
    #[must_use]
    pub fn server_name(&self) -> String {
        self.state().server_name.clone()
    }
}

/// The events at a server since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// TCP connections that were accepted.
    pub connections: u64,
    /// The accepted connections that are open now.
    pub open_connections: u64,
    /// Logins that succeeded.
    pub logins: u64,
    /// Logins that the server, or a front's engine, refused.
    pub refused_logins: u64,
    /// Faults that have happened.
    pub faults: u64,
    /// Azure SQL: PRELOGINs that were answered.
    pub prelogins: u64,
    /// Azure SQL: TLS handshakes that resumed an earlier session.
    pub tls_resumptions: u64,
    /// Azure SQL: logins that were routed elsewhere.
    pub routed_logins: u64,
    /// Azure SQL: batches, procedure calls and transaction-manager requests.
    pub requests: u64,
    /// Azure SQL: attentions.
    pub attentions: u64,
    /// Azure SQL: requests with RESETCONNECTION or RESETCONNECTIONSKIPTRAN.
    pub reset_bits: u64,
    /// Azure SQL's stand-in: sessions that it has reset for such a request.
    pub resets: u64,
}

struct OpenConnection<'a>(&'a watch::Sender<Counters>);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|counters| counters.open_connections -= 1);
    }
}
