//! The stream that tiberius reads and writes: plain TDS packets. This transport handles TLS, counts
//! requests and responses, and sets the reset bit of some requests.
//!
//! tiberius 0.13 builds a TLS configuration and loads the system's roots on every connect, does not
//! resume TLS sessions, and does not support RESETCONNECTION (MS-TDS 2.2.3.1.2). Therefore, this
//! transport does PRELOGIN and TLS. tiberius' own PRELOGIN gets the server's response, changed to
//! decline encryption.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Read},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Encrypt, Error, RetireReason, Stage,
    dial::Socket,
    handshake::Wire,
    link::Link,
    packet::{HEADER, Header, Incoming, Outgoing, header, kind, status},
    prelogin, response,
};
use crate::{connect::Attempt, limited::Limited};

/// The maximum size of a PRELOGIN response, including packet headers. Usually, it has 50 bytes.
const MAX_PRELOGIN_SIZE: usize = 4096;

/// The first byte of a TLS alert (RFC 8446, B.1), with which a server responds to PRELOGIN if it
/// expects TLS.
const TLS_ALERT: u8 = 21;

type Tls = TlsStream<Wire<Limited<Socket>>>;

/// The stream of an Azure SQL connection: TDS within TLS. It is the type parameter of
/// [`Client`](super::Client) and has no methods of its own.
pub struct Transport {
    /// Boxed, because tiberius moves the transport, and this field has several kilobytes.
    tls: Box<Tls>,
    link: Arc<Link>,
    /// The unread part of the response to tiberius' own PRELOGIN. Until tiberius has read all of
    /// it, whatever tiberius writes belongs to that PRELOGIN and is dropped.
    driver_prelogin: VecDeque<u8>,
    /// The unread part of the responses to refused requests.
    refusals: VecDeque<u8>,
    outgoing: Outgoing,
    incoming: Incoming,
}

impl Transport {
    /// Exchanges PRELOGINs and sets up TLS, so that tiberius can log in. Returns `None` if the
    /// server declines encryption. With [`Encrypt::Strict`], `config` must offer ALPN `tds/8.0`.
    ///
    /// # Errors
    ///
    /// An I/O error: if TLS fails, it contains a [`rustls::Error`]; if the server's response
    /// violates TDS, its kind is `InvalidData`.
    pub(super) async fn open(
        tcp: Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        encrypt: Encrypt,
        link: Arc<Link>,
        attempt: &Attempt<Error>,
    ) -> io::Result<Option<Self>> {
        let mut tcp = Limited::new(tcp, link.allowance.clone());
        let (tls, answer) = match encrypt {
            Encrypt::Mandatory => {
                attempt.reached(Stage::Negotiate);
                let answer = exchange_prelogin(&mut tcp).await?;
                if !answer.encrypts() {
                    return Ok(None);
                }
                attempt.reached(Stage::Tls);
                let mut tls = tls_handshake(Wire::framed(tcp), config, name).await?;
                tls.get_mut().0.end_handshake();
                (tls, answer)
            }
            Encrypt::Strict => {
                attempt.reached(Stage::Tls);
                let mut tls = tls_handshake(Wire::bare(tcp), config, name).await?;
                attempt.reached(Stage::Negotiate);
                // The encryption option of the response is ignored: TLS is already in use.
                let answer = exchange_prelogin(&mut tls).await?;
                (tls, answer)
            }
        };
        Ok(Some(Self {
            tls: Box::new(tls),
            link,
            driver_prelogin: packet(kind::RESPONSE, answer.for_tiberius()).into(),
            refusals: VecDeque::new(),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
        }))
    }

    /// Returns the session's TLS version and cipher suite, for logs.
    pub(super) fn tls_description(&self) -> (&'static str, &'static str) {
        let session = self.tls.get_ref().1;
        let version = session.protocol_version().and_then(|version| version.as_str());
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        (version.unwrap_or("unknown"), suite.unwrap_or("unknown"))
    }

    /// Sends the current packet if it is complete.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.unsent().is_empty() {
            let count = ready!(Pin::new(&mut self.tls).poll_write(cx, self.outgoing.unsent()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.mark_sent(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Records the result of a write. The connection is not used again after a write that failed or
    /// did not complete.
    fn record_write<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.link.state().stuck = result.is_pending() || self.outgoing.is_partial();
        if let Poll::Ready(Err(_)) = &result {
            self.link.set_fault(RetireReason::Closed);
        }
        result.map_err(aborted)
    }
}

/// Replaces the kind `TimedOut` of an error of the socket, because callers expect `TimedOut` only
/// for tiberius' own timeout of a slow response.
fn aborted(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::TimedOut => io::Error::new(io::ErrorKind::ConnectionAborted, error),
        _ => error,
    }
}

/// Exchanges PRELOGINs.
async fn exchange_prelogin(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<prelogin::Response> {
    stream.write_all(&packet(kind::PRELOGIN, prelogin::request())).await?;
    stream.flush().await?;
    let answer = read_prelogin(stream).await?;
    prelogin::Response::read(&answer).ok_or_else(|| invalid("its PRELOGIN cannot be read"))
}

/// Encodes a message of one packet.
fn packet(kind: u8, payload: Vec<u8>) -> Vec<u8> {
    let mut packet = header(kind, status::END_OF_MESSAGE, payload.len(), 0).to_vec();
    packet.extend(payload);
    packet
}

pub(super) async fn read_prelogin(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let (mut payload, mut left) = (Vec::new(), MAX_PRELOGIN_SIZE);
    loop {
        let mut head = [0; HEADER];
        stream.read_exact(&mut head[..1]).await?;
        if head[0] == TLS_ALERT {
            return Err(invalid("it expects TLS first, as TDS 8.0 does: set Encrypt=Strict"));
        }
        stream.read_exact(&mut head[1..]).await?;
        let header = Header::read(head)
            .ok()
            .filter(|header| matches!(header.kind, kind::RESPONSE | kind::PRELOGIN))
            .ok_or_else(|| invalid("it is not a TDS server"))?;
        if header.payload == 0 && !header.last {
            return Err(invalid("its PRELOGIN response has an empty packet"));
        }
        left = left
            .checked_sub(HEADER + header.payload)
            .ok_or_else(|| invalid("its PRELOGIN is too long"))?;
        let start = payload.len();
        payload.resize(start + header.payload, 0);
        stream.read_exact(&mut payload[start..]).await?;
        if header.last {
            return Ok(payload);
        }
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

async fn tls_handshake(
    wire: Wire<Limited<Socket>>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<Tls> {
    let mut tls = TlsConnector::from(config).connect(name, wire).await?;
    // The last messages of the handshake may still be buffered in the wire.
    tls.flush().await?;
    Ok(tls)
}

impl futures_util::io::AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.driver_prelogin.is_empty() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let sent = this.poll_outgoing(cx);
        let written = sent.map(|sent| sent.and_then(|()| this.outgoing.take(bytes, &this.link)));
        if this.outgoing.take_refused() {
            this.refusals.extend(packet(kind::RESPONSE, response::refusal_after_drop()));
        }
        this.record_write(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = match this.poll_outgoing(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut this.tls).poll_flush(cx),
            other => other,
        };
        this.record_write(flushed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.set_fault(RetireReason::Closed);
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl futures_util::io::AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.driver_prelogin.is_empty() {
            return Poll::Ready(this.driver_prelogin.read(bytes));
        }
        if !this.refusals.is_empty() {
            return Poll::Ready(this.refusals.read(bytes));
        }
        let mut buffer = ReadBuf::new(bytes);
        let Poll::Ready(read) = Pin::new(&mut this.tls).poll_read(cx, &mut buffer) else {
            this.link.record_waiting();
            return Poll::Pending;
        };
        let passed = read.and_then(|()| match buffer.filled() {
            [] => {
                this.link.set_fault(RetireReason::Closed);
                Ok(0)
            }
            filled => this.incoming.process(filled, &this.link).map(|()| filled.len()),
        });
        if passed.is_err() {
            this.link.set_fault(RetireReason::Closed);
        }
        Poll::Ready(passed.map_err(aborted))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, cipher) = self.tls_description();
        f.debug_struct("Transport")
            .field("tls", &version)
            .field("cipher", &cipher)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_peer_is_not_mistaken_for_a_slow_response() {
        let gone = aborted(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionAborted);
        let reset = aborted(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    }
}
