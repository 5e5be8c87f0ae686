//! Decides what happens to a connection that its borrower returns.
// The model check compiles this file by itself.

use std::time::Duration;

/// The action for a returned connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returned {
    /// Return it to the pool as it is.
    Keep,
    /// Clean it in the background, then return it to the pool.
    Clean,
    /// Close it.
    Close,
}

/// Decides about a connection. `may_clean` is whether it can be cleaned in the background.
pub(crate) fn decide(may_clean: bool, in_transaction: bool, is_used: bool) -> Returned {
    match may_clean {
        // Without cleaning, the transaction would keep its locks until the next checkout.
        false if in_transaction => Returned::Close,
        true if is_used => Returned::Clean,
        _ => Returned::Keep,
    }
}

/// How long a session may be used without a round trip after it was cleaned.
const CLEAN_FOR: Duration = Duration::from_secs(1);

/// When a session was last known to be in the state after a login.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cleaned {
    /// On a monotonic clock.
    pub(crate) at: Duration,
    /// The number of requests at that time.
    pub(crate) requests: u64,
}

impl Cleaned {
    /// Whether a borrower or a hook has sent a request since then.
    pub(crate) fn is_used(&self, requests: u64) -> bool {
        requests != self.requests
    }

    /// Whether the session may be used without cleaning.
    pub(crate) fn holds(&self, requests: u64, now: Duration) -> bool {
        !self.is_used(requests) && now.saturating_sub(self.at) < CLEAN_FOR
    }
}

/// An object of a pool.
pub(crate) trait Pooled {
    /// Takes the object out of its pool and drops it.
    fn discard(self);
}

/// A connection that is being cleaned. Unless the cleaning succeeds, it is removed from the pool,
/// also if the task is cancelled or its runtime is shut down.
#[derive(Debug)]
pub(crate) struct Unclean<T: Pooled>(Option<T>);

impl<T: Pooled> Unclean<T> {
    pub(crate) fn new(object: T) -> Self {
        Self(Some(object))
    }

    /// Returns `None` once the object was taken.
    pub(crate) fn object(&mut self) -> Option<&mut T> {
        self.0.as_mut()
    }

    /// Returns the object to its pool.
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
