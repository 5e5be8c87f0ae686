//! Who is let in, and with which words the others are not.

use std::time::{Duration, SystemTime};

use entra_pool_emulator::{
    jwt::{Issuer, Principal, PrincipalKind},
    postgres::AUDIENCE,
};
use tokio_postgres::{NoTls, config::SslMode};

use super::Service;

#[tokio::test]
async fn a_role_logs_in_with_its_token() {
    let service = Service::start();
    for length in [1_500, 2_200, 8_000, 9_900] {
        let mut config = service.config();
        config.password(service.token(length));
        let client = service.connect_with(&config).await.unwrap();
        let row = client
            .query_one("SELECT current_user, current_database(), version()", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), "shop-identity");
        assert_eq!(row.get::<_, String>(1), "restaurant");
        assert!(row.get::<_, String>(2).starts_with("PostgreSQL 16"));
    }
    assert_eq!(service.server.counters().logins, 4);
    assert_eq!(service.server.counters().refused_logins, 0);
}

#[tokio::test]
async fn refusals_have_the_service_s_texts() {
    let service = Service::start();
    let now = SystemTime::now();
    let later = now + Duration::from_secs(60);
    let with = |token: String| {
        let mut config = service.config();
        config.password(token);
        config
    };
    let sign = |audience, expiry| service.issuer.sign(&service.shop, audience, expiry, 0);

    let expired = with(sign(AUDIENCE, now - Duration::from_secs(1)));
    assert_eq!(
        service.refusal(&expired).await,
        (
            "28P01".to_owned(),
            "The access token has expired. Please acquire a new token and retry".to_owned()
        )
    );
    let audience = with(sign("https://database.windows.net", later));
    assert_eq!(
        service.refusal(&audience).await,
        ("28P01".to_owned(), "The access token does not have a valid audience claim".to_owned())
    );
    let stranger = Principal::new("stranger", PrincipalKind::UserAssigned);
    let other = with(service.issuer.sign(&stranger, AUDIENCE, later, 0));
    assert_eq!(
        service.refusal(&other).await,
        ("28P01".to_owned(), "Azure AD access token not valid for role shop-identity".to_owned())
    );
    let failed = (
        "28P01".to_owned(),
        "password authentication failed for user \"shop-identity\"".to_owned(),
    );
    let forged = Issuer::new().sign(&service.shop, AUDIENCE, later, 0);
    assert_eq!(service.refusal(&with(forged)).await, failed);
    assert_eq!(service.refusal(&with("pencil".to_owned())).await, failed);

    let mut unknown = service.config();
    unknown.user("nobody");
    assert_eq!(
        service.refusal(&unknown).await,
        ("28000".to_owned(), "role \"nobody\" does not exist".to_owned())
    );
    let mut nowhere = service.config();
    nowhere.dbname("nowhere");
    assert_eq!(
        service.refusal(&nowhere).await,
        ("3D000".to_owned(), "database \"nowhere\" does not exist".to_owned())
    );
    assert_eq!(service.server.counters().logins, 0);
    assert_eq!(service.server.counters().refused_logins, 7);
}

#[tokio::test]
async fn a_role_that_is_removed_cannot_log_in() {
    let service = Service::start();
    service.connect().await;
    service.directory.remove("shop-identity");
    assert_eq!(service.refusal(&service.config()).await.0, "28000");
}

#[tokio::test]
async fn a_login_without_tls_is_refused_before_the_password() {
    let service = Service::start();
    let mut config = service.config();
    config.ssl_mode(SslMode::Disable);
    let refused = config.connect(NoTls).await.err().unwrap();
    let (code, message) = super::sqlstate(&refused);
    assert_eq!(code, "28000");
    assert!(message.ends_with("no encryption"), "{message}");
}

#[tokio::test]
async fn a_server_may_decline_tls() {
    let service = Service::start_with(|options| options.decline_tls = true);
    let refused = service.connect_with(&service.config()).await.err().unwrap();
    assert!(refused.as_db_error().is_none(), "{refused:?}");
    assert_eq!(service.server.counters().refused_logins, 0);
}

#[tokio::test]
async fn logins_are_refused_and_delayed_as_told() {
    let service = Service::start();
    service.server.refuse_logins("57P03", "the database system is starting up");
    assert_eq!(
        service.refusal(&service.config()).await,
        ("57P03".to_owned(), "the database system is starting up".to_owned())
    );
    service.server.accept_logins();
    service.server.delay_logins(Duration::from_millis(30));
    let start = std::time::Instant::now();
    service.connect().await;
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn connections_are_cut_and_the_server_goes_away() {
    let service = Service::start();
    let client = service.connect().await;
    assert_eq!(service.server.counters().open_connections, 1);
    service.server.cut_connections().await;
    assert!(client.simple_query("SELECT 1").await.is_err());
    service.server.wait_until(|counters| counters.open_connections == 0).await;

    service.connect().await;
    service.server.go_away().await.unwrap();
    assert!(service.connect_with(&service.config()).await.is_err());
    service.server.come_back().unwrap();
    service.connect().await;
    assert_eq!(service.server.counters().logins, 3);
}

#[tokio::test]
async fn nothing_that_is_printed_holds_a_token() {
    let service = Service::start();
    let token = service.token(0);
    let mut config = service.config();
    config.password(format!("{token}x"));
    let (_, message) = service.refusal(&config).await;
    assert!(!message.contains(&token));
    assert!(!format!("{:?}", service.server).contains(&token));
}
