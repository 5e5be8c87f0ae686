//! The stream below tokio-postgres, which reports the messages of client and server to a [`Link`].

#[cfg(any(test, fuzzing))]
mod testing;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::{link::Link, tls::Stream};
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(fuzzing), allow(unreachable_pub, unused_imports))]
pub use testing::follows_alike;

/// The size of a message's type and length. The length includes itself but not the type (PostgreSQL
/// documentation, "Message Formats").
const HEAD: usize = 1 + 4;

/// The number of bytes of a message's body that [`Link`] inspects. The SQLSTATE of an error comes
/// after its severity, which is sent in the server's language and in English.
const INSPECTED: usize = 64;

/// A TLS stream that reports its messages. (It is part of public types, but users cannot name it.)
pub struct Wire {
    /// `None` after the stream was dropped, and in tests.
    stream: Option<Stream>,
    sent: Messages,
    received: Messages,
    link: Arc<Link>,
}

impl Wire {
    pub(super) fn new(stream: Option<Stream>, link: Arc<Link>) -> Self {
        // The first message of a client has no type.
        Self { stream, sent: Messages::with(1), received: Messages::with(0), link }
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream),
            None => unreachable!("the stream is taken only on drop, and in tests"),
        }
    }

    /// Reads until the server has answered all requests, or has closed the connection.
    pub(super) async fn drain(&mut self) {
        let mut rest = [0; 1024];
        while !self.link.state().is_settled()
            && self.read(&mut rest).await.is_ok_and(|count| count > 0)
        {}
    }
}

/// Cancels a running query. If the socket were just closed, the query would continue: PgBouncer no
/// longer knows its client, and the server notices only when it sends rows.
impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(canceller) = self.link.take_canceller() {
            // Limits further reads: a server that sends rows notices when the socket is closed.
            self.link.allowance.restrict();
            let nothing = Self::new(None, self.link.clone());
            canceller.finish(std::mem::replace(self, nothing));
        }
    }
}

/// Finds the messages in a stream that arrives in pieces of any size.
#[derive(Debug)]
struct Messages {
    /// The start of the current message: its head, and what [`Link`] inspects.
    start: [u8; HEAD + INSPECTED],
    /// The number of bytes of the current message so far.
    have: usize,
}

impl Messages {
    /// Counts this many bytes of the first message as read.
    fn with(have: usize) -> Self {
        Self { start: [0; HEAD + INSPECTED], have }
    }

    /// Calls `on_message` with the type of each complete message and the beginning of its body.
    fn feed(&mut self, mut bytes: &[u8], on_message: impl Fn(u8, &[u8])) {
        while !bytes.is_empty() {
            // The head comes first and contains the length.
            let end = if self.have < HEAD { HEAD } else { self.length() };
            let (now, later) = bytes.split_at(bytes.len().min(end - self.have));
            self.start.iter_mut().skip(self.have).zip(now).for_each(|(at, byte)| *at = *byte);
            self.have += now.len();
            bytes = later;
            if self.have >= HEAD && self.have == self.length() {
                let end = self.have.min(self.start.len());
                on_message(self.start[0], &self.start[HEAD..end]);
                self.have = 0;
            }
        }
    }

    /// Returns the length of the current message, whose head is complete.
    fn length(&self) -> usize {
        let [_, a, b, c, d, ..] = self.start;
        // tokio-postgres closes a connection whose server sends an impossible length.
        HEAD.saturating_add(u32::from_be_bytes([a, b, c, d]).saturating_sub(4) as usize)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let outcome = ready!(this.stream().poll_read(cx, buffer));
        let read = &buffer.filled()[before..];
        if read.is_empty() {
            // The connection is closed, and its queries with it.
            drop(this.link.take_canceller());
        }
        this.received.feed(read, |kind, body| this.link.received(kind, body));
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count = ready!(this.stream().poll_write(cx, bytes))?;
        this.sent.feed(&bytes[..count], |kind, _| this.link.sent(kind));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.state().key.is_none() {
            // This is a cancellation. The server closes the connection when it has processed the
            // request, so wait for that or for an error.
            let mut rest = [0; 64];
            let mut buffer = ReadBuf::new(&mut rest);
            while ready!(self.stream().poll_read(cx, &mut buffer)).is_ok() {
                if buffer.filled().is_empty() {
                    break;
                }
                buffer.clear();
            }
        }
        self.stream().poll_shutdown(cx)
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.as_ref().map_or_else(ChannelBinding::none, Stream::channel_binding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    /// Feeds a client's and then a server's messages, in pieces of each size.
    fn passed(sent: &[u8], received: &[u8], check: impl Fn(&Link)) {
        for size in 1..=received.len().max(sent.len()) {
            let link = Arc::new(Link::default());
            let mut wire = Wire::new(None, link.clone());
            sent.chunks(size).for_each(|piece| wire.sent.feed(piece, |kind, _| link.sent(kind)));
            let receive = |kind, body: &[u8]| link.received(kind, body);
            received.chunks(size).for_each(|piece| wire.received.feed(piece, receive));
            check(&link);
            assert_eq!((wire.sent.have, wire.received.have), (0, 0), "whole messages");
        }
    }

    /// Returns a client's first message, followed by these.
    fn after_startup(messages: &[Vec<u8>]) -> Vec<u8> {
        let startup = [&[0, 0, 0, 16][..], &[b'Q'; 12]].concat();
        [startup, messages.concat()].concat()
    }

    #[test]
    fn statements_that_may_prepare_are_detected_however_messages_are_split() {
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
            passed(&after_startup(&[]), &messages, |link| {
                assert_eq!(link.take_may_have_prepared(), prepares, "{tag}");
                assert!(!link.take_may_have_prepared());
            });
        }
    }

    #[test]
    fn requests_are_counted_against_the_responses() {
        let (query, sync, ready) = (message(b'Q', b"x\0"), message(b'S', b""), message(b'Z', b"T"));
        let (parse, copy) = (message(b'P', b"\0\0\0\0"), message(b'G', b"\0\0\0"));
        let login = message(b'Z', b"I");
        for (sent, received, settled, in_transaction) in [
            (vec![], vec![&login], true, false),
            (vec![&query], vec![&login], false, false),
            (vec![&query], vec![&login, &ready], true, true),
            (vec![&parse, &sync], vec![&login], false, false),
            (vec![&parse, &sync, &query], vec![&login, &ready], false, true),
            (vec![&parse, &sync, &query], vec![&login, &ready, &ready], true, true),
            // The server ignores the first Sync of a COPY FROM STDIN.
            (vec![&parse, &sync, &sync], vec![&login, &copy, &ready], true, true),
        ] {
            let sent: Vec<Vec<u8>> = sent.into_iter().cloned().collect();
            // The login's response comes before the first request.
            let link = Link::default();
            let mut wire = Wire::new(None, Arc::new(Link::default()));
            let receive = |wire: &mut Wire, bytes: &[u8]| {
                wire.received.feed(bytes, |kind, body| link.received(kind, body));
            };
            receive(&mut wire, received[0]);
            wire.sent.feed(&after_startup(&sent), |kind, _| link.sent(kind));
            received[1..].iter().for_each(|message| receive(&mut wire, message));
            let state = link.state();
            assert_eq!((state.is_settled(), state.in_transaction), (settled, in_transaction));
        }
    }

    #[test]
    fn a_stale_plan_is_detected_from_the_error() {
        for (code, stale) in [("0A000", true), ("42601", false)] {
            let error = format!("SFEHLER\0VERROR\0C{code}\0Mcached plan\0\0");
            let messages = message(b'E', error.as_bytes());
            passed(&after_startup(&[]), &messages, |link| {
                assert_eq!(link.state().has_stale_plans, stale, "{code}");
            });
        }
    }

    #[test]
    fn pieces_of_any_length_give_the_same_result() {
        let mut random = fastrand::Rng::with_seed(18);
        for _ in 0..2_000 {
            let kinds = b"CDEGKQSZ";
            let messages: Vec<u8> = (0..random.usize(0..6))
                .flat_map(|_| {
                    let body: Vec<u8> = (0..random.usize(0..80)).map(|_| random.u8(..)).collect();
                    message(kinds[random.usize(..kinds.len())], &body)
                })
                .chain([0, 0, 0])
                .collect();
            let lengths: Vec<u8> = (0..random.usize(1..5)).map(|_| random.u8(1..40)).collect();
            follows_alike(&messages, &lengths);
        }
    }

    #[test]
    fn impossible_lengths_are_ignored() {
        let mut messages = Messages::with(0);
        messages.feed(&[0; 64], |_, _| ());
        messages.feed(&[0xff; 64], |_, _| ());
    }
}
