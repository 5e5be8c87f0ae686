//! Logins whose callers have given up, for the next callers to adopt.
// The model check compiles this file by itself.

use std::collections::VecDeque;

/// The logins of one pool that have no caller, oldest first. The methods that cancel a login drop
/// it before they return, so no other login can start earlier.
#[derive(Debug)]
pub(super) struct AbandonedLogins<L> {
    logins: VecDeque<(u64, L)>,
    closed: bool,
}

impl<L> AbandonedLogins<L> {
    pub(super) const fn new() -> Self {
        Self { logins: VecDeque::new(), closed: false }
    }

    /// Removes and returns the oldest login, for a new caller. A caller starts a login only if this
    /// returns `None`, so connections and logins together never exceed the pool's maximum size.
    pub(super) fn adopt(&mut self) -> Option<(u64, L)> {
        self.logins.pop_front()
    }

    /// Adds a login whose caller has given up, or drops it if the pool is closed.
    pub(super) fn add(&mut self, id: u64, login: L) {
        if !self.closed {
            self.logins.push_back((id, login));
        }
    }

    /// Drops a login that failed or whose connection was not used, unless it has a caller.
    pub(super) fn remove(&mut self, id: u64) {
        self.logins.retain(|(other, _)| *other != id);
    }

    /// Cancels the oldest logins, so that at most `max` remain.
    pub(super) fn shrink(&mut self, max: usize) {
        let excess = self.logins.len().saturating_sub(max);
        self.logins.drain(..excess);
    }

    /// Cancels all logins. Logins that are added later are cancelled at once.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.logins.clear();
    }
}
