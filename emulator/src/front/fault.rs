//! Faults of a connection, and the stages that they happen at.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::sleep,
};

use super::Behaviour;

/// A stage of a connection. A [`Network`](crate::network::Network) disturbs a connection between
/// two stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The TCP connection is open; nothing has been read from it.
    Accept,
    /// Azure SQL: PRELOGIN has arrived, but has no answer yet.
    Prelogin,
    /// The client has requested TLS, but has no answer yet.
    Tls,
    /// The token has arrived, but has not been checked.
    Login,
    /// Fronts: the token has been checked; the engine has not received the login.
    Engine,
    /// The login was accepted, refused or routed; the client has no answer yet.
    LoginAnswer,
    /// Azure SQL: a request has arrived and was counted, but has not run.
    Request,
    /// Azure SQL: a request has run, but has no answer yet. At a front: the next part of the
    /// engine's answer has arrived.
    Answer,
}

impl Stage {
    /// The stages of a connection to Azure SQL, in their order.
    pub const ALL: [Self; 7] = [
        Self::Accept,
        Self::Prelogin,
        Self::Tls,
        Self::Login,
        Self::LoginAnswer,
        Self::Request,
        Self::Answer,
    ];
}

/// The fault that happens at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The connection continues after this time.
    Delay(Duration),
    /// The connection stays open without an answer, until either side closes it.
    Stall,
    /// The connection is closed.
    Cut,
}

impl<E: Clone> Behaviour<E> {
    /// Passes a stage. Returns an error if a fault ends the connection in it.
    pub(crate) async fn pass(
        &self,
        stage: Stage,
        client: &mut (impl AsyncRead + Unpin + ?Sized),
    ) -> io::Result<()> {
        self.pass_until(stage, closed(client)).await
    }

    /// The same, where `gone` completes when the client closes the connection.
    pub(crate) async fn pass_until(
        &self,
        stage: Stage,
        gone: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let Some(fault) = self.next_fault(stage) else { return Ok(()) };
        match fault {
            Fault::Delay(delay) => {
                sleep(delay).await;
                return Ok(());
            }
            Fault::Stall => gone.await,
            Fault::Cut => {}
        }
        let message = format!("{fault:?} at {stage:?}, as a test requested");
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, message))
    }
}

/// Completes when the client has closed the connection; discards its bytes until then.
async fn closed(client: &mut (impl AsyncRead + Unpin + ?Sized)) {
    let mut unread = [0; 1024];
    // After an error, the connection is also closed.
    while matches!(client.read(&mut unread).await, Ok(1..)) {}
}
