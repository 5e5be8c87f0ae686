//! The state of a connection that its transport, which tiberius owns, shares with the manager.

use std::{
    io,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use super::{
    RetireReason,
    response::{READ_ONLY, TOKEN_EXPIRED},
};
use crate::{clock::Clock, limited::Allowance, lock::Lock};

/// The action if a reset is due and the next request belongs to a transaction, which a reset would
/// roll back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetRule {
    /// Send the request, which is the rollback. Reset with the next request outside of a
    /// transaction.
    OutsideTransaction,
    /// Refuse the request.
    RefuseTransaction,
}

/// An error of this class or above terminates the session ("Database Engine error severities" on
/// Microsoft Learn).
const SEVERE: u8 = 20;

/// Identifies a transaction (MS-TDS 2.2.5.3.2).
pub(super) type Descriptor = [u8; 8];

/// The state shared by a connection's transport, which writes it, and its manager, which reads it.
#[derive(Debug)]
pub(super) struct Link {
    clock: Arc<dyn Clock>,
    state: Lock<State>,
    /// How many bytes the server may still send.
    pub(super) allowance: Allowance,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // The flags are independent.
pub(super) struct State {
    /// When the server last sent something, on the monotonic clock.
    last_received: Duration,
    /// The number of requests that were started.
    pub(super) requests: u64,
    responses: u64,
    /// Whether the last write is incomplete. Its task may have given up.
    pub(super) stuck: bool,
    /// The rule of a reset that is due.
    pub(super) reset: Option<ResetRule>,
    pub(super) resets_sent: u64,
    /// Whether the current request resets the session and its response has not acknowledged that.
    pub(super) awaits_reset: bool,
    /// The descriptor of the open transaction, from responses and from the headers of each request.
    /// A transaction that began after the first result set of the last response is not detected.
    pub(super) transaction: Option<Descriptor>,
    /// Whether a [`Transaction`](super::Transaction) owns the open transaction.
    pub(super) guarded: bool,
    /// Whether requests are refused: that `Transaction` was dropped, or the server ended it.
    pub(super) abandoned: bool,
    /// Whether the server has acknowledged the login's token.
    pub(super) acknowledged_token: bool,
    /// The server's errors that arrived before it acknowledged the token.
    pub(super) login_errors: Vec<Vec<u8>>,
    /// Whether the server refused to change a database because it is read-only.
    pub(super) is_read_only: bool,
    /// When the last request started.
    asked: Duration,
    /// When a caller last waited for a response.
    waited: Duration,
    /// Why the connection must not be used again.
    pub(super) fault: Option<RetireReason>,
}

impl Link {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State { last_received: clock.monotonic(), ..State::default() };
        Self { clock, state: Lock::new(state), allowance: Allowance::for_login() }
    }

    /// Locks the state. Only one task at a time uses a connection, so the lock is not contended.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns when the server last sent something, on the monotonic clock. The initial value is
    /// the time at which the link was created.
    pub(super) fn last_received(&self) -> Duration {
        self.state().last_received
    }

    /// Whether every request has its complete response, and no write is incomplete.
    pub(super) fn is_settled(&self) -> bool {
        let state = self.state();
        state.requests == state.responses && !state.stuck
    }

    pub(super) fn request_started(&self) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.requests += 1;
        state.asked = now;
    }

    /// Records that the server sent something.
    pub(super) fn record_received(&self) {
        let now = self.clock.monotonic();
        self.state().last_received = now;
    }

    pub(super) fn response_ended(&self) {
        let mut state = self.state();
        state.responses += 1;
        state.check_reset();
    }

    /// Records an error of the server. `error` starts with the error's number.
    pub(super) fn server_error(&self, error: Vec<u8>) {
        let mut state = self.state();
        match error[..] {
            [a, b, c, d, _, class, ..]
                if class >= SEVERE || u32::from_le_bytes([a, b, c, d]) == TOKEN_EXPIRED =>
            {
                state.set_fault(RetireReason::SevereError);
            }
            [a, b, c, d, ..] if u32::from_le_bytes([a, b, c, d]) == READ_ONLY => {
                state.is_read_only = true;
            }
            _ => {}
        }
        if !state.acknowledged_token {
            state.login_errors.push(error);
        }
    }

    pub(super) fn transaction_ended(&self) {
        let mut state = self.state();
        state.transaction = None;
        // Further requests would run outside of the transaction.
        state.abandoned |= state.guarded;
    }

    /// Records that a caller waits for a response.
    pub(super) fn record_waiting(&self) {
        let now = self.clock.monotonic();
        self.state().waited = now;
    }

    /// If the server sent nothing since the last request, returns when that request started, and
    /// how long a caller has waited for the response.
    pub(super) fn unanswered(&self) -> Option<(Duration, Duration)> {
        let State { last_received, asked, waited, .. } = *self.state();
        (last_received < asked).then(|| (asked, waited.saturating_sub(asked)))
    }

    /// Refuses further requests, because their transaction was dropped.
    pub(super) fn refuse_requests(&self) {
        let mut state = self.state();
        (state.guarded, state.abandoned) = (false, true);
    }

    /// Accepts requests again, for the rollback.
    pub(super) fn accept_requests(&self) {
        let mut state = self.state();
        (state.guarded, state.abandoned) = (false, false);
    }

    /// Records the next request's transaction, and returns whether the request gets the reset bit.
    pub(super) fn take_reset(&self, transaction: Option<Descriptor>) -> io::Result<bool> {
        let mut state = self.state();
        state.transaction = transaction;
        match (state.reset, transaction.is_some()) {
            (None, _) | (Some(ResetRule::OutsideTransaction), true) => Ok(false),
            (Some(ResetRule::RefuseTransaction), true) => {
                state.set_fault(RetireReason::TransactionOpen);
                Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the previous borrower left a transaction open, so the connection cannot be \
                     reset and is retired: get another one from the pool and retry, and commit \
                     or roll back before you return a connection (or use Recycling::Clean)",
                ))
            }
            (Some(_), false) => {
                state.reset = None;
                state.resets_sent += 1;
                state.awaits_reset = true;
                Ok(true)
            }
        }
    }

    /// Records a fault, unless there is an earlier one.
    pub(super) fn set_fault(&self, fault: RetireReason) {
        self.state().set_fault(fault);
    }
}

impl State {
    fn set_fault(&mut self, fault: RetireReason) {
        self.fault.get_or_insert(fault);
    }

    /// Sets a fault if a reset is not acknowledged at this point of the response. An earlier fault
    /// is kept: after a severe error or an attention, the acknowledgement may be missing.
    pub(super) fn check_reset(&mut self) {
        if std::mem::take(&mut self.awaits_reset) {
            self.set_fault(RetireReason::ResetNotAcknowledged);
        }
    }
}
