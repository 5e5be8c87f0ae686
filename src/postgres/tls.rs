//! TLS for one attempt to connect, watched: how far did it come?

use std::{convert::Infallible, future::Future, io, pin::Pin};

use tokio_postgres::{
    Socket,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Error, Stage, progress::Progress};
use crate::{
    limited::{Allowance, Limited},
    tls::Trust,
};

/// The TLS stream to a server.
pub type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Limited<Socket>>>::Stream;

/// The connection's part that does the work: it must be polled, usually by a
/// task of its own, for its [`Client`](tokio_postgres::Client) to get answers.
pub type Connection = tokio_postgres::Connection<Socket, TlsStream>;

pub(super) fn make(config: &super::Config) -> Result<MakeRustlsConnect, Error> {
    let mut tls =
        crate::tls::client_config(&config.ca_file.clone().map_or(Trust::Platform, Trust::Roots))?;
    if config.starts_with_tls() {
        // PostgreSQL 17 wants it there (its documentation, "SSL Session Encryption").
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(tls))
}

/// TLS that writes into a [`Progress`] when it is asked for, when it starts and
/// when it stands.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) tls: MakeRustlsConnect,
    pub(super) progress: Progress,
    /// What the server may send.
    pub(super) allowance: Allowance,
}

pub(super) struct WatchedHandshake {
    handshake: <MakeRustlsConnect as MakeTlsConnect<Limited<Socket>>>::TlsConnect,
    progress: Progress,
    allowance: Allowance,
}

impl MakeTlsConnect<Socket> for Watched {
    type Stream = TlsStream;
    type TlsConnect = WatchedHandshake;
    type Error = Infallible;

    /// Called when the socket is connected.
    fn make_tls_connect(&mut self, host: &str) -> Result<WatchedHandshake, Infallible> {
        self.progress.reached(Stage::SslRequest);
        let handshake = MakeTlsConnect::<Limited<Socket>>::make_tls_connect(&mut self.tls, host)?;
        let (progress, allowance) = (self.progress.clone(), self.allowance.clone());
        Ok(WatchedHandshake { handshake, progress, allowance })
    }
}

impl TlsConnect<Socket> for WatchedHandshake {
    type Stream = TlsStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsStream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            self.progress.reached(Stage::Tls);
            let stream = self.handshake.connect(Limited::new(socket, self.allowance)).await?;
            self.progress.reached(Stage::Login);
            Ok(stream)
        })
    }
}
