//! Packets, and the messages that they form (MS-TDS 2.2.3).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Behaviour, bytes::Malformed};

/// Message types (MS-TDS 2.2.3.1.1).
pub(crate) mod kind {
    pub(crate) const SQL_BATCH: u8 = 1;
    pub(crate) const RPC: u8 = 3;
    pub(crate) const TABULAR_RESULT: u8 = 4;
    pub(crate) const ATTENTION: u8 = 6;
    pub(crate) const FED_AUTH_TOKEN: u8 = 8;
    pub(crate) const TRANSACTION_MANAGER: u8 = 14;
    pub(crate) const LOGIN7: u8 = 16;
    pub(crate) const PRELOGIN: u8 = 18;
}

/// Status bits (MS-TDS 2.2.3.1.2).
pub(crate) mod status {
    pub(crate) const END_OF_MESSAGE: u8 = 0x01;
    pub(crate) const IGNORE: u8 = 0x02;
    pub(crate) const RESET_CONNECTION: u8 = 0x08;
    pub(crate) const RESET_CONNECTION_SKIP_TRANSACTION: u8 = 0x10;
}

pub(crate) const HEADER: usize = 8;
/// The packet size until the login is complete (MS-TDS 2.2.6.4).
pub(crate) const DEFAULT_PACKET_SIZE: usize = 4096;
/// The connection of a client that sends a longer request is closed.
pub(crate) const LONGEST_REQUEST: usize = 64 << 20;
/// Longer than any valid login, so that a login that is too long still gets an answer.
const LONGEST_LOGIN_MESSAGE: usize = 1 << 20;

/// A connection's bytes, within TLS or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Counts the request of which a packet of this type and with these status bits is a part.
pub(crate) fn count_packet(behaviour: &Behaviour, kind: u8, bits: u8) {
    let reset = status::RESET_CONNECTION | status::RESET_CONNECTION_SKIP_TRANSACTION;
    behaviour.count(|it| match kind {
        kind::ATTENTION => it.attentions += 1,
        kind::SQL_BATCH | kind::RPC | kind::TRANSACTION_MANAGER => {
            // With MARS, packets of several requests alternate. Each request has one packet that
            // ends it, and only its first packet can have a reset bit.
            it.requests += u64::from(bits & status::END_OF_MESSAGE != 0);
            it.reset_bits += u64::from(bits & reset != 0);
        }
        _ => {}
    });
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    /// The status bits of its first packet.
    pub(crate) first_status: u8,
    /// The session's number, which servers send.
    pub(crate) spid: u16,
    pub(crate) payload: Vec<u8>,
}

/// Reads a packet header: type, status, and the payload's length.
pub(crate) fn parse_header(header: [u8; HEADER]) -> Result<(u8, u8, usize), Malformed> {
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    match length.checked_sub(HEADER) {
        Some(payload) => Ok((header[0], header[1], payload)),
        None => Err(Malformed("packet length")),
    }
}

/// The next message, of at most `longest` bytes; `None` if the client has closed its side between
/// two messages.
pub(crate) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    longest: usize,
) -> io::Result<Option<Message>> {
    let mut message: Option<Message> = None;
    loop {
        let mut header = [0; HEADER];
        if stream.read(&mut header[..1]).await? == 0 && message.is_none() {
            return Ok(None);
        }
        stream.read_exact(&mut header[1..]).await?;
        let (kind, status, length) = parse_header(header)?;
        let current = message.get_or_insert(Message {
            kind,
            first_status: status,
            spid: u16::from_be_bytes([header[4], header[5]]),
            payload: Vec::new(),
        });
        if current.kind != kind {
            return Err(Malformed("message: its packets differ in type").into());
        }
        let start = current.payload.len();
        if start + length > longest {
            return Err(Malformed("message: too long").into());
        }
        current.payload.resize(start + length, 0);
        stream.read_exact(&mut current.payload[start..]).await?;
        if status & status::END_OF_MESSAGE != 0 {
            // The client has cancelled this message.
            if status & status::IGNORE != 0 {
                message = None;
                continue;
            }
            return Ok(message);
        }
    }
}

/// The next message, which must be of this type.
pub(crate) async fn expect(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    kind: u8,
) -> io::Result<Message> {
    match read_message(stream, LONGEST_LOGIN_MESSAGE).await? {
        Some(message) if message.kind == kind => Ok(message),
        Some(_) => Err(Malformed("message: its type is not the expected one").into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Splits a message into packets of at most `packet_size` bytes.
pub(crate) fn packets(kind: u8, payload: &[u8], packet_size: usize, spid: u16) -> Vec<Vec<u8>> {
    let room = packet_size - HEADER;
    let count = payload.len().div_ceil(room).max(1);
    (0..count)
        .map(|index| {
            let part = &payload[index * room..payload.len().min((index + 1) * room)];
            let status = if index + 1 == count { status::END_OF_MESSAGE } else { 0 };
            let mut packet = vec![kind, status];
            packet.extend(((part.len() + HEADER) as u16).to_be_bytes());
            packet.extend(spid.to_be_bytes());
            packet.extend([(index + 1) as u8, 0]);
            packet.extend(part);
            packet
        })
        .collect()
}

/// Writes a whole message.
pub(crate) async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin + ?Sized),
    kind: u8,
    payload: &[u8],
    packet_size: usize,
    spid: u16,
) -> io::Result<()> {
    for packet in packets(kind, payload, packet_size, spid) {
        stream.write_all(&packet).await?;
    }
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_comes_back_from_its_packets() {
        for length in [0, 1, 504, 505, 5000] {
            let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let packets = packets(kind::RPC, &payload, 512, 51);
            assert!(packets.iter().all(|packet| packet.len() <= 512));
            let bytes = packets.concat();
            let mut stream = bytes.as_slice();
            let message = read_message(&mut stream, LONGEST_REQUEST).await.unwrap().unwrap();
            assert_eq!((message.kind, message.payload), (kind::RPC, payload));
            assert!(read_message(&mut stream, LONGEST_REQUEST).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_malformed_message_is_an_error() {
        for bytes in [
            &[1, 1, 0, 7, 0, 0, 0, 0][..],
            &[1, 1, 0, 9, 0, 0, 0, 0],
            &[1, 1, 0],
            &[1, 0, 0, 8, 0, 0, 0, 0, 3, 1, 0, 8, 0, 0, 0, 0],
        ] {
            assert!(read_message(&mut &bytes[..], LONGEST_REQUEST).await.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_cancelled_message_is_skipped() {
        let bytes = [1, 3, 0, 9, 0, 0, 0, 0, 7, 6, 1, 0, 8, 0, 0, 0, 0];
        assert_eq!(
            read_message(&mut &bytes[..], LONGEST_REQUEST).await.unwrap().unwrap().kind,
            kind::ATTENTION
        );
    }
}
