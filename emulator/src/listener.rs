//! A listener that can go away and come back on its port, and its connections.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1_024;

/// Where to listen: a port alone is one on 127.0.0.1.
pub(crate) struct Bind(SocketAddr);

impl From<u16> for Bind {
    fn from(port: u16) -> Self {
        Self((Ipv4Addr::LOCALHOST, port).into())
    }
}

impl From<(IpAddr, u16)> for Bind {
    fn from(addr: (IpAddr, u16)) -> Self {
        Self(addr.into())
    }
}

/// What is done with a connection; dropped half-way, the connection is closed.
type Serve = Arc<dyn Fn(TcpStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// A port that listens, or is kept while nobody does. Dropped, it
/// closes with all its connections.
pub(crate) struct Listener {
    addr: SocketAddr,
    serve: Serve,
    now: Mutex<Now>,
}

enum Now {
    Here(Accepting),
    /// A bound socket that does not listen: connections are refused, and
    /// nobody else gets the port.
    Away(TcpSocket),
    /// In between, or the port could not be kept.
    Nowhere,
}

struct Accepting {
    /// Dropped to end the task.
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

/// What the task is asked for, and where to say that it is done.
enum Command {
    /// Close all connections.
    Cut(oneshot::Sender<()>),
    /// Refuse new connections, or accept them again.
    Refuse(bool, oneshot::Sender<io::Result<()>>),
}

/// The port of the task.
enum Port {
    Open(TcpListener),
    Held(TcpSocket),
    Lost,
}

impl Listener {
    /// Port 0 takes a free one.
    pub(crate) fn start<F, C>(addr: impl Into<Bind>, serve: F) -> io::Result<Self>
    where
        F: Fn(TcpStream) -> C + Send + Sync + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let serve: Serve = Arc::new(move |stream| Box::pin(serve(stream)));
        let listener = bind(addr.into().0)?.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        let now = Mutex::new(Now::Here(Accepting::spawn(listener, &serve)));
        Ok(Self { addr, serve, now })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection and goes on listening.
    pub(crate) async fn cut(&self) {
        let (done, cut) = oneshot::channel();
        match &*self.lock() {
            // Without a task there is no connection.
            Now::Here(accepting) => drop(accepting.commands.send(Command::Cut(done))),
            Now::Away(_) | Now::Nowhere => return,
        }
        let _ = cut.await;
    }

    /// Refuses new connections, or accepts them again; those that are open stay so.
    pub(crate) async fn refuse(&self, refuse: bool) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        if let Now::Here(accepting) = &*self.lock() {
            drop(accepting.commands.send(Command::Refuse(refuse, done)));
        }
        outcome.await.map_err(|_| io::Error::other("the server has stopped"))?
    }

    /// Closes the listener and every connection.
    pub(crate) async fn go_away(&self) -> io::Result<()> {
        let accepting = {
            let mut now = self.lock();
            match std::mem::replace(&mut *now, Now::Nowhere) {
                Now::Here(accepting) => accepting,
                other => {
                    *now = other;
                    return Ok(());
                }
            }
        };
        drop(accepting.commands);
        accepting.task.await.map_err(io::Error::other)?;
        *self.lock() = Now::Away(bind_again(self.addr).await?);
        Ok(())
    }

    /// Listens again on the same port.
    pub(crate) fn come_back(&self) -> io::Result<()> {
        let mut now = self.lock();
        let socket = match std::mem::replace(&mut *now, Now::Nowhere) {
            Now::Here(accepting) => {
                *now = Now::Here(accepting);
                return Ok(());
            }
            Now::Away(socket) => socket,
            Now::Nowhere => bind(self.addr)?,
        };
        *now = Now::Here(Accepting::spawn(socket.listen(BACKLOG)?, &self.serve));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same error, with the address.
fn cannot_listen(addr: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
}

/// With SO_REUSEADDR, so that connections in TIME-WAIT do not block the port.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if cfg!(unix) {
        socket.set_reuseaddr(true)?;
    }
    socket.bind(addr).map_err(|error| cannot_listen(addr, &error))?;
    Ok(socket)
}

/// A process that another thread forks meanwhile holds the old listener open
/// until its own exec.
async fn bind_again(addr: SocketAddr) -> io::Result<TcpSocket> {
    for _ in 0..1_000 {
        match bind(addr) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            bound => return bound,
        }
    }
    bind(addr)
}

impl Accepting {
    fn spawn(listener: TcpListener, serve: &Serve) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let task = tokio::spawn(accept(listener, Arc::clone(serve), received));
        Self { commands, task }
    }
}

impl Port {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Open(listener) => listener.accept().await,
            Self::Held(_) | Self::Lost => std::future::pending().await,
        }
    }

    async fn refuse(&mut self, refuse: bool, addr: SocketAddr) -> io::Result<()> {
        *self = match (std::mem::replace(self, Self::Lost), refuse) {
            (Self::Open(listener), true) => {
                drop(listener);
                Self::Held(bind_again(addr).await?)
            }
            (Self::Held(socket), false) => Self::Open(socket.listen(BACKLOG)?),
            (Self::Lost, _) => Self::Open(bind_again(addr).await?.listen(BACKLOG)?),
            (unchanged, _) => unchanged,
        };
        Ok(())
    }
}

async fn accept(
    listener: TcpListener,
    serve: Serve,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut connections = JoinSet::new();
    let Ok(addr) = listener.local_addr() else { return };
    let mut port = Port::Open(listener);
    loop {
        tokio::select! {
            accepted = port.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream))),
                // The one connection was gone before it was accepted, or files ran out.
                Err(_) => tokio::task::yield_now().await,
            },
            command = commands.recv() => match command {
                Some(Command::Cut(done)) => {
                    connections.shutdown().await;
                    // Whoever asked may have given up.
                    let _ = done.send(());
                }
                Some(Command::Refuse(refuse, done)) => {
                    let _ = done.send(port.refuse(refuse, addr).await);
                }
                None => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(port);
    connections.shutdown().await;
}
