//! The stream under tokio-postgres, which shows a [`Link`] what the server sends.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::link::Link;

/// A message's type, and its length, which counts itself but not the type (PostgreSQL
/// documentation, "Message Formats").
const HEAD: usize = 1 + 4;

/// As much of a message's body as [`Link`] looks at.
const LOOKED_AT: usize = 8;

/// A TLS stream whose server's messages are followed. (A part of public types, though not
/// itself one that can be named.)
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    messages: Messages,
    link: Arc<Link>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, link: Arc<Link>) -> Self {
        Self { stream, messages: Messages::default(), link }
    }
}

/// Follows messages in whatever pieces they arrive.
#[derive(Debug, Default)]
struct Messages {
    /// The start of the current message: its head, and what [`Link`] looks at.
    start: [u8; HEAD + LOOKED_AT],
    /// Bytes of the current message so far.
    have: usize,
}

impl Messages {
    fn pass(&mut self, mut bytes: &[u8], link: &Link) {
        while !bytes.is_empty() {
            // The head comes first and has the length.
            let end = if self.have < HEAD { HEAD } else { self.length() };
            let (now, later) = bytes.split_at(bytes.len().min(end - self.have));
            self.start.iter_mut().skip(self.have).zip(now).for_each(|(at, byte)| *at = *byte);
            self.have += now.len();
            bytes = later;
            if self.have >= HEAD && self.have == self.length() {
                let end = self.have.min(self.start.len());
                link.received(self.start[0], &self.start[HEAD..end]);
                self.have = 0;
            }
        }
    }

    /// The length of the current message, whose head is complete.
    fn length(&self) -> usize {
        let [_, a, b, c, d, ..] = self.start;
        // tokio-postgres ends a connection whose server sends an impossible length.
        HEAD.saturating_add(u32::from_be_bytes([a, b, c, d]).saturating_sub(4) as usize)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.messages.pass(&buffer.filled()[before..], &this.link);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
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

impl<S: TlsStream + Unpin> TlsStream for Wire<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    #[test]
    fn statements_that_may_prepare_are_seen_however_the_network_cuts_the_messages() {
        for (tag, prepares) in [
            ("PREPARE", true),
            ("DO", true),
            ("CALL", true),
            ("SELECT 1", false),
            ("PREPARE TRANSACTION", false),
            ("", false),
        ] {
            let messages = [
                message(b'D', &[b'C'; 100]),
                message(b'1', &[]),
                message(b'C', &[tag.as_bytes(), &[0]].concat()),
                message(b'Z', b"I"),
            ]
            .concat();
            for size in 1..=messages.len() {
                let (link, mut followed) = (Link::new(), Messages::default());
                messages.chunks(size).for_each(|piece| followed.pass(piece, &link));
                assert_eq!(link.take_may_have_prepared(), prepares, "{tag}, pieces of {size}");
                assert!(!link.take_may_have_prepared());
                assert_eq!(followed.have, 0);
            }
        }
    }

    #[test]
    fn impossible_lengths_are_passed_over() {
        let (link, mut followed) = (Link::new(), Messages::default());
        followed.pass(&[0; 64], &link);
        followed.pass(&[0xff; 64], &link);
    }
}
