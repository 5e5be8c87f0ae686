//! The state of a connection, derived from the messages of client and server, and the mapping from
//! a client to its connection. tokio-postgres reports neither.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, poll_fn, ready},
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use deadpool_postgres::{ClientWrapper, StatementCache};
use futures_util::FutureExt;
use tokio::{
    io::{Join, join},
    sync::Notify,
    task::JoinHandle,
};
use tokio_postgres::{
    CancelToken,
    tls::{ChannelBinding, TlsConnect, TlsStream},
};
use tokio_util::task::AbortOnDropHandle;

use super::cancel::Canceller;
use crate::{
    clock::{self, Clock},
    connect::RetireReason,
    limited::{Allowance, Limited},
    lock::Lock,
};

/// The process ID and the secret key of a server's session (PostgreSQL documentation, "Canceling
/// Requests in Progress").
type Key = [u8; 8];

/// The state of one connection, derived from its messages.
pub(crate) struct Link {
    /// The number of bytes that the server may still send.
    pub(crate) allowance: Allowance,
    clock: Arc<dyn Clock>,
    state: Lock<State>,
    settled: Notify,
    /// The client's cached statements. They are cleared when the server refuses a stale statement.
    statements: ArcSwapOption<StatementCache>,
    /// The task of a pool's connection; see [`pool_task`].
    driver: Lock<Weak<Slot>>,
    /// Cancels the pending requests when the connection is dropped.
    pub(super) canceller: ArcSwapOption<Canceller>,
}

#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // The flags are independent.
pub(crate) struct State {
    pub(super) key: Option<Key>,
    /// A request was sent after the login.
    pub(crate) is_used: bool,
    /// The number of requests whose `READY_FOR_QUERY` the server has not sent yet.
    pub(super) unanswered: u64,
    /// The last request ended with `SYNC`.
    last_was_sync: bool,
    /// The server is waiting for the rows of a `COPY FROM STDIN`.
    in_copy: bool,
    /// The server's last `READY_FOR_QUERY` reported an open or a failed transaction.
    pub(crate) in_transaction: bool,
    may_have_prepared: bool,
    /// The server refused a cached statement, because its result would now have other columns.
    pub(crate) has_stale_plans: bool,
    /// The server refused a change because it is read-only.
    pub(super) is_read_only: bool,
    /// The monotonic time of the server's last `READY_FOR_QUERY`; initially, that at which the
    /// connection was opened.
    pub(super) last_ready: Duration,
    round_trip: Option<Duration>,
    /// The time since when the idle connection has looked unfit, and its number of checkouts then.
    suspected: Option<(Duration, usize)>,
}

/// An idle connection is unfit if it has looked unfit for this long. By then, the server has
/// answered the requests that a dropped `Statement` or `Transaction` sends.
pub(crate) const SUSPECTED_FOR: Duration = Duration::from_millis(500);

/// The shortest time that a checkout waits for unanswered requests.
const GRACE: Duration = Duration::from_millis(100);

/// A checkout waits for this many round trips of the connection, if that is longer.
const GRACE_ROUND_TRIPS: u32 = 4;

impl Link {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State { last_ready: clock.monotonic(), ..State::default() };
        Self {
            allowance: Allowance::for_login(),
            clock,
            state: Lock::new(state),
            settled: Notify::new(),
            statements: ArcSwapOption::empty(),
            driver: Lock::default(),
            canceller: ArcSwapOption::empty(),
        }
    }

    /// Returns the current state.
    pub(crate) fn state(&self) -> State {
        *self.state.lock()
    }

    /// Waits briefly until the server has answered all requests. Returns whether it has.
    pub(crate) async fn settles(&self) -> bool {
        let round_trip = self.state().round_trip.unwrap_or_default();
        let grace = GRACE.max(round_trip * GRACE_ROUND_TRIPS);
        let settled = async {
            loop {
                let mut notified = pin!(self.settled.notified());
                // A notification after this call is not missed.
                notified.as_mut().enable();
                if self.state().is_settled() {
                    return;
                }
                notified.await;
            }
        };
        self.state().is_settled() || clock::timeout(&*self.clock, grace, settled).await.is_ok()
    }

    /// Records that one round trip took at most this long.
    pub(super) fn record_round_trip(&self, round_trip: Duration) {
        let mut state = self.state.lock();
        state.round_trip =
            state.round_trip.map(|before| before.min(round_trip)).or(Some(round_trip));
    }

    /// Records that the login is complete: further messages are requests.
    pub(super) fn logged_in(&self) {
        self.allowance.lift();
        let mut state = self.state.lock();
        (state.is_used, state.unanswered) = (false, 0);
    }

    /// Registers the client's cached statements, to clear them when one of them is stale.
    pub(crate) fn clears(&self, client: &ClientWrapper) {
        self.statements.store(Some(client.statement_cache.clone()));
    }

    /// Takes the canceller, and returns it if a request is pending. A COPY needs no cancellation:
    /// closing the connection ends it.
    pub(super) fn take_canceller(&self) -> Option<Arc<Canceller>> {
        self.canceller.swap(None).filter(|_| self.state().unanswered > 0)
    }

    /// Takes the task that drives the connection, so that the pool cannot abort it.
    pub(super) fn take_driver(&self) -> Option<AbortOnDropHandle<()>> {
        self.driver.lock().upgrade()?.lock().take()
    }

    /// Checks an idle connection with this number of checkouts. Returns why it must be closed, if
    /// it has looked unfit for [`SUSPECTED_FOR`] without being checked out.
    pub(crate) fn look_at_idle(&self, checkouts: usize) -> Option<RetireReason> {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        let reason = match (state.is_settled(), state.in_transaction) {
            (false, _) => RetireReason::Unsettled,
            (true, true) => RetireReason::TransactionOpen,
            (true, false) => {
                state.suspected = None;
                return None;
            }
        };
        match state.suspected {
            Some((since, before)) if before == checkouts => {
                (now.saturating_sub(since) >= SUSPECTED_FOR).then_some(reason)
            }
            _ => {
                state.suspected = Some((now, checkouts));
                None
            }
        }
    }

    /// Returns whether SQL may have prepared a statement since the last call, by `PREPARE`, `DO` or
    /// `CALL`.
    pub(super) fn take_may_have_prepared(&self) -> bool {
        std::mem::take(&mut self.state.lock().may_have_prepared)
    }

    /// Processes a message of the client.
    pub(super) fn sent(&self, kind: u8) {
        if [message::QUERY, message::SYNC, message::FUNCTION_CALL].contains(&kind) {
            let mut state = self.state.lock();
            (state.is_used, state.last_was_sync) = (true, kind == message::SYNC);
            state.unanswered += 1;
        }
    }

    /// Processes a message of the server, with the beginning of its body.
    pub(super) fn received(&self, kind: u8, body: &[u8]) {
        let mut state = self.state.lock();
        match (kind, body) {
            (message::BACKEND_KEY_DATA, body) => state.key = body.first_chunk().copied(),
            (message::COMMAND_COMPLETE, b"PREPARE\0" | b"DO\0" | b"CALL\0") => {
                state.may_have_prepared = true;
            }
            (message::COPY_IN, _) => {
                state.in_copy = true;
                // The server ignores the Sync that was sent with the statement.
                state.unanswered = state.unanswered.saturating_sub(state.last_was_sync.into());
            }
            (message::ERROR, body) => match sql_state(body) {
                Some(STALE_PLAN) => {
                    state.has_stale_plans = true;
                    self.statements.load().as_ref().inspect(|statements| statements.clear());
                }
                Some(READ_ONLY) => state.is_read_only = true,
                _ => {}
            },
            (message::READY_FOR_QUERY, [status, ..]) => {
                state.in_transaction = *status != message::IDLE;
                (state.last_ready, state.in_copy) = (self.clock.monotonic(), false);
                // The login's `READY_FOR_QUERY` does not answer a request.
                state.unanswered = state.unanswered.saturating_sub(1);
                if state.is_settled() {
                    self.settled.notify_waiters();
                }
            }
            _ => {}
        }
    }
}

/// The task that drives a connection; `None` once it was taken.
type Slot = Lock<Option<AbortOnDropHandle<()>>>;

/// Returns a task for the pool that drives the connection. The pool aborts it when it drops the
/// client. That closes the connection, unless [`Link::take_driver`] has taken the inner task.
pub(super) fn pool_task(driver: AbortOnDropHandle<()>, link: &Link) -> JoinHandle<()> {
    let slot = Arc::new(Lock::new(Some(driver)));
    *link.driver.lock() = Arc::downgrade(&slot);
    tokio::spawn(poll_fn(move |cx| match &mut *slot.lock() {
        Some(driver) => driver.poll_unpin(cx).map(drop),
        None => Poll::Ready(()),
    }))
}

impl State {
    /// Returns whether the server has answered all requests.
    pub(crate) fn is_settled(&self) -> bool {
        self.unanswered == 0 && !self.in_copy
    }
}

/// Types of messages (PostgreSQL documentation, "Message Formats").
mod message {
    pub(super) const QUERY: u8 = b'Q';
    pub(super) const SYNC: u8 = b'S';
    pub(super) const FUNCTION_CALL: u8 = b'F';

    pub(super) const BACKEND_KEY_DATA: u8 = b'K';
    pub(super) const COMMAND_COMPLETE: u8 = b'C';
    pub(super) const COPY_IN: u8 = b'G';
    pub(super) const ERROR: u8 = b'E';
    pub(super) const READY_FOR_QUERY: u8 = b'Z';
    /// The status in `READY_FOR_QUERY`: not in a transaction.
    pub(super) const IDLE: u8 = b'I';
}

/// The SQLSTATE of "cached plan must not change result type", and of a few other errors.
const STALE_PLAN: &[u8] = b"0A000";

/// The SQLSTATE of "cannot execute … in a read-only transaction".
const READ_ONLY: &[u8] = b"25006";

/// Returns the SQLSTATE in the fields of an error, if it is within the available bytes.
fn sql_state(fields: &[u8]) -> Option<&[u8]> {
    fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"))
}

/// The links of a connector's connections, by the keys of their sessions. The value is `None` if a
/// server has sent the key for several connections.
#[derive(Debug, Default)]
pub(super) struct Links(Lock<HashMap<Key, Option<Weak<Link>>>>);

impl Links {
    pub(super) fn add(&self, link: &Arc<Link>) {
        let Some(key) = link.state().key else { return };
        let mut links = self.0.lock();
        links.retain(|_, link| link.as_ref().is_none_or(|link| link.strong_count() > 0));
        let new = Some(Arc::downgrade(link));
        links.entry(key).and_modify(|known| *known = None).or_insert(new);
    }

    /// Returns the link of the connection that the token cancels; `None` if its server sent no key,
    /// or the same key for several connections.
    pub(super) fn of(&self, token: &CancelToken) -> Option<Arc<Link>> {
        let key = key(token)?;
        let links = self.0.lock();
        links.get(&key)?.as_ref()?.upgrade()
    }
}

/// Returns the key in a cancellation token. The token does not expose it, so this lets the token
/// send its request into memory.
fn key(token: &CancelToken) -> Option<Key> {
    let mut written = Vec::new();
    // `S` is the response to `SSLRequest`.
    let stream = Limited::new(join(b"S".as_slice(), &mut written), Allowance::for_login());
    token.cancel_query_raw(stream, NotEncrypted).now_or_never()?.ok()?;
    written.last_chunk().copied()
}

/// A stream whose bytes stay in the process.
type InMemory<'a> = Limited<Join<&'static [u8], &'a mut Vec<u8>>>;

impl TlsStream for InMemory<'_> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

struct NotEncrypted;

impl<'a> TlsConnect<InMemory<'a>> for NotEncrypted {
    type Stream = InMemory<'a>;
    type Error = Infallible;
    type Future = Ready<Result<InMemory<'a>, Infallible>>;

    fn connect(self, stream: InMemory<'a>) -> Self::Future {
        ready(Ok(stream))
    }
}
