//! The stretch of network, between a client and a server that says again what
//! it hears.
#![allow(clippy::disallowed_methods)] // It lives in real time.

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
    timeout(Duration::from_secs(10), waiting).await.expect("it comes to this within 10 s");
}

/// Sends `text`, then nothing more; all that comes back, and how that ended.
async fn say(network: &Network, text: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let mut stream = TcpStream::connect(network.addr()).await.unwrap();
    let mut heard = Vec::new();
    let saying = async {
        stream.write_all(text).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut heard).await.map(drop)
    };
    let ended = saying.await;
    (heard, ended)
}

/// Every line is a packet.
fn lines(sent: &[u8]) -> Vec<usize> {
    sent.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect()
}

#[tokio::test]
async fn what_is_said_arrives_and_is_counted_and_recorded() {
    let network = Network::to(echo().await).unwrap();
    assert_eq!(say(&network, b"not recorded").await.0, b"not recorded");
    network.record(true);
    let long = vec![7; 1 << 20];
    for piece in [None, Some(50_000)] {
        network.split(piece);
        let (heard, ended) = say(&network, &long).await;
        ended.unwrap();
        assert!(heard == long);
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
async fn as_much_passes_as_was_asked_for_and_then_the_fault_comes() {
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
                let (heard, ended) = say(&network, b"one\ntwo\nthree\n").await;
                let now = network.counters();
                assert_eq!(now.faults - before.faults, 1, "{after:?} {act:?}");
                // What the server says again is no more than it has heard.
                let passed = now.bytes - before.bytes;
                match towards {
                    Towards::Server => assert!((passes..=2 * passes).contains(&passed), "{passed}"),
                    Towards::Client => assert_eq!(passed, 14 + passes, "{after:?} {act:?}"),
                }
                assert!(heard.len() as u64 <= passes, "{heard:?}");
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
    say(&network, b"all is well again").await.1.unwrap();
    until(|| network.counters().open == 0).await;
}

#[tokio::test]
async fn what_is_stalled_does_not_arrive_and_the_connection_stays_open() {
    let network = Network::to(echo().await).unwrap();
    for towards in [Towards::Server, Towards::Client] {
        network.disturb(1, Fault { towards, after: After::Packets(1, lines), act: Act::Stall });
        let faults = network.counters().faults;
        let mut stream = TcpStream::connect(network.addr()).await.unwrap();
        stream.write_all(b"one\ntwo\n").await.unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"one\n");
        until(|| network.counters().faults > faults).await;
        stream.write_all(b"three\n").await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stream.try_read(&mut heard).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(network.counters().open, 1);
        drop(stream);
        until(|| network.counters().open == 0).await;
    }
}

#[tokio::test]
async fn faults_come_in_the_order_of_connections() {
    let network = Network::to(echo().await).unwrap();
    let fault = Fault { towards: Towards::Client, after: After::Bytes(1), act: Act::Close };
    network.disturb(2, None);
    network.disturb(usize::MAX, fault);
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(say(&network, b"hello").await.0.len());
    }
    network.calm();
    heard.push(say(&network, b"hello").await.0.len());
    assert_eq!(heard, [5, 5, 1, 1, 5]);
}

#[tokio::test]
async fn what_has_not_come_about_can_be_called_off() {
    let network = Network::to(echo().await).unwrap();
    let (towards, after) = (Towards::Server, After::Bytes(5));
    network.disturb(2, Fault { towards, after, act: Act::Close });
    let mut stream = TcpStream::connect(network.addr()).await.unwrap();
    let mut heard = [0; 4];
    stream.write_all(b"one\n").await.unwrap();
    stream.read_exact(&mut heard).await.unwrap();
    network.calm();
    stream.write_all(b"two\n").await.unwrap();
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"two\n");
    say(&network, b"three\n").await.1.unwrap();
    assert_eq!(network.counters().faults, 0);
}

#[tokio::test]
async fn a_cut_ends_every_connection_and_new_ones_are_taken() {
    let network = Network::to(echo().await).unwrap();
    let mut stream = TcpStream::connect(network.addr()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    network.cut_connections().await;
    assert_eq!(network.counters().open, 0);
    assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    say(&network, b"hello").await.1.unwrap();
}

#[tokio::test]
async fn what_is_held_back_arrives_when_it_is_released() {
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
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    }
    until(|| network.counters().open == 0).await;
}

#[tokio::test]
async fn a_way_that_is_gone_refuses_and_comes_back_on_its_port() {
    let network = Network::to(echo().await).unwrap();
    let mut stream = TcpStream::connect(network.addr()).await.unwrap();
    network.go_away().await.unwrap();
    assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    let refused = TcpStream::connect(network.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    network.come_back().unwrap();
    say(&network, b"hello").await.1.unwrap();
}
