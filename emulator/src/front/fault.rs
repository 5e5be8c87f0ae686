//! What can go wrong in a connection, and where.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::sleep,
};

use super::Behaviour;

/// How far a connection has come. A [`Network`](crate::network::Network) disturbs it between two
/// of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The TCP connection is open; nothing was read from it.
    Accept,
    /// Azure SQL: PRELOGIN has arrived and is not answered.
    Prelogin,
    /// The client has asked for TLS and has no answer.
    Tls,
    /// The token has arrived and is not checked.
    Login,
    /// Fronts: the token is checked; the engine has not heard of the login.
    Engine,
    /// The login was accepted, refused or routed; the client does not know it.
    LoginAnswer,
    /// Azure SQL: a request has arrived, was counted and is not run.
    Request,
    /// Azure SQL: a request was run and is not answered. At a front: the next part of the
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

/// What happens at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The connection continues after this time.
    Delay(Duration),
    /// The connection stays open without an answer, until the client closes it or it is cut.
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
        let message = format!("{fault:?} at {stage:?}, as a test asked for");
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, message))
    }
}

/// Completes when the client has closed the connection; discards what it sends until then.
async fn closed(client: &mut (impl AsyncRead + Unpin + ?Sized)) {
    let mut unread = [0; 1024];
    // After an error, the connection is closed as well.
    while matches!(client.read(&mut unread).await, Ok(1..)) {}
}
