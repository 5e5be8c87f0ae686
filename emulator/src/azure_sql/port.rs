//! A port that listens or refuses, and its connections.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use super::{behaviour::count, gate::Gate};
use crate::listener::cannot_listen;

/// Dropped, it closes with all its connections.
pub(crate) struct Port {
    address: SocketAddr,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

/// To listen or not to, and where to say that it is done.
struct Command {
    listen: bool,
    done: oneshot::Sender<io::Result<()>>,
}

impl Port {
    /// Listens and serves connections; port 0 takes a free one.
    pub(crate) async fn start<F>(
        addr: SocketAddr,
        gate: Arc<Gate>,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener =
            TcpListener::bind(addr).await.map_err(|error| cannot_listen(addr, &error))?;
        let address = listener.local_addr()?;
        let (commands, receiver) = mpsc::channel(1);
        let task = tokio::spawn(accept(listener, address, receiver, gate, serve));
        Ok(Self { address, commands, task })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new connections, or accepts them again; those that are open stay so.
    pub(crate) async fn refuse(&self, refuse: bool) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let stopped = || io::Error::other("the server has stopped");
        self.commands.send(Command { listen: !refuse, done }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Waits until all connections are gone.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        // Whether it was aborted or had ended: it is over.
        drop((&mut self.task).await);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<F>(
    listener: TcpListener,
    address: SocketAddr,
    mut commands: mpsc::Receiver<Command>,
    gate: Arc<Gate>,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    // Connections end with this task.
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => match accepted {
                Ok((stream, _)) => {
                    count(&gate.counters.connections);
                    connections.spawn(connection(serve(stream), Arc::clone(&gate)));
                }
                Err(error) => tracing::debug!(%error, "a connection is not accepted"),
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(Command { listen, done }) = commands.recv() => {
                let outcome = match (listen, &listener) {
                    (true, None) => TcpListener::bind(address).await.map(|bound| listener = Some(bound)),
                    (true, Some(_)) => Ok(()),
                    (false, _) => {
                        listener = None;
                        Ok(())
                    }
                };
                drop(done.send(outcome));
            }
        }
    }
}

async fn connection(serve: impl Future<Output = io::Result<()>>, gate: Arc<Gate>) {
    /// Counts a connection as open while it lives.
    struct Open<'a>(&'a Gate);
    impl Drop for Open<'_> {
        fn drop(&mut self) {
            self.0.counters.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
    count(&gate.counters.open);
    let _open = Open(&gate);
    let mut cuts = gate.behaviour.cuts();
    tokio::select! {
        ended = serve => if let Err(error) = ended {
            tracing::debug!(%error, "a connection ends");
        },
        _ = cuts.changed() => tracing::debug!("a connection is cut"),
    }
}
