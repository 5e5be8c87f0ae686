//! Servers that drop connections, stop responding, end sessions or route logins.

use std::time::Duration;

use entra_pool::{
    azure_sql::{Error, LoginError, Recycling, tiberius},
    connect::{RetireReason, Stage},
};
use entra_pool_emulator::azure_sql::{AzureSqlServer, Fault, ServerError, Stage as At};

use crate::{Shop, failure, number, refused_saying, retired, session, until, without_pauses};

const BOTH: [Recycling; 2] = [Recycling::Clean, Recycling::Fast];

/// The keyword, the server's stage at a fault, and the client's stage at that time.
const CONNECTING: [(&str, At, Stage); 10] = [
    ("Encrypt=Mandatory", At::Accept, Stage::Negotiate),
    ("Encrypt=Mandatory", At::Prelogin, Stage::Negotiate),
    ("Encrypt=Mandatory", At::Tls, Stage::Tls),
    ("Encrypt=Mandatory", At::Login, Stage::Login),
    ("Encrypt=Mandatory", At::LoginAnswer, Stage::Login),
    ("Encrypt=Strict", At::Accept, Stage::Tls),
    ("Encrypt=Strict", At::Tls, Stage::Tls),
    ("Encrypt=Strict", At::Prelogin, Stage::Negotiate),
    ("Encrypt=Strict", At::Login, Stage::Login),
    ("Encrypt=Strict", At::LoginAnswer, Stage::Login),
];

#[tokio::test]
async fn a_connect_that_is_cut_off_is_retried_twice_and_its_error_names_the_stage() {
    let shop = Shop::open().await;
    for (encrypt, at, stage) in CONNECTING {
        let connector = shop.connector(encrypt);
        let faults = shop.counters().faults;
        shop.server().behaviour().disturb(usize::MAX, at, Fault::Cut);
        let error = without_pauses(&shop, &connector).await.unwrap_err();
        match &error {
            Error::ConnectionLost { stage: named, .. } => assert_eq!(*named, stage, "{at:?}"),
            Error::Login {
                source: LoginError::Driver(tiberius::error::Error::Io { .. }), ..
            } => {
                assert_eq!(stage, Stage::Login, "{at:?}");
            }
            _ => panic!("{at:?}: {error:?}"),
        }
        assert!(error.is_transient(), "{error:?}");
        assert_eq!((shop.counters().faults - faults, connector.report().retried), (3, 2), "{at:?}");

        shop.server().behaviour().calm();
        shop.server().behaviour().disturb(2, at, Fault::Cut);
        without_pauses(&shop, &connector).await.unwrap();
        until(|| shop.counters().open_connections == 0).await;
    }
}

#[tokio::test]
async fn a_connect_that_is_cut_off_fails_at_once_without_retries() {
    let shop = Shop::open().await;
    let connector = shop.connector("ConnectRetryCount=0");
    shop.server().behaviour().disturb(1, At::Tls, Fault::Cut);
    let error = refused_saying(&connector, &["broke while", "no token was sent"]).await;
    assert!(matches!(error, Error::ConnectionLost { stage: Stage::Tls, .. }), "{error:?}");
    assert_eq!((shop.counters().connections, connector.report().retried), (1, 0));
}

#[tokio::test]
async fn a_connect_without_a_response_times_out_and_its_error_names_the_stage() {
    let shop = Shop::open().await;
    for (encrypt, at, stage) in CONNECTING {
        let connector = shop.connector(&format!("Connect Timeout=7;{encrypt}"));
        let faults = shop.counters().faults;
        shop.server().behaviour().disturb(1, at, Fault::Stall);
        let connecting = tokio::spawn({
            let connector = connector.clone();
            async move { connector.connect().await.map(drop).unwrap_err() }
        });
        until(|| shop.counters().faults > faults).await;
        shop.clock.advance(Duration::from_secs(7));
        let error = connecting.await.unwrap();
        assert!(
            matches!(&error, Error::TimedOut { stage: named, .. } if *named == stage),
            "{at:?}: {error:?}"
        );
        assert!(error.is_transient() && error.to_string().contains("7s"), "{error}");
        until(|| shop.counters().open_connections == 0).await;
        connector.connect().await.unwrap();
        until(|| shop.counters().open_connections == 0).await;
    }
}

#[tokio::test]
async fn a_connect_waits_for_a_slow_server() {
    let shop = Shop::open().await;
    for at in At::ALL {
        shop.server().behaviour().disturb(1, at, Fault::Delay(Duration::from_millis(2)));
    }
    let mut connection = shop.connector("").connect().await.unwrap();
    assert_eq!(number(&mut connection, "SELECT 7").await, 7);
    assert_eq!(shop.counters().faults, At::ALL.len() as u64);
}

#[tokio::test]
async fn a_connection_that_breaks_during_its_probe_is_replaced() {
    for at in [At::Request, At::Answer] {
        for (fault, reason) in
            [(Fault::Cut, RetireReason::Closed), (Fault::Stall, RetireReason::Recycling)]
        {
            let shop = Shop::open().await;
            let (pool, connector) = shop.pool_of_one(Recycling::Clean);
            let first = session(&mut pool.get().await.unwrap()).await;
            shop.server().behaviour().disturb(1, at, fault);
            let getting = tokio::spawn({
                let pool = pool.clone();
                async move { pool.get().await.unwrap() }
            });
            until(|| shop.counters().faults == 1).await;
            if fault == Fault::Stall {
                shop.clock.advance(Duration::from_secs(5));
            }
            let mut second = getting.await.unwrap();
            assert_ne!(session(&mut second).await, first, "{at:?} {fault:?}");
            assert_eq!(retired(&connector), [(reason, 1)], "{at:?} {fault:?}");
            until(|| shop.counters().open_connections == 1).await;
        }
    }
}

#[tokio::test]
async fn a_query_that_is_cut_off_fails_and_only_its_connection_is_retired() {
    for recycling in BOTH {
        for at in [At::Request, At::Answer] {
            let shop = Shop::open().await;
            let (pool, connector) = shop.pool_of_one(recycling);
            let mut a = pool.get().await.unwrap();
            let first = session(&mut a).await;
            shop.server().behaviour().disturb(1, at, Fault::Cut);
            let error = failure(&mut a, "SELECT 1 UNION ALL SELECT 2").await;
            assert!(matches!(error, tiberius::error::Error::Io { .. }), "{error:?}");
            drop(a);
            assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
            assert_eq!(retired(&connector), [(RetireReason::Closed, 1)], "{recycling:?} {at:?}");
        }
    }
}

#[tokio::test]
async fn an_error_that_ends_the_session_is_returned_once_and_retires_the_connection() {
    let killed = ServerError::new(596, 21, "Cannot continue: the session is in the kill state.");
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        shop.server().behaviour().fail_requests(1, killed.clone());
        assert_eq!(failure(&mut a, "SELECT 1").await.code(), Some(596));
        drop(a);
        assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
        assert_eq!(retired(&connector), [(RetireReason::SevereError, 1)], "{recycling:?}");
    }
}

#[tokio::test]
async fn an_error_that_ends_the_session_during_its_probe_reaches_no_borrower() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let first = session(&mut pool.get().await.unwrap()).await;
    shop.server().behaviour().fail_requests(1, ServerError::new(596, 21, "Killed."));
    assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
    assert_eq!(retired(&connector), [(RetireReason::SevereError, 1)]);
}

/// From now on, the server treats the tokens that it has seen as expired, although they have not
/// expired by the client's clock.
fn expire_tokens(shop: &Shop) {
    const DAY: u64 = 24 * 3600;
    shop.server().behaviour().age_tokens(Duration::from_secs(DAY + 1));
    let longer = i64::try_from(2 * DAY).unwrap();
    shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = longer);
}

#[tokio::test]
async fn a_token_that_expires_while_its_connection_is_checked_out_fails_one_query() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        expire_tokens(&shop);
        let error = failure(&mut a, "SELECT 1").await;
        assert_eq!(error.code(), Some(37396), "{error:?}");
        drop(a);
        assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
        assert_eq!(retired(&connector), [(RetireReason::SevereError, 1)], "{recycling:?}");
        // The login with the same token was refused, and retried with another token.
        assert_eq!((shop.token_requests(), connector.report().renewed), (2, 1));
    }
}

#[tokio::test]
async fn a_token_that_expires_in_an_idle_session_fails_no_query_with_clean_recycling() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Clean);
    let first = session(&mut pool.get().await.unwrap()).await;
    expire_tokens(&shop);
    assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
    assert_eq!(retired(&connector), [(RetireReason::SevereError, 1)]);
}

/// Servers that each route all logins to the next one. The last server accepts them.
async fn chain(shop: &Shop, length: usize) -> Vec<AzureSqlServer> {
    let mut servers = Vec::new();
    for _ in 0..length {
        servers.push(shop.another_server("localhost", |_| {}).await);
    }
    for pair in servers.windows(2) {
        pair[0].behaviour().route_logins(usize::MAX, "localhost", pair[1].addr().port());
    }
    servers
}

#[tokio::test]
async fn ten_routings_are_followed_and_eleven_are_not() {
    let shop = Shop::open().await;
    let servers = chain(&shop, 12).await;
    let [far, near] =
        [0, 1].map(|first| shop.connector_to("localhost", servers[first].addr().port(), ""));
    let mut connection = near.connect().await.unwrap();
    assert_eq!(number(&mut connection, "SELECT 7").await, 7);
    let last = servers[11].addr().port();
    assert_eq!(connection.server(), format!("localhost,{last}"));
    assert!(servers[1..11].iter().all(|server| server.counters().routed_logins == 1));
    assert_eq!(servers[11].counters().logins, 1);

    let error = refused_saying(&far, &["routes the login", &last.to_string()]).await;
    assert!(matches!(error, Error::Routing { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!(servers[11].counters().connections, 1, "there was no second connection");
    drop(connection);
    until(|| servers.iter().all(|server| server.counters().open_connections == 0)).await;
}

#[tokio::test]
async fn a_login_that_two_servers_route_to_each_other_fails() {
    let shop = Shop::open().await;
    let servers = chain(&shop, 2).await;
    servers[1].behaviour().route_logins(usize::MAX, "localhost", servers[0].addr().port());
    let connector = shop.connector_to("localhost", servers[0].addr().port(), "");
    let error = refused_saying(&connector, &["more than 10 times"]).await;
    assert!(matches!(error, Error::Routing { .. }) && !error.is_transient(), "{error:?}");
    let routed: Vec<_> = servers.iter().map(|server| server.counters().routed_logins).collect();
    assert_eq!(routed, [6, 5]);
}
