use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use entra_pool::postgres::{self, Config, Connector, Error, deadpool_postgres::Object};
use rustls::ServerConfig;

use crate::{
    Ends::{self, AtLimit, Early, InTime},
    FastClock, LIMIT,
    azure_sql::handshake_floods,
    emulator, identity,
    peer::{Flood, Pace, Peer, Tls},
    run_all, timed,
};

/// Where the flood begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// For the answer to SSLRequest.
    SslRequest,
    /// For the server's part of the TLS handshake.
    Tls,
    /// For the request of a password.
    Authentication,
    /// Behind the login, before the server is ready for queries.
    Startup,
    /// For the answer to what cleans an idle connection.
    Recycling,
}

#[derive(Debug, Clone)]
struct Case(Place, Flood, Ends);

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).unwrap().to_be_bytes();
    [&[kind], &length[..], content].concat()
}

fn cases() -> Vec<Case> {
    use Place::{Authentication, Recycling, SslRequest, Startup};
    let slow = |flood: Flood| flood.at(Pace::Slow);
    let notices = || Flood::of("notices", message(b'N', b"SNOTICE\0C00000\0Mx\0\0"));
    let long = || {
        let text = [b"SNOTICE\0C00000\0M", &[b'x'; 60_000][..], &[0, 0]].concat();
        Flood::of("long notices", message(b'N', &text))
    };
    let settings = || Flood::of("parameters", message(b'S', b"a\0b\0"));
    let huge = || Flood::of("a message of 2 GB", [0]).after([b'D', 0x7f, 0xff, 0xff, 0xff]);
    let empty = || Flood::of("empty answers", message(b'I', &[]));
    let done = || Flood::of("short answers", message(b'C', b"\0"));
    let mut cases = vec![
        Case(SslRequest, Flood::of("refusals", b"N"), Early),
        Case(SslRequest, Flood::of("errors", message(b'E', b"SFATAL\0\0")), Early),
        Case(SslRequest, slow(Flood::of("handshake", [22, 3, 3, 0, 1, 2]).after(b"S")), AtLimit),
        Case(Authentication, huge(), Early),
        Case(Authentication, huge().at(Pace::Bytes), InTime),
        Case(Authentication, slow(huge()), AtLimit),
        Case(Startup, notices(), Early),
        Case(Startup, notices().at(Pace::Bytes), InTime),
        Case(Startup, long(), Early),
        Case(Startup, settings(), Early),
        Case(Startup, huge(), Early),
        Case(Startup, slow(notices()), AtLimit),
        Case(Recycling, notices(), AtLimit),
        Case(Recycling, notices().at(Pace::Bytes), AtLimit),
        Case(Recycling, settings(), AtLimit),
        Case(Recycling, empty(), AtLimit),
        Case(Recycling, done(), AtLimit),
        Case(Recycling, slow(notices()), AtLimit),
    ];
    cases.extend(handshake_floods().map(|(flood, ends)| Case(Place::Tls, flood, ends)));
    cases
}

fn read_message(from: &mut impl Read, kind: bool) -> io::Result<()> {
    let mut header = [0; 5];
    let header = &mut header[usize::from(!kind)..];
    from.read_exact(header)?;
    let length =
        header[header.len() - 4..].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    from.read_exact(&mut vec![0; length - 4])
}

/// As a server, as far as `place`; then the flood.
fn play(
    mut tcp: TcpStream,
    place: Place,
    flood: &Flood,
    tls: &Arc<ServerConfig>,
) -> io::Result<()> {
    read_message(&mut tcp, false)?;
    if place == Place::SslRequest {
        return flood.pour(tcp);
    }
    tcp.write_all(b"S")?;
    if place == Place::Tls {
        return flood.pour(tcp);
    }
    let mut tls = Tls::accept(tcp, tls, false)?;
    read_message(&mut tls, false)?;
    if place == Place::Authentication {
        return flood.pour(tls);
    }
    tls.write_all(&message(b'R', &[0, 0, 0, 3]))?;
    read_message(&mut tls, true)?;
    tls.write_all(&message(b'R', &[0; 4]))?;
    if place == Place::Startup {
        return flood.pour(tls);
    }
    tls.write_all(&[message(b'K', &[0; 8]), message(b'Z', b"I")].concat())?;
    read_message(&mut tls, true)?;
    flood.pour(tls)
}

async fn one(client: &Object) {
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

async fn run(Case(place, flood, ends): Case) -> String {
    let certificate = emulator().authority().issue(&["127.0.0.1"]).unwrap();
    let tls = certificate.server_config().unwrap();
    let peer = Peer::start(usize::MAX, emulator().postgres().addr(), move |tcp| {
        play(tcp, place, &flood, &tls)
    });
    // Recycling takes 2 s.
    let (factor, limit) = if place == Place::Recycling { (2, 30) } else { (1, 1) };
    let behind = format!("localhost:{}", emulator().postgres().addr().port());
    let url = emulator().postgres_url().replace(&behind, &peer.addr.to_string());
    let config: Config = url.parse().unwrap();
    let config = config.connect_timeout(LIMIT * limit);
    let tokens = identity(FastClock::new(factor)).tokens(config.token_scope().unwrap());
    tokens.token().await.unwrap();
    let connector = Connector::new(config, tokens).unwrap();
    let pool = postgres::builder(connector).max_size(1).build().unwrap();
    let said = if place == Place::Recycling {
        drop(pool.get().await.unwrap());
        peer.relent();
        let (next, said) = timed(ends, Some(&peer), pool.get()).await;
        one(&next.unwrap()).await;
        said
    } else {
        let (outcome, said) = timed(ends, None, pool.get()).await;
        let Err(error) = outcome.map_err(Error::from) else { panic!("a connection") };
        let expected = match ends {
            AtLimit => matches!(error, Error::TimedOut { .. }),
            InTime => true,
            Early if place == Place::SslRequest => {
                matches!(error, Error::EncryptionDeclined { .. })
            }
            Early if place == Place::Tls => matches!(error, Error::Tls { .. }),
            Early => format!("{error:?}").contains("more data than this exchange allows"),
        };
        assert!(expected, "{error:?}");
        said
    };
    peer.relent();
    one(&pool.get().await.unwrap()).await;
    peer.let_go().await;
    said
}

#[test]
fn a_flood_of_postgres_ends_in_time() {
    run_all(cases(), |case| case.1.is_slow(), |case| Box::pin(run(case)));
}
