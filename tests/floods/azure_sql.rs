use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use entra_pool::azure_sql::{Client, Connector, Error, PoolError, tiberius};
use rustls::ServerConfig;

use crate::{
    Ends::{self, AtLimit, Early, InTime},
    FastClock, emulator, identity,
    peer::{Flood, Pace, Peer, Tls},
    run_all, timed,
};

/// Where the flood begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Instead of the response to PRELOGIN.
    Prelogin,
    /// Instead of the server's part of the TLS handshake, in packets.
    Tls,
    /// The same with TDS 8.0, without packets.
    StrictTls,
    /// Instead of the response to the login.
    Login,
    /// Instead of the response to the probe of an idle connection.
    Probe,
    /// Instead of the response to a query.
    Query,
}

#[derive(Debug, Clone)]
struct Case(Place, Flood, Ends);

pub fn packet(kind: u8, status: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
    [&[kind, status, length[0], length[1], 0, 0, 0, 0], payload].concat()
}

/// Each byte in a separate packet.
fn one_by_one(kind: u8, payload: &[u8]) -> Vec<u8> {
    payload.iter().flat_map(|byte| packet(kind, 0, &[*byte])).collect()
}

/// An INFO token with a text of `length` characters.
fn info(length: u16) -> Vec<u8> {
    let mut content = [&[0; 4][..], &[1, 10], &length.to_le_bytes()].concat();
    content.extend(b"x\0".repeat(length.into()));
    content.extend([0; 1 + 1 + 4]);
    [&[0xab], &u16::try_from(content.len()).unwrap().to_le_bytes()[..], &content].concat()
}

/// A TLS record of a handshake message that is too long to be valid.
fn records(kind: u8) -> Vec<u8> {
    let record = [&[22, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff][..], &[0; 16_380]].concat();
    if kind == 0 { record } else { packet(kind, 0, &record) }
}

/// COLMETADATA of one int column, and a row of it.
const COLUMN: &[u8] = &[0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x38, 0];
const ROW: &[u8] = &[0xd1, 1, 0, 0, 0];

fn cases() -> Vec<Case> {
    use Place::{Login, Prelogin, Probe, Query, StrictTls, Tls};
    let slow = |flood: Flood| flood.at(Pace::Slow);
    let empty = |kind| Flood::of("empty packets", packet(kind, 0, &[]));
    let ones = |kind| Flood::of("one-byte packets", packet(kind, 0, &[0]));
    let full = |kind| Flood::of("full packets", packet(kind, 0, &[0; 65_527]));
    let messages = || Flood::of("empty messages", packet(4, 1, &[]));
    let tokens = || Flood::of("full packets of tokens", packet(4, 0, &info(32_755)));
    let parts = || Flood::of("tokens, one byte per packet", one_by_one(4, &info(3)));
    let rows = || {
        let rows = Flood::of("rows", packet(4, 0, &ROW.repeat(1_000)));
        rows.after(packet(4, 0, COLUMN))
    };
    let huge = || Flood::of("an endless message", packet(18, 0, &[0; 4_088]));
    let mut cases = vec![
        Case(Prelogin, empty(4), Early),
        Case(Prelogin, empty(18), Early),
        Case(Prelogin, ones(4), Early),
        Case(Prelogin, full(4), Early),
        Case(Prelogin, slow(empty(4)), AtLimit),
        Case(Prelogin, slow(ones(4)), AtLimit),
        Case(Tls, empty(18), Early),
        Case(Tls, empty(4), Early),
        Case(Tls, ones(18).after(one_by_one(18, &[22, 3, 3, 0x40, 0, 2])), Early),
        Case(Tls, huge().after(records(18)), Early),
        Case(Tls, slow(empty(18)), AtLimit),
        Case(Login, empty(4), Early),
        Case(Login, messages(), Early),
        Case(Login, parts(), Early),
        Case(Login, tokens(), Early),
        Case(Login, rows(), Early),
        Case(Login, empty(4).at(Pace::Bytes), InTime),
        Case(Login, slow(tokens()), AtLimit),
        Case(Probe, empty(4), Early),
        Case(Probe, messages(), Early),
        Case(Probe, parts(), Early),
        Case(Probe, tokens(), Early),
        Case(Probe, rows(), Early),
        Case(Probe, slow(tokens()), AtLimit),
        Case(Query, empty(4), AtLimit),
        Case(Query, slow(tokens()), AtLimit),
    ];
    cases.extend(handshake_floods().map(|(flood, ends)| Case(StrictTls, flood, ends)));
    cases
}

/// Floods that replace a server's TLS handshake.
pub fn handshake_floods() -> impl Iterator<Item = (Flood, Ends)> {
    [
        (Flood::of("empty records", [22, 3, 3, 0, 0]), Early),
        (Flood::of("empty data records", [23, 3, 3, 0, 0]), Early),
        (Flood::of("one-byte records", [22, 3, 3, 0, 1, 2]), Early),
        (Flood::of("cipher changes", [20, 3, 3, 0, 1, 1]), Early),
        (Flood::of("warnings", [21, 3, 3, 0, 2, 1, 90]), Early),
        (Flood::of("full records", records(0)), Early),
        (Flood::of("records", [22, 3, 3, 0, 1, 2]).at(Pace::Slow), AtLimit),
    ]
    .into_iter()
}

fn read_message(from: &mut impl Read) -> io::Result<()> {
    loop {
        let mut header = [0; 8];
        from.read_exact(&mut header)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        from.read_exact(&mut vec![0; length - 8])?;
        if header[1] & 1 != 0 {
            return Ok(());
        }
    }
}

/// Acts as a server up to `place`, then floods the client.
fn play(
    mut tcp: TcpStream,
    place: Place,
    flood: &Flood,
    tls: &Arc<ServerConfig>,
) -> io::Result<()> {
    if place == Place::StrictTls {
        tcp.read_exact(&mut [0; 5])?;
        return flood.pour(tcp);
    }
    read_message(&mut tcp)?;
    if place == Place::Prelogin {
        return flood.pour(tcp);
    }
    // VERSION, ENCRYPTION (on), FEDAUTHREQUIRED; offsets count from the start of the table.
    let mut answer = vec![0, 0, 16, 0, 6, 1, 0, 22, 0, 1, 6, 0, 23, 0, 1, 0xff];
    answer.extend([12, 0, 7, 0xd0, 0, 0, 1, 1]);
    tcp.write_all(&packet(4, 1, &answer))?;
    if place == Place::Tls {
        read_message(&mut tcp)?;
        return flood.pour(tcp);
    }
    let mut tls = Tls::accept(tcp, tls, true)?;
    read_message(&mut tls)?;
    if place == Place::Login {
        return flood.pour(tls);
    }
    // LOGINACK, FEATUREEXTACK of FEDAUTH, DONE.
    let mut welcome = vec![0xad, 10, 0, 1, 0x74, 0, 0, 4, 0, 12, 0, 0, 0];
    welcome.extend([0xae, 2, 0, 0, 0, 0, 0xff]);
    welcome.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    tls.write_all(&packet(4, 1, &welcome))?;
    read_message(&mut tls)?;
    flood.pour(tls)
}

async fn one(client: &mut Client) -> tiberius::Result<()> {
    let row = client.simple_query("SELECT 1").await?.into_row().await?;
    assert_eq!(row.unwrap().get(0), Some(1_i32));
    Ok(())
}

async fn run(Case(place, flood, ends): Case) -> String {
    let certificate = emulator().authority().issue(&["127.0.0.1"]).unwrap();
    let tls = certificate.server_config().unwrap();
    let peer = Peer::start(usize::MAX, emulator().azure_sql().addr(), move |tcp| {
        play(tcp, place, &flood, &tls)
    });
    // The probe takes 5 s.
    let (factor, limit) = if place == Place::Probe { (5, 30) } else { (1, 1) };
    let string = format!(
        "Server=tcp:127.0.0.1,{};Database=orders;TrustServerCertificateCA={};Connect Timeout={limit};\
         Command Timeout=1;Entra Scope=https://database.windows.net/.default;Encrypt={}",
        peer.addr.port(),
        emulator().ca_path().display(),
        if place == Place::StrictTls { "Strict" } else { "Mandatory" },
    );
    let config: entra_pool::azure_sql::Config = string.parse().unwrap();
    let tokens = identity(FastClock::new(factor)).tokens(config.token_scope().unwrap());
    tokens.token().await.unwrap();
    let connector = Connector::new(config, tokens).unwrap();
    let pool = connector.pool_builder().max_size(1).build();
    let report = match place {
        Place::Probe => {
            drop(pool.get().await.unwrap());
            // After a second, a checkout probes a connection that was not used.
            tokio::time::sleep(crate::Duration::from_secs(1) / factor).await;
            peer.stop_flooding();
            let (next, report) = timed(ends, Some(&peer), pool.get()).await;
            one(&mut next.unwrap()).await.unwrap();
            report
        }
        Place::Query => {
            let mut connection = pool.get().await.unwrap();
            let (outcome, report) = timed(ends, None, one(&mut connection)).await;
            let error = outcome.unwrap_err();
            let timed_out = io::ErrorKind::TimedOut;
            assert!(
                matches!(error, tiberius::error::Error::Io { kind, .. } if kind == timed_out),
                "{error:?}"
            );
            report
        }
        _ => {
            let (outcome, report) = timed(ends, None, pool.get()).await;
            let Err(PoolError::Backend(error)) = outcome else { panic!("connected") };
            let expected = match ends {
                AtLimit => matches!(error, Error::TimedOut { .. }),
                InTime => true,
                Early => matches!(error, Error::UnexpectedProtocol { .. } | Error::Tls { .. }),
            };
            assert!(expected, "{error:?}");
            report
        }
    };
    peer.stop_flooding();
    one(&mut pool.get().await.unwrap()).await.unwrap();
    peer.wait_until_ended().await;
    report
}

#[test]
fn a_flooded_azure_sql_operation_ends_in_time() {
    run_all(cases(), |case| case.1.is_slow(), |case| Box::pin(run(case)));
}
