//! PRELOGIN (MS-TDS 2.2.6.5), and the TLS handshake that travels inside its
//! packets.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    bytes::{Malformed, Reader},
    packets::{self, DEFAULT_PACKET_SIZE, HEADER, Stream, kind, parse_header},
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
    pub(super) const FED_AUTH_REQUIRED: u8 = 6;
    pub(super) const TERMINATOR: u8 = 0xff;
}

/// The options of a PRELOGIN that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prelogin {
    pub(crate) version: [u8; 6],
    pub(crate) encryption: u8,
    /// 1 for several requests at a time (MARS), 0 for one at a time.
    pub(crate) mars: u8,
    /// FEDAUTHREQUIRED, if it is among the options.
    pub(crate) fed_auth: Option<u8>,
}

impl Prelogin {
    /// Azure SQL reports version 12. The stand-in does not support MARS.
    pub(crate) const AZURE_SQL: Self = Self {
        version: [12, 0, 0x07, 0xd0, 0, 0],
        encryption: encryption::REQUIRED,
        mars: 0,
        fed_auth: None,
    };

    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut options = Reader::new(payload, "PRELOGIN");
        let (mut version, mut prelogin) = (None, Self::AZURE_SQL);
        prelogin.encryption = encryption::NOT_SUPPORTED;
        loop {
            let token = options.u8()?;
            match (token, version) {
                (option::TERMINATOR, Some(version)) => return Ok(Self { version, ..prelogin }),
                (option::VERSION, None) | (1..option::TERMINATOR, Some(_)) => {}
                _ => return options.malformed(),
            }
            let (start, length) = (usize::from(options.u16_be()?), usize::from(options.u16_be()?));
            let value = payload.get(start..start + length).unwrap_or_default();
            match (token, value) {
                (option::VERSION, value) if length == 6 => version = value.try_into().ok(),
                (option::ENCRYPTION, [value]) => prelogin.encryption = *value,
                (option::MARS, [value, ..]) => prelogin.mars = *value,
                (option::FED_AUTH_REQUIRED, [value @ (0 | 1)]) => prelogin.fed_auth = Some(*value),
                // MS-TDS 2.2.6.5: other options are skipped.
                _ if value.len() == length && !matches!(token, 0 | 1 | 6) => {}
                _ => return options.malformed(),
            }
        }
    }

    /// PRELOGIN, or the answer to one.
    pub(crate) fn write(&self, thread_id: &[u8]) -> Vec<u8> {
        let fed_auth = self.fed_auth.map(|value| [value]);
        let mut options: Vec<(u8, &[u8])> = vec![
            (option::VERSION, &self.version),
            (option::ENCRYPTION, std::slice::from_ref(&self.encryption)),
            (option::INSTANCE, &[0]),
            (option::THREAD_ID, thread_id),
            (option::MARS, std::slice::from_ref(&self.mars)),
        ];
        options.extend(fed_auth.iter().map(|value| (option::FED_AUTH_REQUIRED, &value[..])));
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
const TLS_RECORDS: std::ops::RangeInclusive<u8> = 20..=23;
const APPLICATION_DATA: u8 = 23;

/// A connection whose TLS handshake travels inside packets, until it is complete.
pub(crate) struct HandshakeStream {
    stream: Box<dyn Stream>,
    packet_kind: u8,
    is_server: bool,
    reads_bare: bool,
    writes_bare: bool,
    header: [u8; HEADER],
    header_read: usize,
    payload_left: usize,
    unwritten: Vec<u8>,
    /// Bytes that are ready to be written, with their packet headers if they have any.
    framed: Vec<u8>,
}

impl HandshakeStream {
    /// This side's records go in packets of type `packet_kind`. The other side's packets may have
    /// another type: servers use both PRELOGIN and TABULAR_RESULT.
    pub(crate) fn new(stream: Box<dyn Stream>, packet_kind: u8, is_server: bool) -> Self {
        Self {
            stream,
            packet_kind,
            is_server,
            reads_bare: false,
            writes_bare: false,
            header: [0; HEADER],
            header_read: 0,
            payload_left: 0,
            unwritten: Vec::new(),
            framed: Vec::new(),
        }
    }

    /// From now on, this side's records are bare. The first bare record of the other side is
    /// recognized when it arrives.
    pub(crate) fn handshake_done(&mut self) {
        self.writes_bare = true;
    }

    /// Puts the records into packets, and writes them.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let records = std::mem::take(&mut self.unwritten);
        // A server of TLS 1.3 sends its session tickets, as application data, when it has read
        // the end of the handshake. They are not part of it, so they are bare.
        if self.is_server && records.first() == Some(&APPLICATION_DATA) {
            self.writes_bare = true;
            self.framed.extend(records);
        } else if !records.is_empty() {
            let packets = packets::packets(self.packet_kind, &records, DEFAULT_PACKET_SIZE, 0);
            self.framed.extend(packets.concat());
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
        while !this.reads_bare && this.payload_left == 0 {
            // One byte distinguishes a packet from a bare record.
            let end = if this.header_read == 0 { 1 } else { HEADER };
            let mut header = ReadBuf::new(&mut this.header[this.header_read..end]);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut header))?;
            match header.filled().len() {
                0 => return Poll::Ready(Ok(())),
                read => this.header_read += read,
            }
            if TLS_RECORDS.contains(&this.header[0]) {
                this.reads_bare = true;
                buffer.put_slice(&this.header[..1]);
                return Poll::Ready(Ok(()));
            }
            if this.header_read == HEADER {
                let (kind, _, length) = parse_header(this.header)?;
                if !matches!(kind, kind::PRELOGIN | kind::TABULAR_RESULT) {
                    return Poll::Ready(Err(Malformed("packet type in a TLS handshake").into()));
                }
                (this.header_read, this.payload_left) = (0, length);
            }
        }
        if this.reads_bare {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let mut part = vec![0; this.payload_left.min(buffer.remaining())];
        let mut payload = ReadBuf::new(&mut part);
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut payload))?;
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
        if this.writes_bare {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prelogin_is_read_as_it_was_written() {
        for (encryption, mars, fed_auth) in
            [(encryption::ON, 1, Some(1)), (encryption::NOT_SUPPORTED, 0, None)]
        {
            let version = [16, 0, 0, 1, 0, 0];
            let prelogin = Prelogin { version, encryption, mars, fed_auth };
            assert_eq!(Prelogin::parse(&prelogin.write(&[0; 4])), Ok(prelogin));
        }
    }

    #[test]
    fn malformed_prelogins_are_refused() {
        let whole = Prelogin { fed_auth: Some(1), ..Prelogin::AZURE_SQL }.write(&[]);
        for end in 0..whole.len() {
            assert!(Prelogin::parse(&whole[..end]).is_err(), "the first {end} bytes");
        }
        assert!(Prelogin::parse(&[1, 0, 6, 0, 1, 0xff, 1]).is_err(), "VERSION does not come first");
    }
}
