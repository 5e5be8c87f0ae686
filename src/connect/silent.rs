use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether a server has fallen silent, so that its idle connections need not each be
/// waited for.
///
/// `T` is a time: that of the injected clock, or deadpool's.
#[derive(Debug)]
#[cfg_attr(not(all(feature = "azure-sql", feature = "postgres")), allow(dead_code))]
pub(crate) struct SilentServer<T>(Mutex<ResponseTimes<T>>);

#[derive(Debug)]
#[cfg_attr(not(all(feature = "azure-sql", feature = "postgres")), allow(dead_code))]
struct ResponseTimes<T> {
    /// When the latest of those requests was sent that were answered.
    answered: Option<T>,
    /// When a later one was sent that was not answered.
    unanswered: Option<T>,
    /// Connections last heard from before this are not waited for.
    silent_since: Option<T>,
}

// Each database notes what it can tell of a request without a response.
#[cfg_attr(not(all(feature = "azure-sql", feature = "postgres")), allow(dead_code))]
impl<T: Copy + Ord> SilentServer<T> {
    /// Whether a connection that was last heard from then counts as silent.
    pub(crate) fn includes(&self, last_heard: T) -> bool {
        self.lock().silent_since.is_some_and(|since| last_heard < since)
    }

    /// A request that was sent then was answered.
    pub(crate) fn answered(&self, sent: T) {
        let mut heard = self.lock();
        let answered = heard.answered.max(Some(sent));
        *heard = ResponseTimes { answered, ..ResponseTimes::default() };
    }

    /// The server sent something then.
    pub(crate) fn heard(&self, at: T) {
        let mut times = self.lock();
        times.answered = times.answered.max(Some(at));
    }

    /// A request that was sent then was not answered, and nothing else explains it, unless the
    /// server sent something later.
    pub(crate) fn silent(&self, sent: T) {
        let mut times = self.lock();
        if times.answered <= Some(sent) {
            times.silent_since = times.silent_since.max(Some(sent));
        }
    }

    /// A request that was sent then was not answered. Its connection may still be busy
    /// with a query that its borrower dropped; where the next one does not answer either,
    /// it is the server or the network.
    pub(crate) fn unanswered(&self, sent: T) {
        let mut heard = self.lock();
        if heard.answered < Some(sent) {
            heard.silent_since = heard.unanswered.or(heard.silent_since);
            heard.unanswered = Some(sent);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ResponseTimes<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for ResponseTimes<T> {
    fn default() -> Self {
        Self { answered: None, unanswered: None, silent_since: None }
    }
}

impl<T> Default for SilentServer<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_unanswered_in_a_row_condemn_what_was_last_heard_from_before() {
        let server = SilentServer::default();
        let silent = || [1, 9, 10, 11].map(|heard| server.includes(heard));
        server.unanswered(5);
        server.answered(7);
        assert_eq!(silent(), [false; 4], "one has answered");
        server.unanswered(10);
        assert_eq!(silent(), [false; 4], "one may be busy");
        server.unanswered(12);
        assert_eq!(silent(), [true, true, false, false]);
        // It lasts: those that were heard from meanwhile are condemned as well.
        server.unanswered(13);
        assert_eq!(silent(), [true; 4]);
        server.answered(20);
        assert_eq!(silent(), [false; 4]);
        // What was sent before the answered request is not news, however late it is noted.
        for sent in [18, 19, 20, 20] {
            server.unanswered(sent);
        }
        assert_eq!(silent(), [false; 4]);
        server.unanswered(21);
        server.unanswered(21);
        assert_eq!(silent(), [true; 4]);
    }

    #[test]
    fn one_that_nothing_else_explains_is_enough() {
        let server = SilentServer::default();
        server.silent(10);
        assert_eq!([9, 10].map(|heard| server.includes(heard)), [true, false]);
        // The server was heard from after these were sent, or has been silent for longer.
        server.heard(20);
        server.silent(19);
        server.silent(5);
        assert_eq!([9, 10].map(|heard| server.includes(heard)), [true, false]);
        server.silent(21);
        assert!(server.includes(20));
    }
}
