//! A peer that floods its clients, and later relays them to a real server.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection};

/// A thread that listens on loopback.
pub struct Peer {
    pub addr: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The number of further connections to flood.
    floods: AtomicUsize,
    /// Running floods.
    open: AtomicUsize,
    /// Floods that their victims have ended.
    ended: AtomicUsize,
    /// When connections were accepted.
    connected: Mutex<Vec<Instant>>,
}

impl Peer {
    /// Runs `play` for the first `floods` connections; relays the others to `target`.
    pub fn start(
        floods: usize,
        target: SocketAddr,
        play: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State { floods: floods.into(), ..State::default() });
        let (listening, play) = (Arc::clone(&state), Arc::new(play));
        // Named like its case, so that its waits for a processor count as the case's.
        let named = thread::Builder::new().name(thread::current().name().unwrap().to_owned());
        let listen = move || {
            // Runs until the process ends.
            for tcp in listener.incoming().flatten() {
                listening.connected.lock().unwrap().push(Instant::now());
                // A victim that never closes its connection fails its case.
                let patience = Some(Duration::from_secs(20));
                tcp.set_write_timeout(patience).unwrap();
                tcp.set_read_timeout(patience).unwrap();
                tcp.set_nodelay(true).unwrap();
                let left =
                    listening.floods.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
                if left.is_err() {
                    thread::spawn(move || relay(tcp, target));
                    continue;
                }
                listening.open.fetch_add(1, SeqCst);
                let (state, play) = (Arc::clone(&listening), Arc::clone(&play));
                thread::spawn(move || {
                    let gone = |kind| {
                        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
                        matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset)
                            || kind == io::ErrorKind::UnexpectedEof
                    };
                    match play(tcp) {
                        Err(error) if gone(error.kind()) => state.ended.fetch_add(1, SeqCst),
                        other => panic!("the flood ended unexpectedly: {other:?}"),
                    };
                    state.open.fetch_sub(1, SeqCst);
                });
            }
        };
        named.spawn(listen).unwrap();
        Self { addr, state }
    }

    /// The time of the first connection after `began`.
    pub fn connected_after(&self, began: Instant) -> Option<Instant> {
        self.state.connected.lock().unwrap().iter().copied().find(|at| *at > began)
    }

    /// Relays all connections from now on.
    pub fn stop_flooding(&self) {
        self.state.floods.store(0, SeqCst);
    }

    /// Floods that their victims have ended.
    pub fn ended(&self) -> usize {
        self.state.ended.load(SeqCst)
    }

    /// Waits until the victims have ended all floods, of which there must be at least one.
    pub async fn wait_until_ended(&self) {
        crate::until(|| self.state.open.load(SeqCst) == 0).await;
        assert!(self.state.ended.load(SeqCst) > 0, "nothing was flooded");
    }
}

fn relay(client: TcpStream, target: SocketAddr) {
    let server = TcpStream::connect(target).unwrap();
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || copy(from, to));
    copy(server, client);
}

/// An endless stream of bytes.
#[derive(Clone)]
pub struct Flood {
    pub name: &'static str,
    /// Sent once, before the units.
    pub first: Vec<u8>,
    pub unit: Vec<u8>,
    pub pace: Pace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as possible.
    Fast,
    /// As fast as possible, each byte separately.
    Bytes,
    /// A byte every 200 ms.
    Slow,
}

impl std::fmt::Debug for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.name, self.pace)
    }
}

impl Flood {
    pub fn of(name: &'static str, unit: impl Into<Vec<u8>>) -> Self {
        Self { name, first: Vec::new(), unit: unit.into(), pace: Pace::Fast }
    }

    pub fn after(self, first: impl Into<Vec<u8>>) -> Self {
        Self { first: first.into(), ..self }
    }

    pub fn at(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    pub fn is_slow(&self) -> bool {
        self.pace == Pace::Slow
    }

    /// Writes until the other end is closed.
    pub fn pour(&self, mut into: impl Write) -> io::Result<()> {
        if self.pace == Pace::Fast {
            into.write_all(&self.first)?;
            let block = self.unit.repeat(65_536_usize.div_ceil(self.unit.len()));
            loop {
                into.write_all(&block)?;
            }
        }
        for byte in self.first.iter().chain(self.unit.iter().cycle()) {
            into.write_all(&[*byte])?;
            into.flush()?;
            if self.pace == Pace::Slow {
                thread::sleep(Duration::from_millis(200));
            }
        }
        unreachable!("a unit is not empty")
    }
}

/// A TLS connection, whose handshake may be wrapped into TDS packets.
pub struct Tls {
    session: ServerConnection,
    wire: Wire,
}

struct Wire {
    tcp: TcpStream,
    packets: bool,
    /// How much of a packet's payload is still to be read.
    left: usize,
    unsent: Vec<u8>,
}

impl Tls {
    pub fn accept(tcp: TcpStream, config: &Arc<ServerConfig>, packets: bool) -> io::Result<Self> {
        let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        let mut tls = Self { session, wire: Wire { tcp, packets, left: 0, unsent: Vec::new() } };
        while tls.session.is_handshaking() {
            tls.session.complete_io(&mut tls.wire)?;
        }
        tls.wire.packets = false;
        Ok(tls)
    }
}

impl Read for Tls {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.session, &mut self.wire).read(bytes)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.session, &mut self.wire).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        rustls::Stream::new(&mut self.session, &mut self.wire).flush()
    }
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.packets {
            return self.tcp.read(bytes);
        }
        while self.left == 0 {
            let mut header = [0; 8];
            self.tcp.read_exact(&mut header)?;
            self.left = usize::from(u16::from_be_bytes([header[2], header[3]])) - 8;
        }
        let room = bytes.len().min(self.left);
        let count = self.tcp.read(&mut bytes[..room])?;
        self.left -= count;
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.packets {
            return self.tcp.write(bytes);
        }
        self.unsent.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        for piece in std::mem::take(&mut self.unsent).chunks(4_000) {
            self.tcp.write_all(&super::azure_sql::packet(18, 1, piece))?;
        }
        Ok(())
    }
}
