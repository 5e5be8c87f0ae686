//! What tiberius reads and writes: a plain stream of TDS packets, of which it
//! need not know that TLS carries it, that they are counted, and that some are
//! marked to reset the session.
//!
//! tiberius 0.13 builds a TLS configuration and reads the system's roots on
//! every connect, resumes no session, and has no call for RESETCONNECTION
//! (MS-TDS 2.2.3.1.2). So PRELOGIN and TLS are done here, and tiberius' own
//! PRELOGIN is answered with what the server has said, less the encryption.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Error, Stage,
    dial::Socket,
    handshake::Wire,
    link::{Fault, Link},
    packet::{HEADER, Header, Incoming, Outgoing, header, kind, status},
    prelogin,
};
use crate::{connect::Attempt, limited::Limited};

/// A server's PRELOGIN answer is some 50 bytes; what says more is something else. The
/// headers of its packets count.
const LONGEST_ANSWER: usize = 4096;

type Tls = TlsStream<Wire<Limited<Socket>>>;

/// The stream of an Azure SQL connection: TDS within TLS. Opaque; it is the
/// type parameter of [`Client`](super::Client).
pub struct Transport {
    /// Some kilobytes, which tiberius moves about.
    tls: Box<Tls>,
    link: Arc<Link>,
    driver_prelogin: DriverPrelogin,
    outgoing: Outgoing,
    incoming: Incoming,
}

/// tiberius opens with a PRELOGIN of its own, which goes nowhere.
enum DriverPrelogin {
    /// So much of it has come.
    Taking {
        packet: Vec<u8>,
        answer: Vec<u8>,
    },
    /// It is answered with this, of which so much was read.
    Answering {
        answer: Vec<u8>,
        read: usize,
    },
    Over,
}

/// Why there is no transport.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The connection broke.
    Io(io::Error),
    /// Not TDS, or not as it should be.
    Protocol(&'static str),
    /// The server will not encrypt. Nothing secret was sent.
    EncryptionDeclined,
    Tls(rustls::Error),
}

impl Transport {
    /// TDS 7.4: PRELOGIN, then TLS within packets. What comes out is ready for
    /// tiberius.
    pub(super) async fn open(
        tcp: Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        link: Arc<Link>,
        attempt: &Attempt<Error>,
    ) -> Result<Self, OpenError> {
        attempt.reached(Stage::Negotiate);
        let mut tcp = Limited::new(tcp, link.allowance.clone());
        let answer = agree(&mut tcp).await?;
        if !answer.encrypts() {
            return Err(OpenError::EncryptionDeclined);
        }
        attempt.reached(Stage::Tls);
        let mut tls = shake_hands(Wire::framed(tcp), config, name).await?;
        tls.get_mut().0.handshake_over();
        Ok(Self::new(tls, &answer, link))
    }

    /// TDS 8.0: TLS before all else, PRELOGIN within. `config` offers ALPN
    /// `tds/8.0`.
    pub(super) async fn open_strictly(
        tcp: Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        link: Arc<Link>,
        attempt: &Attempt<Error>,
    ) -> Result<Self, OpenError> {
        attempt.reached(Stage::Tls);
        let tcp = Limited::new(tcp, link.allowance.clone());
        let mut tls = shake_hands(Wire::bare(tcp), config, name).await?;
        attempt.reached(Stage::Negotiate);
        // What it says about encryption is of no concern: there is TLS already.
        let answer = agree(&mut tls).await?;
        Ok(Self::new(tls, &answer, link))
    }

    fn new(tls: Tls, answer: &prelogin::Answer, link: Arc<Link>) -> Self {
        let answer = answer.for_tiberius();
        let mut packet = header(kind::RESPONSE, status::END_OF_MESSAGE, answer.len(), 1).to_vec();
        packet.extend(answer);
        Self {
            tls: Box::new(tls),
            link,
            driver_prelogin: DriverPrelogin::Taking { packet: Vec::new(), answer: packet },
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
        }
    }

    /// The session's TLS version and cipher suite, for logs.
    pub(super) fn tls_in_words(&self) -> (&'static str, &'static str) {
        let session = self.tls.get_ref().1;
        (
            session.protocol_version().and_then(|version| version.as_str()).unwrap_or("unknown"),
            session
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
        )
    }

    /// Sends the packet that is whole.
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

    /// Remembers what a write came to: one that was left in the middle and never
    /// taken up again, or failed, ends the connection's use.
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.link.set_stuck(result.is_pending() || self.outgoing.is_partial());
        if let Poll::Ready(Err(_)) = &result {
            self.link.set_fault(Fault::Closed);
        }
        result.map_err(aborted)
    }
}

/// A peer that is gone is found out by the system's timer; `TimedOut` shall be tiberius'
/// own, of an answer that takes long.
fn aborted(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::TimedOut => io::Error::new(io::ErrorKind::ConnectionAborted, error),
        _ => error,
    }
}

/// Exchanges PRELOGINs.
async fn agree(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<prelogin::Answer, OpenError> {
    let request = prelogin::request();
    let mut packet = header(kind::PRELOGIN, status::END_OF_MESSAGE, request.len(), 0).to_vec();
    packet.extend(request);
    stream.write_all(&packet).await.map_err(OpenError::Io)?;
    stream.flush().await.map_err(OpenError::Io)?;
    let answer = read_answer(stream).await?;
    prelogin::Answer::read(&answer)
        .map_err(|prelogin::Malformed| OpenError::Protocol("its PRELOGIN cannot be read"))
}

pub(super) async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Vec<u8>, OpenError> {
    let (mut payload, mut left) = (Vec::new(), LONGEST_ANSWER);
    loop {
        let mut head = [0; HEADER];
        stream.read_exact(&mut head).await.map_err(OpenError::Io)?;
        let header = Header::read(head).map_err(|_| OpenError::Protocol("it is no TDS server"))?;
        if !matches!(header.kind, kind::RESPONSE | kind::PRELOGIN) {
            return Err(OpenError::Protocol("it is no TDS server"));
        }
        if header.payload == 0 && !header.last {
            return Err(OpenError::Protocol("its PRELOGIN response has an empty packet"));
        }
        left = left
            .checked_sub(HEADER + header.payload)
            .ok_or(OpenError::Protocol("its PRELOGIN is too long"))?;
        let start = payload.len();
        payload.resize(start + header.payload, 0);
        stream.read_exact(&mut payload[start..]).await.map_err(OpenError::Io)?;
        if header.last {
            return Ok(payload);
        }
    }
}

async fn shake_hands(
    wire: Wire<Limited<Socket>>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Tls, OpenError> {
    let shaken = async {
        let mut tls = TlsConnector::from(config).connect(name, wire).await?;
        // The last flight of the handshake may still be in the wire's hands.
        tls.flush().await?;
        Ok(tls)
    };
    shaken.await.map_err(|error: io::Error| match error.downcast::<rustls::Error>() {
        Ok(error) => OpenError::Tls(error),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            OpenError::Protocol("it answers the TLS handshake with something else")
        }
        Err(error) => OpenError::Io(error),
    })
}

impl DriverPrelogin {
    /// Takes what belongs to tiberius' PRELOGIN; says how much.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self::Taking { packet, answer } = self else { return Ok(0) };
        let mut taken = bytes.len().min(HEADER.saturating_sub(packet.len()));
        packet.extend_from_slice(&bytes[..taken]);
        if let Some(head) = packet.first_chunk::<HEADER>() {
            let length = HEADER + Header::read(*head)?.payload;
            let more = (bytes.len() - taken).min(length - packet.len());
            packet.extend_from_slice(&bytes[taken..taken + more]);
            taken += more;
            if packet.len() == length {
                *self = Self::Answering { answer: std::mem::take(answer), read: 0 };
            }
        }
        Ok(taken)
    }
}

impl futures_util::io::AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if matches!(self.driver_prelogin, DriverPrelogin::Taking { .. }) {
            return Poll::Ready(self.driver_prelogin.take(bytes));
        }
        let this = &mut *self;
        let sent = this.poll_outgoing(cx);
        let written = match sent {
            Poll::Ready(Ok(())) => Poll::Ready(this.outgoing.take(bytes, &this.link)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        this.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = match this.poll_outgoing(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut this.tls).poll_flush(cx),
            other => other,
        };
        this.note(flushed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.set_fault(Fault::Closed);
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
        match &mut this.driver_prelogin {
            DriverPrelogin::Over => {}
            DriverPrelogin::Answering { answer, read } => {
                let count = bytes.len().min(answer.len() - *read);
                bytes[..count].copy_from_slice(&answer[*read..*read + count]);
                *read += count;
                if *read == answer.len() {
                    this.driver_prelogin = DriverPrelogin::Over;
                }
                return Poll::Ready(Ok(count));
            }
            DriverPrelogin::Taking { .. } => {
                return Poll::Ready(Err(io::Error::other("PRELOGIN is read before it is asked")));
            }
        }
        let mut buffer = ReadBuf::new(bytes);
        let read = ready!(Pin::new(&mut this.tls).poll_read(cx, &mut buffer));
        let passed = read.and_then(|()| match buffer.filled() {
            [] => {
                this.link.set_fault(Fault::Closed);
                Ok(0)
            }
            filled => this.incoming.pass(filled, &this.link).map(|()| filled.len()),
        });
        if passed.is_err() {
            this.link.set_fault(Fault::Closed);
        }
        Poll::Ready(passed.map_err(aborted))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, cipher) = self.tls_in_words();
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
    fn a_peer_that_is_gone_is_not_taken_for_an_answer_that_takes_long() {
        let gone = aborted(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionAborted);
        let reset = aborted(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    }
}
