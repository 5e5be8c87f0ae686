//! Errors of the server: which one is reported, the advice for it, and whether its connection is
//! retired.

use std::error::Error as _;

use entra_pool::{
    azure_sql::{Config, Connector, Error, is_transient},
    connect::RetireReason,
};
use entra_pool_emulator::azure_sql::ServerError;

use crate::{Shop, logs::capture, number, pool, retired, run, session, sessions::BOTH};

fn error(number: i32, message: &str) -> ServerError {
    ServerError::new(number, 14, message)
}

#[tokio::test]
async fn all_errors_of_a_login_are_reported_and_the_most_useful_one_comes_first() {
    let shop = Shop::open().await;
    let failed = error(18456, "Login failed for user '<token-identified principal>'.");
    for (errors, order, refused) in [
        (vec![failed.clone(), error(40615, "seen 1")], vec![40615, 18456], false),
        (vec![error(4060, "seen 2"), failed.clone()], vec![4060, 18456], false),
        (
            vec![failed.clone(), error(17830, "seen 3"), error(4060, "seen 4")],
            vec![4060, 17830, 18456],
            false,
        ),
        (vec![failed.clone(), error(33155, "disconnected")], vec![33155, 18456], true),
        (vec![error(33155, "disconnected"), error(17830, "seen 3")], vec![33155, 17830], false),
        (vec![failed.clone()], vec![18456], true),
    ] {
        let connector = shop.connector("ConnectRetryCount=0");
        shop.server().behaviour().fail_logins_with(2, errors.clone());
        let failure = connector.connect().await.unwrap_err();
        shop.server().behaviour().calm();
        assert_eq!(matches!(failure, Error::LoginRefused(_)), refused, "{failure:?}");
        let mut codes = Vec::new();
        let mut next = failure.server_error();
        while let Some(error) = next {
            codes.push(error.code());
            next = error.source().and_then(|error| error.downcast_ref());
        }
        assert_eq!(codes, order, "{failure:?}");
        for error in &errors {
            assert_eq!(format!("{failure:?}").matches(&error.message).count(), 1, "{failure:?}");
        }
    }
}

/// A hostile server may send many long errors.
#[tokio::test]
async fn a_server_cannot_make_an_error_arbitrarily_long() {
    let shop = Shop::open().await;
    let errors = (0..50).map(|at| error(50_000 + at, &"long ".repeat(200)));
    shop.server().behaviour().fail_logins_with(1, errors);
    let failure = shop.connector("").connect().await.unwrap_err();
    let text = format!("{failure:?}");
    assert!(text.lines().count() <= 10 && text.len() < 6_000, "{text}");
}

#[tokio::test]
async fn transient_errors_are_retried_and_have_advice() {
    let shop = Shop::open().await;
    for (number, advice) in [
        (615, "Connect Timeout"),
        (921, "Connect Timeout"),
        (926, "Connect Timeout"),
        (18401, "Connect Timeout"),
        (40971, "Connect Timeout"),
        (10930, "Max Pool Size"),
        (10936, "Max Pool Size"),
    ] {
        let connector = shop.connector("ConnectRetryCount=0");
        shop.server().behaviour().fail_logins(1, error(number, "as the server says"));
        let failure = connector.connect().await.unwrap_err();
        assert!(failure.is_transient(), "{failure:?}");
        assert!(failure.to_string().contains(advice), "{failure}");
    }
}

#[tokio::test]
async fn an_error_without_advice_has_a_reason_in_its_first_line() {
    let shop = Shop::open().await;
    for number in [233, 17830] {
        let connector = shop.connector("ConnectRetryCount=0");
        shop.server().behaviour().fail_logins(1, error(number, "as the server says"));
        let failure = connector.connect().await.unwrap_err().to_string();
        assert!(failure.ends_with(" failed: the server returned an error"), "{failure}");
    }
}

#[tokio::test]
async fn the_error_for_an_unacceptable_token_names_the_tenant_and_the_administrator() {
    let shop = Shop::open().await;
    for text in [
        "Login failed for user '<token-identified principal>'. The server is not currently configured to accept this token.",
        "Login failed for user '<token-identified principal>'. Incorrect or invalid token",
    ] {
        let connector = shop.connector("");
        shop.server().behaviour().fail_logins(2, error(18456, text));
        let failure = connector.connect().await.unwrap_err();
        assert!(matches!(failure, Error::LoginRefused(_)), "{failure:?}");
        let tenant = entra_pool_emulator::jwt::TENANT_ID;
        for fact in [tenant, "Entra administrator", "az sql server ad-admin list"] {
            assert!(failure.to_string().contains(fact), "{fact} is missing: {failure}");
        }
        assert!(!failure.to_string().contains("CREATE USER"), "{failure}");
    }
}

#[tokio::test]
async fn a_command_in_an_error_contains_no_server_text_except_an_address() {
    let shop = Shop::open().await;
    for (address, shown) in [("192.0.2.7", "192.0.2.7"), ("$(reboot)", "ADDRESS"), ("::1", "::1")] {
        let text =
            format!("Client with IP address '{address}' is not allowed to access the server.");
        shop.server().behaviour().fail_logins(1, error(40615, &text));
        let failure = shop.connector("").connect().await.unwrap_err();
        let command = format!("--server SERVER --name app --start-ip-address {shown} ");
        assert!(failure.to_string().contains(&command), "{failure}");
    }
}

#[tokio::test]
async fn a_connection_to_a_read_only_database_is_retired_unless_the_intent_is_read_only() {
    for recycling in BOTH {
        for (intent, reasons) in
            [("", vec![(RetireReason::ReadOnly, 1)]), ("ApplicationIntent=ReadOnly", vec![])]
        {
            let shop = Shop::open().await;
            let connector = crate::recycled(&shop.connector(intent), recycling);
            let pool = pool(&connector, 1);
            let mut connection = pool.get().await.unwrap();
            let first = session(&mut connection).await;
            let read_only = error(
                3906,
                "Failed to update database \"orders\" because the database is read-only.",
            );
            shop.server().behaviour().fail_requests(1, read_only);
            let failure = connection.simple_query("DELETE FROM t").await.unwrap_err();
            assert!(is_transient(&failure), "{failure}");
            drop(connection);
            let next = session(&mut pool.get().await.unwrap()).await;
            assert_eq!(next == first, reasons.is_empty(), "{recycling:?} {intent}");
            assert_eq!(retired(&connector), reasons, "{recycling:?} {intent}");
        }
    }
}

/// A dedicated SQL pool of Synapse. It is cleaned at the checkout, where the log is captured.
#[tokio::test]
async fn a_server_without_read_committed_is_cleaned_without_it_and_reported_once() {
    let captured = capture();
    let counts = synapse(false).await;
    let warnings = captured.text().matches("refuses READ COMMITTED").count();
    assert_eq!((counts, warnings), ((1, vec![]), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_read_committed_is_cleaned_in_the_background() {
    assert_eq!(synapse(true).await, (1, vec![]));
}

/// Logins and retirements after 100 checkouts, some of which leave a transaction open.
async fn synapse(transactions: bool) -> (u64, Vec<(RetireReason, u64)>) {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(entra_pool::azure_sql::Recycling::Clean);
    for checkout in 0..100 {
        let mut connection = pool.get().await.unwrap();
        // The session is reset, and an open transaction rolled back.
        assert_eq!(number(&mut connection, "SELECT @@TRANCOUNT").await, 0);
        if checkout == 0 {
            run(&mut connection, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await;
        }
        // No cleaning sets READ COMMITTED again.
        let level = "SELECT transaction_isolation_level FROM sys.dm_exec_sessions";
        assert_eq!(number(&mut connection, level).await, 4);
        if transactions && checkout % 10 == 0 {
            run(&mut connection, "BEGIN TRANSACTION").await;
        }
        if checkout == 0 {
            let text = "Parse error at line: 1, column: 33: Incorrect syntax near 'COMMITTED'.";
            // For the whole cleaning, then for its second statement.
            shop.server().behaviour().fail_requests(2, error(103_010, text));
        }
    }
    (shop.counters().logins, retired(&connector))
}

#[tokio::test]
async fn other_errors_of_the_cleaning_do_not_disable_the_reset_of_isolation_levels() {
    let shop = Shop::open().await;
    let captured = capture();
    for code in [40501, 50_000] {
        let (pool, connector) = shop.pool_of_one(entra_pool::azure_sql::Recycling::Clean);
        let mut connection = pool.get().await.unwrap();
        run(&mut connection, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await;
        shop.server().behaviour().fail_requests(1, error(code, "as the server says"));
        drop(connection);
        let mut next = pool.get().await.unwrap();
        let level = "SELECT transaction_isolation_level FROM sys.dm_exec_sessions";
        assert_eq!(number(&mut next, level).await, 2);
        assert_eq!(retired(&connector), [(RetireReason::Recycling, 1)]);
        shop.server().behaviour().calm();
    }
    assert!(!captured.text().contains("refuses READ COMMITTED"), "{}", captured.text());
}

/// `main` prints the `Debug` text of the error that it returns.
#[test]
fn debug_consists_of_the_messages_of_the_error_and_its_causes() {
    let error = "Server=x;Foo=1".parse::<Config>().unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
    let error = Error::from(error);
    assert_eq!(format!("{error:?}"), error.to_string());
    let _: fn(Config, _) -> Result<Connector, Error> = Connector::new;
}
