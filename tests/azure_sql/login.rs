//! Logins: shared tokens, tokens of any length, retries with a new token, and routing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool::{
    azure_sql::{self, Error},
    postgres,
    token::{CredentialError, Scope, Token, TokenCredential, TokenRequest},
};
use entra_pool_emulator::{
    azure_sql::{Fault, ServerError, Stage},
    network::Network,
};

use crate::{
    RESOURCE, Shop, login_failed, pool, refused, refused_saying, session,
    support::credential::said, text, until,
};

const POSTGRESQL: &str = "https://ossrdbms-aad.database.windows.net";

#[tokio::test]
async fn all_pools_of_an_identity_share_one_token_per_scope() {
    let shop = Shop::open().await;
    let mut borrowers = Vec::new();
    for _ in 0..3 {
        let orders = azure_sql::pool_with(&shop.identity, &shop.string());
        let menu = postgres::pool_with(&shop.identity, &shop.emulator.postgres_url());
        let (orders, menu) = (orders.unwrap(), menu.unwrap());
        orders.resize(4);
        menu.resize(4);
        for _ in 0..4 {
            let (orders, menu) = (orders.clone(), menu.clone());
            borrowers.push(tokio::spawn(async move {
                (orders.get().await.unwrap(), menu.get().await.unwrap())
            }));
        }
    }
    let mut borrowed = Vec::new();
    for borrower in borrowers {
        borrowed.push(borrower.await.unwrap());
    }
    assert_eq!(borrowed.len(), 12);
    assert_eq!(shop.counters().logins, 12);
    assert_eq!(shop.emulator.identity().requests_for(RESOURCE), 1);
    assert_eq!(shop.emulator.identity().requests_for(POSTGRESQL), 1);
    assert_eq!(shop.emulator.identity().requests(), 2);
}

#[tokio::test]
async fn connectors_of_one_identity_share_its_token() {
    let shop = Shop::open().await;
    for logins in 1..=4 {
        // Each login has a new connector; only the identity is shared.
        shop.connector("").connect().await.unwrap();
        assert_eq!((shop.counters().logins, shop.token_requests()), (logins, 1));
    }
}

#[tokio::test]
async fn a_token_of_any_length_logs_in() {
    for length in [1_500, 2_200, 8_000] {
        let shop = Shop::open().await;
        shop.emulator.identity().configure_tokens(|tokens| tokens.length = length);
        let token = shop.identity.tokens(Scope::AZURE_SQL).token().await.unwrap();
        assert!(token.secret().len().abs_diff(length) < 10);
        let mut connection = shop.connector("").connect().await.unwrap();
        let user = text(&mut connection, "SELECT USER_NAME()").await;
        assert_eq!(user.as_deref(), Some("shop-identity"), "{length} characters");
    }
}

#[tokio::test]
async fn settings_of_the_connection_string_reach_the_server() {
    let shop = Shop::open().await;
    let mut connection = shop.connector("Application Name=till").connect().await.unwrap();
    assert_eq!(text(&mut connection, "SELECT APP_NAME()").await.as_deref(), Some("till"));
    assert_eq!(text(&mut connection, "SELECT DB_NAME()").await.as_deref(), Some("orders"));
    let row = connection.query("SELECT @P1 + 1", &[&41_i32]).await.unwrap();
    assert_eq!(row.into_row().await.unwrap().unwrap().get::<i32, _>(0), Some(42));
}

#[tokio::test]
async fn a_refused_login_is_retried_once_with_a_newer_token() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    let pool = pool(&connector, 2);
    shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 3600);
    let mut first = pool.get().await.unwrap();
    assert_eq!(shop.token_requests(), 1);

    shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 24 * 3600);
    shop.server().behaviour().fail_logins(1, login_failed());
    let mut second = pool.get().await.unwrap();
    assert_eq!(shop.token_requests(), 2);
    let counters = shop.counters();
    assert_eq!((counters.logins, counters.refused_logins), (2, 1));
    let report = connector.report();
    assert_eq!((report.logins, report.refused, report.renewed), (2, 0, 1));
    let (one, other) = (session(&mut first).await, session(&mut second).await);
    assert_ne!(one, other, "the first connection stays open");
    // There is a token with a later expiry, but the connection's own token is valid for a while.
    drop(first);
    assert_eq!(session(&mut pool.get().await.unwrap()).await, one);
    assert_eq!(connector.report().retired, []);
}

#[tokio::test]
async fn a_token_that_expires_during_the_login_is_replaced_and_not_reported_as_refused() {
    // Longer than the token's lifetime.
    const STALLED: Duration = Duration::from_secs(25 * 3600);
    let shop = Shop::open().await;
    let network = Network::to(shop.server().addr()).unwrap();
    let port = network.addr().port();
    let connector = shop.connector_to("localhost", port, "Connect Timeout=172800");
    for endpoint_is_up in [true, false] {
        network.hold();
        let connections = network.counters().connections;
        let connecting = tokio::spawn({
            let connector = connector.clone();
            async move { connector.connect().await }
        });
        until(|| network.counters().connections > connections).await;
        shop.server().behaviour().fail_logins(1, login_failed());
        if !endpoint_is_up {
            shop.emulator.identity().go_away().await.unwrap();
        }
        shop.clock.advance(STALLED);
        network.release();
        let connected = connecting.await.unwrap();
        if endpoint_is_up {
            connected.unwrap();
            assert_eq!((shop.token_requests(), connector.report().renewed), (2, 1));
        } else {
            let error = connected.unwrap_err();
            assert!(matches!(error, Error::Token { .. }) && error.is_transient(), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_reported_even_if_the_identity_endpoint_never_responds() {
    let shop = Shop::open().await;
    shop.connector("").connect().await.unwrap();
    let connector = shop.connector("");
    shop.server().behaviour().fail_logins(1, login_failed());
    shop.emulator.identity().hold();
    let connecting = {
        let connector = connector.clone();
        tokio::spawn(async move { refused(&connector).await })
    };
    shop.emulator.identity().wait_for_requests(2).await;
    // A renewal may take half of the connect's remaining time.
    shop.clock.advance(Duration::from_millis(7_500));
    let error = connecting.await.unwrap();
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
    assert_eq!(connector.report().refused, 1);
}

#[tokio::test]
async fn a_refusal_is_reported_even_if_the_second_login_times_out() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    connector.connect().await.unwrap();
    shop.server().behaviour().fail_logins(1, login_failed());
    let connecting = connector.connect();
    tokio::pin!(connecting);
    tokio::select! {
        biased;
        _ = &mut connecting => panic!("the server does not answer"),
        () = until(|| shop.counters().refused_logins == 1) => {}
    }
    shop.server().behaviour().disturb(1, Stage::Prelogin, Fault::Stall);
    tokio::select! {
        biased;
        _ = &mut connecting => panic!("the server does not answer"),
        () = until(|| shop.counters().faults == 1) => {}
    }
    shop.clock.advance(Duration::from_secs(15));
    let error = connecting.await.unwrap_err();
    let Error::TimedOut { source: Some(previous), .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**previous, Error::LoginRefused(_)), "{previous:?}");
    assert!(said(&error).contains("CREATE USER"), "{}", said(&error));
}

#[tokio::test]
async fn a_token_fetched_for_the_login_is_not_renewed_after_its_refusal() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    shop.server().behaviour().fail_logins(2, login_failed());
    shop.emulator.identity().hold();
    let connecting = tokio::spawn(async move { refused(&connector).await });
    shop.emulator.identity().wait_for_requests(1).await;
    shop.clock.advance(Duration::from_secs(1));
    shop.emulator.identity().release();
    let error = connecting.await.unwrap();
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
    assert_eq!((shop.token_requests(), shop.counters().refused_logins), (1, 1));
}

#[tokio::test]
async fn logins_that_are_refused_at_the_same_time_share_one_renewal() {
    const LOGINS: u64 = 8;
    let shop = Shop::open().await;
    let connector = shop.connector("");
    connector.connect().await.unwrap();
    shop.server().behaviour().fail_logins(8, login_failed());
    // No login is retried before all of them are refused.
    shop.emulator.identity().hold();
    let connecting: Vec<_> = (0..LOGINS)
        .map(|_| {
            let connector = connector.clone();
            tokio::spawn(async move { connector.connect().await })
        })
        .collect();
    until(|| shop.counters().refused_logins == LOGINS).await;
    shop.emulator.identity().release();
    for connected in connecting {
        connected.await.unwrap().unwrap();
    }
    assert_eq!(shop.token_requests(), 2);
    let counters = shop.counters();
    assert_eq!((counters.logins, counters.refused_logins), (LOGINS + 1, LOGINS));
    assert_eq!(connector.report().renewed, LOGINS);
}

#[tokio::test]
async fn a_pool_without_a_user_does_not_affect_the_token_of_other_pools() {
    let shop = Shop::open().await;
    let stranger = shop
        .another_server("localhost", |options| options.endpoint.directory = Arc::default())
        .await;
    let working = shop.connector("");
    let missing = shop.connector_to("localhost", stranger.addr().port(), "");
    for round in 1..=5 {
        assert!(matches!(refused(&missing).await, Error::LoginRefused(_)));
        working.connect().await.unwrap();
        assert_eq!((shop.counters().logins, shop.token_requests()), (round, 2));
    }
    assert_eq!(shop.counters().refused_logins, 0);
    assert_eq!(stranger.counters().refused_logins, 2, "later connects get the same refusal");
}

#[tokio::test]
async fn a_refusal_is_final_if_the_endpoint_returns_the_same_token() {
    let shop = Shop::open().await;
    shop.emulator.identity().configure_tokens(|tokens| tokens.repeat_until_expiry = true);
    shop.connector("").connect().await.unwrap();
    let connector = shop.connector("");

    shop.server().behaviour().fail_logins(2, login_failed());
    for _ in 0..2 {
        shop.clock.advance(Duration::from_secs(1));
        let error = refused(&connector).await;
        let Error::LoginRefused(refused) = &error else { panic!("{error:?}") };
        assert!(!error.is_transient());
        assert_eq!(refused.source.code(), 18456);
        assert!(error.to_string().ends_with(" The identity has no other token."), "{error}");
    }
    // Each connect logs in once, and requests another token once.
    assert_eq!(shop.counters().refused_logins, 2);
    assert_eq!(shop.token_requests(), 3);
    shop.clock.advance(Duration::from_secs(1));
    connector.connect().await.unwrap();
    assert_eq!(shop.token_requests(), 3, "the token was not discarded");
}

#[tokio::test]
async fn the_error_for_a_missing_user_says_how_to_create_it_and_logins_are_limited() {
    let shop = Shop::open().await;
    shop.emulator.directory().remove("shop-identity");
    let connector = shop.connector("");
    let principal = shop.emulator.user_assigned().clone();
    let facts = [
        "'shop-identity'",
        &principal.client_id,
        &principal.object_id,
        entra_pool_emulator::jwt::TENANT_ID,
        "error 18456",
        "in orders",
        "CREATE USER [shop-identity] FROM EXTERNAL PROVIDER",
    ];
    let error = refused_saying(&connector, &facts).await;
    assert!(matches!(error, Error::LoginRefused(_)) && !error.is_transient(), "{error:?}");
    assert_eq!((shop.counters().refused_logins, shop.token_requests()), (2, 2));
    let said = error.to_string();
    assert!(said.ends_with(" Another token was refused as well."), "{said}");
    // Further connects get the same error for a second.
    const REPEATED: &str = "The connector returned its last refusal instead of logging in again.";
    for damped in 1..5 {
        let again = refused(&connector).await.to_string();
        assert_eq!(again, format!("{said} {REPEATED}"));
        assert_eq!((shop.counters().refused_logins, shop.token_requests()), (2, 2));
        assert_eq!(connector.report().damped, damped);
    }
    // Then there is one login per second, and token requests become less and less frequent.
    for (refusals, requests) in [(4, 3), (5, 3), (7, 4), (8, 4), (9, 4), (10, 4), (12, 5)] {
        shop.clock.advance(Duration::from_secs(1));
        assert!(matches!(refused(&connector).await, Error::LoginRefused(_)));
        assert_eq!((shop.counters().refused_logins, shop.token_requests()), (refusals, requests));
    }
}

/// For tokens with few claims or none.
#[tokio::test]
async fn a_refusal_describes_tokens_with_missing_claims() {
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};

    #[derive(Debug)]
    struct Fixed(String);

    #[async_trait::async_trait]
    impl TokenCredential for Fixed {
        fn name(&self) -> String {
            "the test".into()
        }

        async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
            Ok(Token::new(self.0.clone(), SystemTime::now() + Duration::from_secs(3600)))
        }
    }

    for (claims, expected) in [
        (None, "is not a JWT"),
        (Some("{}"), "identifies an unnamed principal (object ID unknown"),
        (Some(r#"{"appid": "a-1"}"#), "identifies application a-1 (object ID"),
    ] {
        let token = match claims {
            None => "opaque".to_owned(),
            Some(claims) => format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims)),
        };
        let shop = Shop::open().await.with_identity(Fixed(token));
        let connector = shop.connector("");
        let error = refused_saying(&connector, &[expected]).await;
        assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
    }
}

#[tokio::test]
async fn known_azure_errors_come_with_advice() {
    let shop = Shop::open().await;
    let connector = shop.connector("ConnectRetryCount=0");
    for (number, advice) in [
        (4060, "CREATE USER"),
        (40613, "Connect Timeout"),
        (40615, "firewall"),
        (40914, "virtual network"),
        (47073, "a private endpoint"),
        (40532, "use the Azure host name"),
        (10928, "Max Pool Size"),
    ] {
        let error = ServerError::new(number, 14, "as the server says");
        shop.server().behaviour().fail_logins(1, error);
        let error = refused_saying(&connector, &["as the server says", advice]).await;
        let code = error.server_error().map(|error| i64::from(error.code()));
        assert_eq!(code, Some(i64::from(number)), "{error:?}");
    }
}

#[tokio::test]
async fn the_error_of_a_login_without_a_database_says_to_add_one() {
    let shop = Shop::open().await;
    shop.server().behaviour().fail_logins(2, login_failed());
    let string = format!(
        "Server=localhost,{};TrustServerCertificateCA={};Entra Scope={}",
        shop.server().addr().port(),
        shop.emulator.ca_path().display(),
        Scope::AZURE_SQL,
    );
    refused_saying(&shop.connector_of(&string), &["names no database", "add Database="]).await;
}

#[tokio::test]
async fn other_login_errors_do_not_renew_the_token() {
    let shop = Shop::open().await;
    let connector = shop.connector("");
    let readonly = ServerError::new(18470, 14, "Login failed: the account is disabled.");
    shop.server().behaviour().fail_logins(1, readonly);
    let error = refused_saying(&connector, &["the account is disabled"]).await;
    assert!(matches!(error, Error::Login { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!((shop.counters().refused_logins, shop.token_requests()), (1, 1));
    connector.connect().await.unwrap();
}

#[tokio::test]
async fn a_login_is_routed_within_its_host_up_to_ten_times() {
    let shop = Shop::open().await;
    let elsewhere = shop.another_server("localhost", |_| {}).await;
    let (here, there) = (shop.server().addr().port(), elsewhere.addr().port());
    shop.server().behaviour().route_logins(1, "localhost", there);
    let connector = shop.connector("");
    connector.connect().await.unwrap();
    assert_eq!((shop.counters().logins, elsewhere.counters().logins), (0, 1));

    shop.server().behaviour().route_logins(10, "LOCALHOST", here);
    connector.connect().await.unwrap();
    assert_eq!((shop.counters().routed_logins, shop.counters().logins), (11, 1));
    assert_eq!(shop.token_requests(), 1);
}

#[tokio::test]
async fn a_routed_login_names_the_instance() {
    let shop = Shop::open().await;
    let elsewhere = shop.another_server("localhost", |_| {}).await;
    let connector = shop.connector("");
    for host in [r"localhost\warehouse", "localhost"] {
        shop.server().behaviour().route_logins(1, host, elsewhere.addr().port());
        connector.connect().await.unwrap();
        assert_eq!(elsewhere.behaviour().server_name(), host);
    }
}

#[tokio::test]
async fn a_login_that_is_routed_in_a_loop_fails() {
    let shop = Shop::open().await;
    shop.server().behaviour().route_logins(11, "localhost", shop.server().addr().port());
    let error =
        refused_saying(&shop.connector(""), &["routes the login", "more than 10 times"]).await;
    assert!(matches!(error, Error::Routing { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!((shop.counters().routed_logins, shop.counters().logins), (11, 0));
}

#[tokio::test]
async fn a_login_is_not_routed_to_another_cloud() {
    let shop = Shop::open().await;
    let elsewhere = shop.another_server("127.0.0.1", |_| {}).await;
    for host in ["127.0.0.1", "evil.example", "shop.database.windows.net"] {
        shop.server().behaviour().route_logins(1, host, elsewhere.addr().port());
        let error = refused_saying(&shop.connector(""), &["outside the cloud", host]).await;
        assert!(matches!(error, Error::Routing { .. }), "{error:?}");
    }
    assert_eq!(elsewhere.counters().connections, 0);
}

#[tokio::test]
async fn host_name_in_certificate_applies_to_routing_within_the_host() {
    let shop = Shop::open().await;
    let server = shop.another_server("sql.example", |_| {}).await;
    let port = server.addr().port();
    server.behaviour().route_logins(1, "LocalHost", port);
    let more = "HostNameInCertificate=sql.example";
    shop.connector_to("localhost", port, more).connect().await.unwrap();
    assert_eq!((server.counters().routed_logins, server.counters().logins), (1, 1));
}

#[tokio::test]
async fn a_login_through_a_tunnel_names_the_azure_server() {
    let shop = Shop::open().await;
    // The name in the certificate of a server outside Azure is not its server name.
    for (certified, named) in
        [("shop.database.windows.net", "shop.database.windows.net"), ("sql.example", "127.0.0.1")]
    {
        let server = shop.another_server(certified, |_| {}).await;
        let more = format!("HostNameInCertificate={certified}");
        shop.connector_to("127.0.0.1", server.addr().port(), &more).connect().await.unwrap();
        assert_eq!(server.behaviour().server_name(), named);
    }
}

#[tokio::test]
async fn a_routing_target_must_present_a_certificate_for_its_own_name() {
    let shop = Shop::open().await;
    let gateway = shop.another_server("sql.example", |_| {}).await;
    let right = shop.another_server("127.0.0.1", |_| {}).await;
    let wrong = shop.another_server("sql.example", |_| {}).await;
    let more = "HostNameInCertificate=sql.example;Allow Routing To=127.0.0.1";
    let connector = shop.connector_to("localhost", gateway.addr().port(), more);
    gateway.behaviour().route_logins(1, "127.0.0.1", right.addr().port());
    connector.connect().await.unwrap();
    assert_eq!(right.counters().logins, 1);

    gateway.behaviour().route_logins(1, "127.0.0.1", wrong.addr().port());
    let from = format!("where localhost,{} routed the login", gateway.addr().port());
    let error = refused_saying(&connector, &[&from]).await;
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    let counters = wrong.counters();
    assert_eq!((counters.connections, counters.logins + counters.refused_logins), (1, 0));
}

/// The environment cannot be changed while tests run, so this test runs itself again in a separate
/// process.
#[tokio::test]
async fn connect_finds_its_identity_in_the_string_and_the_environment() {
    const STRING: &str = "ENTRA_POOL_TEST_STRING";
    if let Ok(string) = std::env::var(STRING) {
        let pool = azure_sql::pool(&string).unwrap();
        let mut connection = pool.get().await.unwrap();
        println!("logged in as {}", text(&mut connection, "SELECT USER_NAME()").await.unwrap());
        return;
    }
    let shop = Shop::open().await;
    let string = shop.string();
    let client_id = &shop.emulator.user_assigned().client_id;
    let msi = "Authentication=Active Directory MSI";
    for (authentication, variable, user) in [
        ("", Some(client_id), "shop-identity"),
        ("Authentication=Active Directory Default", Some(client_id), "shop-identity"),
        ("Authentication=Active Directory Default", None, "shop-app"),
        (msi, Some(client_id), "shop-app"),
        (&format!("{msi};User Id={client_id}"), None, "shop-identity"),
        (&format!("User Id={client_id}"), None, "shop-identity"),
    ] {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child
            .args([
                "--exact",
                "login::connect_finds_its_identity_in_the_string_and_the_environment",
            ])
            .arg("--nocapture")
            .env(STRING, format!("{string};{authentication}"))
            .envs(shop.emulator.identity().app_service_env())
            .env_remove("AZURE_CLIENT_ID")
            .env("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
            .envs(variable.map(|id| ("AZURE_CLIENT_ID", id)));
        let output = child.output().await.unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(&format!("logged in as {user}\n")),
            "{authentication}, {variable:?}: {said}"
        );
    }
    assert_eq!(shop.counters().logins, 6);
}
