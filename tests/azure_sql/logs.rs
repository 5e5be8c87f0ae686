//! The logs contain the TLS version in use, and never a token.

use entra_pool::azure_sql::Error;

pub(crate) use crate::support::logs::{assert_no_token, capture};
use crate::{Shop, login_failed, number, pool, refused};

#[tokio::test]
async fn no_token_is_logged_whatever_happens() {
    let shop = Shop::open().await;
    let capture = capture();
    let connector = shop.connector("");
    let pool = pool(&connector, 2);
    let mut first = pool.get().await.unwrap();
    assert_eq!(number(&mut first, "SELECT 1").await, 1);
    shop.server().behaviour().fail_logins(1, login_failed());
    drop(pool.get().await.unwrap());
    drop(pool.get().await.unwrap());
    shop.emulator.directory().remove("shop-identity");
    assert!(matches!(refused(&shop.connector("")).await, Error::LoginRefused(_)));
    let token = shop.identity.tokens(entra_pool::token::Scope::AZURE_SQL).token().await.unwrap();
    let shown = format!("{pool:?} {connector:?} {first:?} {:?} {token:?}", connector.report());
    assert_no_token(&shown);

    let logged = capture.text();
    assert!(logged.contains("TRACE"), "the level TRACE is enabled");
    assert!(logged.contains("token fetched"), "the crate's own events are logged");
    assert!(logged.contains("rustls"), "events of the log crate are logged");
    assert_no_token(&logged);
    assert!(!logged.contains(&token.secret()[..20]));
}

#[tokio::test]
async fn the_tls_version_is_logged_and_no_login_is_called_unencrypted() {
    let shop = Shop::open().await;
    let capture = capture();
    let mut connection = shop.connector("").connect().await.unwrap();
    assert_eq!(number(&mut connection, "SELECT 1").await, 1);
    let logged = capture.text();
    let line = logged.lines().find(|line| line.contains("logging in over TLS")).unwrap();
    assert!(line.contains("TLSv1_3") && line.contains("TLS13_AES_256_GCM_SHA384"), "{line}");
    assert!(logged.contains("tiberius"), "the driver's other events are logged");
    assert!(!logged.to_lowercase().contains("unencrypted"), "{logged}");
    assert!(!logged.contains(" WARN "), "{logged}");
}
