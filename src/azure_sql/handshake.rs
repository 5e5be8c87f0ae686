//! TLS in TDS 7.4 (MS-TDS 3.2.5.2): during the handshake, TLS records are the payload of PRELOGIN
//! packets; afterwards they are sent without packets. In TDS 8.0, they are never in packets.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::packet::{DEFAULT_SIZE, HEADER, Header, header, kind, status};

/// The stream below TLS.
#[derive(Debug)]
pub(super) struct Wire<S> {
    tcp: S,
    writes_packets: bool,
    /// TLS records that are not yet flushed.
    unflushed: Vec<u8>,
    /// Packets of flushed records that are not yet sent.
    packets: BytesMut,
    reads_packets: bool,
    /// The header of the current packet. `have` bytes of it have arrived.
    header: [u8; HEADER],
    have: usize,
    /// The number of unread bytes of the current packet's payload.
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Creates a stream for a handshake in packets.
    pub(super) fn framed(tcp: S) -> Self {
        Self { writes_packets: true, reads_packets: true, ..Self::bare(tcp) }
    }

    /// Creates a stream for a handshake without packets.
    pub(super) fn bare(tcp: S) -> Self {
        Self {
            tcp,
            writes_packets: false,
            unflushed: Vec::new(),
            packets: BytesMut::new(),
            reads_packets: false,
            header: [0; HEADER],
            have: 0,
            left: 0,
        }
    }

    /// Ends the handshake: from now on, writes are without packets. Reads parse packets until a
    /// byte arrives that does not start a packet, because a server may send the session tickets of
    /// TLS 1.3 in packets.
    pub(super) fn end_handshake(&mut self) {
        self.writes_packets = false;
    }

    /// Sends the unflushed records in packets.
    fn poll_packets(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pieces = self.unflushed.chunks(DEFAULT_SIZE - HEADER).peekable();
        while let Some(piece) = pieces.next() {
            let status = if pieces.peek().is_none() { status::END_OF_MESSAGE } else { 0 };
            self.packets.extend(header(kind::PRELOGIN, status, piece.len(), 0));
            self.packets.extend_from_slice(piece);
        }
        self.unflushed.clear();
        while !self.packets.is_empty() {
            let count = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.packets))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.packets.advance(count);
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
        if !self.writes_packets {
            return Pin::new(&mut self.tcp).poll_write(cx, bytes);
        }
        self.unflushed.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
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
        // The caller may not have flushed its records before it reads.
        ready!(self.poll_packets(cx))?;
        let Self { tcp, writes_packets, reads_packets, header, have, left, .. } = &mut *self;
        while *reads_packets {
            if *left > 0 {
                let wanted = buffer.remaining().min(*left);
                let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
                ready!(Pin::new(&mut *tcp).poll_read(cx, &mut piece))?;
                let count = piece.filled().len();
                buffer.advance(count);
                *left -= count;
                return Poll::Ready(Ok(()));
            }
            // At first only one byte, because it may be the start of a TLS record without a packet.
            let end = if *have == 0 { 1 } else { HEADER };
            let mut rest = ReadBuf::new(&mut header[*have..end]);
            ready!(Pin::new(&mut *tcp).poll_read(cx, &mut rest))?;
            let count = rest.filled().len();
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            if !is_handshake_packet(header[0]) {
                if *writes_packets {
                    let problem = "it responds to the TLS handshake with something else";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, problem)));
                }
                buffer.put_slice(&header[..1]);
                *reads_packets = false;
                return Poll::Ready(Ok(()));
            }
            *have += count;
            if *have == HEADER {
                (*have, *left) = (0, Header::read(*header)?.payload);
            }
        }
        Pin::new(tcp).poll_read(cx, buffer)
    }
}

/// Whether packets of this type may contain the handshake: servers send PRELOGIN or responses.
fn is_handshake_packet(kind: u8) -> bool {
    matches!(kind, kind::PRELOGIN | kind::RESPONSE)
}
