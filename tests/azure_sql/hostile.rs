//! Text from a server is filtered before it appears in errors and logs.

use entra_pool::{azure_sql::Error, token::Scope};
use entra_pool_emulator::azure_sql::ServerError;

use crate::{
    Shop,
    support::{
        hostile::{assert_fit, assert_log_fit, shown, texts},
        logs::capture,
    },
};

/// The longest message for an ERROR token, whose length has 16 bits.
const LONGEST: usize = 30_000;

async fn secret(shop: &Shop) -> String {
    shop.identity.tokens(Scope::AZURE_SQL).token().await.unwrap().secret().to_owned()
}

fn assert_all_fit(what: &str, error: &Error, secret: &str) {
    for text in shown(error) {
        assert_fit(what, &text, secret);
    }
}

#[tokio::test]
async fn a_servers_login_error_is_filtered_before_it_is_shown_or_logged() {
    let shop = Shop::open().await;
    for at in 0..texts("").len() {
        for number in [18456, 4060, 40613] {
            let captured = capture();
            // A refused token is replaced: this is the first one that is sent.
            let secret = secret(&shop).await;
            let (what, text) = texts(&secret).swap_remove(at);
            let text: String = text.chars().take(LONGEST).collect();
            let what = format!("{number}: {what}");
            let error = ServerError::new(number, 14, &text);
            shop.server().behaviour().fail_logins(2, error);
            let error = shop.connector("ConnectRetryCount=0").connect().await.unwrap_err();
            shop.server().behaviour().calm();
            assert_eq!(error.server_error().unwrap().code(), number.unsigned_abs(), "{what}");
            assert!(error.server_error().unwrap().to_string().contains("no"), "{what}");
            let length = error.server_error().unwrap().message().chars().count();
            assert!(length <= 401, "{what}: {length} characters");
            assert_all_fit(&what, &error, &secret);
            assert_log_fit(&what, &captured.text(), &secret);
        }
    }
}

#[tokio::test]
async fn a_routing_target_is_filtered_before_it_is_shown_or_logged() {
    let shop = Shop::open().await;
    let secret = secret(&shop).await;
    let captured = capture();
    for (what, text) in texts(&secret) {
        let text: String = text.chars().take(200).collect();
        for target in
            [text.clone(), format!("{text}.elsewhere.invalid"), text.replace([' ', ':', '\''], "")]
        {
            shop.server().behaviour().route_logins(1, &target, 1433);
            let connector =
                shop.connector("ConnectRetryCount=0;Allow Routing To=elsewhere.invalid");
            let error = connector.connect().await.unwrap_err();
            assert_all_fit(what, &error, &secret);
        }
    }
    let text = format!("{}.elsewhere.invalid", &secret[secret.len() - 16..]);
    shop.server().behaviour().route_logins(1, &text, 1433);
    let connector = shop.connector("ConnectRetryCount=0;Allow Routing To=elsewhere.invalid");
    let error = connector.connect().await.unwrap_err();
    assert!(matches!(error, Error::Routing { .. }), "{error:?}");
    assert_all_fit("a name that is well formed", &error, &secret);
    assert_log_fit("log", &captured.text(), &secret);
}

/// A refused token is replaced, so the server that receives the second token knows the first.
#[tokio::test]
async fn a_second_login_is_not_routed_to_a_part_of_the_first_token() {
    let shop = Shop::open().await;
    let captured = capture();
    let secret = secret(&shop).await;
    let error = ServerError::new(18456, 1, "no");
    shop.server().behaviour().fail_logins(1, error);
    let target = format!("{}.elsewhere.invalid", &secret[secret.len() - 16..]);
    shop.server().behaviour().route_logins(1, &target, 1433);
    let connector = shop.connector("ConnectRetryCount=0;Allow Routing To=elsewhere.invalid");
    let error = connector.connect().await.unwrap_err();
    assert!(matches!(error, Error::Routing { .. }), "{error:?}");
    assert_eq!(connector.report().renewed, 1);
    assert_all_fit("the target", &error, &secret);
    assert_log_fit("log", &captured.text(), &secret);
}

#[tokio::test]
async fn a_failed_probe_is_logged_as_filtered_text() {
    let shop = Shop::open().await;
    let secret = secret(&shop).await;
    let (pool, _) = shop.pool_of_one(entra_pool::azure_sql::Recycling::Clean);
    for (what, text) in texts(&secret) {
        crate::run(&mut pool.get().await.unwrap(), "SELECT 1").await;
        let captured = capture();
        let text: String = text.chars().take(LONGEST).collect();
        shop.server().behaviour().fail_requests(1, ServerError::new(50_000, 16, text));
        drop(pool.get().await.unwrap());
        let log = captured.text();
        let line = log.lines().find(|line| line.contains("probe")).unwrap();
        assert!(line.len() < 2_000, "{what}: {} bytes", line.len());
        // The driver does not log the server's text either.
        assert_log_fit(what, &log, &secret);
    }
}

#[tokio::test]
async fn names_in_a_certificate_are_filtered_before_they_are_shown() {
    let shop = Shop::open().await;
    let names: Vec<String> = (0..500).map(|number| format!("name-{number}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for names in [&names[..], &["\u{1b}[31mred.example"]] {
        let other = entra_pool_emulator::azure_sql::AzureSqlOptions::new(
            std::sync::Arc::clone(shop.emulator.issuer()),
            std::sync::Arc::clone(shop.emulator.directory()),
            std::sync::Arc::new(entra_pool_emulator::database::Database::new().unwrap()),
            shop.emulator.authority().issue(names).unwrap().server_config().unwrap(),
        );
        let other = entra_pool_emulator::azure_sql::AzureSqlServer::start(other).await.unwrap();
        let error = shop.connector_to("localhost", other.addr().port(), "").connect().await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
        for text in shown(&error) {
            assert!(text.len() < 4_000 && !text.contains('\u{1b}'), "{} {text:.400}", text.len());
        }
    }
}

/// The second server may know the token: the server that routed the login has received it.
#[tokio::test]
async fn names_in_a_certificate_do_not_reveal_a_token_that_was_sent() {
    let shop = Shop::open().await;
    let secret = secret(&shop).await;
    let piece = format!("{}.example", &secret[secret.len() - 40..]);
    let other = shop.another_server(&piece, |_| {}).await;
    shop.server().behaviour().route_logins(1, "localhost", other.addr().port());
    let captured = capture();
    let error = shop.connector("ConnectRetryCount=0").connect().await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(format!("{error:?}").contains("redacted"), "{error:?}");
    assert_all_fit("the certificate", &error, &secret);
    assert_log_fit("log", &captured.text(), &secret);
}
