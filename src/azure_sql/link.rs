//! What the manager knows of a connection's transport, which tiberius owns.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{clock::Clock, limited::Allowance};

/// Why a connection must not be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server or the network has closed it, or reading or writing failed.
    Closed,
    /// A request was cancelled by an attention: its acknowledgement may come
    /// alone or within the response, which only a reader of tokens can tell.
    Cancelled,
    /// A transaction was open when a reset was due.
    TransactionOpen,
    /// The server has sent an error that ends the session.
    Severe,
}

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
    /// When the last response ended: nanoseconds of the clock's monotonic time.
    heard: AtomicU64,
    requests: AtomicU64,
    responses: AtomicU64,
    /// The last write could not be finished at once; whoever wrote may have given up.
    stuck: AtomicBool,
    reset: AtomicU8,
    resets_sent: AtomicU64,
    fault: AtomicU8,
    /// What the server may still send.
    pub(super) allowance: Allowance,
}

const NO_RESET: u8 = 0;
const RESET_OUTSIDE: u8 = 1;
const RESET_REFUSE: u8 = 2;

// All of it belongs to one connection, which one task uses at a time: whoever
// hands it on synchronises. The atomics are there for `Sync`.
impl Link {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let link = Self {
            clock,
            heard: AtomicU64::default(),
            requests: AtomicU64::default(),
            responses: AtomicU64::default(),
            stuck: AtomicBool::default(),
            reset: AtomicU8::new(NO_RESET),
            resets_sent: AtomicU64::default(),
            fault: AtomicU8::default(),
            allowance: Allowance::for_login(),
        };
        link.hear();
        link
    }

    fn hear(&self) {
        let now = u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Release);
    }

    /// When the server last answered a request to its end, by the clock's monotonic
    /// time; before the first, when the connection was begun.
    pub(super) fn heard(&self) -> Duration {
        Duration::from_nanos(self.heard.load(Ordering::Acquire))
    }

    /// Every request was answered to its end, and nothing is half-written.
    pub(super) fn is_settled(&self) -> bool {
        self.requests.load(Ordering::Acquire) == self.responses.load(Ordering::Acquire)
            && !self.stuck.load(Ordering::Acquire)
    }

    pub(super) fn request_started(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn response_ended(&self) {
        self.responses.fetch_add(1, Ordering::AcqRel);
        self.hear();
    }

    pub(super) fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Release);
    }

    /// The next request that can carry it shall reset the session first.
    pub(super) fn schedule_reset(&self, rule: ResetRule) {
        let rule = match rule {
            ResetRule::OutsideTransaction => RESET_OUTSIDE,
            ResetRule::RefuseTransaction => RESET_REFUSE,
        };
        self.reset.store(rule, Ordering::Release);
    }

    /// A request is about to go out: whether the reset bit goes with it.
    pub(super) fn reset_goes_with(&self, in_transaction: bool) -> io::Result<bool> {
        match (self.reset.load(Ordering::Acquire), in_transaction) {
            (NO_RESET, _) | (RESET_OUTSIDE, true) => Ok(false),
            (RESET_REFUSE, true) => {
                self.set_fault(Fault::TransactionOpen);
                Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the connection's last borrower left a transaction open, so that it cannot be \
                     reset; it is retired: take another from the pool and try again, and commit \
                     or roll back before a connection goes back (or use Recycling::Verified)",
                ))
            }
            (_, _) => {
                self.reset.store(NO_RESET, Ordering::Release);
                self.resets_sent.fetch_add(1, Ordering::AcqRel);
                Ok(true)
            }
        }
    }

    /// No request could carry the reset yet: none was sent, or each was in a transaction.
    pub(super) fn is_reset_due(&self) -> bool {
        self.reset.load(Ordering::Acquire) != NO_RESET
    }

    pub(super) fn resets_sent(&self) -> u64 {
        self.resets_sent.load(Ordering::Acquire)
    }

    pub(super) fn cancelled(&self) {
        self.set_fault(Fault::Cancelled);
    }

    /// The first fault stays.
    pub(super) fn set_fault(&self, fault: Fault) {
        let code = match fault {
            Fault::Closed => 1,
            Fault::Cancelled => 2,
            Fault::TransactionOpen => 3,
            Fault::Severe => 4,
        };
        let _ = self.fault.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        match self.fault.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Fault::Closed),
            2 => Some(Fault::Cancelled),
            3 => Some(Fault::TransactionOpen),
            _ => Some(Fault::Severe),
        }
    }
}

#[cfg(any(test, fuzzing))]
impl Default for Link {
    fn default() -> Self {
        Self::new(Arc::new(crate::clock::ManualClock::new()))
    }
}
