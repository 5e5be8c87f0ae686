//! `--health`, so that an image does not need curl.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(2);

/// Succeeds if the emulator at this address is ready.
pub(crate) fn check(bind: Option<IpAddr>, port: u16) -> io::Result<()> {
    let ip = bind.filter(|ip| !ip.is_unspecified()).unwrap_or(Ipv4Addr::LOCALHOST.into());
    let addr = SocketAddr::from((ip, port));
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{addr}: {error}"));
    let mut stream = TcpStream::connect_timeout(&addr, LIMIT).map_err(named)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4_096).read_to_string(&mut answer).map_err(named)?;
    let status = answer.lines().next().unwrap_or("no answer").to_owned();
    if status.contains(" 200 ") { Ok(()) } else { Err(io::Error::other(status)) }
}
