//! What becomes of a connection that its borrower returns.
// The model check compiles this file in by itself.

use std::time::Duration;

/// The action for a returned connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returned {
    /// It goes back to the pool as it is.
    Keep,
    /// It is cleaned in the background, and then goes back.
    Clean,
    /// It leaves the pool.
    Close,
}

/// `may_clean`: it can be cleaned in the background.
pub(crate) fn decide(may_clean: bool, in_transaction: bool, is_used: bool) -> Returned {
    match may_clean {
        // Its locks must not wait for the next borrower, and to roll back takes a round trip.
        false if in_transaction => Returned::Close,
        true if is_used => Returned::Clean,
        _ => Returned::Keep,
    }
}

/// A session that was cleaned within this time is used without a round trip.
const CLEAN_FOR: Duration = Duration::from_secs(1);

/// When a session was last known to be as a login leaves it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cleaned {
    /// By a monotonic clock.
    pub(crate) at: Duration,
    /// The number of requests by then.
    pub(crate) requests: u64,
}

impl Cleaned {
    /// Whether there was a request since: of a borrower, or of a hook.
    pub(crate) fn is_used(&self, requests: u64) -> bool {
        requests != self.requests
    }

    /// Whether the session may be used as it is.
    pub(crate) fn holds(&self, requests: u64, now: Duration) -> bool {
        !self.is_used(requests) && now.saturating_sub(self.at) < CLEAN_FOR
    }
}

/// An object of a pool.
pub(crate) trait Pooled {
    /// Takes the object out of its pool, and ends it.
    fn discard(self);
}

/// A connection that is being cleaned. It leaves the pool unless that succeeds, also if the task
/// or its runtime ends.
#[derive(Debug)]
pub(crate) struct Unclean<T: Pooled>(Option<T>);

impl<T: Pooled> Unclean<T> {
    pub(crate) fn new(object: T) -> Self {
        Self(Some(object))
    }

    /// `None` after the end.
    pub(crate) fn object(&mut self) -> Option<&mut T> {
        self.0.as_mut()
    }

    /// The object goes back to its pool.
    pub(crate) fn cleaned(mut self) {
        drop(self.0.take());
    }
}

impl<T: Pooled> Drop for Unclean<T> {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            object.discard();
        }
    }
}
