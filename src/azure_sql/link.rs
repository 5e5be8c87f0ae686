//! What the manager knows of a connection's transport, which tiberius owns.

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

/// What to do when a reset is due and the next request names a transaction,
/// which the reset would end under its feet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetRule {
    /// Let the request pass (it is the one that rolls back) and reset with the
    /// next that names none.
    OutsideTransaction,
    /// Refuse the request.
    RefuseTransaction,
}

/// An error of this class or above ends the session ("Database Engine error
/// severities" on Microsoft Learn).
const SEVERE: u8 = 20;

/// Identifies a transaction (MS-TDS 2.2.5.3.2).
pub(super) type Descriptor = [u8; 8];

/// Shared by a connection's transport, which writes, and its manager, which reads.
#[derive(Debug)]
pub(super) struct Link {
    clock: Arc<dyn Clock>,
    state: Lock<State>,
    /// What the server may still send.
    pub(super) allowance: Allowance,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub(super) struct State {
    /// When the server last sent something, by the clock's monotonic time.
    heard: Duration,
    /// How many requests have begun.
    pub(super) requests: u64,
    responses: u64,
    /// The last write could not be completed at once; the task that wrote may have given up.
    pub(super) stuck: bool,
    /// The next request that can carry it resets the session first.
    pub(super) reset: Option<ResetRule>,
    pub(super) resets_sent: u64,
    /// The current request resets the session, and its response has not acknowledged that.
    pub(super) awaits_reset: bool,
    /// The descriptor of the open transaction, as far as responses show, and at each request by
    /// its headers. Not known of one that began after the first result set of the last response.
    pub(super) transaction: Option<Descriptor>,
    /// A guard owns the transaction, and has not ended it.
    pub(super) guarded: bool,
    /// The guard was dropped, or the server ended its transaction: requests are refused.
    pub(super) abandoned: bool,
    /// The server has read the login's token.
    pub(super) acknowledged_token: bool,
    /// The server's errors until it acknowledged the token.
    pub(super) login_errors: Vec<Vec<u8>>,
    /// The server refused to change a database that is read-only.
    pub(super) is_read_only: bool,
    /// When the last request began.
    asked: Duration,
    /// When a response was last waited for.
    waited: Duration,
    /// Why the connection must not be used any more.
    pub(super) fault: Option<RetireReason>,
}

impl Link {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State { heard: clock.monotonic(), ..State::default() };
        Self { clock, state: Lock::new(state), allowance: Allowance::for_login() }
    }

    /// One task uses a connection at a time, so that nothing waits for this lock.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// When the server last sent something, by the clock's monotonic time; before that, when the
    /// connection was begun.
    pub(super) fn heard(&self) -> Duration {
        self.state().heard
    }

    /// Every request has its whole response, and nothing is half-written.
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

    /// The server sent something.
    pub(super) fn hears(&self) {
        let now = self.clock.monotonic();
        self.state().heard = now;
    }

    pub(super) fn response_ended(&self) {
        let mut state = self.state();
        state.responses += 1;
        state.judge_reset();
    }

    /// The server sent this error: from its number on.
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
        // What follows would not be within the transaction.
        state.abandoned |= state.guarded;
    }

    /// A response is waited for.
    pub(super) fn waits(&self) {
        let now = self.clock.monotonic();
        self.state().waited = now;
    }

    /// If the server sent nothing since the last request began: when that was, and for how long
    /// a response was waited for.
    pub(super) fn unanswered(&self) -> Option<(Duration, Duration)> {
        let State { heard, asked, waited, .. } = *self.state();
        (heard < asked).then(|| (asked, waited.saturating_sub(asked)))
    }

    /// Refuses requests from now on, because the transaction that they belong to was dropped.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        (state.guarded, state.abandoned) = (false, true);
    }

    /// Accepts requests again: to roll back.
    pub(super) fn readmit(&self) {
        let mut state = self.state();
        (state.guarded, state.abandoned) = (false, false);
    }

    /// Whether the reset bit goes with the request that is about to be sent.
    pub(super) fn reset_goes_with(&self, transaction: Option<Descriptor>) -> io::Result<bool> {
        let mut state = self.state();
        state.transaction = transaction;
        match (state.reset, transaction.is_some()) {
            (None, _) | (Some(ResetRule::OutsideTransaction), true) => Ok(false),
            (Some(ResetRule::RefuseTransaction), true) => {
                state.set_fault(RetireReason::TransactionOpen);
                Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the connection's last borrower left a transaction open, so that it cannot be \
                     reset; it is retired: take another from the pool and try again, and commit \
                     or roll back before a connection goes back (or use Recycling::Clean)",
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

    /// The first fault stays.
    pub(super) fn set_fault(&self, fault: RetireReason) {
        self.state().set_fault(fault);
    }
}

impl State {
    fn set_fault(&mut self, fault: RetireReason) {
        self.fault.get_or_insert(fault);
    }

    /// The acknowledgement of a reset comes before this, or not at all. An earlier fault stays:
    /// after a severe error or an attention there is no verdict.
    pub(super) fn judge_reset(&mut self) {
        if std::mem::take(&mut self.awaits_reset) {
            self.set_fault(RetireReason::ResetNotAcknowledged);
        }
    }
}
