//! TLS for one attempt to connect, watched: how far did it come?

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_postgres::{
    Socket,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;
use crate::tls::Trust;

/// The TLS stream to a server.
pub type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// The connection's part that does the work: it must be polled, usually by a
/// task of its own, for its [`Client`](tokio_postgres::Client) to get answers.
pub type Connection = tokio_postgres::Connection<Socket, TlsStream>;

/// How far a connect has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Stage {
    /// Getting a token.
    #[default]
    Token,
    /// Looking the host's name up and dialling.
    Dial,
    /// Asking for TLS and verifying the server.
    Tls,
    /// Logging in, and checking `target_session_attrs`.
    Login,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "getting a token",
            Self::Dial => "dialling",
            Self::Tls => "shaking hands over TLS",
            Self::Login => "logging in",
        })
    }
}

/// Where a connect stands: its stage, and the host tried last. Clones share.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Mutex<(Stage, String)>>);

impl Progress {
    pub(super) fn token(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Stage::Token, String::new());
    }

    pub(super) fn dialling(&self, host: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Stage::Dial, host);
    }

    fn reached(&self, stage: Stage) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = stage;
    }

    pub(super) fn get(&self) -> (Stage, String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) fn make(config: &super::Config) -> Result<MakeRustlsConnect, Error> {
    let mut tls =
        crate::tls::client_config(&config.ca_file.clone().map_or(Trust::Platform, Trust::Roots))?;
    if config.starts_with_tls() {
        // PostgreSQL 17 wants it there (its documentation, "SSL Session Encryption").
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(tls))
}

/// TLS that writes into a [`Progress`] when it starts and when it stands.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) tls: MakeRustlsConnect,
    pub(super) progress: Progress,
}

pub(super) struct WatchedHandshake {
    handshake: <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect,
    progress: Progress,
}

impl MakeTlsConnect<Socket> for Watched {
    type Stream = TlsStream;
    type TlsConnect = WatchedHandshake;
    type Error = Infallible;

    /// Called when the socket is connected.
    fn make_tls_connect(&mut self, host: &str) -> Result<WatchedHandshake, Infallible> {
        self.progress.reached(Stage::Tls);
        let handshake = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.tls, host)?;
        Ok(WatchedHandshake { handshake, progress: self.progress.clone() })
    }
}

impl TlsConnect<Socket> for WatchedHandshake {
    type Stream = TlsStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsStream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let stream = self.handshake.connect(socket).await?;
            self.progress.reached(Stage::Login);
            Ok(stream)
        })
    }
}
