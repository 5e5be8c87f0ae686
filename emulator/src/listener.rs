//! A listener that can stop and restart on its port, and its connections.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1_024;

/// Serves a connection. If the future is dropped half-way, the connection is closed.
type Serve = Arc<dyn Fn(TcpStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// The connections that are being served.
type Connections = Arc<Mutex<JoinSet<()>>>;

/// A port that accepts connections, or refuses them without giving up the port. Dropping it
/// closes the port and all connections.
pub(crate) struct Listener {
    addr: SocketAddr,
    serve: Serve,
    connections: Connections,
    port: Mutex<Port>,
}

/// The methods of a server with the field `listener` that concern its port and connections.
macro_rules! port_methods {
    () => {
        /// The address on which it listens.
        pub fn addr(&self) -> SocketAddr {
            self.listener.addr()
        }

        /// Closes every connection, without a message, and continues to listen. When this
        /// returns, the sockets are closed.
        pub async fn cut_connections(&self) {
            self.listener.cut().await;
        }

        /// Closes the listener and every connection. When this returns, connections are refused;
        /// the port stays reserved.
        ///
        /// # Errors
        ///
        /// Another process took the port.
        pub async fn go_away(&self) -> io::Result<()> {
            self.listener.go_away().await
        }

        /// Listens again on the same port.
        ///
        /// # Errors
        ///
        /// Another process took the port.
        pub fn come_back(&self) -> io::Result<()> {
            self.listener.come_back()
        }
    };
}
pub(crate) use port_methods;

enum Port {
    /// The task that accepts connections.
    Open(JoinHandle<()>),
    /// A bound socket that does not listen: connections are refused, and no other process
    /// gets the port.
    Held(TcpSocket),
    /// During a change, or the port could not be kept.
    Lost,
}

impl Listener {
    /// Port 0 takes a free one.
    pub(crate) fn start<F, C>(addr: impl Into<SocketAddr>, serve: F) -> io::Result<Self>
    where
        F: Fn(TcpStream) -> C + Send + Sync + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let serve: Serve = Arc::new(move |stream| Box::pin(serve(stream)));
        let socket = bind(addr.into())?;
        let (addr, connections) = (socket.local_addr()?, Connections::default());
        let listener = Self { addr, serve, connections, port: Mutex::new(Port::Held(socket)) };
        listener.come_back()?;
        Ok(listener)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection and continues to listen.
    pub(crate) async fn cut(&self) {
        let mut connections = std::mem::take(&mut *self.connections.lock());
        connections.shutdown().await;
    }

    /// Closes the listener and every connection.
    pub(crate) async fn go_away(&self) -> io::Result<()> {
        let mut port = std::mem::replace(&mut *self.port.lock(), Port::Lost);
        if let Port::Open(task) = &mut port {
            task.abort();
            // The task has ended when it reports its cancellation.
            let _ = task.await;
        }
        self.cut().await;
        let socket = match port {
            Port::Held(socket) => socket,
            Port::Open(_) | Port::Lost => bind_again(self.addr).await?,
        };
        *self.port.lock() = Port::Held(socket);
        Ok(())
    }

    /// Listens again on the same port.
    pub(crate) fn come_back(&self) -> io::Result<()> {
        let mut port = self.port.lock();
        let socket = match std::mem::replace(&mut *port, Port::Lost) {
            Port::Open(task) => {
                *port = Port::Open(task);
                return Ok(());
            }
            Port::Held(socket) => socket,
            Port::Lost => bind(self.addr)?,
        };
        let listener = socket.listen(BACKLOG)?;
        let (serve, connections) = (Arc::clone(&self.serve), Arc::clone(&self.connections));
        *port = Port::Open(tokio::spawn(accept(listener, serve, connections)));
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Port::Open(task) = &*self.port.lock() {
            task.abort();
        }
        self.connections.lock().abort_all();
    }
}

/// With SO_REUSEADDR, so that connections in TIME-WAIT do not block the port.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if cfg!(unix) {
        socket.set_reuseaddr(true)?;
    }
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
    };
    socket.bind(addr).map_err(named)?;
    Ok(socket)
}

/// A process that another thread forks in the meantime holds the old listener open until
/// its exec.
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

async fn accept(listener: TcpListener, serve: Serve, connections: Connections) {
    loop {
        // An error: the connection was closed before it was accepted, or there are no more
        // file descriptors.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut connections = connections.lock();
        // Removes the connections that have ended.
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream));
    }
}
