//! Clients that disconnect, stall, or connect all at once.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use entra_pool_emulator::{
    jwt::Principal,
    network::{Act, After, Fault, Network, Towards},
};
use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{DATABASE, Service, client_tls};

/// A TLS connection that was requested by SSLRequest.
pub(super) async fn tls_stream(service: &Service) -> TlsStream<TcpStream> {
    try_tls_stream(service).await.unwrap()
}

async fn try_tls_stream(service: &Service) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(service.front.addr()).await?;
    stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await?;
    assert_eq!(stream.read_u8().await?, b'S');
    let connector = TlsConnector::from(Arc::new(client_tls(service.engine)));
    connector.connect("localhost".try_into().unwrap(), stream).await
}

pub(super) fn startup(user: &str) -> Vec<u8> {
    let parameters = format!("user\0{user}\0database\0{DATABASE}\0\0");
    let mut message = (8 + parameters.len() as u32).to_be_bytes().to_vec();
    message.extend([0, 3, 0, 0]);
    message.extend(parameters.as_bytes());
    message
}

pub(super) fn password(token: &str) -> Vec<u8> {
    let mut message = vec![b'p'];
    message.extend((5 + token.len() as u32).to_be_bytes());
    message.extend(token.as_bytes());
    message.push(0);
    message
}

/// A session, and the messages up to its first ReadyForQuery.
pub(super) async fn log_in(
    service: &Service,
    principal: &Principal,
) -> (TlsStream<TcpStream>, Vec<u8>) {
    let mut stream = tls_stream(service).await;
    stream.write_all(&startup(&principal.name)).await.unwrap();
    stream.write_all(&password(&service.token(principal, 0))).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    (stream, answer)
}

/// After each byte of the TLS handshake, and of the bytes before and after it.
#[tokio::test]
async fn a_connection_cut_after_each_byte_leaves_nothing_open() {
    let service = Service::start().await;
    let shop = service.principal("shop-cut");
    let network = Network::to(service.front.addr()).unwrap();
    network.record(true);
    let token = service.token(&shop, 0);
    let config = |network: &Network| {
        let mut config = service.config_at(network.addr().port(), &shop);
        config.password(&token);
        config
    };
    let login = config(&network);
    drop(service.connect_with(&login).await.unwrap());
    service.wait_until_idle("shop-cut").await;
    // Terminate follows the login.
    let sent = network.take_recordings()[0].to_server.len() - 30;
    assert!(sent > 1_000, "{sent}");
    let (service, config) = (&service, &config);
    stream::iter(1..sent)
        .for_each_concurrent(16, async |after| {
            let act = if after % 2 == 0 { Act::Close } else { Act::Reset };
            let network = Network::to(service.front.addr()).unwrap();
            network.disturb(1, Fault { towards: Towards::Server, after: After::Bytes(after), act });
            let _ = service.connect_with(&config(&network)).await;
        })
        .await;
    service.wait_until_idle("shop-cut").await;
}

/// After each byte inside TLS: the startup packet and the token.
#[tokio::test]
async fn a_login_aborted_or_stalled_after_each_byte_leaves_nothing_open() {
    let service = Service::start_with(|options| {
        options.login_timeout = Duration::from_millis(1_000);
    })
    .await;
    let shop = service.principal("shop-stalled");
    drop(log_in(&service, &shop).await);
    let logins = service.front.counters().logins;
    let sent = [startup(&shop.name), password(&service.token(&shop, 0))].concat();
    let (service, sent) = (&service, &sent);
    let stalled: Vec<_> = stream::iter(0..sent.len())
        .map(async |length| {
            // On a slow machine the handshake itself can time out.
            let mut stream = try_tls_stream(service).await.ok()?;
            stream.write_all(&sent[..length]).await.ok()?;
            stream.flush().await.ok()?;
            // Every other connection stays open; the front closes it.
            (length % 2 == 1).then_some(stream)
        })
        .buffer_unordered(16)
        .filter_map(async |stream| stream)
        .collect()
        .await;
    assert!(stalled.len() > sent.len() / 8, "{}", stalled.len());
    for mut stream in stalled {
        let mut rest = Vec::new();
        // The request for the password, and then the connection closes.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.len() <= 9, "{rest:?}");
    }
    service.wait_until_idle("shop-stalled").await;
    assert_eq!(service.front.counters().logins, logins);
}

/// Half of a ClientHello, by SSLRequest and by direct TLS, and then silence.
#[tokio::test]
async fn a_stalled_handshake_ends_after_the_login_timeout() {
    const LIMIT: Duration = Duration::from_millis(500);
    let service = Service::start_with(|options| options.login_timeout = LIMIT).await;
    let tls = rustls::ClientConnection::new(
        Arc::new(client_tls(service.engine)),
        "localhost".try_into().unwrap(),
    );
    let mut hello = Vec::new();
    tls.unwrap().write_tls(&mut hello).unwrap();
    for direct in [false, true] {
        let mut stream = TcpStream::connect(service.front.addr()).await.unwrap();
        if !direct {
            stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'S');
        }
        stream.write_all(&hello[..hello.len() / 2]).await.unwrap();
        let start = Instant::now();
        // The connection is open until the timeout.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
        assert!(start.elapsed() >= LIMIT - Duration::from_millis(100), "{:?}", start.elapsed());
        service.front.behaviour().wait_until(|counters| counters.open_connections == 0).await;
    }
}

#[tokio::test]
async fn bytes_that_violate_the_protocol_are_refused() {
    let service = Service::start().await;
    let too_long = [0, 0, 0x27, 0x11, 0, 3, 0, 0];
    for (bytes, code) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "08P01"),
        (&too_long, "08P01"),
        (b"\0\0\0\x04\0\x03\0\0", "08P01"),
        (b"\0\0\0\x09\0\x02\0\0\0", "0A000"),
        (b"\0\0\0\x09\0\x03\0\0\0", "28000"),
        (b"\0\0\0\x09\0\x03\0\0x", "08P01"),
        (b"\0\0\0\x0e\0\x03\0\0user\0\0", "08P01"),
        (b"\0\0\0\x10\0\x03\0\0user\0\xff\0\0", "08P01"),
        (b"\0\0\0\x0f\0\x03\0\0user\0\0\0", "28000"),
    ] {
        let mut stream = tls_stream(&service).await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(&format!("C{code}\0")), "{bytes:?}: {answer:?}");
    }
    // Instead of the password.
    for (bytes, code) in [
        (&b"Q\0\0\0\x0dSELECT 1\0"[..], "08P01"),
        (b"p\0\0\0\0", "08P01"),
        (b"p\0\0\0\x04", "08P01"),
        (b"p\0\0\0\x05x", "08P01"),
        (b"p\0\0\0\x06\xff\0", "08P01"),
        (b"p\xff\xff\xff\xff", "28P01"),
    ] {
        let mut stream = tls_stream(&service).await;
        stream.write_all(&startup("anybody")).await.unwrap();
        stream.read_exact(&mut [0; 9]).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(&format!("C{code}\0")), "{bytes:?}: {answer:?}");
    }
    // An endless sequence of requests.
    let mut stream = TcpStream::connect(service.front.addr()).await.unwrap();
    for _ in 0..10 {
        let _ = stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x30").await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() <= 3, "{answer:?}");
    drop(stream);
    service.wait_until_idle("anybody").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_logins_at_once_succeed() {
    let service = Service::start().await;
    let principals = [service.principal("shop-crowd-1"), service.principal("shop-crowd-2")];
    let service = &service;
    let outcomes = futures::future::join_all((0..500).map(async |number| {
        let client = service.connect(&principals[number % 2]).await;
        super::text(&client, "SELECT session_user::text").await
    }))
    .await;
    for (number, user) in outcomes.into_iter().enumerate() {
        assert_eq!(user, principals[number % 2].name);
    }
    service.wait_until_idle("shop-crowd-1").await;
    service.wait_until_idle("shop-crowd-2").await;
}
