//! What a test can make the server do, and what the server has counted.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{
    error::ServerError,
    fault::{Fault, Stage},
    packets::{kind, status},
};
use crate::times::Times;

/// How the server behaves beyond doing its work; changed while it runs.
#[derive(Debug)]
pub struct Behaviour {
    state: Mutex<State>,
    /// Counts up for every time that all connections are cut.
    cut: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) login_delay: Duration,
    pub(crate) query_delay: Duration,
    faults: Times<(Stage, Fault)>,
    pub(crate) login_failures: Times<Vec<ServerError>>,
    pub(crate) request_failures: Times<ServerError>,
    pub(crate) routes: Times<(String, u16)>,
    /// Whether tokens are not acknowledged.
    pub(crate) ignores_tokens: bool,
    pub(crate) resets: Acknowledgement,
    fed_auth_required: Option<u8>,
    server_name: String,
    /// By so much tokens are older here than by the machine's clock.
    ahead: Duration,
}

/// When a response acknowledges that it reset the session (ENVCHANGE 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Acknowledgement {
    /// Before everything else, as SQL Server does.
    #[default]
    First,
    /// After the end of a statement.
    Late,
    /// Not at all.
    Never,
}

impl Behaviour {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), cut: watch::Sender::new(0) }
    }

    /// Waits so long before each answer to a login.
    pub fn delay_logins(&self, delay: Duration) {
        self.state().login_delay = delay;
    }

    /// Waits so long before each answer to a request.
    pub fn delay_queries(&self, delay: Duration) {
        self.state().query_delay = delay;
    }

    /// The next `times` (`usize::MAX`: for ever) that a connection comes to this
    /// stage, this happens to it.
    ///
    /// Faults that were asked for before come first.
    pub fn disturb(&self, times: usize, at: Stage, fault: Fault) {
        self.state().faults.push(times, (at, fault));
    }

    /// Faults, failures and routes that were asked for and have not come about do not
    /// any more.
    pub fn calm(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.login_failures.clear();
        state.request_failures.clear();
        state.routes.clear();
    }

    /// The next `times` logins fail with `error`, whatever their token.
    ///
    /// Failures that were asked for before come first.
    pub fn fail_logins(&self, times: usize, error: ServerError) {
        self.fail_logins_with(times, [error]);
    }

    /// The next `times` logins fail with these errors, all in one response.
    pub fn fail_logins_with(&self, times: usize, errors: impl IntoIterator<Item = ServerError>) {
        self.state().login_failures.push(times, errors.into_iter().collect());
    }

    /// The next `times` requests are not run and fail with `error`; their reset
    /// bit counts. A class of 20 or more ends the connection.
    ///
    /// Failures that were asked for before come first.
    pub fn fail_requests(&self, times: usize, error: ServerError) {
        self.state().request_failures.push(times, error);
    }

    /// The next `times` logins that would succeed are sent to `host` and
    /// `port` (ENVCHANGE 20); servers that send them to each other make a chain
    /// or a loop.
    pub fn route_logins(&self, times: usize, host: &str, port: u16) {
        self.state().routes.push(times, (host.to_owned(), port));
    }

    /// Whether logins acknowledge the token (FEATUREEXTACK). Default: yes.
    pub fn acknowledge_tokens(&self, acknowledges: bool) {
        self.state().ignores_tokens = !acknowledges;
    }

    /// When resets of sessions are acknowledged.
    pub fn acknowledge_resets(&self, when: Acknowledgement) {
        self.state().resets = when;
    }

    /// The value of FEDAUTHREQUIRED in the answer to PRELOGIN. Default: 1.
    pub fn require_fed_auth(&self, value: u8) {
        self.state().fed_auth_required = Some(value);
    }

    /// Judges tokens as if so much more time had passed.
    ///
    /// A token past its `exp` is refused at a login (18456). In a session it ends
    /// that with the next request: error 37396.
    pub fn age_tokens(&self, by: Duration) {
        self.state().ahead += by;
    }

    /// Ends all connections, whatever they are at, without a word.
    pub fn cut_connections(&self) {
        self.cut.send_modify(|times| *times += 1);
    }

    /// The server's name in the last LOGIN7; empty before the first.
    #[must_use]
    pub fn server_name(&self) -> String {
        self.state().server_name.clone()
    }

    pub(crate) fn note_server_name(&self, name: &str) {
        name.clone_into(&mut self.state().server_name);
    }

    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.cut.subscribe()
    }

    pub(crate) fn next_fault(&self, at: Stage) -> Option<Fault> {
        self.state().faults.next_where(|(stage, _)| *stage == at).map(|(_, fault)| fault)
    }

    pub(crate) fn fed_auth_required(&self) -> u8 {
        self.state().fed_auth_required.unwrap_or(1)
    }

    /// What tokens are judged by.
    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::now() + self.state().ahead
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has happened at a server since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// TCP connections that were accepted.
    pub connections: u64,
    /// Those of them that are open now.
    pub open: u64,
    /// PRELOGINs that were answered.
    pub prelogins: u64,
    /// TLS handshakes that took up an earlier session.
    pub tls_resumptions: u64,
    /// Logins that succeeded.
    pub logins: u64,
    /// Logins that were refused.
    pub logins_refused: u64,
    /// Logins that were sent elsewhere.
    pub logins_routed: u64,
    /// Logins, of any outcome, that came without TLS.
    pub logins_in_plain_text: u64,
    /// Batches, procedure calls and transaction-manager requests together.
    pub requests: u64,
    /// SQL batches.
    pub batches: u64,
    /// Calls of procedures, `sp_executesql` among them.
    pub rpcs: u64,
    /// Transaction-manager requests.
    pub transaction_requests: u64,
    /// Attentions.
    pub attentions: u64,
    /// Requests with RESETCONNECTION or RESETCONNECTIONSKIPTRAN.
    pub reset_bits: u64,
    /// Sessions that were reset for it.
    pub resets: u64,
    /// Requests of a borrower who got a session of another's without a reset (see
    /// the module's page).
    pub unreset_borrowers: u64,
    /// Faults that have come about.
    pub faults: u64,
}

/// The counters as they are counted.
#[derive(Debug, Default)]
pub(crate) struct LiveCounters(Mutex<Counters>);

impl LiveCounters {
    pub(crate) fn read(&self) -> Counters {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts what a packet of this type and with these status bits tells of requests.
    pub(crate) fn packet(&self, kind: u8, bits: u8) {
        let resets = status::RESET_CONNECTION | status::RESET_CONNECTION_SKIP_TRANSACTION;
        self.count(|it| {
            let requests = match kind {
                kind::SQL_BATCH => &mut it.batches,
                kind::RPC => &mut it.rpcs,
                kind::TRANSACTION_MANAGER => &mut it.transaction_requests,
                _ => return,
            };
            // Of several messages at a time (MARS), packets alternate; each has one that ends it.
            if bits & status::END_OF_MESSAGE != 0 {
                *requests += 1;
                it.requests += 1;
            }
            // Only a message's first packet has it.
            if bits & resets != 0 {
                it.reset_bits += 1;
            }
        });
    }
}
