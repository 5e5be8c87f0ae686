//! A TCP proxy between a client and a server, with which a test can close, reset, stall and
//! split connections at any byte. It relays bytes and does not know their protocol.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::yield_now,
};

use crate::{
    listener::{Listener, port_methods},
    times::Times,
};

/// A proxy to a server, on its own port of 127.0.0.1. When it is dropped, it closes all
/// connections.
pub struct Network {
    listener: Listener,
    shared: Arc<Shared>,
}

opaque_debug!(Network);

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Towards {
    /// From the client to the server.
    Server,
    /// From the server to the client.
    Client,
}

/// A fault of a connection at a place in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The direction whose bytes count and are affected.
    pub towards: Towards,
    /// The place.
    pub after: After,
    /// What happens there.
    pub act: Act,
}

/// A place in a direction: the proxy relays this much.
#[derive(Debug, Clone, Copy)]
pub enum After {
    /// This number of bytes.
    Bytes(usize),
    /// This number of packets. The function returns where they end in the bytes that were
    /// sent so far in this direction.
    Packets(usize, fn(&[u8]) -> Vec<usize>),
}

impl After {
    /// The place in bytes, if `sent` is long enough to determine it.
    fn position(self, sent: &[u8]) -> Option<usize> {
        match self {
            Self::Bytes(count) => Some(count),
            Self::Packets(0, _) => Some(0),
            Self::Packets(count, borders) => borders(sent).get(count - 1).copied(),
        }
    }
}

/// What happens at a [`Fault`]'s place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// Further bytes in this direction are discarded. The connection stays open until one
    /// side closes it.
    Stall,
    /// The proxy closes both sides.
    Close,
    /// The proxy resets both sides (RST).
    Reset,
}

/// The bytes of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// The client's bytes.
    pub to_server: Vec<u8>,
    /// The server's bytes.
    pub to_client: Vec<u8>,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// TCP connections that were accepted.
    pub connections: u64,
    /// Accepted connections that are still open.
    pub open: u64,
    /// Faults that have happened.
    pub faults: u64,
    /// Bytes that were relayed, in both directions.
    pub bytes: u64,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    /// Whether the proxy holds all bytes back.
    held: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    faults: Times<Option<Fault>>,
    /// How often all faults were cancelled.
    calms: u64,
    piece: Option<usize>,
    record: bool,
    recordings: Vec<Recording>,
    counters: Counters,
}

impl Network {
    /// Starts a proxy to `server`, in the current tokio runtime.
    ///
    /// # Errors
    ///
    /// No port is free.
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        let (state, held) = (Mutex::default(), watch::Sender::new(false));
        let shared = Arc::new(Shared { server, state, held });
        let own = Arc::clone(&shared);
        let listener = Listener::start((Ipv4Addr::LOCALHOST, 0), move |client| {
            connection(client, Arc::clone(&own))
        })?;
        Ok(Self { listener, shared })
    }

    port_methods!();

    /// Gives this fault to the next `connections` connections (`usize::MAX`: to all), or no
    /// fault if it is `None`. They come after the connections of earlier calls.
    pub fn disturb(&self, connections: usize, fault: impl Into<Option<Fault>>) {
        self.shared.state.lock().faults.push(connections, fault.into());
    }

    /// Cancels all faults that have not happened yet.
    pub fn calm(&self) {
        let mut state = self.shared.state.lock();
        state.faults.clear();
        state.calms += 1;
    }

    /// Holds all bytes back, on open and on future connections, until
    /// [`release`](Self::release). The close of a connection is also held back.
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Relays everything that was held back.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Splits the bytes of future connections into pieces of at most `length`, which the
    /// receiver can read one by one. `None` relays bytes as they arrive.
    pub fn split(&self, length: impl Into<Option<usize>>) {
        self.shared.state.lock().piece = length.into().map(|length| length.max(1));
    }

    /// Sets whether future connections are recorded; by default, they are not.
    pub fn record(&self, record: bool) {
        self.shared.state.lock().record = record;
    }

    /// Returns the recorded connections that were closed since the last call.
    pub fn take_recordings(&self) -> Vec<Recording> {
        std::mem::take(&mut self.shared.state.lock().recordings)
    }

    /// The counters so far.
    pub fn counters(&self) -> Counters {
        self.shared.state.lock().counters
    }
}

impl Shared {
    /// Waits while bytes are held back.
    async fn released(&self) {
        let mut held = self.held.subscribe();
        // `self` owns the sender, so it is not dropped during the wait.
        let _ = held.wait_for(|held| !held).await;
    }
}

async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    /// Counts a connection as open until this is dropped.
    struct Open(Arc<Shared>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.state.lock().counters.open -= 1;
        }
    }
    let (fault, calms, piece, record) = {
        let mut state = shared.state.lock();
        state.counters.connections += 1;
        state.counters.open += 1;
        (state.faults.next().flatten(), state.calms, state.piece, state.record)
    };
    let _open = Open(Arc::clone(&shared));
    let Ok(mut server) = TcpStream::connect(shared.server).await else { return };
    for stream in [&client, &server] {
        // Without it, the kernel may delay bytes; they still arrive.
        let _ = stream.set_nodelay(true);
    }
    let way = |towards: Towards| Way {
        fault: fault.filter(|fault| fault.towards == towards),
        calms,
        piece,
        record,
        sent: Vec::new(),
    };
    let (mut there, mut back) = (way(Towards::Server), way(Towards::Client));
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            there.carry(from_client, to_server, &shared),
            back.carry(from_server, to_client, &shared),
        )
    };
    if record {
        let recording = Recording { to_server: there.sent, to_client: back.sent };
        shared.state.lock().recordings.push(recording);
    }
    // A reset by one side is passed on to the other.
    if ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
        for stream in [&client, &server] {
            // Without it, the connection is closed instead of reset.
            let _ = stream.set_zero_linger();
        }
    }
}

/// One direction of a connection.
struct Way {
    fault: Option<Fault>,
    /// [`State::calms`] when the connection was accepted.
    calms: u64,
    piece: Option<usize>,
    record: bool,
    /// The bytes that were sent, as far as a fault or a recording needs them.
    sent: Vec<u8>,
}

impl Way {
    /// Relays bytes until their sender closes, then closes the receiver's side.
    async fn carry(
        &mut self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        shared: &Shared,
    ) -> io::Result<()> {
        let mut passed = 0;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            self.fault.take_if(|_| shared.state.lock().calms > self.calms);
            let sent = &self.sent;
            let place = self.fault.and_then(|fault| fault.after.position(sent));
            let place = place.filter(|place| *place <= sent.len());
            let end = place.unwrap_or(sent.len());
            let passing = &sent[passed..end];
            for piece in passing.chunks(self.piece.unwrap_or(usize::MAX)) {
                to.write_all(piece).await?;
                shared.state.lock().counters.bytes += piece.len() as u64;
                if self.piece.is_some() {
                    yield_now().await;
                }
            }
            passed = end;
            if let Some(fault) = self.fault.take_if(|_| place.is_some()) {
                shared.state.lock().counters.faults += 1;
                match fault.act {
                    Act::Stall => {
                        while from.read(&mut buffer).await? > 0 {}
                        return to.shutdown().await;
                    }
                    Act::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
                    Act::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
                }
            }
            if self.fault.is_none() && !self.record {
                self.sent.clear();
                passed = 0;
            }
            let read = from.read(&mut buffer).await?;
            shared.released().await;
            match read {
                0 => return to.shutdown().await,
                read => self.sent.extend(&buffer[..read]),
            }
        }
    }
}
