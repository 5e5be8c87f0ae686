use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Transport, dial::Socket, link::Link, returned::Cleaned};

/// tiberius' client over this crate's [`Transport`].
pub type Client = tiberius::Client<Transport>;

/// A logged-in connection. It dereferences to tiberius' [`Client`].
pub struct Connection {
    /// Boxed, because it has many kilobytes, which a pool would copy at every checkout.
    pub(super) client: Box<Client>,
    pub(super) link: Arc<Link>,
    pub(super) socket: Socket,
    /// The server of this connection, after routing.
    pub(super) server: String,
    /// When the token of the login expires.
    pub(super) token_expires_on: SystemTime,
    /// When the connection was opened, on the connector's monotonic clock.
    pub(super) created: Duration,
    /// A random number from 0 to 1, so that the connections of a pool do not expire together.
    pub(super) jitter: f64,
    /// Whether the connection was counted as retired.
    pub(super) retired: bool,
    pub(super) cleaned: Cleaned,
}

impl Connection {
    /// Whether a request was sent since the session was cleaned.
    pub(super) fn is_used(&self) -> bool {
        self.cleaned.is_used(self.link.state().requests)
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
