//! Logins that lost their callers, for the next callers to adopt.
// The model check compiles this file in by itself.

use std::collections::VecDeque;

/// The logins of one pool that have no caller, oldest first. Those that end here do so before
/// another one can start.
#[derive(Debug)]
pub(super) struct Orphans<F> {
    flights: VecDeque<(u64, F)>,
    closed: bool,
}

impl<F> Orphans<F> {
    pub(super) const fn new() -> Self {
        Self { flights: VecDeque::new(), closed: false }
    }

    /// Returns the oldest login, which has a caller from now on. A caller starts a login of its
    /// own only if there is none: so the pool never has more connections and logins together
    /// than its maximum size.
    pub(super) fn adopt(&mut self) -> Option<(u64, F)> {
        self.flights.pop_front()
    }

    /// The caller of this login has given up.
    pub(super) fn leave(&mut self, id: u64, flight: F) {
        if !self.closed {
            self.flights.push_back((id, flight));
        }
    }

    /// Ends this login if it has no caller: it has failed, or no caller wanted its connection.
    pub(super) fn remove(&mut self, id: u64) {
        self.flights.retain(|(other, _)| *other != id);
    }

    /// Ends the oldest logins, so that at most `most` stay.
    pub(super) fn shrink(&mut self, most: usize) {
        let ended = self.flights.len().saturating_sub(most);
        self.flights.drain(..ended);
    }

    /// Ends all logins. Later ones end as soon as their callers give up.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.flights.clear();
    }
}
