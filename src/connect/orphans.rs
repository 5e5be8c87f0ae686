//! Logins whose callers have given up, for the next callers to adopt.
// The model check compiles this file by itself.

use std::collections::VecDeque;

/// The logins of one pool that have no caller, oldest first. A login that is cancelled here is gone
/// before another one can start.
#[derive(Debug)]
pub(super) struct Orphans<F> {
    flights: VecDeque<(u64, F)>,
    closed: bool,
}

impl<F> Orphans<F> {
    pub(super) const fn new() -> Self {
        Self { flights: VecDeque::new(), closed: false }
    }

    /// Returns the oldest login, which now has a caller. A caller starts another login only if this
    /// returns `None`, so connections and logins together never exceed the pool's maximum size.
    pub(super) fn adopt(&mut self) -> Option<(u64, F)> {
        self.flights.pop_front()
    }

    /// Keeps this login, whose caller has given up.
    pub(super) fn leave(&mut self, id: u64, flight: F) {
        if !self.closed {
            self.flights.push_back((id, flight));
        }
    }

    /// Drops this login if it has no caller: it failed, or its connection was not used.
    pub(super) fn remove(&mut self, id: u64) {
        self.flights.retain(|(other, _)| *other != id);
    }

    /// Cancels the oldest logins, so that at most `most` remain.
    pub(super) fn shrink(&mut self, most: usize) {
        let ended = self.flights.len().saturating_sub(most);
        self.flights.drain(..ended);
    }

    /// Cancels all logins. Later ones are cancelled as soon as their callers give up.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.flights.clear();
    }
}
