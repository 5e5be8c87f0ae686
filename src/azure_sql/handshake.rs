//! TLS the way TDS 7.4 does it (MS-TDS 3.2.5.2): while hands are shaken, TLS
//! records travel as the payload of PRELOGIN packets; from then on, bare. With
//! TDS 8.0 they are bare from the first.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::packet::{DEFAULT_SIZE, HEADER, Header, header, kind, status};

/// The wire below TLS.
#[derive(Debug)]
pub(super) struct Wire<S> {
    tcp: S,
    writing: Writing,
    reading: Reading,
}

#[derive(Debug)]
enum Writing {
    /// TLS records gather until they are flushed, then go out as packets.
    Framed {
        gathered: Vec<u8>,
        packets: Vec<u8>,
        sent: usize,
    },
    Bare,
}

#[derive(Debug)]
enum Reading {
    /// Within packets; `header` is filled up to `have`, `left` is payload to come.
    Framed {
        header: [u8; HEADER],
        have: usize,
        left: usize,
    },
    Bare,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// For a handshake within packets.
    pub(super) fn framed(tcp: S) -> Self {
        Self {
            tcp,
            writing: Writing::Framed { gathered: Vec::new(), packets: Vec::new(), sent: 0 },
            reading: Reading::Framed { header: [0; HEADER], have: 0, left: 0 },
        }
    }

    /// For a handshake without.
    pub(super) fn bare(tcp: S) -> Self {
        Self { tcp, writing: Writing::Bare, reading: Reading::Bare }
    }

    /// The handshake is over: writes are bare from now on. Reads become so with
    /// the first byte that begins no packet, because a server may still wrap the
    /// session tickets that TLS 1.3 sends behind the handshake.
    pub(super) fn handshake_over(&mut self) {
        self.writing = Writing::Bare;
    }

    fn expects_bare(&self) -> bool {
        matches!(self.writing, Writing::Bare)
    }

    /// Sends what was gathered, in packets.
    fn poll_packets(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Writing::Framed { gathered, packets, sent } = &mut self.writing else {
            return Poll::Ready(Ok(()));
        };
        while !(packets.is_empty() && gathered.is_empty()) {
            if packets.is_empty() {
                let mut pieces = gathered.chunks(DEFAULT_SIZE - HEADER).peekable();
                while let Some(piece) = pieces.next() {
                    let status = if pieces.peek().is_none() { status::END_OF_MESSAGE } else { 0 };
                    packets.extend(header(kind::PRELOGIN, status, piece.len(), 0));
                    packets.extend_from_slice(piece);
                }
                gathered.clear();
            }
            while *sent < packets.len() {
                let count = ready!(Pin::new(&mut self.tcp).poll_write(cx, &packets[*sent..]))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                *sent += count;
            }
            packets.clear();
            *sent = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.writing {
            Writing::Bare => Pin::new(&mut self.tcp).poll_write(cx, bytes),
            Writing::Framed { gathered, .. } => {
                gathered.extend_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_packets(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Records may have been gathered that nobody has flushed before reading.
        ready!(self.poll_packets(cx))?;
        let expects_bare = self.expects_bare();
        let Self { tcp, reading, .. } = &mut *self;
        loop {
            let Reading::Framed { header, have, left } = reading else {
                return Pin::new(tcp).poll_read(cx, buffer);
            };
            if *left > 0 {
                let wanted = buffer.remaining().min(*left);
                let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
                ready!(Pin::new(&mut *tcp).poll_read(cx, &mut piece))?;
                let count = piece.filled().len();
                buffer.advance(count);
                *left -= count;
                return Poll::Ready(Ok(()));
            }
            let mut rest = ReadBuf::new(&mut header[*have..]);
            if expects_bare && *have == 0 {
                // Only one byte, which may belong to TLS.
                rest = ReadBuf::new(&mut header[..1]);
            }
            ready!(Pin::new(&mut *tcp).poll_read(cx, &mut rest))?;
            let count = rest.filled().len();
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            *have += count;
            if expects_bare && *have == count && !is_handshake_packet(header[0]) {
                buffer.put_slice(&header[..1]);
                *reading = Reading::Bare;
                return Poll::Ready(Ok(()));
            }
            if *have == HEADER {
                let packet = Header::read(*header)?;
                if !is_handshake_packet(packet.kind) {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                (*have, *left) = (0, packet.payload);
            }
        }
    }
}

/// Servers send the handshake as PRELOGIN or as responses.
fn is_handshake_packet(kind: u8) -> bool {
    matches!(kind, kind::PRELOGIN | kind::RESPONSE)
}
