//! Retries while a server is unavailable, on the injected clock and within the time limit.

use std::time::Duration;

use entra_pool::{
    clock::{Clock, ManualClock},
    connect::Stage,
    postgres::{Connector, Error},
    token::Identity,
};
use entra_pool_emulator::certificates::Authority;
use tokio::{io::AsyncReadExt, net::TcpListener, task::JoinHandle};

use crate::{
    connector, credential_for,
    drivers::two_servers,
    server,
    support::{
        credential::{TestCredential, code, said},
        front::PostgresService,
        refusing_port,
    },
    tls::scoped,
};

fn clocked(credential: TestCredential) -> (ManualClock, Identity) {
    let clock = ManualClock::at(std::time::SystemTime::now());
    (clock.clone(), Identity::builder(credential).clock(clock).build())
}

fn connecting(connector: &Connector) -> JoinHandle<Result<(), Error>> {
    let connector = connector.clone();
    tokio::spawn(async move { connector.connect().await.map(drop) })
}

/// Whether a connect waits for its next retry. That pause is shorter than the connect's time
/// limit, and shorter than the limit of one of several hosts.
fn pauses(clock: &ManualClock) -> bool {
    clock.sleepers() > 1 && clock.next_wake() < Some(Duration::from_secs(2))
}

/// Advances the clock by `by` whenever the connect pauses, until the connect ends. Returns the
/// time that it took.
async fn until_it_ends<T>(
    clock: &ManualClock,
    by: Duration,
    connecting: &JoinHandle<T>,
) -> Duration {
    let began = clock.monotonic();
    while !connecting.is_finished() {
        if pauses(clock) {
            clock.advance(by);
        }
        tokio::task::yield_now().await;
    }
    clock.monotonic() - began
}

const STEP: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_connect_to_a_full_server_is_retried() {
    let (clock, identity) = clocked(credential_for("one-at-a-time").await);
    server().await.sql("ALTER ROLE \"one-at-a-time\" CONNECTION LIMIT 1").await;
    let connector = connector(&identity, &server().await.url("one-at-a-time"));
    let (first, connection) = connector.connect().await.unwrap();
    let connection = tokio::spawn(connection);
    let second = connecting(&connector);
    while connector.report().retried == 0 {
        tokio::task::yield_now().await;
    }
    drop(first);
    connection.await.unwrap().unwrap();
    until_it_ends(&clock, STEP, &second).await;
    second.await.unwrap().unwrap();
    assert_eq!(connector.report().logins, 2);
}

#[tokio::test]
async fn a_server_that_stays_full_is_reported_at_the_deadline() {
    let (clock, identity) = clocked(credential_for("none-at-all").await);
    server().await.sql("ALTER ROLE \"none-at-all\" CONNECTION LIMIT 0").await;
    let connector = connector(&identity, &server().await.url("none-at-all"));
    let connect = connecting(&connector);
    let took = until_it_ends(&clock, STEP, &connect).await;
    let error = connect.await.unwrap().unwrap_err();
    let Error::Login { source: cause, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code(cause), Some("53300"));
    assert!(error.is_transient());
    assert!(took > Duration::from_secs(13) && took < Duration::from_secs(15), "{took:?}");
    let report = connector.report();
    assert!((14..25).contains(&report.retried) && report.logins == 0, "{report:?}");
}

#[tokio::test]
async fn a_server_is_retried_until_the_deadline_only_if_it_has_answered_before() {
    let server = PostgresService::start().await;
    let credential = TestCredential::new("patient", 2_000);
    server.create_principal(credential.principal()).await;
    let (clock, identity) = clocked(credential);
    let url = server.url("patient");
    let known = connector(&identity, &url);
    drop(known.connect().await.unwrap());
    server.stop().await;

    let stranger = connector(&identity, &url);
    let connect = connecting(&stranger);
    let took = until_it_ends(&clock, STEP, &connect).await;
    let error = connect.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Dial { .. }) && error.is_transient(), "{error:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(stranger.report().retried, 2);

    let connect = connecting(&known);
    while known.report().retried < 4 {
        if pauses(&clock) {
            clock.advance(STEP);
        }
        tokio::task::yield_now().await;
    }
    server.restart().await;
    until_it_ends(&clock, STEP, &connect).await;
    connect.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failover_is_waited_for_although_the_standby_answers() {
    let (primary, credential, url, _authorities) = two_servers("failover").await;
    let (standby, other) = (server().await.port(), primary.port());
    let primary_first = url.replace(
        &format!("127.0.0.1:{standby},127.0.0.1:{other}"),
        &format!("127.0.0.1:{other},127.0.0.1:{standby}"),
    );
    let (clock, identity) = clocked(credential);
    for url in [url, primary_first] {
        let connector = connector(&identity, &format!("{url}&target_session_attrs=read-write"));
        drop(connector.connect().await.unwrap());
        primary.stop().await;
        let connect = connecting(&connector);
        while connector.report().retried < 4 {
            if pauses(&clock) {
                clock.advance(STEP);
            }
            tokio::task::yield_now().await;
        }
        primary.restart().await;
        until_it_ends(&clock, STEP, &connect).await;
        connect.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_host_that_does_not_respond_leaves_time_for_the_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().port();
    let (clock, identity) = clocked(credential_for("patience").await);
    let url = server().await.url("patience");
    let connector =
        connector(&identity, &url.replace("127.0.0.1", &format!("127.0.0.1:{silent},127.0.0.1")));
    let connect = connecting(&connector);
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.read_exact(&mut [0; 8]).await.unwrap();
    while clock.sleepers() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(clock.next_wake(), Some(Duration::from_millis(7_500)));
    clock.advance(Duration::from_millis(7_500));
    connect.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_error_of_the_first_host_is_reported_if_the_second_one_times_out() {
    let (gone, _held) = refusing_port();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().port();
    let authority = Authority::new().unwrap();
    let (clock, identity) = clocked(TestCredential::new("shop", 0));
    let url = scoped("127.0.0.1", gone, &authority.path());
    let both = format!("127.0.0.1:{gone},127.0.0.1:{silent}");
    let connector = connector(&identity, &url.replace(&format!("127.0.0.1:{gone}"), &both));
    let connect = connecting(&connector);
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.read_exact(&mut [0; 8]).await.unwrap();
    clock.advance(Duration::from_secs(15));
    let error = connect.await.unwrap().unwrap_err();
    let Error::TimedOut { server, source: Some(before), .. } = &error else { panic!("{error:?}") };
    assert_eq!(*server, format!("127.0.0.1:{silent}"));
    assert!(matches!(&**before, Error::Dial { server, .. } if server.ends_with(&gone.to_string())));
}

#[tokio::test]
async fn a_timeout_reports_the_stage_and_the_error_of_the_previous_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let authority = Authority::new().unwrap();
    let (clock, identity) = clocked(TestCredential::new("shop", 0));
    let connector = connector(&identity, &scoped("127.0.0.1", port, &authority.path()));
    let connect = connecting(&connector);
    let mut request = [0; 8];
    // The first connection is closed; the second one gets no response.
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.read_exact(&mut request).await.unwrap();
    drop(socket);
    while clock.sleepers() < 2 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_millis(125));
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.read_exact(&mut request).await.unwrap();
    clock.advance(Duration::from_secs(15));
    let error = connect.await.unwrap().unwrap_err();
    let Error::TimedOut { stage, limit, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*stage, *limit), (Stage::Negotiate, Duration::from_secs(15)));
    let source = source.as_deref().unwrap();
    assert!(matches!(source, Error::ConnectionLost { stage: Stage::Negotiate, .. }), "{source:?}");
    assert!(error.is_transient() && said(&error).contains("no token was sent"), "{}", said(&error));
}

#[tokio::test]
async fn a_token_that_does_not_arrive_in_time_is_reported() {
    let (port, _held) = refusing_port();
    let authority = Authority::new().unwrap();
    let (clock, identity) = clocked(TestCredential::new("shop", 0).without_responses());
    let connector = connector(&identity, &scoped("127.0.0.1", port, &authority.path()));
    let connect = connecting(&connector);
    while clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(15));
    let error = connect.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Token { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}
