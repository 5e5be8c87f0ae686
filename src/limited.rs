//! A stream that limits how much its peer can send, and that lets other tasks run.
// Without Azure SQL, some of this module is unused.
#![cfg_attr(not(feature = "azure-sql"), allow(dead_code))]

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

/// The maximum number of bytes read before the task yields. tokio's budget alone allows megabytes,
/// which may be hundreds of thousands of messages, and a time limit would wait for all of them.
const MAX_BEFORE_YIELD: usize = 64 * 1024;

/// How many bytes the peer may still send. Clones share the count.
#[derive(Debug, Clone)]
pub(crate) struct Allowance(Arc<AtomicU64>);

impl Allowance {
    /// The allowance for a TLS handshake (rustls accepts messages of 64 KB) and the response to a
    /// login or to a token request: 192 KB. Drivers keep most of it in memory.
    pub(crate) fn for_login() -> Self {
        Self(Arc::new(AtomicU64::new(192 * 1024)))
    }

    /// Restricts the allowance to 64 KB, for the response to a health check or a reset. Usual
    /// responses have some hundred bytes.
    pub(crate) fn restrict(&self) {
        self.0.store(64 * 1024, Relaxed);
    }

    /// Removes the limit.
    pub(crate) fn lift(&self) {
        self.0.store(u64::MAX, Relaxed);
    }

    /// Whether the peer has used up the allowance. The read that used it up has failed.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

/// A stream whose reads fail when the peer has used up its [`Allowance`].
#[derive(Debug)]
pub(crate) struct Limited<S> {
    stream: S,
    allowance: Allowance,
    /// The number of bytes read since the task last yielded.
    since_yield: usize,
}

impl<S> Limited<S> {
    pub(crate) fn new(stream: S, allowance: Allowance) -> Self {
        Self { stream, allowance, since_yield: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.since_yield >= MAX_BEFORE_YIELD {
            self.since_yield = 0;
            // Wakes the task after the other tasks and the runtime's timers have run. On a runtime
            // with one thread, a plain wake would starve them.
            return pin!(yield_now()).poll(cx).map(Ok);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        self.since_yield += count;
        let spend = |left: u64| Some(left.saturating_sub(count as u64));
        let before = self.allowance.0.fetch_update(Relaxed, Relaxed, spend);
        if before.is_ok_and(|before| before <= count as u64) {
            let what = "the peer sent more data than this exchange allows";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, repeat};

    use super::*;
    use crate::clock::{Elapsed, ManualClock, timeout};

    #[tokio::test]
    async fn a_stream_reads_at_most_its_limit() {
        let allowance = Allowance(Arc::new(AtomicU64::new(10)));
        let mut stream = Limited::new(&[7; 30][..], allowance.clone());
        stream.read_exact(&mut [0; 9]).await.unwrap();
        let error = stream.read_exact(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        allowance.0.store(u64::MAX, Relaxed);
        stream.read_exact(&mut [0; 20]).await.unwrap();
    }

    #[tokio::test]
    async fn a_time_limit_stops_a_reader_without_a_budget() {
        let (clock, limit) = (ManualClock::new(), Duration::from_secs(1));
        let allowance = Allowance(Arc::new(AtomicU64::new(u64::MAX)));
        let mut stream = Limited::new(repeat(7), allowance);
        let passing = clock.clone();
        let reading = tokio::task::unconstrained(async move {
            passing.advance(limit);
            for _ in 0..1_000 {
                stream.read_exact(&mut [0; 4096]).await.unwrap();
            }
        });
        assert_eq!(timeout(&clock, limit, reading).await, Err(Elapsed));
    }
}
