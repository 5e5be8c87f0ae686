//! TLS for one connect, which reports its progress.

use std::{convert::Infallible, io, pin::Pin, sync::Arc};

use tokio_postgres::{
    Socket,
    config::SslNegotiation,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Error, Stage, link::Link, wire::Wire};
use crate::{connect::Attempt, limited::Limited};

/// The TLS stream to a server.
pub(super) type Stream = <MakeRustlsConnect as MakeTlsConnect<Limited<Socket>>>::Stream;

type Handshake = <MakeRustlsConnect as MakeTlsConnect<Limited<Socket>>>::TlsConnect;

/// The driver of a connection. Its [`Client`](tokio_postgres::Client) gets responses only while it
/// is polled, usually by a separate task.
pub type Connection = tokio_postgres::Connection<Socket, Wire>;

pub(super) fn make(config: &super::Config) -> Result<MakeRustlsConnect, Error> {
    let mut tls = crate::tls::client_config(&config.trust)?;
    if config.session.get_ssl_negotiation() == SslNegotiation::Direct {
        // Required by PostgreSQL 17 (its documentation, "SSL Session Encryption").
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(tls))
}

/// A TLS connector that reports to an [`Attempt`] when TLS is requested, when the handshake starts
/// and when the handshake is complete.
#[derive(Clone)]
pub(super) struct Watched<T> {
    pub(super) tls: T,
    /// `None` for a cancellation.
    pub(super) attempt: Option<Attempt<Error>>,
    pub(super) link: Arc<Link>,
}

impl<T> Watched<T> {
    fn reached(&self, stage: Stage) {
        if let Some(attempt) = &self.attempt {
            attempt.reached(stage);
        }
    }
}

impl MakeTlsConnect<Socket> for Watched<MakeRustlsConnect> {
    type Stream = Wire;
    type TlsConnect = Watched<Handshake>;
    type Error = Infallible;

    /// Called when the socket is connected.
    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Infallible> {
        self.reached(Stage::Negotiate);
        let tls = MakeTlsConnect::<Limited<Socket>>::make_tls_connect(&mut self.tls, host)?;
        Ok(Watched { tls, attempt: self.attempt.clone(), link: self.link.clone() })
    }
}

impl TlsConnect<Socket> for Watched<Handshake> {
    type Stream = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            self.reached(Stage::Tls);
            let limited = Limited::new(socket, self.link.allowance.clone());
            let Self { tls, attempt, link } = self;
            let stream = tls.connect(limited).await?;
            if let Some(attempt) = attempt {
                attempt.reached(Stage::Login);
            }
            Ok(Wire::new(Some(stream), link))
        })
    }
}
