//! What tests look at.

use super::Connection;

impl Connection {
    /// The server that it is logged in to, as `host,port`: where the login was
    /// routed, if it was.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// How many requests have told the server to reset the session first.
    #[must_use]
    pub fn resets_sent(&self) -> u64 {
        self.link.state().resets_sent
    }
}
