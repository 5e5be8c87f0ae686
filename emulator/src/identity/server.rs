//! The listener, its going and coming, and its connections.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use super::{control::State, protocol};

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1_024;

/// A port that listens, or is kept while nobody does.
pub(super) struct Listening {
    addr: SocketAddr,
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
    stop: oneshot::Sender<Infallible>,
    task: JoinHandle<()>,
}

impl Listening {
    pub(super) fn start(port: u16, state: &Arc<State>) -> io::Result<Self> {
        let listener = bind((Ipv4Addr::LOCALHOST, port).into())?.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        let now = Mutex::new(Now::Here(Accepting::spawn(listener, state)));
        Ok(Self { addr, now })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) async fn go_away(&self) -> io::Result<()> {
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
        drop(accepting.stop);
        accepting.task.await.map_err(io::Error::other)?;
        *self.lock() = Now::Away(bind(self.addr)?);
        Ok(())
    }

    pub(super) fn come_back(&self, state: &Arc<State>) -> io::Result<()> {
        let mut now = self.lock();
        let socket = match std::mem::replace(&mut *now, Now::Nowhere) {
            Now::Here(accepting) => {
                *now = Now::Here(accepting);
                return Ok(());
            }
            Now::Away(socket) => socket,
            Now::Nowhere => bind(self.addr)?,
        };
        *now = Now::Here(Accepting::spawn(socket.listen(BACKLOG)?, state));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With SO_REUSEADDR, so that connections in TIME-WAIT do not block the port.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    if cfg!(unix) {
        socket.set_reuseaddr(true)?;
    }
    socket.bind(addr)?;
    Ok(socket)
}

impl Accepting {
    fn spawn(listener: TcpListener, state: &Arc<State>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(listener, Arc::clone(state), stopped));
        Self { stop, task }
    }
}

async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    mut stopped: oneshot::Receiver<Infallible>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => break,
        };
        // What fails here is the one connection, gone before it was accepted.
        let Ok((stream, _)) = accepted else { continue };
        while connections.try_join_next().is_some() {}
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(|request| protocol::answer(&state, request));
            let io = TokioIo::new(stream);
            let connection = hyper::server::conn::http1::Builder::new();
            if let Err(error) = connection.serve_connection(io, service).await {
                tracing::debug!(%error, "identity endpoint: connection ended");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}
