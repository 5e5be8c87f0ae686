//! What tests of several files share. Not every file uses all of it.
#![allow(dead_code, clippy::disallowed_methods)] // A server lives in real time.

pub mod clock;
pub mod credential;
#[cfg(unix)]
mod daemon;
#[cfg(unix)]
pub mod front;
pub mod held;
pub mod hostile;
pub mod logs;
#[cfg(unix)]
pub mod pgbouncer;
#[cfg(unix)]
pub mod postgres;
pub mod storm;

pub use entra_pool::postgres::tokio_postgres;
use tokio::net::TcpSocket;

/// A port that is taken, so that nobody else gets it, but not listened on.
pub fn nobody_listens() -> (u16, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap().port(), socket)
}
