use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Instant,
};

use entra_pool::{
    adapters,
    postgres::{Config, Connector, Error, tokio_postgres},
};
use rustls::ServerConfig;
use tokio::runtime::Handle;

use crate::{
    Ends::{self, AtLimit, Early, InTime},
    FastClock, LIMIT,
    azure_sql::handshake_floods,
    emulator, identity,
    peer::{Flood, Pace, Peer, Tls},
    run_all, timed, until,
};

/// Where the flood begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Instead of the response to SSLRequest.
    SslRequest,
    /// Instead of the server's part of the TLS handshake.
    Tls,
    /// Instead of the password request.
    Authentication,
    /// After the login, before the server is ready for queries.
    Startup,
    /// Instead of the response to diesel-async's settings for a new connection.
    DieselsSettings,
    /// Instead of the response to the cleaning of an idle connection.
    Recycling(Pool),
    /// Instead of the response to SSLRequest, once a query is to be cancelled.
    CancelSslRequest,
    /// Instead of the server's part of the TLS handshake, once a query is to be cancelled.
    CancelTls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Deadpool,
    Diesel,
    Sqlx,
}

#[derive(Debug, Clone)]
struct Case(Place, Flood, Ends);

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).unwrap().to_be_bytes();
    [&[kind], &length[..], content].concat()
}

fn cases() -> Vec<Case> {
    use Place::{
        Authentication, CancelSslRequest, CancelTls, DieselsSettings, Recycling, SslRequest,
        Startup, Tls,
    };
    use Pool::{Deadpool, Diesel, Sqlx};
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
        Case(Authentication, notices(), Early),
        Case(Authentication, Flood::of("requests", message(b'R', &[0, 0, 0, 3])), Early),
        Case(Authentication, Flood::of("OKs", message(b'R', &[0; 4])), Early),
        Case(Authentication, huge().at(Pace::Bytes), InTime),
        Case(Authentication, slow(huge()), AtLimit),
        Case(Startup, notices(), Early),
        Case(Startup, notices().at(Pace::Bytes), InTime),
        Case(Startup, long(), Early),
        Case(Startup, settings(), Early),
        Case(Startup, huge(), Early),
        Case(Startup, slow(notices()), AtLimit),
        Case(DieselsSettings, notices(), Early),
        Case(DieselsSettings, empty(), Early),
        Case(DieselsSettings, slow(notices()), AtLimit),
        Case(CancelSslRequest, Flood::of("refusals", b"N"), Early),
        Case(
            CancelSslRequest,
            slow(Flood::of("handshake", [22, 3, 3, 0, 1, 2]).after(b"S")),
            AtLimit,
        ),
    ];
    // sqlx reads all available data within one poll, so no time limit ends a fast flood.
    cases.push(Case(Recycling(Sqlx), slow(notices()), AtLimit));
    // No time limit of diesel-async would fire, so the amount of data is limited.
    for (pool, ends) in [(Deadpool, AtLimit), (Diesel, Early)] {
        cases.extend([
            Case(Recycling(pool), notices(), ends),
            Case(
                Recycling(pool),
                notices().at(Pace::Bytes),
                if pool == Diesel { InTime } else { AtLimit },
            ),
            Case(Recycling(pool), settings(), ends),
            Case(Recycling(pool), empty(), ends),
            Case(Recycling(pool), done(), ends),
            Case(Recycling(pool), slow(notices()), AtLimit),
        ]);
    }
    for place in [Tls, CancelTls] {
        cases.extend(handshake_floods().map(|(flood, ends)| Case(place, flood, ends)));
    }
    cases
}

/// Reads a message without a kind, like the first messages of a client.
fn read_untyped(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut content = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
    from.read_exact(&mut content)?;
    Ok(content)
}

fn read_message(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut kind = [0; 1];
    from.read_exact(&mut kind)?;
    Ok((kind[0], read_untyped(from)?))
}

/// Responds to requests of the extended protocol until a simple query arrives.
fn answer_until_query(tls: &mut Tls) -> io::Result<()> {
    loop {
        let answer = match read_message(tls)? {
            (b'Q', _) => return Ok(()),
            (b'P', _) => message(b'1', &[]),
            (b'B', _) => message(b'2', &[]),
            (b'C', _) => message(b'3', &[]),
            // Describes a statement or a portal.
            (b'D', of) if of[0] == b'S' => [message(b't', &[0, 0]), message(b'n', &[])].concat(),
            (b'D', _) => message(b'n', &[]),
            (b'E', _) => message(b'C', b"SET\0"),
            (b'S', _) => message(b'Z', b"I"),
            (kind, _) => panic!("a message of kind {}", char::from(kind)),
        };
        tls.write_all(&answer)?;
    }
}

/// Acts as a server up to `place`, then floods the client.
fn play(
    mut tcp: TcpStream,
    place: Place,
    flood: &Flood,
    tls: &Arc<ServerConfig>,
) -> io::Result<()> {
    read_untyped(&mut tcp)?;
    if place == Place::SslRequest {
        return flood.pour(tcp);
    }
    tcp.write_all(b"S")?;
    if place == Place::Tls {
        return flood.pour(tcp);
    }
    let mut tls = Tls::accept(tcp, tls, false)?;
    read_untyped(&mut tls)?;
    if place == Place::Authentication {
        return flood.pour(tls);
    }
    tls.write_all(&message(b'R', &[0, 0, 0, 3]))?;
    read_message(&mut tls)?;
    tls.write_all(&message(b'R', &[0; 4]))?;
    if place == Place::Startup {
        return flood.pour(tls);
    }
    tls.write_all(&[message(b'K', &[0; 8]), message(b'Z', b"I")].concat())?;
    if place == Place::DieselsSettings {
        read_message(&mut tls)?;
    } else {
        answer_until_query(&mut tls)?;
    }
    flood.pour(tls)
}

async fn one(client: &tokio_postgres::Client) {
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

/// A connector to the peer, with a cached token and a connect timeout of `limit` seconds by its
/// clock.
async fn connector(peer: &Peer, factor: u32, limit: u32) -> Connector {
    let target = format!("localhost:{}", emulator().postgres().addr().port());
    let url = emulator().postgres_url().replace(&target, &peer.addr.to_string());
    let config: Config = url.parse().unwrap();
    let config = config.connect_timeout(LIMIT * limit);
    let tokens = identity(FastClock::new(factor)).tokens(config.token_scope().unwrap());
    tokens.token().await.unwrap();
    Connector::new(config, tokens).unwrap()
}

async fn run(Case(place, flood, ends): Case) -> String {
    if matches!(place, Place::CancelSslRequest | Place::CancelTls) {
        return run_cancel(place, flood, ends).await;
    }
    let certificate = emulator().authority().issue(&["127.0.0.1"]).unwrap();
    let tls = certificate.server_config().unwrap();
    let peer = Peer::start(usize::MAX, emulator().postgres().addr(), move |tcp| {
        play(tcp, place, &flood, &tls)
    });
    let report = match place {
        // Recycling takes 2 s.
        Place::Recycling(pool) => match pool {
            Pool::Deadpool => recycle_deadpool(&peer, connector(&peer, 2, 30).await, ends).await,
            Pool::Diesel => recycle_diesel(&peer, connector(&peer, 2, 30).await, ends).await,
            Pool::Sqlx => recycle_sqlx(&peer, &connector(&peer, 1, 1).await, ends).await,
        },
        Place::DieselsSettings => {
            let connector = connector(&peer, 1, 1).await;
            let connecting = adapters::diesel::connect(&connector);
            let (outcome, report) = timed(ends, None, connecting).await;
            let error = outcome.err().unwrap().to_string();
            let took_longer = error.contains("session's settings took longer");
            assert_eq!(took_longer, ends == AtLimit, "{error}");
            peer.stop_flooding();
            adapters::diesel::connect(&connector).await.unwrap();
            report
        }
        _ => {
            let pool = connector(&peer, 1, 1).await.pool_builder().max_size(1).build();
            let (outcome, report) = timed(ends, None, pool.get()).await;
            let Err(error) = outcome.map_err(Error::from) else { panic!("connected") };
            let expected = match ends {
                AtLimit => matches!(error, Error::TimedOut { .. }),
                InTime => true,
                Early if place == Place::SslRequest => {
                    matches!(error, Error::EncryptionDeclined { .. })
                }
                Early if place == Place::Tls => matches!(error, Error::Tls { .. }),
                // A server must not send this message here.
                Early if matches!(error, Error::Login { .. }) && place == Place::Authentication => {
                    true
                }
                Early => format!("{error:?}").contains("more data than this exchange allows"),
            };
            assert!(expected, "{error:?}");
            peer.stop_flooding();
            one(&pool.get().await.unwrap()).await;
            report
        }
    };
    peer.wait_until_ended().await;
    report
}

async fn recycle_deadpool(peer: &Peer, connector: Connector, ends: Ends) -> String {
    let pool = connector.pool_builder().max_size(1).build();
    drop(pool.get().await.unwrap());
    peer.stop_flooding();
    let (next, report) = timed(ends, Some(peer), pool.get()).await;
    one(&next.unwrap()).await;
    report
}

async fn recycle_diesel(peer: &Peer, connector: Connector, ends: Ends) -> String {
    use adapters::diesel::{
        diesel,
        diesel_async::{RunQueryDsl, pooled_connection::deadpool},
        manager,
    };
    let pool = deadpool::Pool::builder(manager(connector)).max_size(1).build().unwrap();
    drop(pool.get().await.unwrap());
    peer.stop_flooding();
    let (next, report) = timed(ends, Some(peer), pool.get()).await;
    diesel::sql_query("SELECT 1").execute(&mut next.unwrap()).await.unwrap();
    report
}

/// sqlx waits for the server while it closes a connection, so the time limit is the pool's timeout.
async fn recycle_sqlx(peer: &Peer, connector: &Connector, ends: Ends) -> String {
    use adapters::sqlx::{Pool, options, sqlx};
    // The cleaning is the first request.
    let options =
        options(connector).max_connections(1).after_connect(|_, _| Box::pin(async { Ok(()) }));
    let pool = Pool::new(connector, options).await.unwrap();
    drop(pool.acquire().await.unwrap());
    peer.stop_flooding();
    let (next, report) = timed(ends, None, pool.acquire()).await;
    assert!(matches!(next, Err(sqlx::Error::PoolTimedOut)), "{next:?}");
    let mut next = pool.acquire().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut *next).await.unwrap();
    drop(next);
    pool.close().await;
    report
}

/// Floods the cancel request, and the connect that replaces the connection.
async fn run_cancel(place: Place, flood: Flood, ends: Ends) -> String {
    let certificate = emulator().authority().issue(&["127.0.0.1"]).unwrap();
    let tls = certificate.server_config().unwrap();
    let first = AtomicBool::new(true);
    let peer = Peer::start(3, emulator().postgres().addr(), move |tcp| {
        if first.swap(false, SeqCst) {
            // The query that is to be cancelled gets no response.
            let silence = Flood::of("notices", message(b'N', b"SNOTICE\0C00000\0Mx\0\0"));
            return play(tcp, Place::Recycling(Pool::Deadpool), &silence.at(Pace::Slow), &tls);
        }
        let place = if place == Place::CancelTls { Place::Tls } else { Place::SslRequest };
        play(tcp, place, &flood, &tls)
    });
    // Recycling takes 2 s, and then each of the two connects takes a second.
    let pool = connector(&peer, 2, 2).await.pool_builder().max_size(1).build();
    drop(pool.get().await.unwrap());
    let began = Instant::now();
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.map(drop) }
    });
    until(|| peer.connected_after(began).is_some()).await;
    let metrics = Handle::current().metrics();
    // The pool's maintenance continues.
    let (_, report) = timed(ends, None, until(|| metrics.num_alive_tasks() == 1)).await;
    assert!(next.await.unwrap().is_err());
    peer.wait_until_ended().await;
    assert_eq!(peer.ended(), 3);
    one(&pool.get().await.unwrap()).await;
    report
}

#[test]
fn a_flooded_postgres_operation_ends_in_time() {
    run_all(cases(), |case| case.1.is_slow(), |case| Box::pin(run(case)));
}

/// The error of a diesel-async connect.
#[test]
fn a_servers_error_for_diesels_settings_is_filtered_before_it_is_shown() {
    let certificate = emulator().authority().issue(&["127.0.0.1"]).unwrap();
    let tls = certificate.server_config().unwrap();
    let secret = Arc::new(std::sync::OnceLock::<String>::new());
    let sent = secret.clone();
    let peer = Peer::start(usize::MAX, emulator().postgres().addr(), move |tcp| {
        let text = format!("SERROR\0C42501\0Mno \u{1b}[2J: {}\0\0", sent.get().unwrap());
        let answer = [message(b'E', text.as_bytes()), message(b'Z', b"I")].concat();
        play(tcp, Place::DieselsSettings, &Flood::of("an error", answer), &tls)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = connector(&peer, 1, 5).await;
        let token = connector.tokens().token().await.unwrap();
        secret.set(token.secret().to_owned()).unwrap();
        let error = adapters::diesel::connect(&connector).await.err().unwrap().to_string();
        assert!(error.contains("no [2J: [redacted]"), "{error}");
    });
}

/// The peer sends the cancel key 0 for each of its sessions.
#[test]
fn diesel_connections_with_the_same_cancel_key_are_not_reused() {
    use adapters::diesel::{diesel_async::pooled_connection::deadpool, manager};
    let certificate = emulator().authority().issue(&["127.0.0.1"]).unwrap();
    let tls = certificate.server_config().unwrap();
    let peer = Peer::start(usize::MAX, emulator().postgres().addr(), move |tcp| {
        let never = Flood::of("nothing", b"N");
        play(tcp, Place::Recycling(Pool::Diesel), &never, &tls)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = connector(&peer, 1, 5).await;
        let pool = deadpool::Pool::builder(manager(connector.clone())).max_size(2).build().unwrap();
        drop((pool.get().await.unwrap(), pool.get().await.unwrap()));
        drop(pool.get().await.unwrap());
        let retired = connector.report().retired;
        assert_eq!(retired, [(entra_pool::connect::RetireReason::Recycling, 2)]);
    });
}
