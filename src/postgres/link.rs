//! What the wire says of a connection, and which connection a client belongs to, where the
//! driver does not say.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    CancelToken,
    tls::{ChannelBinding, TlsConnect, TlsStream},
};

use crate::limited::Allowance;

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

/// The key in a cancellation token. The token does not show it, but writes it: here onto a
/// stream in memory, without waiting.
fn key(token: &CancelToken) -> Option<Key> {
    let written = Arc::new(Mutex::new(Vec::new()));
    let stream = Capture(written.clone());
    token.cancel_query_raw(stream, InMemory).now_or_never()?.ok()?;
    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    written.last_chunk().copied()
}

struct Capture(Arc<Mutex<Vec<u8>>>);

impl AsyncRead for Capture {
    /// The answer to `SSLRequest`.
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buffer.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Capture {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Capture {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// Nothing leaves the process, so nothing is encrypted.
struct InMemory;

impl TlsConnect<Capture> for InMemory {
    type Stream = Capture;
    type Error = io::Error;
    type Future = Ready<io::Result<Capture>>;

    fn connect(self, stream: Capture) -> Self::Future {
        ready(Ok(stream))
    }
}
