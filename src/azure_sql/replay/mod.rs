//! Replays the data of a server in pieces, for the fuzz target `transport` and for tests with a
//! recorded session. The result must not depend on how the network splits the data.

use std::{
    collections::VecDeque,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{
    handshake::Wire,
    link::{Link, ResetRule},
    packet::{Incoming, Outgoing},
    prelogin,
    transport::read_prelogin,
};

/// Checks that all parsers return the same for `bytes` as a whole and in pieces of these lengths in
/// turn: as the response to PRELOGIN, as the TLS handshake in packets, as responses, and as
/// requests of tiberius.
///
/// # Panics
///
/// Panics if the results differ.
pub fn reads_alike(bytes: &[u8], lengths: &[u8]) {
    let pieces = || Pieces::of(bytes, lengths);
    let whole = || Pieces::of(bytes, &[]);
    assert_eq!(answer(pieces()), answer(whole()), "PRELOGIN");
    for handshake in [0, 1, bytes.len() / 2, usize::MAX] {
        assert_eq!(wire(pieces(), handshake), wire(whole(), handshake), "after {handshake}");
    }
    assert_eq!(responses(&pieces()), responses(&whole()), "responses");
    assert_eq!(requests(&pieces()), requests(&whole()), "requests");
}

/// Returns the response that tiberius gets.
fn answer(mut pieces: Pieces) -> Result<Vec<u8>, String> {
    let payload = at_once(read_prelogin(&mut pieces)).map_err(|error| format!("{error:?}"))?;
    let answer = prelogin::Response::read(&payload).ok_or("malformed")?;
    let response = answer.for_tiberius();
    assert!(prelogin::Response::read(&response).is_some_and(|answer| !answer.encrypts()));
    Ok(response)
}

/// Returns the bytes that TLS reads if its handshake ends after this many bytes.
fn wire(pieces: Pieces, handshake: usize) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut wire = Wire::framed(pieces);
    let mut read = Vec::new();
    loop {
        let left = handshake.saturating_sub(read.len());
        if left == 0 {
            wire.end_handshake();
        }
        // TLS does not read beyond its handshake before it reports the end of the handshake.
        let mut buffer = vec![0; left.clamp(1, 4096)];
        match at_once(wire.read(&mut buffer)) {
            Ok(0) => return (read, None),
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(error) => return (read, Some(error.kind())),
        }
    }
}

/// Returns the state of the link after the responses.
fn responses(pieces: &Pieces) -> String {
    let (link, mut incoming) = (Link::default(), Incoming::default());
    let passed = pieces.0.iter().try_for_each(|piece| incoming.process(piece, &link));
    format!("{link:?} {:?}", passed.map_err(|error| error.kind()))
}

/// Returns the bytes that are sent and the state of the link afterwards.
fn requests(pieces: &Pieces) -> (Vec<u8>, String) {
    let (link, mut outgoing) = (Link::default(), Outgoing::default());
    link.state().reset = Some(ResetRule::RefuseTransaction);
    let mut sent = Vec::new();
    for mut piece in pieces.0.iter().map(Vec::as_slice) {
        while !piece.is_empty() {
            match outgoing.take(piece, &link) {
                Ok(taken) => piece = &piece[taken..],
                Err(error) => return (sent, format!("{link:?} {:?}", error.kind())),
            }
            sent.extend_from_slice(outgoing.unsent());
            outgoing.mark_sent(outgoing.unsent().len());
        }
    }
    (sent, format!("{link:?}"))
}

/// Returns the output of a future that never waits.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("every piece has arrived"),
    }
}

/// The data of a server. Each read returns one piece.
#[derive(Debug)]
struct Pieces(VecDeque<Vec<u8>>);

impl Pieces {
    /// Splits `bytes` into pieces of these lengths in turn; 0, or an empty list, means the rest.
    fn of(mut bytes: &[u8], lengths: &[u8]) -> Self {
        let mut pieces = VecDeque::new();
        let mut lengths = lengths.iter().map(|length| usize::from(*length)).cycle();
        while !bytes.is_empty() {
            let length = lengths.next().filter(|length| *length > 0).unwrap_or(bytes.len());
            let (piece, rest) = bytes.split_at(length.min(bytes.len()));
            pieces.push_back(piece.to_vec());
            bytes = rest;
        }
        Self(pieces)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new(Arc::new(crate::clock::ManualClock::new()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::azure_sql::packet::{HEADER, header, kind};

    /// The responses to a login, a batch, a call with rows, and a call that fails.
    const SESSION: &[u8] = include_bytes!("session");

    /// A handshake of three packets of either type, a ticket in a packet, then data without
    /// packets.
    fn handshake() -> (Vec<u8>, usize) {
        let packets = [
            (kind::PRELOGIN, 1, &[22; 300][..]),
            (kind::RESPONSE, 0, &[22; 70]),
            (kind::PRELOGIN, 1, &[20; 1]),
            (kind::PRELOGIN, 1, &[23; 90]),
        ];
        let framed = packets.into_iter().flat_map(|(kind, status, payload)| {
            [&header(kind, status, payload.len(), 0)[..], payload].concat()
        });
        (framed.chain([23; 40]).collect(), 371)
    }

    #[test]
    fn a_recorded_session_parses_the_same_wherever_it_is_split() {
        let whole = responses(&Pieces::of(SESSION, &[]));
        for cut in 1..SESSION.len() {
            let (before, after) = SESSION.split_at(cut);
            let pieces = Pieces(VecDeque::from([before.to_vec(), after.to_vec()]));
            assert_eq!(responses(&pieces), whole, "cut at {cut}");
        }
        for length in 1..=u8::MAX {
            reads_alike(SESSION, &[length]);
        }
    }

    #[test]
    fn a_handshake_parses_the_same_wherever_it_is_split() {
        let (sent, over) = handshake();
        let whole = wire(Pieces::of(&sent, &[]), over);
        assert_eq!(whole.0.len(), sent.len() - 4 * HEADER);
        assert_eq!(whole.1, None);
        for cut in 1..sent.len() {
            let (before, after) = sent.split_at(cut);
            let pieces = Pieces(VecDeque::from([before.to_vec(), after.to_vec()]));
            assert_eq!(wire(pieces, over), whole, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_the_same_however_they_are_split(
            bytes: Vec<u8>,
            lengths in proptest::collection::vec(0_u8..40, 1..9),
            of_session in 0..SESSION.len(),
        ) {
            reads_alike(&bytes, &lengths);
            reads_alike(&[&SESSION[of_session..], &bytes].concat(), &lengths);
        }
    }
}
