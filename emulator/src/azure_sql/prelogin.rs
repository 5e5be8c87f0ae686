//! PRELOGIN (MS-TDS 2.2.6.5), and the TLS handshake that travels inside its
//! packets.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    bytes::{Malformed, Reader},
    packets::{self, DEFAULT_PACKET_SIZE, HEADER, kind, parse_header},
};

/// Values of the ENCRYPTION option.
pub(crate) mod encryption {
    pub(crate) const OFF: u8 = 0;
    pub(crate) const ON: u8 = 1;
    pub(crate) const NOT_SUPPORTED: u8 = 2;
    pub(crate) const REQUIRED: u8 = 3;
}

mod option {
    pub(super) const VERSION: u8 = 0;
    pub(super) const ENCRYPTION: u8 = 1;
    pub(super) const INSTANCE: u8 = 2;
    pub(super) const THREAD_ID: u8 = 3;
    pub(super) const MARS: u8 = 4;
    pub(super) const TRACE_ID: u8 = 5;
    pub(super) const FED_AUTH_REQUIRED: u8 = 6;
    pub(super) const NONCE: u8 = 7;
    pub(super) const TERMINATOR: u8 = 0xff;
}

/// What of a PRELOGIN matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prelogin {
    pub(crate) engine: Engine,
    pub(crate) encryption: u8,
    /// Whether FEDAUTHREQUIRED was among the options.
    pub(crate) fed_auth: bool,
}

/// What a side of the connection is, and can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Engine {
    pub(crate) version: [u8; 6],
    /// 1 for several requests at a time (MARS), 0 for one after the other.
    pub(crate) mars: u8,
}

impl Engine {
    /// Azure SQL calls itself version 12. There is no MARS in the stand-in.
    pub(crate) const AZURE_SQL: Self = Self { version: [12, 0, 0x07, 0xd0, 0, 0], mars: 0 };
}

impl Prelogin {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut options = Reader::new(payload, "PRELOGIN");
        let mut prelogin = Self {
            engine: Engine { version: [0; 6], mars: 0 },
            encryption: encryption::NOT_SUPPORTED,
            fed_auth: false,
        };
        let mut first = true;
        loop {
            let token = options.u8()?;
            if token == option::TERMINATOR {
                return Ok(prelogin);
            }
            if first != (token == option::VERSION) {
                return options.malformed();
            }
            first = false;
            let (start, length) = (usize::from(options.u16_be()?), usize::from(options.u16_be()?));
            let Some(value) = payload.get(start..start + length) else {
                return options.malformed();
            };
            match (token, value) {
                (option::VERSION, version) if length == 6 => {
                    prelogin.engine.version.copy_from_slice(version);
                }
                (option::ENCRYPTION, [encryption]) => prelogin.encryption = *encryption,
                (option::FED_AUTH_REQUIRED, [0 | 1]) => prelogin.fed_auth = true,
                (option::MARS, [mars, ..]) => prelogin.engine.mars = *mars,
                (option::INSTANCE | option::THREAD_ID | option::MARS | option::TRACE_ID, _) => {}
                (option::NONCE, _) if length == 32 => {}
                (0..=7, _) => return options.malformed(),
                // MS-TDS 2.2.6.5: options that one does not know are skipped.
                _ => {}
            }
        }
    }

    /// The answer for `engine`, with this encryption and, if it was among the options, this
    /// FEDAUTHREQUIRED.
    pub(crate) fn answer(self, encryption: u8, fed_auth_required: u8, engine: Engine) -> Vec<u8> {
        let fed_auth = self.fed_auth.then_some([fed_auth_required]);
        engine.prelogin(encryption, &[], fed_auth.as_ref().map(<[u8; 1]>::as_slice))
    }
}

impl Engine {
    /// PRELOGIN, or the answer to one.
    pub(crate) fn prelogin(
        self,
        encryption: u8,
        thread_id: &[u8],
        fed_auth: Option<&[u8]>,
    ) -> Vec<u8> {
        let (encryption, mars) = ([encryption], [self.mars]);
        let mut options: Vec<(u8, &[u8])> = vec![
            (option::VERSION, &self.version),
            (option::ENCRYPTION, &encryption),
            (option::INSTANCE, &[0]),
            (option::THREAD_ID, thread_id),
            (option::MARS, &mars),
        ];
        options.extend(fed_auth.map(|value| (option::FED_AUTH_REQUIRED, value)));
        let mut start = options.len() * 5 + 1;
        let (mut head, mut values) = (Vec::new(), Vec::<u8>::new());
        for (token, value) in options {
            head.push(token);
            head.extend((start as u16).to_be_bytes());
            head.extend((value.len() as u16).to_be_bytes());
            values.extend(value);
            start += value.len();
        }
        head.push(option::TERMINATOR);
        head.extend(values);
        head
    }
}

/// Types of TLS records (RFC 8446, B.1).
pub(crate) const TLS_RECORDS: std::ops::RangeInclusive<u8> = 20..=23;

/// A connection whose TLS handshake travels inside packets, until it is done.
///
/// TLS 1.3 has the server write its session tickets as soon as it has read the
/// client's last word. They come after the handshake, so they go out bare.
#[derive(Debug)]
pub(crate) struct HandshakeStream {
    stream: TcpStream,
    packet_kind: u8,
    /// The types of packets that the other side may send.
    peer_kinds: &'static [u8],
    done: bool,
    header: [u8; HEADER],
    header_read: usize,
    payload_left: usize,
    client_records: Records,
    unwritten: Vec<u8>,
    /// Ready to be written, with its packet headers if it has any.
    framed: Vec<u8>,
}

impl HandshakeStream {
    fn new(stream: TcpStream, packet_kind: u8, peer_kinds: &'static [u8]) -> Self {
        Self {
            stream,
            packet_kind,
            peer_kinds,
            done: false,
            header: [0; HEADER],
            header_read: 0,
            payload_left: 0,
            client_records: Records::default(),
            unwritten: Vec::new(),
            framed: Vec::new(),
        }
    }

    /// The server's side of the handshake goes in packets of type `packet_kind`.
    pub(crate) fn server(stream: TcpStream, packet_kind: u8) -> Self {
        Self::new(stream, packet_kind, &[kind::PRELOGIN])
    }

    /// The client's side. Servers answer in packets of either type.
    pub(crate) fn client(stream: TcpStream) -> Self {
        Self::new(stream, kind::PRELOGIN, &[kind::PRELOGIN, kind::TABULAR_RESULT])
    }

    /// For TLS before anything else, as TDS 8.0 has it.
    pub(crate) fn bare(stream: TcpStream) -> Self {
        Self { done: true, ..Self::new(stream, 0, &[]) }
    }

    /// From now on, bytes are bare both ways.
    pub(crate) fn handshake_done(&mut self) {
        self.done = true;
    }

    /// Writes out what has gone into packets, or is to go.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unwritten.is_empty() {
            let packets =
                packets::packets(self.packet_kind, &self.unwritten, DEFAULT_PACKET_SIZE, 0);
            self.framed.extend(packets.concat());
            self.unwritten.clear();
        }
        while !self.framed.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.framed))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.framed.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for HandshakeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.done && this.payload_left == 0 {
            // A byte alone tells a packet from a bare record, with which the
            // client may be ahead.
            let end = if this.header_read == 0 { 1 } else { HEADER };
            let mut header = ReadBuf::new(&mut this.header[this.header_read..end]);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut header))?;
            match header.filled().len() {
                0 => return Poll::Ready(Ok(())),
                read => this.header_read += read,
            }
            if TLS_RECORDS.contains(&this.header[0]) {
                this.done = true;
                buffer.put_slice(&this.header[..1]);
                return Poll::Ready(Ok(()));
            }
            if this.header_read == HEADER {
                let (kind, _, length) = parse_header(this.header).map_err(packets::malformed)?;
                if !this.peer_kinds.contains(&kind) {
                    return Poll::Ready(Err(packets::malformed(Malformed(
                        "packet type in a TLS handshake",
                    ))));
                }
                (this.header_read, this.payload_left) = (0, length);
            }
        }
        if this.done {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let mut part = vec![0; this.payload_left.min(buffer.remaining())];
        let mut payload = ReadBuf::new(&mut part);
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut payload))?;
        // Of a server, application data is nothing but the rest of its handshake.
        if this.peer_kinds == [kind::PRELOGIN] {
            this.client_records.see(payload.filled());
        }
        this.payload_left -= payload.filled().len();
        buffer.put_slice(payload.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandshakeStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.done || this.client_records.finished {
            ready!(this.poll_drain(context))?;
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        }
        this.unwritten.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Watches a side's TLS records for the first of application data: in TLS 1.3,
/// that is how the client's Finished looks from outside (RFC 8446, 5.2); in
/// TLS 1.2, no handshake has any.
#[derive(Debug, Default)]
struct Records {
    header: Vec<u8>,
    left: usize,
    finished: bool,
}

impl Records {
    const HEADER: usize = 5;
    const APPLICATION_DATA: u8 = 23;

    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.finished {
            if self.left > 0 {
                let seen = self.left.min(bytes.len());
                self.left -= seen;
                bytes = &bytes[seen..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let [kind, _, _, high, low] = self.header[..] {
                self.finished = kind == Self::APPLICATION_DATA;
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.header.clear();
            }
            debug_assert!(self.header.len() < Self::HEADER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(encryption: u8, fed_auth: bool) -> Prelogin {
        Prelogin { engine: Engine { version: [16, 0, 0, 1, 0, 0], mars: 1 }, encryption, fed_auth }
    }

    #[test]
    fn an_answer_is_read_as_a_prelogin() {
        for prelogin in [asked(encryption::ON, true), asked(encryption::NOT_SUPPORTED, false)] {
            let answer = prelogin.answer(prelogin.encryption, 1, prelogin.engine);
            assert_eq!(Prelogin::parse(&answer), Ok(prelogin));
        }
    }

    #[test]
    fn what_is_no_prelogin_is_malformed() {
        let whole = asked(encryption::ON, true).answer(encryption::ON, 1, Engine::AZURE_SQL);
        for end in 0..whole.len() {
            assert!(Prelogin::parse(&whole[..end]).is_err(), "the first {end} bytes");
        }
        assert!(Prelogin::parse(&[1, 0, 6, 0, 1, 0xff, 1]).is_err(), "VERSION does not come first");
    }

    #[test]
    fn application_data_is_seen_however_it_is_cut() {
        let bytes = [22, 3, 3, 0, 2, 23, 23, 20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 1, 9];
        for size in 1..bytes.len() {
            let mut records = Records::default();
            for (index, part) in bytes.chunks(size).enumerate() {
                records.see(part);
                assert_eq!(
                    records.finished,
                    (index + 1) * size >= 18 || (index + 1) * size >= bytes.len(),
                    "{size}"
                );
            }
        }
    }
}
