//! Helpers that several test crates share. Not every crate uses all of them.
#![allow(dead_code, clippy::disallowed_methods)] // Servers run in real time.

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

/// Reserves a port without listening on it, so that connections are refused.
pub fn refusing_port() -> (u16, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap().port(), socket)
}
