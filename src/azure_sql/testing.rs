//! Accessors for tests.

use super::Connection;

impl Connection {
    /// Returns the server to which it is logged in, as `host,port`, after routing.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns how many requests have reset the session first.
    #[must_use]
    pub fn resets_sent(&self) -> u64 {
        self.link.state().resets_sent
    }
}
