//! Which connection a client belongs to, where a driver does not say.

use std::{
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    CancelToken,
    tls::{ChannelBinding, TlsConnect, TlsStream},
};

/// Process ID and secret key of a server's session (PostgreSQL documentation, "Canceling
/// Requests in Progress").
pub(crate) type Key = [u8; 8];

/// The key in a cancellation token. The token does not show it, but writes it: here onto a
/// stream in memory, without waiting.
pub(crate) fn key(token: &CancelToken) -> Option<Key> {
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
