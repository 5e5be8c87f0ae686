//! What the manager knows of a connection's transport, which tiberius owns.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::RetireReason;
use crate::{clock::Clock, limited::Allowance};

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

/// Shared by a connection's transport, which writes, and its manager, which reads.
#[derive(Debug)]
pub(super) struct Link {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// What the server may still send.
    pub(super) allowance: Allowance,
}

#[derive(Debug, Default)]
struct State {
    /// When the last response ended, by the clock's monotonic time.
    heard: Duration,
    requests: u64,
    responses: u64,
    /// The last write could not be completed at once; the task that wrote may have given up.
    stuck: bool,
    reset: Option<ResetRule>,
    resets_sent: u64,
    /// Why the connection must not be used any more.
    fault: Option<RetireReason>,
}

impl Link {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State { heard: clock.monotonic(), ..State::default() };
        Self { clock, state: Mutex::new(state), allowance: Allowance::for_login() }
    }

    /// One task uses a connection at a time, so that nothing waits for this lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the server last completed a response, by the clock's monotonic time; before the
    /// first response, when the connection was begun.
    pub(super) fn heard(&self) -> Duration {
        self.state().heard
    }

    /// Every request has its whole response, and nothing is half-written.
    pub(super) fn is_settled(&self) -> bool {
        let state = self.state();
        state.requests == state.responses && !state.stuck
    }

    pub(super) fn request_started(&self) {
        self.state().requests += 1;
    }

    pub(super) fn response_ended(&self) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.responses += 1;
        state.heard = now;
    }

    pub(super) fn set_stuck(&self, stuck: bool) {
        self.state().stuck = stuck;
    }

    /// The next request that can carry it resets the session first.
    pub(super) fn schedule_reset(&self, rule: ResetRule) {
        self.state().reset = Some(rule);
    }

    /// Whether the reset bit goes with the request that is about to be sent.
    pub(super) fn reset_goes_with(&self, in_transaction: bool) -> io::Result<bool> {
        let mut state = self.state();
        match (state.reset, in_transaction) {
            (None, _) | (Some(ResetRule::OutsideTransaction), true) => Ok(false),
            (Some(ResetRule::RefuseTransaction), true) => {
                state.fault.get_or_insert(RetireReason::TransactionOpen);
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
                Ok(true)
            }
        }
    }

    /// No request could carry the reset yet: none was sent, or each was in a transaction.
    pub(super) fn is_reset_due(&self) -> bool {
        self.state().reset.is_some()
    }

    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn resets_sent(&self) -> u64 {
        self.state().resets_sent
    }

    /// Records that an attention cancelled the request. Only a reader of tokens knows whether
    /// its acknowledgement comes alone or within the response.
    pub(super) fn cancelled(&self) {
        self.set_fault(RetireReason::Cancelled);
    }

    /// The first fault stays.
    pub(super) fn set_fault(&self, fault: RetireReason) {
        self.state().fault.get_or_insert(fault);
    }

    pub(super) fn fault(&self) -> Option<RetireReason> {
        self.state().fault
    }
}

#[cfg(any(test, fuzzing))]
impl Default for Link {
    fn default() -> Self {
        Self::new(Arc::new(crate::clock::ManualClock::new()))
    }
}
