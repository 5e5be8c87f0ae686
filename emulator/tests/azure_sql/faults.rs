//! Faults at the stages that a test requests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool_emulator::azure_sql::{Fault, ServerError, Stage};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{AUDIENCE, Ask, Setup, number};

/// Runs other tasks until `done`.
async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), waiting).await.expect("the condition is met within 10 s");
}

/// A login and a request with an answer.
async fn log_in_and_query(setup: &Setup) -> tiberius::Result<()> {
    let mut client = setup.login(setup.config(&setup.token(0))).await?;
    client.rows("SELECT 1 UNION ALL SELECT 2").await.map(drop)
}

#[tokio::test]
async fn connections_are_cut_at_the_requested_stage_as_often_as_requested() {
    for stage in Stage::ALL {
        let setup = Setup::new().await;
        setup.server.behaviour().disturb(2, stage, Fault::Cut);
        for cut in 1..=2 {
            log_in_and_query(&setup).await.expect_err(&format!("{stage:?}"));
            assert_eq!(setup.server.counters().faults, cut, "{stage:?}");
        }
        log_in_and_query(&setup).await.unwrap();
        let counters = setup.server.counters();
        let prelogins = if stage <= Stage::Prelogin { 1 } else { 3 };
        let logins = if stage <= Stage::Login { 1 } else { 3 };
        assert_eq!((counters.prelogins, counters.logins), (prelogins, logins), "{stage:?}");
        assert_eq!(counters.requests, if stage < Stage::Request { 1 } else { 3 }, "{stage:?}");
        until(|| setup.server.counters().open_connections == 0).await;
    }
}

#[tokio::test]
async fn a_stalled_connection_stays_open_until_the_client_closes_it() {
    for stage in Stage::ALL {
        let setup = Setup::new().await;
        setup.server.behaviour().disturb(usize::MAX, stage, Fault::Stall);
        let stalled = async {
            until(|| setup.server.counters().faults == 1).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = log_in_and_query(&setup) => panic!("{stage:?}: {ended:?}"),
            () = stalled => assert_eq!(setup.server.counters().open_connections, 1, "{stage:?}"),
        }
        until(|| setup.server.counters().open_connections == 0).await;
        setup.server.behaviour().calm();
        log_in_and_query(&setup).await.unwrap();
    }
}

#[tokio::test]
async fn connections_continue_after_a_delay() {
    let setup = Setup::new().await;
    for stage in Stage::ALL {
        let delay = Duration::from_millis(3);
        let began = std::time::Instant::now();
        setup.server.behaviour().disturb(1, stage, Fault::Delay(delay));
        log_in_and_query(&setup).await.unwrap();
        assert!(began.elapsed() >= delay, "{stage:?}");
    }
    assert_eq!(setup.server.counters().faults, Stage::ALL.len() as u64);
}

#[tokio::test]
async fn requests_fail_as_requested_and_severe_errors_close_the_session() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    let behaviour = setup.server.behaviour();
    behaviour.fail_requests(2, ServerError::new(1205, 13, "Deadlock."));
    for _ in 0..2 {
        assert_eq!(client.error("CREATE TABLE t (n int)").await, 1205);
    }
    assert_eq!(client.error("SELECT * FROM t").await, 208, "nothing was run");
    behaviour.fail_requests(1, ServerError::new(596, 21, "The session is in the kill state."));
    assert_eq!(client.error("SELECT 1").await, 596);
    until(|| setup.server.counters().open_connections == 0).await;
    client.rows("SELECT 1").await.unwrap_err();
}

#[tokio::test]
async fn the_next_request_after_the_tokens_expiry_closes_the_session() {
    let setup = Setup::new().await;
    let later = SystemTime::now() + Duration::from_secs(3600);
    let token = setup.issuer.sign(&setup.shop, AUDIENCE, later, 0);
    let mut client = setup.login(setup.config(&token)).await.unwrap();
    setup.server.behaviour().age_tokens(Duration::from_secs(3590));
    client.rows("SELECT 1").await.unwrap();
    setup.server.behaviour().age_tokens(Duration::from_secs(10));
    assert_eq!(client.error("SELECT 1").await, 37396);
    until(|| setup.server.counters().open_connections == 0).await;
    let refused = setup.login(setup.config(&token)).await.unwrap_err();
    assert!(number(&refused) == 18456 && refused.to_string().contains("Token is expired"));
    let longer = setup.issuer.sign(&setup.shop, AUDIENCE, later + Duration::from_secs(60), 0);
    setup.login(setup.config(&longer)).await.unwrap();
}

#[tokio::test]
async fn a_login_can_be_routed_forever() {
    let setup = Setup::new().await;
    setup.server.behaviour().route_logins(usize::MAX, "elsewhere", 1);
    for routed in 1..=3 {
        let error = setup.login(setup.config(&setup.token(0))).await.unwrap_err();
        assert!(matches!(error, tiberius::error::Error::Routing { .. }), "{error:?}");
        assert_eq!(setup.server.counters().routed_logins, routed);
    }
}

#[tokio::test]
async fn tds_8_without_its_alpn_name_gets_no_answer() {
    let setup = Setup::new().await;
    for name in [None, Some("tds/8.0")] {
        let mut config = setup.tls_client(&rustls::version::TLS13);
        config.alpn_protocols =
            name.map(|name: &str| name.as_bytes().to_vec()).into_iter().collect();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(setup.server.addr()).await.unwrap();
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let prelogin = [18, 1, 0, 20, 0, 0, 1, 0, 0, 0, 6, 0, 6, 255, 0, 0, 0, 0, 0, 0];
        let mut answer = [0; 8];
        let asked = async {
            stream.write_all(&prelogin).await?;
            stream.read_exact(&mut answer).await
        };
        assert_eq!(asked.await.is_ok(), name.is_some());
        assert_eq!(setup.server.counters().prelogins, u64::from(name.is_some()));
    }
}

#[tokio::test]
async fn a_server_can_be_limited_to_one_version_of_tls() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut tls = None;
        let setup = Setup::new().await;
        for only in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let certificate = setup.authority.issue(&["localhost"]).unwrap();
            let only_one = Setup::with(|options| {
                options.endpoint.tls = certificate.server_config_for(&[only]).unwrap();
            });
            let server = only_one.await.server;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(setup.tls_client(version)));
            let stream = TcpStream::connect(server.addr()).await.unwrap();
            let connected = connector.connect("localhost".try_into().unwrap(), stream).await;
            assert_eq!(connected.is_ok(), version.version == only.version);
            tls = tls.or(connected.ok());
        }
        assert_eq!(tls.unwrap().get_ref().1.protocol_version(), Some(version.version));
    }
}
