//! The options and the handle that the stand-in and the front share.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::net::TcpStream;

use super::{Behaviour, Counters, gate::Gate, packets::kind};
use crate::{
    jwt::{Directory, Issuer},
    listener::{Listener, port_methods},
};

/// Where Entra issues tokens for the tenant of this crate's principals
/// ([`TENANT_ID`](crate::jwt::TENANT_ID)).
pub const STS_URL: &str = "https://login.microsoftonline.com/72f988bf-0000-4000-8000-2d7cd011db47";

/// Where clients connect, and which of them are granted access.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AzureSqlEndpoint {
    /// Checks the tokens.
    pub issuer: Arc<Issuer>,
    /// The principals that are granted access.
    pub directory: Arc<Directory>,
    /// The certificate that clients see.
    pub tls: Arc<ServerConfig>,
    /// The audience that tokens must have, and for which drivers get a token. Default:
    /// `https://database.windows.net/`. A trailing slash makes no difference for tokens.
    pub audience: String,
    /// Where drivers that get a token themselves get it. Default: [`STS_URL`]. For managed
    /// identities, they use the host's identity endpoint instead.
    pub sts_url: String,
    /// How long each step of a login may take (PRELOGIN, the TLS handshake, LOGIN7, the token, and
    /// the login to a front's engine). Default: 60 s, for drivers that get the token from a slow
    /// program.
    pub login_timeout: Duration,
    /// The address to listen on. Default: 127.0.0.1.
    pub bind: IpAddr,
    /// The port; 0, the default, takes a free one.
    pub port: u16,
    /// The type of the packets with the server's side of the TLS handshake. Default: 0x12
    /// (PRELOGIN). Some servers use 0x04.
    pub handshake_packet_type: u8,
}

impl AzureSqlEndpoint {
    /// The defaults.
    pub fn new(issuer: Arc<Issuer>, directory: Arc<Directory>, tls: Arc<ServerConfig>) -> Self {
        Self {
            issuer,
            directory,
            tls,
            audience: "https://database.windows.net/".to_owned(),
            sts_url: STS_URL.to_owned(),
            login_timeout: Duration::from_secs(60),
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            handshake_packet_type: kind::PRELOGIN,
        }
    }
}

/// A running stand-in or front. It stops, with all its connections, when this value is dropped.
pub struct AzureSqlServer {
    gate: Arc<Gate>,
    listener: Listener,
}

opaque_debug!(AzureSqlServer);

impl AzureSqlServer {
    pub(crate) fn listen<F>(
        gate: Arc<Gate>,
        serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (addr, own) = ((gate.endpoint.bind, gate.endpoint.port), Arc::clone(&gate));
        let listener = Listener::start(addr, move |stream| {
            let (gate, serving) = (Arc::clone(&own), serve(stream));
            async move { gate.behaviour.serve(serving).await }
        })?;
        Ok(Self { gate, listener })
    }

    port_methods!();

    /// The counters so far.
    pub fn counters(&self) -> Counters {
        self.gate.behaviour.counters()
    }

    /// The faults that a test can request.
    pub fn behaviour(&self) -> &Behaviour {
        &self.gate.behaviour
    }
}
