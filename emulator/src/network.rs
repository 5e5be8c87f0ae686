//! A stretch of network between a client and a server, which a test can cut,
//! silence, slow down and chop up where it wants.
//!
//! It carries bytes and knows no protocol: where one packet ends and the next
//! begins is told by a function, as
//! [`packet_borders`](crate::azure_sql::packet_borders) for TDS.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::yield_now,
};

use crate::{listener::Listener, times::Times};

/// A way to a server, with a port of its own on 127.0.0.1. Dropped, it closes
/// with all its connections.
pub struct Network {
    listener: Listener,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("addr", &self.addr()).finish_non_exhaustive()
    }
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Towards {
    /// What the client sends.
    Server,
    /// What the server sends.
    Client,
}

/// What happens to a connection once so much has passed towards one side.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Whose bytes count, and are held up.
    pub towards: Towards,
    /// How many of them pass.
    pub after: After,
    /// What happens then, at once.
    pub act: Act,
}

/// So much passes.
#[derive(Debug, Clone, Copy)]
pub enum After {
    /// This number of bytes.
    Bytes(usize),
    /// This number of packets, which end where the function says, given all that
    /// was sent so far in this direction.
    Packets(usize, fn(&[u8]) -> Vec<usize>),
}

impl After {
    /// Where that is, as far as `sent` can tell.
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
    /// Nothing passes in this direction any more; what comes is lost. The
    /// connection stays open until one side closes it.
    Stall,
    /// Both sides are closed.
    Close,
    /// Both sides are reset (RST).
    Reset,
}

/// What a connection has carried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// What the client sent.
    pub to_server: Vec<u8>,
    /// What the server sent.
    pub to_client: Vec<u8>,
}

/// What has passed since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// TCP connections that were accepted.
    pub connections: u64,
    /// Those of them that are open now.
    pub open: u64,
    /// Faults that have come about.
    pub faults: u64,
    /// Bytes that have passed, in both directions.
    pub bytes: u64,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    /// Whether nothing passes now.
    held: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    faults: Times<Option<Fault>>,
    /// How often all faults were called off.
    calms: u64,
    piece: Option<usize>,
    record: bool,
    recordings: Vec<Recording>,
    counters: Counters,
}

impl Network {
    /// A way to `server`, in the current tokio runtime.
    ///
    /// # Errors
    ///
    /// There is no port.
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        let (state, held) = (Mutex::default(), watch::Sender::new(false));
        let shared = Arc::new(Shared { server, state, held });
        let own = Arc::clone(&shared);
        let listener = Listener::start((Ipv4Addr::LOCALHOST, 0), move |client| {
            connection(client, Arc::clone(&own))
        })?;
        Ok(Self { listener, shared })
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// The next connections, so many (`usize::MAX`: all), have this fault; `None`
    /// leaves them alone. What was asked for before comes first.
    pub fn disturb(&self, connections: usize, fault: impl Into<Option<Fault>>) {
        self.shared.state().faults.push(connections, fault.into());
    }

    /// No faults any more that have not come about.
    pub fn calm(&self) {
        let mut state = self.shared.state();
        state.faults.clear();
        state.calms += 1;
    }

    /// Nothing passes any more, on connections that are there and those to come, until
    /// [`release`](Self::release): bytes wait, and so does a side's end.
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Lets everything pass that was held back.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Connections from now on carry bytes in pieces of at most `length`, which
    /// the receiver can read before the next one comes; `None`: as they come.
    pub fn split(&self, length: impl Into<Option<usize>>) {
        self.shared.state().piece = length.into().map(|length| length.max(1));
    }

    /// Whether connections from now on are recorded; not by default.
    pub fn record(&self, record: bool) {
        self.shared.state().record = record;
    }

    /// The recorded connections that have ended since the last call.
    pub fn take_recordings(&self) -> Vec<Recording> {
        std::mem::take(&mut self.shared.state().recordings)
    }

    /// Closes every connection, and takes new ones.
    pub async fn cut(&self) {
        self.listener.cut().await;
    }

    /// Closes every connection, and from when this returns refuses new ones. The
    /// port stays reserved.
    ///
    /// # Errors
    ///
    /// The port could not be kept.
    pub async fn go_away(&self) -> io::Result<()> {
        self.listener.go_away().await
    }

    /// Takes connections again, on the same port, after [`go_away`](Self::go_away).
    ///
    /// # Errors
    ///
    /// The port was taken.
    pub fn come_back(&self) -> io::Result<()> {
        self.listener.come_back()
    }

    /// What it has counted so far.
    pub fn counters(&self) -> Counters {
        self.shared.state().counters
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while everything is held back.
    async fn released(&self) {
        let mut held = self.held.subscribe();
        // The sender lives in `self`: it cannot be gone while this waits.
        let _ = held.wait_for(|held| !held).await;
    }
}

async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    /// Counts a connection as open while it lives.
    struct Open(Arc<Shared>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.state().counters.open -= 1;
        }
    }
    let (fault, calms, piece, record) = {
        let mut state = shared.state();
        state.counters.connections += 1;
        state.counters.open += 1;
        (state.faults.next().flatten(), state.calms, state.piece, state.record)
    };
    let _open = Open(Arc::clone(&shared));
    let Ok(mut server) = TcpStream::connect(shared.server).await else { return };
    for stream in [&client, &server] {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not set");
        }
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
        shared.state().recordings.push(recording);
    }
    // What one side does to its connection happens to the other's.
    if ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
        for stream in [&client, &server] {
            if let Err(error) = stream.set_zero_linger() {
                tracing::debug!(%error, "the connection is closed, not reset");
            }
        }
    }
}

/// One direction of a connection.
struct Way {
    fault: Option<Fault>,
    /// How often faults were called off before.
    calms: u64,
    piece: Option<usize>,
    record: bool,
    /// What has come, as far as somebody will look at it.
    sent: Vec<u8>,
}

impl Way {
    /// Carries bytes until their sender closes, which the receiver is told.
    async fn carry(
        &mut self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        shared: &Shared,
    ) -> io::Result<()> {
        let mut passed = 0;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            self.fault.take_if(|_| shared.state().calms > self.calms);
            let sent = &self.sent;
            let place = self.fault.and_then(|fault| fault.after.position(sent));
            let place = place.filter(|place| *place <= sent.len());
            let end = place.unwrap_or(sent.len());
            let passing = &sent[passed..end];
            for piece in passing.chunks(self.piece.unwrap_or(usize::MAX)) {
                to.write_all(piece).await?;
                shared.state().counters.bytes += piece.len() as u64;
                if self.piece.is_some() {
                    yield_now().await;
                }
            }
            passed = end;
            if let Some(fault) = self.fault.take_if(|_| place.is_some()) {
                shared.state().counters.faults += 1;
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
