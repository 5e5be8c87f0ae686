//! From a host's name to a TCP connection.

use std::{
    io,
    mem::MaybeUninit,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::clock::{self, Clock, Elapsed};

/// Azure drops idle flows after about 4 minutes.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long an address is tried alone (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the address that answers first. One is tried alone for 250 ms, or
/// until it fails, then the next beside it (RFC 8305, section 5); `at_once`, all.
pub(super) async fn dial(
    clock: &dyn Clock,
    addresses: Vec<SocketAddr>,
    at_once: bool,
) -> io::Result<Socket> {
    let mut waiting = interleaved(addresses).into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        let started = if at_once { waiting.len() } else { 1 };
        trying.extend(waiting.by_ref().take(started).map(connect));
        let next = trying.next();
        let next = if waiting.len() == 0 {
            next.await
        } else {
            match clock::timeout(clock, ATTEMPT_DELAY, next).await {
                Ok(next) => next,
                Err(Elapsed) => continue,
            }
        };
        match next {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(failure)) => failures.push(failure),
            None => return Err(all(&failures)),
        }
    }
}

/// In the resolver's order, but with the address families in turn, so that a
/// family without a route costs one attempt (RFC 8305, section 4).
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (a, b): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    std::iter::from_fn(|| Some([a.next(), b.next()]).filter(|pair| *pair != [None, None]))
        .flatten()
        .flatten()
        .collect()
}

async fn connect(address: SocketAddr) -> Result<Socket, (SocketAddr, io::Error)> {
    let connected = async { Socket::new(TcpStream::connect(address).await?) };
    connected.await.map_err(|error| (address, error))
}

fn all(failures: &[(SocketAddr, io::Error)]) -> io::Error {
    let kind = failures.last().map_or(io::ErrorKind::NotFound, |(_, error)| error.kind());
    let said: Vec<_> =
        failures.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    match said.len() {
        0 => io::Error::new(kind, "the name has no address"),
        _ => io::Error::new(kind, said.join("; ")),
    }
}

/// A connection that the transport reads and writes, and that the manager can
/// look at meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Socket(Arc<TcpStream>);

impl Socket {
    fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
        Ok(Self(Arc::new(tcp)))
    }

    /// Whether its other end is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.0.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
    }

    /// Whether nothing has come that was not read, the connection's end included.
    /// Costs a system call only where something may have come.
    pub(super) fn is_quiet(&self) -> bool {
        let peek = || SockRef::from(&self.0).peek(&mut [MaybeUninit::uninit()]);
        match self.0.try_io(Interest::READABLE, peek) {
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// A socket keeps nothing back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.0).shutdown(Shutdown::Write))
    }
}
