//! What the manager knows about a connection's transport, which is owned by tiberius.

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

/// The action if a reset is due and the next request names a transaction, which the reset would
/// roll back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetRule {
    /// Send the request (it is the rollback), and reset with the next request without a
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
    /// What the server may still send.
    pub(super) allowance: Allowance,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // The flags are independent.
pub(super) struct State {
    /// When the server last sent something, on the monotonic clock.
    heard: Duration,
    /// The number of requests that were started.
    pub(super) requests: u64,
    responses: u64,
    /// The last write did not complete at once; the task that wrote may have given up.
    pub(super) stuck: bool,
    /// The next request that allows it first resets the session.
    pub(super) reset: Option<ResetRule>,
    pub(super) resets_sent: u64,
    /// The current request resets the session, and its response has not acknowledged the reset yet.
    pub(super) awaits_reset: bool,
    /// The descriptor of the open transaction, from responses and from the headers of each request.
    /// A transaction that began after the first result set of the last response is unknown.
    pub(super) transaction: Option<Descriptor>,
    /// A guard owns the transaction and has not ended it yet.
    pub(super) guarded: bool,
    /// The guard was dropped, or the server ended its transaction, so requests are refused.
    pub(super) abandoned: bool,
    /// The server has acknowledged the login's token.
    pub(super) acknowledged_token: bool,
    /// The server's errors before it acknowledged the token.
    pub(super) login_errors: Vec<Vec<u8>>,
    /// The server refused to change a database because it is read-only.
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
        let state = State { heard: clock.monotonic(), ..State::default() };
        Self { clock, state: Lock::new(state), allowance: Allowance::for_login() }
    }

    /// A connection is used by one task at a time, so this lock is never contended.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns when the server last sent something, on the monotonic clock; initially, when the
    /// connection was opened.
    pub(super) fn heard(&self) -> Duration {
        self.state().heard
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
    pub(super) fn hears(&self) {
        let now = self.clock.monotonic();
        self.state().heard = now;
    }

    pub(super) fn response_ended(&self) {
        let mut state = self.state();
        state.responses += 1;
        state.judge_reset();
    }

    /// Records an error from the server, given from its number on.
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
        // Further requests would not be within the transaction.
        state.abandoned |= state.guarded;
    }

    /// Records that a caller waits for a response.
    pub(super) fn waits(&self) {
        let now = self.clock.monotonic();
        self.state().waited = now;
    }

    /// If the server sent nothing since the last request started, returns when that was, and how
    /// long a caller waited for a response.
    pub(super) fn unanswered(&self) -> Option<(Duration, Duration)> {
        let State { heard, asked, waited, .. } = *self.state();
        (heard < asked).then(|| (asked, waited.saturating_sub(asked)))
    }

    /// Refuses requests from now on, because their transaction was dropped.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        (state.guarded, state.abandoned) = (false, true);
    }

    /// Accepts requests again, for the rollback.
    pub(super) fn readmit(&self) {
        let mut state = self.state();
        (state.guarded, state.abandoned) = (false, false);
    }

    /// Whether the next request carries the reset bit.
    pub(super) fn reset_goes_with(&self, transaction: Option<Descriptor>) -> io::Result<bool> {
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

    /// The first fault is kept.
    pub(super) fn set_fault(&self, fault: RetireReason) {
        self.state().set_fault(fault);
    }
}

impl State {
    fn set_fault(&mut self, fault: RetireReason) {
        self.fault.get_or_insert(fault);
    }

    /// The acknowledgement of a reset comes before this point, or not at all. An earlier fault is
    /// kept: after a severe error or an attention, a missing acknowledgement means nothing.
    pub(super) fn judge_reset(&mut self) {
        if std::mem::take(&mut self.awaits_reset) {
            self.set_fault(RetireReason::ResetNotAcknowledged);
        }
    }
}
