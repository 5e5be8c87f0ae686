//! Engines that are down, refuse, route, or cannot be trusted.

use entra_pool_emulator::{
    azure_sql::ServerError,
    certificates::{Authority, ServerCertificate},
    front::{EngineLogin, azure_sql::EngineTrust},
};

use crate::{Setup, engine_with, one, until};

#[tokio::test]
async fn an_engine_that_is_down_is_a_transient_error_and_comes_back() {
    let setup = Setup::new().await;
    let mut open = setup.login(&setup.token(0)).await.unwrap();
    setup.engine.refuse_connections(true).await.unwrap();
    setup.engine.behaviour().cut_connections();
    open.simple_query("SELECT 1").await.map(drop).unwrap_err();
    let (number, text) = setup.refusal(&setup.token(0)).await;
    assert!(number == 40613 && text.contains("'orders' on server 'localhost'"), "{text}");
    // Whoever has no valid token learns nothing of the engine.
    assert_eq!(setup.refusal("no token").await.0, 18456);
    setup.engine.refuse_connections(false).await.unwrap();
    let mut client = setup.login(&setup.token(0)).await.unwrap();
    assert_eq!(one::<i32>(&mut client, "SELECT 1").await, Some(1));
    let counters = setup.front.counters();
    assert_eq!((counters.logins, counters.logins_refused), (2, 2));
}

#[tokio::test]
async fn what_the_engine_says_to_the_login_is_handed_on() {
    let setup = Setup::with(|options| {
        let login = EngineLogin { user: "shop_login".into(), password: "wrong".into() };
        options.engine_logins.insert("shop-identity".into(), login);
    })
    .await;
    let refused = (18456, "Login failed for user 'shop_login'.".to_owned());
    assert_eq!(setup.refusal(&setup.token(0)).await, refused);
    let setup = Setup::new().await;
    let unavailable = ServerError::new(40613, 20, "Database 'orders' is resuming.");
    setup.engine.behaviour().fail_logins(1, unavailable);
    let refused = (40613, "Database 'orders' is resuming.".to_owned());
    assert_eq!(setup.refusal(&setup.token(0)).await, refused);
    assert_eq!(setup.front.counters().logins_refused, 1);
    setup.login(&setup.token(0)).await.unwrap();
}

#[tokio::test]
async fn routes_of_the_engine_are_followed_by_the_front() {
    let setup = Setup::new().await;
    let far = engine_with(&setup.authority, |options| options.instance = Some("far".into())).await;
    setup.engine.behaviour().route_logins(1, "localhost\\far", far.addr().port());
    let mut client = setup.login(&setup.token(0)).await.unwrap();
    assert_eq!(one::<String>(&mut client, "SELECT SUSER_SNAME()").await.unwrap(), "shop_login");
    assert_eq!((far.counters().logins, setup.engine.counters().logins_routed), (1, 1));
    // In a circle.
    let port = setup.engine.addr().port();
    setup.engine.behaviour().route_logins(usize::MAX, "localhost", port);
    assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
    assert_eq!(setup.engine.counters().logins_routed, 1 + 11);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_gets_no_password() {
    let other = Authority::new().unwrap();
    let setup = Setup::with(|options| {
        options.engine_trust = EngineTrust::CaFile(other.path());
    })
    .await;
    assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
    let counters = setup.engine.counters();
    assert_eq!((counters.prelogins, counters.logins, counters.logins_refused), (1, 0, 0));
    // Another name than the certificate's.
    let setup = Setup::with(|options| options.engine_host = "127.0.0.1".into()).await;
    assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
    // An engine without TLS.
    let plain = engine_with(&setup.authority, |options| options.decline_encryption = true).await;
    let setup = Setup::with(|options| options.engine_port = plain.addr().port()).await;
    assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
    assert_eq!(plain.counters().logins_in_plain_text, 0);
    until(|| plain.counters().open == 0).await;
}

#[tokio::test]
async fn a_container_with_a_certificate_of_its_own_is_taken_where_that_is_asked_for() {
    let own = ServerCertificate::self_signed(&["container"]).unwrap();
    let authority = Authority::new().unwrap();
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let tls = own.server_config_for(versions).unwrap();
        for kind in [0x12, 0x04] {
            let engine = engine_with(&authority, |options| {
                options.tls = tls.clone();
                options.handshake_packet_type = kind;
            })
            .await;
            let setup = Setup::with(|options| {
                options.engine_port = engine.addr().port();
                options.engine_trust = EngineTrust::DangerousAny;
            })
            .await;
            let mut client = setup.login(&setup.token(0)).await.unwrap();
            assert_eq!(one::<i32>(&mut client, "SELECT 1").await, Some(1), "{versions:?} {kind}");
        }
    }
}
