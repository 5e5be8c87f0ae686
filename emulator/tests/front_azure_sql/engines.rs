//! Engines that are unavailable, refuse, route, or cannot be trusted.

use entra_pool_emulator::{
    azure_sql::ServerError,
    certificates::{Authority, ServerCertificate},
    front::{EngineLogin, azure_sql::EngineTrust},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{Setup, engine, engine_with, one};

#[tokio::test]
async fn an_unavailable_engine_causes_a_transient_error() {
    let setup = Setup::new().await;
    let mut open = setup.login(&setup.token(0)).await.unwrap();
    setup.engine.go_away().await.unwrap();
    open.simple_query("SELECT 1").await.map(drop).unwrap_err();
    let (number, text) = setup.refusal(&setup.token(0)).await;
    assert!(number == 40613 && text.contains("'orders' on server 'localhost'"), "{text}");
    // A client without a valid token gets no information about the engine.
    assert_eq!(setup.refusal("no token").await.0, 18456);
    setup.engine.come_back().unwrap();
    let mut client = setup.login(&setup.token(0)).await.unwrap();
    assert_eq!(one::<i32>(&mut client, "SELECT 1").await, Some(1));
    let counters = setup.front.counters();
    assert_eq!((counters.logins, counters.refused_logins), (2, 2));
}

#[tokio::test]
async fn the_engines_answer_to_the_login_is_forwarded() {
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
    assert_eq!(setup.front.counters().refused_logins, 1);
    setup.login(&setup.token(0)).await.unwrap();
}

#[tokio::test]
async fn the_front_follows_the_engines_routing() {
    let setup = Setup::new().await;
    let far = engine(&setup.authority).await;
    setup.engine.behaviour().route_logins(1, "localhost\\far", far.addr().port());
    let mut client = setup.login(&setup.token(0)).await.unwrap();
    assert_eq!(one::<String>(&mut client, "SELECT SUSER_SNAME()").await.unwrap(), "shop_login");
    assert_eq!((far.counters().logins, setup.engine.counters().routed_logins), (1, 1));
    assert_eq!(far.behaviour().server_name(), "localhost\\far");
    // A loop.
    let port = setup.engine.addr().port();
    setup.engine.behaviour().route_logins(usize::MAX, "localhost", port);
    assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
    assert_eq!(setup.engine.counters().routed_logins, 1 + 11);
}

#[tokio::test]
async fn an_engine_without_a_trusted_certificate_gets_no_password() {
    let other = Authority::new().unwrap();
    let setup = Setup::with(|options| {
        options.engine_trust = EngineTrust::CaFile(other.path());
    })
    .await;
    assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
    let counters = setup.engine.counters();
    assert_eq!((counters.prelogins, counters.logins, counters.refused_logins), (1, 0, 0));
    // A host name that is not in the certificate.
    let setup = Setup::with(|options| options.engine.0 = "127.0.0.1".into()).await;
    assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
}

#[tokio::test]
async fn an_engine_without_tls_gets_only_the_prelogin() {
    let engine = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = engine.local_addr().unwrap().port();
    let received = tokio::spawn(async move {
        let (mut stream, _) = engine.accept().await.unwrap();
        // VERSION and ENCRYPTION: not supported.
        let options = [0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 255, 16, 0, 0, 0, 0, 0, 2];
        stream.write_all(&[&[4, 1, 0, 26, 0, 0, 1, 0][..], &options].concat()).await.unwrap();
        let mut received = Vec::new();
        drop(stream.read_to_end(&mut received).await);
        received
    });
    let setup = Setup::with(|front| front.engine.1 = port).await;
    assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
    let received = received.await.unwrap();
    assert_eq!((received[0], usize::from(received[3])), (18, received.len()));
}

#[tokio::test]
async fn a_self_signed_certificate_is_accepted_if_the_options_allow_it() {
    let own = ServerCertificate::self_signed(&["container"]).unwrap();
    let authority = Authority::new().unwrap();
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let tls = own.server_config_for(versions).unwrap();
        for kind in [0x12, 0x04] {
            let engine = engine_with(&authority, |options| {
                options.endpoint.tls = tls.clone();
                options.endpoint.handshake_packet_type = kind;
            })
            .await;
            let setup = Setup::with(|options| {
                options.engine.1 = engine.addr().port();
                options.engine_trust = EngineTrust::DangerousAny;
            })
            .await;
            let mut client = setup.login(&setup.token(0)).await.unwrap();
            assert_eq!(one::<i32>(&mut client, "SELECT 1").await, Some(1), "{versions:?} {kind}");
        }
    }
}
