//! TDS packets (MS-TDS 2.2.3.1): their headers, and parsers of the packets in both directions.

use std::io;

use zeroize::Zeroizing;

use super::{
    RetireReason,
    link::{Descriptor, Link},
    response::Response,
};

/// The length of a packet's header.
pub(super) const HEADER: usize = 8;

/// The packet size until the login negotiates another one.
pub(super) const DEFAULT_SIZE: usize = 4096;

/// Packet types (MS-TDS 2.2.3.1.1).
pub(super) mod kind {
    pub(in super::super) const BATCH: u8 = 1;
    pub(in super::super) const RPC: u8 = 3;
    pub(in super::super) const RESPONSE: u8 = 4;
    pub(in super::super) const ATTENTION: u8 = 6;
    pub(in super::super) const TRANSACTION: u8 = 14;
    pub(in super::super) const PRELOGIN: u8 = 18;
}

/// Bits of a packet's status (MS-TDS 2.2.3.1.2).
pub(super) mod status {
    pub(in super::super) const END_OF_MESSAGE: u8 = 0x01;
    pub(in super::super) const RESET_CONNECTION: u8 = 0x08;
}

/// Returns the header of a packet whose payload has `payload` bytes.
pub(super) fn header(kind: u8, status: u8, payload: usize, id: u8) -> [u8; HEADER] {
    let length = u16::try_from(payload + HEADER).unwrap_or(u16::MAX).to_be_bytes();
    [kind, status, length[0], length[1], 0, 0, id, 0]
}

/// The fields of a header that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) last: bool,
    /// The length of the payload in bytes.
    pub(super) payload: usize,
}

impl Header {
    pub(super) fn read(bytes: [u8; HEADER]) -> io::Result<Self> {
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let payload = length.checked_sub(HEADER).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a TDS packet is shorter than its header")
        })?;
        Ok(Self { kind: bytes[0], last: bytes[1] & status::END_OF_MESSAGE != 0, payload })
    }
}

/// Parses the server's packets, and records responses in the link.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    header: [u8; HEADER],
    have: usize,
    /// The number of unread bytes of the current packet's payload.
    left: usize,
    last: bool,
    response: Response,
}

impl Incoming {
    /// Parses the next bytes, which may be any part of the server's packets.
    pub(super) fn process(&mut self, mut bytes: &[u8], link: &Link) -> io::Result<()> {
        link.record_received();
        while !bytes.is_empty() {
            if self.have < HEADER {
                let taken = bytes.len().min(HEADER - self.have);
                self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                self.have += taken;
                bytes = &bytes[taken..];
                if self.have < HEADER {
                    return Ok(());
                }
                let header = Header::read(self.header)?;
                (self.left, self.last) = (header.payload, header.last);
            }
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            self.response.read(&bytes[..taken], link);
            bytes = &bytes[taken..];
            if self.left == 0 {
                self.have = 0;
                if self.last {
                    self.response = Response::default();
                    link.response_ended();
                }
            }
        }
        Ok(())
    }
}

/// Collects the client's packets one by one. A complete packet may be refused, or its header gets
/// the reset bit if a reset is due.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The current packet. Zeroized, because the packet of the login contains the token.
    packet: Zeroizing<Vec<u8>>,
    /// The final length of `packet`, once its header is complete.
    length: usize,
    /// Whether the next packet continues a message.
    within_message: bool,
    /// Whether the current message is refused.
    refuses: bool,
    /// Whether a whole message was refused, so that its response is due.
    refused: bool,
    sent: usize,
}

impl Outgoing {
    /// Takes bytes up to the end of the current packet, and returns their number.
    pub(super) fn take(&mut self, bytes: &[u8], link: &Link) -> io::Result<usize> {
        let mut taken = 0;
        if self.packet.len() < HEADER {
            taken = bytes.len().min(HEADER - self.packet.len());
            self.packet.extend_from_slice(&bytes[..taken]);
            let Ok(header) = <[u8; HEADER]>::try_from(self.packet.as_slice()) else {
                return Ok(taken);
            };
            let payload = Header::read(header)?.payload;
            self.length = HEADER + payload;
            // In one step: if the buffer grew later, a copy of the login's token would remain in
            // memory.
            self.packet.reserve_exact(payload);
        }
        let more = (bytes.len() - taken).min(self.length - self.packet.len());
        self.packet.extend_from_slice(&bytes[taken..taken + more]);
        if self.is_whole() {
            self.inspect(link)?;
        }
        Ok(taken + more)
    }

    /// Whether there is an incomplete packet.
    pub(super) fn is_partial(&self) -> bool {
        !self.packet.is_empty() && !self.is_whole()
    }

    fn is_whole(&self) -> bool {
        self.packet.len() >= HEADER && self.packet.len() == self.length
    }

    /// Returns the unsent bytes of a complete packet.
    pub(super) fn unsent(&self) -> &[u8] {
        if self.is_whole() { &self.packet[self.sent..] } else { &[] }
    }

    /// Records that the first `count` unsent bytes were sent.
    pub(super) fn mark_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.packet.len() {
            // The packet may have been a login.
            zeroize::Zeroize::zeroize(&mut self.packet);
            self.sent = 0;
        }
    }

    /// Whether a whole message was refused since the last call.
    pub(super) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    fn inspect(&mut self, link: &Link) -> io::Result<()> {
        let first = !self.within_message;
        let (kind, last) = (self.packet[0], self.packet[1] & status::END_OF_MESSAGE != 0);
        self.within_message = !last;
        if first {
            self.refuses = kind != kind::ATTENTION && link.state().abandoned;
        }
        if self.refuses {
            self.packet.clear();
            self.refused = last;
            return Ok(());
        }
        if !first {
            return Ok(());
        }
        if kind == kind::ATTENTION {
            // The connection is retired, because only a full decoder could find the acknowledgement
            // within the response.
            link.set_fault(RetireReason::Cancelled);
            return Ok(());
        }
        link.request_started();
        if matches!(kind, kind::BATCH | kind::RPC | kind::TRANSACTION) {
            let transaction = transaction(&self.packet[HEADER..]);
            // A packet that is refused here must not be sent later.
            if link.take_reset(transaction).inspect_err(|_| self.packet.clear())? {
                self.packet[1] |= status::RESET_CONNECTION;
            }
        }
        Ok(())
    }
}

/// Returns the transaction in a request's `ALL_HEADERS` (MS-TDS 2.2.5.3): total length (4), then
/// headers of length (4), type (2) and data. The data of type 2 starts with the transaction's
/// descriptor (8).
fn transaction(payload: &[u8]) -> Option<Descriptor> {
    let number =
        |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let total = payload.get(..4).map(number)?;
    let mut headers = payload.get(4..total)?;
    while let (Some(length), Some(kind)) = (headers.get(..4), headers.get(4..6)) {
        let length = number(length);
        let data = headers.get(6..length)?;
        if number(kind) == 2 {
            return data.first_chunk().copied().filter(|descriptor| *descriptor != [0; 8]);
        }
        headers = &headers[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure_sql::link::ResetRule;

    fn packet(kind: u8, status: u8, payload: &[u8]) -> Vec<u8> {
        [&header(kind, status, payload.len(), 1)[..], payload].concat()
    }

    fn all_headers(descriptor: u64) -> Vec<u8> {
        let mut headers = Vec::new();
        headers.extend(22_u32.to_le_bytes());
        headers.extend(18_u32.to_le_bytes());
        headers.extend(2_u16.to_le_bytes());
        headers.extend(descriptor.to_le_bytes());
        headers.extend(1_u32.to_le_bytes());
        headers
    }

    /// Writes `bytes` in pieces of `size`, and returns the bytes that are sent to the server.
    fn send(
        outgoing: &mut Outgoing,
        bytes: &[u8],
        size: usize,
        link: &Link,
    ) -> io::Result<Vec<u8>> {
        let mut sent = Vec::new();
        for mut piece in bytes.chunks(size) {
            while !piece.is_empty() {
                let taken = outgoing.take(piece, link)?;
                piece = &piece[taken..];
                let unsent = outgoing.unsent().to_vec();
                outgoing.mark_sent(unsent.len());
                sent.extend(unsent);
            }
        }
        Ok(sent)
    }

    #[test]
    fn requests_and_responses_are_counted_in_pieces_of_any_size() {
        let request = [packet(kind::BATCH, 0, &[0; 30]), packet(kind::BATCH, 1, &[0; 5])].concat();
        let response = [
            packet(kind::RESPONSE, 0, &[9; 100]),
            packet(kind::RESPONSE, 0, &[]),
            packet(kind::RESPONSE, 1, &[9; 3]),
        ]
        .concat();
        for size in 1..request.len() {
            let link = Link::default();
            let sent = send(&mut Outgoing::default(), &request, size, &link).unwrap();
            assert_eq!(sent, request);
            assert!(!link.is_settled());
            let mut incoming = Incoming::default();
            for piece in response.chunks(size) {
                assert!(!link.is_settled());
                incoming.process(piece, &link).unwrap();
            }
            assert!(link.is_settled(), "pieces of {size}");
        }
    }

    #[test]
    fn only_the_first_packet_of_the_next_request_carries_a_due_reset() {
        for kind in [kind::BATCH, kind::RPC, kind::TRANSACTION] {
            let link = Link::default();
            link.state().reset = Some(ResetRule::OutsideTransaction);
            let request = [packet(kind, 0, &all_headers(0)), packet(kind, 1, b"more")].concat();
            let mut outgoing = Outgoing::default();
            let sent = send(&mut outgoing, &request, 7, &link).unwrap();
            assert_eq!(sent[1], status::RESET_CONNECTION);
            let second = HEADER + 22;
            assert_eq!(sent[second + 1], status::END_OF_MESSAGE);
            let next = send(&mut outgoing, &packet(kind, 1, &all_headers(0)), 7, &link).unwrap();
            assert_eq!(next[1], status::END_OF_MESSAGE);
        }
        let link = Link::default();
        link.state().reset = Some(ResetRule::OutsideTransaction);
        let bulk = packet(7, 1, b"rows");
        assert_eq!(send(&mut Outgoing::default(), &bulk, 99, &link).unwrap(), bulk);
    }

    #[test]
    fn a_reset_waits_for_the_end_of_the_transaction_or_refuses_the_request() {
        let within = packet(kind::BATCH, 1, &all_headers(77));
        let link = Link::default();
        link.state().reset = Some(ResetRule::OutsideTransaction);
        let mut outgoing = Outgoing::default();
        assert_eq!(send(&mut outgoing, &within, 99, &link).unwrap(), within);
        let after =
            send(&mut outgoing, &packet(kind::BATCH, 1, &all_headers(0)), 99, &link).unwrap();
        assert_ne!(after[1] & status::RESET_CONNECTION, 0);

        let link = Link::default();
        link.state().reset = Some(ResetRule::RefuseTransaction);
        let error = send(&mut Outgoing::default(), &within, 99, &link).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(link.state().fault.is_some());
    }

    #[test]
    fn a_packet_shorter_than_its_header_is_refused() {
        let short = [4, 1, 0, 7, 0, 0, 0, 0];
        let link = Link::default();
        assert!(Incoming::default().process(&short, &link).is_err());
        assert!(Outgoing::default().take(&short, &link).is_err());
    }

    #[test]
    fn transactions_are_found_in_all_headers_but_not_in_garbage() {
        assert_eq!(transaction(&all_headers(1)), Some(1_u64.to_le_bytes()));
        assert_eq!(transaction(&all_headers(0)), None);
        let trace = [&26_u32.to_le_bytes()[..], &[26, 0, 0, 0, 3, 0]].concat();
        assert_eq!(transaction(&trace), None);
        for cut in 0..22 {
            assert_eq!(transaction(&all_headers(1)[..cut]), None, "{cut}");
        }
        assert_eq!(transaction(&[0xff; 64]), None);
        assert_eq!(transaction(&[30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
