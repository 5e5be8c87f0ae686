//! What a test can make the server do, and what the server has counted.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::error::ServerError;

/// How the server behaves beyond doing its work; changed while it runs.
#[derive(Debug)]
pub struct Behaviour {
    state: Mutex<State>,
    /// Counts up for every time that all connections are cut.
    cut: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    login_delay: Duration,
    query_delay: Duration,
    failures: Vec<ServerError>,
    routes: Vec<(String, u16)>,
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

    /// The next `times` logins fail with `error`, whatever their token.
    ///
    /// Failures that were asked for before come first.
    pub fn fail_logins(&self, times: usize, error: ServerError) {
        self.state().failures.extend(std::iter::repeat_n(error, times));
    }

    /// The next `times` logins that would succeed are sent to `host` and
    /// `port` (ENVCHANGE 20).
    pub fn route_logins(&self, times: usize, host: &str, port: u16) {
        self.state().routes.extend(std::iter::repeat_n((host.to_owned(), port), times));
    }

    /// Ends all connections, whatever they are at, without a word.
    pub fn cut_connections(&self) {
        self.cut.send_modify(|times| *times += 1);
    }

    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.cut.subscribe()
    }

    pub(crate) fn login_delay(&self) -> Duration {
        self.state().login_delay
    }

    pub(crate) fn query_delay(&self) -> Duration {
        self.state().query_delay
    }

    pub(crate) fn next_failure(&self) -> Option<ServerError> {
        next(&mut self.state().failures)
    }

    pub(crate) fn next_route(&self) -> Option<(String, u16)> {
        next(&mut self.state().routes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next<T>(queue: &mut Vec<T>) -> Option<T> {
    (!queue.is_empty()).then(|| queue.remove(0))
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
}

macro_rules! live_counters {
    ($($name:ident),*) => {
        /// The counters as they are counted.
        #[derive(Debug, Default)]
        pub(crate) struct LiveCounters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl LiveCounters {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

live_counters!(
    connections,
    open,
    prelogins,
    tls_resumptions,
    logins,
    logins_refused,
    logins_routed,
    logins_in_plain_text,
    requests,
    batches,
    rpcs,
    transaction_requests,
    attentions,
    reset_bits,
    resets
);

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
