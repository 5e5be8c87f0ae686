//! The proxy, between a client and an echo server.
#![allow(clippy::disallowed_methods)] // Servers use the real clock.

use std::{io, net::SocketAddr, time::Duration};

use entra_pool_emulator::network::{Act, After, Fault, Network, Recording, Towards};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    addr
}

async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), waiting).await.expect("the condition is met within 10 s");
}

/// Sends `text` and closes the sending side. Returns the received bytes, and the result.
async fn send(network: &Network, text: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let mut stream = TcpStream::connect(network.addr()).await.unwrap();
    let mut received = Vec::new();
    let sending = async {
        stream.write_all(text).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut received).await.map(drop)
    };
    let ended = sending.await;
    (received, ended)
}

/// Every line is a packet.
fn lines(sent: &[u8]) -> Vec<usize> {
    sent.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect()
}

#[tokio::test]
async fn bytes_are_relayed_counted_and_recorded() {
    let network = Network::to(echo().await).unwrap();
    assert_eq!(send(&network, b"not recorded").await.0, b"not recorded");
    network.record(true);
    let long = vec![7; 1 << 20];
    for piece in [None, Some(50_000)] {
        network.split(piece);
        let (received, ended) = send(&network, &long).await;
        ended.unwrap();
        assert!(received == long);
    }
    until(|| network.counters().open == 0).await;
    let recording = Recording { to_server: long.clone(), to_client: long };
    assert!(network.take_recordings() == [recording.clone(), recording]);
    assert!(network.take_recordings().is_empty());
    let counters = network.counters();
    assert_eq!((counters.connections, counters.faults), (3, 0));
    assert_eq!(counters.bytes, 2 * (12 + (2 << 20)));
}

#[tokio::test]
async fn the_fault_happens_after_the_configured_number_of_bytes_or_packets() {
    let network = Network::to(echo().await).unwrap();
    for towards in [Towards::Server, Towards::Client] {
        for act in [Act::Close, Act::Reset] {
            for (after, passes) in [
                (After::Bytes(0), 0),
                (After::Bytes(5), 5),
                (After::Packets(0, lines), 0),
                (After::Packets(1, lines), 4),
                (After::Packets(2, lines), 8),
            ] {
                let before = network.counters();
                network.disturb(1, Fault { towards, after, act });
                let (received, ended) = send(&network, b"one\ntwo\nthree\n").await;
                let now = network.counters();
                assert_eq!(now.faults - before.faults, 1, "{after:?} {act:?}");
                // The server echoes at most the bytes that it has received.
                let passed = now.bytes - before.bytes;
                match towards {
                    Towards::Server => assert!((passes..=2 * passes).contains(&passed), "{passed}"),
                    Towards::Client => assert_eq!(passed, 14 + passes, "{after:?} {act:?}"),
                }
                assert!(received.len() as u64 <= passes, "{received:?}");
                if act == Act::Reset {
                    let kind = ended.expect_err("a reset").kind();
                    let ends = [
                        io::ErrorKind::ConnectionReset,
                        io::ErrorKind::BrokenPipe,
                        io::ErrorKind::NotConnected,
                    ];
                    assert!(ends.contains(&kind), "{kind:?}");
                }
            }
        }
    }
    send(&network, b"no fault remains").await.1.unwrap();
    until(|| network.counters().open == 0).await;
}

#[tokio::test]
async fn stalled_bytes_do_not_arrive_and_the_connection_stays_open() {
    let network = Network::to(echo().await).unwrap();
    for towards in [Towards::Server, Towards::Client] {
        network.disturb(1, Fault { towards, after: After::Packets(1, lines), act: Act::Stall });
        let faults = network.counters().faults;
        let mut stream = TcpStream::connect(network.addr()).await.unwrap();
        stream.write_all(b"one\ntwo\n").await.unwrap();
        let mut received = [0; 4];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"one\n");
        until(|| network.counters().faults > faults).await;
        stream.write_all(b"three\n").await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stream.try_read(&mut received).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(network.counters().open, 1);
        drop(stream);
        until(|| network.counters().open == 0).await;
    }
}

#[tokio::test]
async fn faults_apply_in_the_order_of_connections() {
    let network = Network::to(echo().await).unwrap();
    let fault = Fault { towards: Towards::Client, after: After::Bytes(1), act: Act::Close };
    network.disturb(2, None);
    network.disturb(usize::MAX, fault);
    let mut received = Vec::new();
    for _ in 0..4 {
        received.push(send(&network, b"hello").await.0.len());
    }
    network.calm();
    received.push(send(&network, b"hello").await.0.len());
    assert_eq!(received, [5, 5, 1, 1, 5]);
}

#[tokio::test]
async fn pending_faults_can_be_cancelled() {
    let network = Network::to(echo().await).unwrap();
    let (towards, after) = (Towards::Server, After::Bytes(5));
    network.disturb(2, Fault { towards, after, act: Act::Close });
    let mut stream = TcpStream::connect(network.addr()).await.unwrap();
    let mut received = [0; 4];
    stream.write_all(b"one\n").await.unwrap();
    stream.read_exact(&mut received).await.unwrap();
    network.calm();
    stream.write_all(b"two\n").await.unwrap();
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"two\n");
    send(&network, b"three\n").await.1.unwrap();
    assert_eq!(network.counters().faults, 0);
}

#[tokio::test]
async fn a_cut_closes_every_connection_and_new_connections_are_accepted() {
    let network = Network::to(echo().await).unwrap();
    let mut stream = TcpStream::connect(network.addr()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    network.cut_connections().await;
    assert_eq!(network.counters().open, 0);
    assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    send(&network, b"hello").await.1.unwrap();
}

#[tokio::test]
async fn held_bytes_arrive_when_they_are_released() {
    let network = Network::to(echo().await).unwrap();
    let mut open = TcpStream::connect(network.addr()).await.unwrap();
    open.write_all(b"x").await.unwrap();
    open.read_exact(&mut [0]).await.unwrap();
    network.hold();
    let mut new = TcpStream::connect(network.addr()).await.unwrap();
    for stream in [&mut open, &mut new] {
        stream.write_all(b"hello").await.unwrap();
    }
    until(|| network.counters().open == 2).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(network.counters().bytes, 2);
    network.release();
    for mut stream in [open, new] {
        let mut received = [0; 5];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"hello");
    }
    until(|| network.counters().open == 0).await;
}

#[tokio::test]
async fn a_stopped_network_refuses_connections_until_it_restarts_on_its_port() {
    let network = Network::to(echo().await).unwrap();
    let mut stream = TcpStream::connect(network.addr()).await.unwrap();
    network.go_away().await.unwrap();
    assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    let refused = TcpStream::connect(network.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    network.come_back().unwrap();
    send(&network, b"hello").await.1.unwrap();
}
