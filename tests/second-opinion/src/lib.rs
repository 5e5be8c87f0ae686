//! Starts Microsoft's mock of a TDS server (`mssql-mock-tds`, from the repository
//! microsoft/mssql-rs) for a test. It is independent of this project, so it does not share
//! mistakes with our emulator.
//!
//! It reads a login of one packet, accepts any token, and returns registered responses. It links
//! OpenSSL, so it is in a separate package.

use std::{io, sync::Arc};

use entra_pool_emulator::certificates::Authority;
use mssql_mock_tds::{
    ConnectionInfo, ConnectionStore, MockTdsServer, QueryRegistry, QueryResponse,
    RedirectionConfig, TdsTlsWrapper, create_test_identity,
    protocol::build_prelogin_response_with_fedauth, server::ConnectionProcessor,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// Microsoft's server on its own port. It stops when this value is dropped.
pub struct Server {
    port: u16,
    connections: Arc<Mutex<ConnectionStore>>,
    queries: Arc<Mutex<QueryRegistry>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server for TDS 7.4 with a certificate for `localhost`.
    pub async fn start(authority: &Authority) -> Self {
        Self::run(encrypting(authority, false).await.0)
    }

    /// Starts a server for TDS 8.0, where the connection starts with TLS.
    pub async fn start_strict(authority: &Authority) -> Self {
        Self::run(encrypting(authority, true).await.0)
    }

    /// Starts a server like [`start`](Self::start) or [`start_strict`](Self::start_strict), and
    /// returns the folder of its certificate for pinning.
    pub async fn start_pinned(authority: &Authority, strict: bool) -> (Self, TempDir) {
        let (server, folder) = encrypting(authority, strict).await;
        (Self::run(server), folder)
    }

    /// Starts a server that declines to encrypt.
    pub async fn start_unencrypted() -> Self {
        Self::run(MockTdsServer::new(ANY_PORT).await.unwrap())
    }

    /// Routes every login as `to` returns for the server's own port.
    ///
    /// The routing server of `mssql-mock-tds` does not encrypt, so this function adds TLS. All
    /// messages inside TLS are those of `mssql-mock-tds`.
    pub async fn start_routing(
        authority: &Authority,
        to: impl FnOnce(u16) -> RedirectionConfig,
    ) -> Self {
        let listener = TcpListener::bind(ANY_PORT).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = authority.issue(&["localhost"]).unwrap().server_config().unwrap();
        let (tls, routing) = (TlsAcceptor::from(tls), to(port));
        let connections = Arc::<Mutex<ConnectionStore>>::default();
        let queries = Arc::new(Mutex::new(QueryRegistry::new()));
        let (store, registry) = (connections.clone(), queries.clone());
        let task = tokio::spawn(async move {
            for number in 0.. {
                let Ok((socket, client)) = listener.accept().await else { return };
                let processor = ConnectionProcessor::new_with_redirection(
                    number,
                    client,
                    registry.clone(),
                    Some(store.clone()),
                    Some(routing.clone()),
                );
                // Errors are visible on the client's side.
                tokio::spawn(serve(socket, tls.clone(), processor));
            }
        });
        Self { port, connections, queries, task }
    }

    fn run(server: MockTdsServer) -> Self {
        Self {
            port: server.local_addr().port(),
            connections: server.connection_store(),
            queries: server.query_registry(),
            task: tokio::spawn(async move {
                let _ = server.run().await;
            }),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the response to `sql`.
    pub async fn answer(&self, sql: &str, response: QueryResponse) {
        self.queries.lock().await.register(sql, response);
    }

    /// Returns the server's information about each connection that reached the login, in order.
    pub async fn seen(&self) -> Vec<ConnectionInfo> {
        self.connections.lock().await.all().values().cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const ANY_PORT: &str = "127.0.0.1:0";

async fn encrypting(authority: &Authority, strict: bool) -> (MockTdsServer, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).unwrap().write_to(folder.path()).unwrap();
    let read = |name| std::fs::read(folder.path().join(name)).unwrap();
    let identity = create_test_identity(&read("server.crt"), &read("server.key")).unwrap();
    let server = if strict {
        MockTdsServer::new_with_strict_tls(ANY_PORT, identity).await.unwrap()
    } else {
        MockTdsServer::new_with_tls(ANY_PORT, Some(identity)).await.unwrap()
    };
    (server, folder)
}

async fn serve(
    mut socket: TcpStream,
    tls: TlsAcceptor,
    mut processor: ConnectionProcessor,
) -> io::Result<()> {
    let mut prelogin = [0; 4096];
    let _ = socket.read(&mut prelogin).await?;
    socket.write_all(&build_prelogin_response_with_fedauth(true, true)).await?;
    let mut stream = tls.accept(TdsTlsWrapper::new(socket)).await?;
    while stream.read_buf(processor.buffer_mut()).await? > 0 {
        while let Some(response) =
            processor.process_packet(&mut stream).await.map_err(io::Error::other)?
        {
            stream.write_all(&response).await?;
            stream.flush().await?;
        }
    }
    Ok(())
}
