//! TLS for one attempt to connect, watched: how far did it come?

use std::{convert::Infallible, future::Future, io, pin::Pin};

use tokio_postgres::{
    Socket,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Error, Stage};
use crate::{
    connect::Attempt,
    limited::{Allowance, Limited},
};

/// The TLS stream to a server.
pub(super) type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Limited<Socket>>>::Stream;

/// The connection's part that does the work: it must be polled, usually by a
/// task of its own, for its [`Client`](tokio_postgres::Client) to get answers.
pub type Connection = tokio_postgres::Connection<Socket, TlsStream>;

pub(super) fn make(config: &super::Config) -> Result<MakeRustlsConnect, Error> {
    let mut tls = crate::tls::client_config(&config.trust)?;
    if config.starts_with_tls() {
        // PostgreSQL 17 wants it there (its documentation, "SSL Session Encryption").
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(tls))
}

/// TLS that reports to an [`Attempt`] when it is asked for, when it starts and
/// when it stands.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) tls: MakeRustlsConnect,
    pub(super) attempt: Attempt<Error>,
    /// What the server may send.
    pub(super) allowance: Allowance,
}

pub(super) struct WatchedHandshake {
    handshake: <MakeRustlsConnect as MakeTlsConnect<Limited<Socket>>>::TlsConnect,
    attempt: Attempt<Error>,
    allowance: Allowance,
}

impl MakeTlsConnect<Socket> for Watched {
    type Stream = TlsStream;
    type TlsConnect = WatchedHandshake;
    type Error = Infallible;

    /// Called when the socket is connected.
    fn make_tls_connect(&mut self, host: &str) -> Result<WatchedHandshake, Infallible> {
        self.attempt.reached(Stage::Negotiate);
        let handshake = MakeTlsConnect::<Limited<Socket>>::make_tls_connect(&mut self.tls, host)?;
        let (attempt, allowance) = (self.attempt.clone(), self.allowance.clone());
        Ok(WatchedHandshake { handshake, attempt, allowance })
    }
}

impl TlsConnect<Socket> for WatchedHandshake {
    type Stream = TlsStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsStream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            self.attempt.reached(Stage::Tls);
            let stream = self.handshake.connect(Limited::new(socket, self.allowance)).await?;
            self.attempt.reached(Stage::Login);
            Ok(stream)
        })
    }
}
