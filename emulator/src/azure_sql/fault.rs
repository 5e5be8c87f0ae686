//! What can go wrong in a connection, and where.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::sleep,
};

use super::gate::Gate;

/// How far a connection has come. What lies between two of these is within a
/// [`Network`](crate::network::Network)'s reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The TCP connection stands; nothing is read from it.
    Accept,
    /// PRELOGIN has come and is not answered.
    Prelogin,
    /// The TLS handshake is due, and the server says nothing to it.
    Tls,
    /// The login has come and is not answered.
    Login,
    /// Half of the answer to a login is sent: a welcome, a refusal or a route.
    LoginAnswer,
    /// A request has come, was counted and is not run.
    Request,
    /// Half of the answer to a request is sent.
    Answer,
}

impl Stage {
    /// All of them, in the order of a connection's life.
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

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing for so long; then all goes on.
    Delay(Duration),
    /// Nothing any more. The connection stays open until the client closes it,
    /// or it is cut.
    Stall,
    /// The connection is closed.
    Cut,
}

/// Goes through a stage; an error, if the connection ends in it.
pub(crate) async fn pass(
    stage: Stage,
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    gate: &Gate,
) -> io::Result<()> {
    match next(stage, gate) {
        Some(fault) => happen(fault, closed(stream)).await,
        None => Ok(()),
    }
}

/// What is to happen in this stage.
pub(crate) fn next(stage: Stage, gate: &Gate) -> Option<Fault> {
    gate.behaviour.next_fault(stage).inspect(|_| gate.counters.count(|it| it.faults += 1))
}

/// Until the client has `gone`, if need be.
pub(crate) async fn happen(fault: Fault, gone: impl Future<Output = ()>) -> io::Result<()> {
    match fault {
        Fault::Delay(delay) => {
            sleep(delay).await;
            return Ok(());
        }
        Fault::Stall => gone.await,
        Fault::Cut => {}
    }
    Err(io::Error::new(io::ErrorKind::ConnectionAborted, format!("{fault:?}, as asked for")))
}

/// The client has closed the connection; what it sends until then is not read.
pub(crate) async fn closed(stream: &mut (impl AsyncRead + Unpin + ?Sized)) {
    let mut unread = [0; 1024];
    // An error is an end as well.
    while matches!(stream.read(&mut unread).await, Ok(1..)) {}
}

/// The same bytes in two pieces, between which something is to happen.
pub(crate) fn halves(packets: &[Vec<u8>]) -> [Vec<u8>; 2] {
    let mut first = packets.concat();
    let second = first.split_off(first.len() / 2);
    [first, second]
}
