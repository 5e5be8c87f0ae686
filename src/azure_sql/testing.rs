//! Accessors for tests.

use super::Connection;

impl Connection {
    /// Returns the server of this connection after routing, as `host,port`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns the number of requests that were sent with the reset bit.
    #[must_use]
    pub fn resets_sent(&self) -> u64 {
        self.link.state().resets_sent
    }
}
