//! Connects to the addresses of a host over TCP.

use std::{
    io,
    mem::MaybeUninit,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::Config;
use crate::{
    clock::{self, Clock, Elapsed},
    connect::{KEEPALIVE_RETRIES, keepalive_interval},
    tls::Trust,
};

/// The maximum number of failed addresses in an error.
const MAX_LISTED: usize = 8;

/// How long an address is tried before the next attempt starts (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the address that responds first. The attempt for the next address starts after
/// 250 ms, or as soon as an attempt fails (RFC 8305, section 5). With `at_once`, all attempts start
/// immediately. `so_far` is called after each failure, with all failures so far.
pub(super) async fn dial(
    clock: &dyn Clock,
    addresses: Vec<SocketAddr>,
    at_once: bool,
    so_far: impl Fn(io::Error),
) -> io::Result<Socket> {
    let mut waiting = interleaved(addresses).into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        let started = if at_once { waiting.len() } else { 1 };
        trying.extend(waiting.by_ref().take(started).map(connect));
        let next = match waiting.len() {
            0 => Ok(trying.next().await),
            _ => clock::timeout(clock, ATTEMPT_DELAY, trying.next()).await,
        };
        match next {
            Ok(Some(Ok(socket))) => return Ok(socket),
            Ok(Some(Err(failure))) => {
                failures.push(failure);
                so_far(all(&failures));
            }
            Ok(None) => return Err(all(&failures)),
            Err(Elapsed) => {}
        }
    }
}

/// Keeps the resolver's order, but alternates the address families (RFC 8305, section 4). If a
/// family has no route, only one attempt is lost before the other family is tried.
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
    let Some((_, last)) = failures.last() else {
        return io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    };
    let mut lines: Vec<_> =
        failures.iter().take(MAX_LISTED).map(|(to, error)| format!("{to}: {error}")).collect();
    if failures.len() > MAX_LISTED {
        lines.push(format!("and {} more", failures.len() - MAX_LISTED));
    }
    io::Error::new(last.kind(), lines.join("; "))
}

/// A TCP connection. The transport reads and writes it, and the manager inspects it.
#[derive(Debug, Clone)]
pub(super) struct Socket(Arc<TcpStream>);

impl Socket {
    fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self(Arc::new(tcp)))
    }

    /// Enables the system's detection of a peer that stopped responding.
    pub(super) fn watch_peer(&self, config: &Config) -> io::Result<()> {
        let socket = SockRef::from(&*self.0);
        if let Some(idle) = config.keepalive {
            let keepalive = TcpKeepalive::new()
                .with_time(idle)
                .with_interval(keepalive_interval(idle))
                .with_retries(KEEPALIVE_RETRIES);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(any(target_os = "android", target_os = "linux"))]
        socket.set_tcp_user_timeout(config.tcp_user_timeout)?;
        Ok(())
    }

    /// Whether `trust` allows a connection to this address.
    pub(super) fn is_allowed_by(&self, trust: &Trust) -> bool {
        self.0.peer_addr().is_ok_and(|peer| trust.allows(peer.ip()))
    }

    /// Whether neither data nor the end of the connection has arrived. Makes a system call, because
    /// tokio may not have been notified yet.
    pub(super) fn is_quiet(&self) -> bool {
        // This poll fails if the runtime that drives the socket was shut down.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(_)) = self.0.poll_read_ready(&mut cx) {
            return false;
        }
        match SockRef::from(&self.0).peek(&mut [MaybeUninit::uninit()]) {
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

    /// A socket does not buffer writes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.0).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::clock::ManualClock;

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Returns an address that is bound but not listening, so that connections are refused.
    fn refusing() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    /// Returns an address with a full backlog: Linux does not respond to new connections.
    #[cfg(target_os = "linux")]
    async fn silent() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let full = [TcpStream::connect(address).await, TcpStream::connect(address).await];
        (listener, full.map(Result::unwrap).into(), address)
    }

    fn peer(socket: &Socket) -> SocketAddr {
        socket.0.peer_addr().unwrap()
    }

    #[tokio::test]
    async fn the_next_address_is_tried_as_soon_as_one_fails() {
        let ((_held, refusing), (_listener, good)) = (refusing(), listening().await);
        let clock = ManualClock::new();
        let socket = dial(&clock, vec![refusing, good], false, |_| {}).await.unwrap();
        assert_eq!(peer(&socket), good);
        assert!(socket.is_allowed_by(&Trust::AnyOnLoopback));
        assert!(socket.0.nodelay().unwrap());
    }

    #[tokio::test]
    async fn the_error_lists_all_failed_addresses() {
        let ((_a, first), (_b, second)) = (refusing(), refusing());
        for at_once in [false, true] {
            let clock = ManualClock::new();
            let error = dial(&clock, vec![first, second], at_once, |_| {}).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            for address in [first, second] {
                assert!(error.to_string().contains(&address.to_string()), "{error}");
            }
        }
        let error = dial(&ManualClock::new(), vec![], false, |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("no address"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_silent_address_is_tried_alone_for_250_ms_or_not_at_all() {
        let ((_l, _full, silent), (_listener, good)) = (silent().await, listening().await);
        let clock = ManualClock::new();
        let mut dialling = std::pin::pin!(dial(&clock, vec![silent, good], false, |_| {}));
        while clock.sleepers() == 0 {
            tokio::select! {
                biased;
                _ = &mut dialling => panic!("the first address does not respond"),
                () = tokio::task::yield_now() => {}
            }
        }
        clock.advance(Duration::from_millis(249));
        tokio::select! {
            biased;
            _ = &mut dialling => panic!("the first address is tried alone for 250 ms"),
            () = tokio::task::yield_now() => {}
        }
        clock.advance(Duration::from_millis(1));
        assert_eq!(peer(&dialling.await.unwrap()), good);

        let clock = ManualClock::new();
        let socket = dial(&clock, vec![silent, good], true, |_| {}).await.unwrap();
        assert_eq!(peer(&socket), good, "MultiSubnetFailover tries all addresses at once");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn failures_are_reported_while_another_address_is_silent() {
        let ((_held, refusing), (_l, _full, silent)) = (refusing(), silent().await);
        let (clock, reported) = (ManualClock::new(), std::cell::RefCell::new(Vec::new()));
        let so_far = |error: io::Error| reported.borrow_mut().push(error.to_string());
        let mut dialling = std::pin::pin!(dial(&clock, vec![refusing, silent], false, so_far));
        while reported.borrow().is_empty() {
            tokio::select! {
                biased;
                _ = &mut dialling => panic!("the other address does not respond"),
                () = tokio::task::yield_now() => {}
            }
        }
        let reported = reported.borrow();
        assert!(reported.len() == 1 && reported[0].contains(&refusing.to_string()), "{reported:?}");
    }

    #[test]
    fn address_families_alternate() {
        let v4 = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let v6 = |port| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
        let taken = interleaved(vec![v6(1), v6(2), v4(3), v4(4), v4(5)]);
        assert_eq!(taken, [v6(1), v4(3), v6(2), v4(4), v4(5)]);
        assert_eq!(interleaved(vec![v4(1), v4(2), v6(3)]), [v4(1), v6(3), v4(2)]);
        assert_eq!(interleaved(vec![v4(1)]), [v4(1)]);
    }
}
