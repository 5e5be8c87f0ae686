//! Logins that lost their callers, for the next callers to adopt.
// The model check compiles this file in by itself.

use std::collections::VecDeque;

/// The logins of one pool that have no caller, oldest first.
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

    /// The caller of this login has given up. Returns the login if it must end.
    #[must_use]
    pub(super) fn leave(&mut self, id: u64, flight: F) -> Option<F> {
        if self.closed {
            return Some(flight);
        }
        self.flights.push_back((id, flight));
        None
    }

    /// Returns this login if it has no caller: it has failed, or nobody wanted its connection.
    #[must_use]
    pub(super) fn remove(&mut self, id: u64) -> Option<F> {
        let at = self.flights.iter().position(|(other, _)| *other == id)?;
        self.flights.remove(at).map(|(_, flight)| flight)
    }

    /// Returns the oldest logins, so that at most `most` stay.
    #[must_use]
    pub(super) fn shrink(&mut self, most: usize) -> VecDeque<(u64, F)> {
        let stay = self.flights.split_off(self.flights.len().saturating_sub(most));
        std::mem::replace(&mut self.flights, stay)
    }

    /// Returns all logins. Later ones end as soon as their callers give up.
    #[must_use]
    pub(super) fn close(&mut self) -> VecDeque<(u64, F)> {
        self.closed = true;
        std::mem::take(&mut self.flights)
    }
}
