//! Transient failures are retried until the deadline. The manual clock is advanced from pause to
//! pause.

use std::time::Duration;

use entra_pool::{
    azure_sql::{Connector, Error, is_transient},
    clock::Clock,
    connect::Stage,
};
use entra_pool_emulator::azure_sql::ServerError;

use crate::{Shop, number, support::credential::said, until, without_pauses};

fn paused() -> ServerError {
    ServerError::new(40613, 14, "Database 'orders' on server 'shop' is not currently available.")
}

/// A connector with `more` keywords, whose token is cached.
async fn connector(shop: &Shop, more: &str) -> Connector {
    let connector = shop.connector(more);
    connector.tokens().warm_up().await.unwrap();
    connector
}

#[tokio::test]
async fn a_connect_waits_for_a_paused_database() {
    let shop = Shop::open().await;
    let connector = connector(&shop, "Connect Timeout=60").await;
    // It resumes after 40 s.
    shop.server().behaviour().fail_logins(1, paused());
    let began = shop.clock.monotonic();
    let connecting = connector.connect();
    tokio::pin!(connecting);
    let mut retries = 0;
    let mut connection = loop {
        tokio::select! {
            biased;
            connected = &mut connecting => break connected.unwrap(),
            () = until(|| connector.report().retried > retries && shop.clock.sleepers() > 1) => {
                shop.clock.advance(shop.clock.next_wake().unwrap());
            }
        }
        retries += 1;
        if shop.clock.monotonic() - began < Duration::from_secs(40) {
            shop.server().behaviour().fail_logins(1, paused());
        }
    };
    assert_eq!(number(&mut connection, "SELECT 1").await, 1);
    let spent = shop.clock.monotonic() - began;
    assert!((40..60).contains(&spent.as_secs()), "{spent:?}");
    // With back-off: pauses of up to 5 s, a quarter more or less.
    assert!((7..=15).contains(&retries), "{retries}");
    assert_eq!((connector.report().retried, shop.token_requests()), (retries, 1));
}

#[tokio::test]
async fn a_database_that_stays_paused_is_reported_before_the_deadline() {
    let shop = Shop::open().await;
    let connector = connector(&shop, "Connect Timeout=15").await;
    shop.server().behaviour().fail_logins(100, paused());
    let began = shop.clock.monotonic();
    let error = without_pauses(&shop, &connector).await.unwrap_err();
    assert!(shop.clock.monotonic() - began <= Duration::from_secs(15));
    assert!(matches!(error, Error::Login { .. }) && error.is_transient(), "{error:?}");
    assert_eq!(error.server_error().unwrap().code(), 40613);
    assert!(said(&error).contains("Connect Timeout"), "{}", said(&error));
}

#[tokio::test]
async fn a_timeout_contains_the_error_of_the_previous_attempt() {
    let shop = Shop::open().await;
    let connector = connector(&shop, "").await;
    shop.server().behaviour().fail_logins(1, paused());
    let connecting = connector.connect();
    tokio::pin!(connecting);
    tokio::select! {
        biased;
        _ = &mut connecting => panic!("the database is paused"),
        () = until(|| connector.report().retried == 1 && shop.clock.sleepers() > 1) => {}
    }
    // For a readiness probe that gives up before the connect.
    let report = connector.report();
    assert!(report.last_error.as_deref().unwrap().contains("(error 40613"), "{report}");
    assert!(report.to_string().contains("last_error="), "{report}");
    shop.server().behaviour().delay_logins(Duration::from_secs(3600));
    let capture = crate::logs::capture();
    shop.clock.advance(shop.clock.next_wake().unwrap());
    tokio::select! {
        biased;
        _ = &mut connecting => panic!("the server does not answer"),
        () = until(|| capture.text().contains("logging in")) => {}
    }
    shop.clock.advance(Duration::from_secs(15));
    let error = connecting.await.unwrap_err();
    let Error::TimedOut { stage: Stage::Login, source: Some(previous), .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(previous.server_error().unwrap().code(), 40613);
    assert!(said(&error).contains("not currently available"), "{}", said(&error));
}

#[tokio::test]
async fn a_permanent_error_is_returned_at_once() {
    let shop = Shop::open().await;
    let connector = connector(&shop, "").await;
    let firewall = ServerError::new(40615, 14, "Client with IP address '192.0.2.7' is not allowed");
    shop.server().behaviour().fail_logins(1, firewall);
    let error = connector.connect().await.unwrap_err();
    assert_eq!(error.server_error().unwrap().code(), 40615);
    assert!(said(&error).contains("firewall"), "{}", said(&error));
    assert_eq!((shop.counters().refused_logins, connector.report().retried), (1, 0));
    assert!(connector.report().last_error.unwrap().contains("(error 40615"));
    connector.connect().await.unwrap();
    assert_eq!(connector.report().last_error, None);
}

#[tokio::test]
async fn connects_to_a_server_that_accepted_a_login_are_retried_until_the_deadline() {
    let shop = Shop::open().await;
    let connector = connector(&shop, "").await;
    connector.connect().await.unwrap();
    shop.server().go_away().await.unwrap();
    let error = without_pauses(&shop, &connector).await.unwrap_err();
    assert!(matches!(error, Error::Dial { .. }) && error.is_transient(), "{error:?}");
    // Pauses of 1, 2, 4, 5 s with jitter, and half of the remaining time at the end.
    assert!(connector.report().retried > 3, "{}", connector.report());
    shop.server().come_back().unwrap();
    connector.connect().await.unwrap();
}

#[tokio::test]
async fn a_failed_query_is_classified_as_transient_or_not() {
    let shop = Shop::open().await;
    let mut connection = connector(&shop, "").await.connect().await.unwrap();
    let mut failed = async |error: ServerError| {
        shop.server().behaviour().fail_requests(1, error);
        connection.simple_query("SELECT 1").await.unwrap_err()
    };
    let cases = [(1205, true), (40501, true), (229, false), (2627, false), (37396, true)];
    // The last error ends the session.
    for (number, transient) in cases {
        let error = failed(ServerError::new(number, 14, "as asked for")).await;
        assert_eq!(error.code(), u32::try_from(number).ok(), "{error}");
        assert_eq!(is_transient(&error), transient, "{error}");
    }
    let broken = failed(ServerError::new(1205, 14, "not seen")).await;
    assert!(is_transient(&broken), "{broken}");
}
