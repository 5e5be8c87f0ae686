//! Logins use the shared engine: one token, refreshed once; retries, one deadline, typed errors.

use std::time::Duration;

use entra_pool::{
    adapters::mssql_tds::{Connection, Connector},
    azure_sql::{Encrypt, Error},
    connect::Stage,
    token::Scope,
};
use entra_pool_emulator::azure_sql::{Fault, ServerError, Stage as At};

use crate::{
    HOUR, Shop,
    credential::said,
    logs::{assert_no_token, capture},
    number, session, text, until,
};

const RESOURCE: &str = "https://database.windows.net";

fn login_failed() -> ServerError {
    ServerError::new(18456, 14, "Login failed for user '<token-identified principal>'.")
}

/// Returns the error of a connect, after checking that it and its sources contain no token.
async fn refused(connector: &Connector) -> Error {
    let error = connector.connect().await.expect_err("the connect succeeded");
    assert_no_token(&said(&error));
    error
}

/// Connects, and skips the pauses between its logins.
pub(crate) async fn without_pauses(
    shop: &Shop,
    connector: &Connector,
) -> Result<Connection, Error> {
    let connecting = connector.connect();
    tokio::pin!(connecting);
    let mut skipped = connector.report().retried;
    loop {
        // The time limit sleeps as well.
        let pausing = until(|| connector.report().retried > skipped && shop.clock.sleepers() > 1);
        tokio::select! {
            biased;
            result = &mut connecting => return result,
            () = pausing => {}
        }
        skipped = connector.report().retried;
        shop.clock.advance(shop.clock.next_wake().unwrap());
    }
}

#[tokio::test]
async fn one_token_logs_in_all_connections_and_the_settings_reach_the_server() {
    let shop = Shop::open().await;
    shop.emulator.identity().configure_tokens(|tokens| tokens.length = 8_000);
    let port = shop.server.addr().port();
    for encrypt in [Encrypt::Mandatory, Encrypt::Strict] {
        let more = "Application Name=till;Workstation ID=desk;Packet Size=4096";
        let connector = shop.connector_to(port, more, |config| config.encrypt(encrypt));
        let mut client = connector.connect().await.unwrap();
        assert_eq!(text(&mut client, "SELECT APP_NAME()").await.as_deref(), Some("till"));
        assert_eq!(text(&mut client, "SELECT DB_NAME()").await.as_deref(), Some("orders"));
        let user = text(&mut client, "SELECT USER_NAME()").await;
        assert_eq!(user.as_deref(), Some("shop-identity"));
        assert_eq!(connector.report().logins, 1);
    }
    assert_eq!(shop.emulator.identity().requests_for(RESOURCE), 1);
}

#[tokio::test]
async fn a_refused_login_is_retried_once_with_a_newer_token() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 3600);
    let mut first = connector.connect().await.unwrap();
    shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 24 * 3600);
    shop.server.behaviour().fail_logins(1, login_failed());
    let mut second = connector.connect().await.unwrap();
    assert_eq!(shop.emulator.identity().requests_for(RESOURCE), 2);
    let report = connector.report();
    assert_eq!((report.logins, report.refused, report.renewed), (2, 0, 1));
    assert_ne!(session(&mut first).await, session(&mut second).await);
}

#[tokio::test]
async fn a_login_that_stays_refused_names_the_identity_and_what_to_do() {
    let shop = Shop::open().await;
    shop.emulator.directory().remove("shop-identity");
    let error = refused(&shop.connector("")).await;
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
    assert_eq!(error.server_error().unwrap().code(), 18456);
    for fact in ["shop-identity", "CREATE USER", "orders"] {
        assert!(said(&error).contains(fact), "{fact}: {}", said(&error));
    }
}

#[tokio::test]
async fn only_transient_errors_are_retried() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    let paused = ServerError::new(40613, 14, "Database 'orders' is not currently available.");
    shop.server.behaviour().fail_logins(2, paused);
    let mut client = without_pauses(&shop, &connector).await.unwrap();
    assert_eq!(number(&mut client, "SELECT 1").await, 1);
    assert_eq!(connector.report().retried, 2);

    // A connection that is closed during the login may recover.
    shop.server.behaviour().disturb(1, At::Login, Fault::Cut);
    drop(without_pauses(&shop, &connector).await.unwrap());
    assert_eq!(connector.report().retried, 3);

    let blocked = ServerError::new(40615, 14, "Client with IP address '192.0.2.7' is not allowed.");
    shop.server.behaviour().fail_logins(1, blocked);
    let error = refused(&connector).await;
    assert_eq!(error.server_error().unwrap().code(), 40615);
    assert!(said(&error).contains("--start-ip-address 192.0.2.7"), "{}", said(&error));
    assert_eq!(connector.report().retried, 3);
}

#[tokio::test]
async fn one_deadline_covers_the_whole_connect_and_names_its_stage() {
    let shop = Shop::open().await;
    let connector = shop.connector("Connect Timeout=7");
    let tokens = shop.identity.tokens(Scope::AZURE_SQL);
    tokens.warm_up().await.unwrap();
    shop.server.behaviour().delay_logins(HOUR);
    let connecting = refused(&connector);
    tokio::pin!(connecting);
    tokio::select! {
        error = &mut connecting => panic!("{error:?}"),
        () = until(|| shop.counters().prelogins == 1 && shop.clock.sleepers() == 1) => {}
    }
    shop.clock.advance(Duration::from_secs(7));
    let error = connecting.await;
    let Error::TimedOut { stage, limit, .. } = error else { panic!("{error:?}") };
    assert_eq!((stage, limit), (Stage::Driver, Duration::from_secs(7)));
    until(|| shop.counters().open_connections == 0).await;
}

#[tokio::test]
async fn an_unreachable_server_and_an_unknown_host_name_have_different_errors() {
    let shop = Shop::open().await;
    let port = shop.server.addr().port();
    shop.server.go_away().await.unwrap();
    let error = refused(&shop.connector_to(port, "", |config| config)).await;
    assert!(matches!(error, Error::Dial { .. }), "{error:?}");
    let config = "Server=nowhere.invalid;Entra Scope=https://database.windows.net/.default";
    let config: entra_pool::azure_sql::Config = config.parse().unwrap();
    let tokens = shop.identity.tokens(Scope::AZURE_SQL);
    let error = refused(&Connector::new(config, tokens).unwrap()).await;
    assert!(matches!(error, Error::Resolve { .. }), "{error:?}");
}

#[tokio::test]
async fn no_token_is_logged_or_shown() {
    let shop = Shop::open().await;
    let capture = capture();
    let connector = shop.connector("");
    let pool = connector.pool_builder().max_size(2).build();
    let mut first = pool.get().await.unwrap();
    assert_eq!(number(&mut first, "SELECT 1").await, 1);
    shop.server.behaviour().fail_logins(1, login_failed());
    drop(pool.get().await.unwrap());
    drop(pool.get().await.unwrap());
    shop.emulator.directory().remove("shop-identity");
    assert!(matches!(refused(&shop.connector("")).await, Error::LoginRefused(_)));
    assert_no_token(&format!("{pool:?} {connector:?} {first:?}"));
    let logged = capture.text();
    assert!(
        logged.contains("TRACE") && logged.contains("mssql_tds"),
        "the log includes the level TRACE"
    );
    assert_no_token(&logged);
}

#[tokio::test]
async fn a_token_that_the_server_repeats_in_its_refusal_is_not_logged() {
    let shop = Shop::open().await;
    let token = shop.identity.tokens(Scope::AZURE_SQL).token().await.unwrap();
    let capture = capture();
    let echo = ServerError::new(18456, 14, format!("Login failed: {}", token.secret()));
    shop.server.behaviour().fail_logins(2, echo);
    refused(&shop.connector("")).await;
    assert_no_token(&capture.text());
}

#[tokio::test]
async fn the_events_of_a_health_check_are_not_those_of_the_driver() {
    let shop = Shop::open().await;
    let (pool, _) = shop.pool_of_one();
    drop(pool.get().await.unwrap());
    shop.clock.advance(Duration::from_secs(2));
    let capture = capture();
    drop(pool.get().await.unwrap());
    assert_eq!(shop.counters().resets, 1);
    assert!(!capture.text().contains("mssql_tds"), "{}", capture.text());
}

#[test]
fn a_query_error_is_transient_by_its_number_or_if_the_connection_broke() {
    use entra_pool::adapters::mssql_tds::{
        is_transient,
        mssql_tds::error::{Error, SqlErrorInfo},
    };

    let number = |number| {
        Error::from_sql_error(SqlErrorInfo {
            message: "chosen by the test".to_owned(),
            state: 1,
            class: 16,
            number,
            server_name: None,
            proc_name: None,
            line_number: None,
        })
    };
    for (error, transient) in [
        (number(1205), true),
        (number(40613), true),
        (number(37396), true),
        (number(2627), false),
        (Error::ConnectionClosed("by the test".to_owned()), true),
        (Error::ConnectionResetNotAcknowledged, true),
        (Error::UsageError("by the test".to_owned()), false),
    ] {
        assert_eq!(is_transient(&error), transient, "{error}");
    }
}
