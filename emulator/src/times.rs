//! Events that tests request, each for a number of times.

use std::collections::VecDeque;

/// A queue of events, each with the number of times that it should happen. The oldest event
/// comes first.
#[derive(Debug)]
pub(crate) struct Times<T>(VecDeque<(usize, T)>);

impl<T> Default for Times<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Clone> Times<T> {
    /// `usize::MAX` repeats the event for ever.
    pub(crate) fn push(&mut self, times: usize, what: T) {
        if times > 0 {
            self.0.push_back((times, what));
        }
    }

    pub(crate) fn next(&mut self) -> Option<T> {
        self.next_where(|_| true)
    }

    pub(crate) fn next_where(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let index = self.0.iter().position(|(_, what)| fits(what))?;
        let (left, what) = &mut self.0[index];
        let what = what.clone();
        if *left == 1 {
            self.0.remove(index);
        } else if *left < usize::MAX {
            *left -= 1;
        }
        Some(what)
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
