//! What the wire says of a connection, and which connection a client belongs to, where the
//! driver does not say.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures_util::FutureExt;
use tokio::io::{Join, join};
use tokio_postgres::{
    CancelToken,
    tls::{ChannelBinding, TlsConnect, TlsStream},
};

use crate::limited::{Allowance, Limited};

/// Process ID and secret key of a server's session (PostgreSQL documentation, "Canceling
/// Requests in Progress").
type Key = [u8; 8];

/// What the wire says of one connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// What the server may still send.
    pub(crate) allowance: Allowance,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    key: Option<Key>,
    in_transaction: bool,
    may_have_prepared: bool,
}

impl Link {
    pub(super) fn new() -> Self {
        Self { allowance: Allowance::for_login(), state: Mutex::default() }
    }

    /// Whether the server reported an open or a failed transaction when it last was ready for a
    /// query.
    pub(super) fn in_transaction(&self) -> bool {
        self.state().in_transaction
    }

    /// Whether SQL may have prepared a statement since the last call: by `PREPARE`, or in a
    /// block or a procedure.
    pub(super) fn take_may_have_prepared(&self) -> bool {
        std::mem::take(&mut self.state().may_have_prepared)
    }

    /// A message of the server, with the beginning of its body.
    pub(super) fn received(&self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (message::BACKEND_KEY_DATA, body) => self.state().key = body.first_chunk().copied(),
            (message::COMMAND_COMPLETE, b"PREPARE\0" | b"DO\0" | b"CALL\0") => {
                self.state().may_have_prepared = true;
            }
            (message::READY_FOR_QUERY, [status, ..]) => {
                self.state().in_transaction = *status != message::IDLE;
            }
            _ => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Types of the server's messages (PostgreSQL documentation, "Message Formats").
mod message {
    pub(super) const BACKEND_KEY_DATA: u8 = b'K';
    pub(super) const COMMAND_COMPLETE: u8 = b'C';
    pub(super) const READY_FOR_QUERY: u8 = b'Z';
    /// The status in `READY_FOR_QUERY`: not in a transaction.
    pub(super) const IDLE: u8 = b'I';
}

/// The links of a connector's connections.
///
/// By the key of their sessions: `None` for a key that a server has given to several.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<Key, Option<Weak<Link>>>>);

impl Links {
    pub(super) fn add(&self, link: &Arc<Link>) {
        let Some(key) = link.state().key else { return };
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, link| link.as_ref().is_none_or(|link| link.strong_count() > 0));
        let new = Some(Arc::downgrade(link));
        links.entry(key).and_modify(|known| *known = None).or_insert(new);
    }

    /// The link of the connection that the token cancels. `None` if its server has given no
    /// key, or the same one to several connections.
    pub(super) fn of(&self, token: &CancelToken) -> Option<Arc<Link>> {
        let key = key(token)?;
        let links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&key)?.as_ref()?.upgrade()
    }
}

/// The key in a cancellation token. The token does not show it, but writes it: here into
/// memory, without waiting.
fn key(token: &CancelToken) -> Option<Key> {
    let mut written = Vec::new();
    // `S` is the answer to `SSLRequest`.
    let stream = Limited::new(join(b"S".as_slice(), &mut written), Allowance::for_login());
    token.cancel_query_raw(stream, NotEncrypted).now_or_never()?.ok()?;
    written.last_chunk().copied()
}

/// A stream whose bytes do not leave the process.
type InMemory<'a> = Limited<Join<&'static [u8], &'a mut Vec<u8>>>;

impl TlsStream for InMemory<'_> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

struct NotEncrypted;

impl<'a> TlsConnect<InMemory<'a>> for NotEncrypted {
    type Stream = InMemory<'a>;
    type Error = Infallible;
    type Future = Ready<Result<InMemory<'a>, Infallible>>;

    fn connect(self, stream: InMemory<'a>) -> Self::Future {
        ready(Ok(stream))
    }
}
