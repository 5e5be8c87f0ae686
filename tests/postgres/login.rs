//! Logging in: tokens of any length, retries, and the errors of refused logins.

use std::time::{Duration, SystemTime};

use entra_pool::{
    clock::ManualClock,
    postgres::{self, Error},
    token::Identity,
};
use entra_pool_emulator::{
    azure_cli::AzureCliStandIn,
    jwt::{Principal, PrincipalKind},
    network::{Act, After, Fault, Network, Towards},
};

use crate::{
    connector, credential_for, failure, server,
    support::{
        credential::{AUDIENCE, TestCredential, code, issuer, said},
        postgres::{DATABASE, PostgresServer},
        refusing_port,
    },
    text,
};

#[tokio::test]
async fn a_token_of_any_length_logs_in() {
    for length in [1_500, 2_000, 2_200, 8_000, 65_500] {
        let role = format!("length_{length}");
        let credential = TestCredential::new(&role, length);
        assert!(credential.secret().len().abs_diff(length) < 10);
        server().await.create_principal(credential.principal()).await;
        let identity = Identity::new(credential);
        let pool = postgres::pool_with(&identity, &server().await.url(&role)).unwrap();
        let client = pool.get().await.unwrap();
        assert_eq!(text(&client, "SELECT current_user::text").await, role);
    }
}

#[tokio::test]
async fn a_server_may_ask_for_a_hash_or_a_proof_of_the_token() {
    let rules =
        "hostssl all proven 127.0.0.1/32 scram-sha-256\nhostssl all hashed 127.0.0.1/32 md5";
    let server = PostgresServer::start_with_rule(rules).await;
    for (role, stored, more) in [
        ("hashed", "md5", ""),
        ("proven", "scram-sha-256", ""),
        ("proven", "scram-sha-256", "&channel_binding=require"),
    ] {
        server.sql(&format!("ALTER SYSTEM SET password_encryption = '{stored}'")).await;
        server.sql("SELECT pg_reload_conf()").await;
        let credential = TestCredential::new(role, 8_000);
        while server.value("SHOW password_encryption").await.as_deref() != Some(stored) {
            tokio::task::yield_now().await;
        }
        server.set_password(role, &credential.secret()).await;
        let url = server.url_with(role, more);
        let pool = postgres::pool_with(&Identity::new(credential), &url).unwrap();
        let client = pool.get().await.unwrap();
        assert_eq!(text(&client, "SELECT current_user::text").await, role);
    }
    // With a token in plain text, the channel cannot be bound.
    let credential = credential_for("bound").await;
    let url = crate::server().await.url_with("bound", "&channel_binding=require");
    let error = failure(postgres::pool_with(&Identity::new(credential), &url).unwrap().get().await);
    assert!(matches!(error, Error::Login { .. }) && !error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn without_a_configured_role_the_tokens_principal_is_used() {
    let identity = Identity::new(credential_for("shop-identity").await);
    let pool = postgres::pool_with(&identity, &server().await.url("")).unwrap();
    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT current_user::text").await, "shop-identity");

    let person = Principal::new("ann@contoso.com", PrincipalKind::User);
    server().await.create_principal(&person).await;
    let credential = TestCredential::for_principal(person, AUDIENCE, 0);
    let pool = postgres::pool_with(&Identity::new(credential), &server().await.url("")).unwrap();
    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT current_user::text").await, "ann@contoso.com");
}

#[tokio::test]
async fn all_pools_and_connections_share_one_token_request() {
    let credential = credential_for("shared").await;
    let identity = Identity::new(credential.clone());
    let mut clients = Vec::new();
    let url = server().await.url("shared");
    for _ in 0..3 {
        let pool = postgres::pool_with(&identity, &url).unwrap();
        pool.resize(4);
        let checkouts: Vec<_> = (0..4)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.get().await.unwrap() })
            })
            .collect();
        for checkout in checkouts {
            clients.push(checkout.await.unwrap());
        }
    }
    assert_eq!(clients.len(), 12);
    assert_eq!(credential.requests(), 1);
}

#[tokio::test]
async fn a_refused_login_is_retried_once_with_a_newer_token() {
    let credential = credential_for("renewed").await;
    let identity = Identity::new(credential.clone());
    let connector = connector(&identity, &server().await.url("renewed"));
    let pool = connector.pool();
    let first = pool.get().await.unwrap();
    assert_eq!(credential.requests(), 1);

    credential.rotate();
    let second = pool.get().await.unwrap();
    assert_eq!(credential.requests(), 2);
    let report = connector.report();
    assert_eq!((report.logins, report.refused, report.renewed), (2, 0, 1));
    assert_eq!(text(&first, "SELECT 'still there'").await, "still there");
    drop(second);
}

#[tokio::test]
async fn a_refusal_is_reported_even_if_the_second_login_times_out() {
    let server = server().await;
    let credential = credential_for("late").await;
    let clock = ManualClock::at(SystemTime::now());
    let identity = Identity::builder(credential.clone()).clock(clock.clone()).build();
    let network = Network::to(([127, 0, 0, 1], server.port()).into()).unwrap();
    let connector = connector(&identity, &server.url_at(network.addr().port(), "late", ""));
    drop(connector.connect().await.unwrap());
    credential.rotate();
    // The first login is refused; the second one gets no response.
    network.disturb(1, None);
    let silent = Fault { towards: Towards::Client, after: After::Bytes(0), act: Act::Stall };
    network.disturb(1, silent);
    let connecting = tokio::spawn(async move { connector.connect().await.map(drop) });
    while network.counters().faults == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(15));
    let error = connecting.await.unwrap().unwrap_err();
    let Error::TimedOut { source: Some(before), .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**before, Error::LoginRefused { .. }), "{before:?}");
    assert!(said(&error).contains("no time left to try another token"), "{}", said(&error));
}

#[tokio::test]
async fn a_refused_login_keeps_the_servers_error_and_adds_advice() {
    let credential = TestCredential::new("nobody-made-me", 2_000);
    let identity = Identity::new(credential.clone());
    let connector = connector(&identity, &server().await.url("nobody-made-me"));
    let pool = connector.pool();
    let error = failure(pool.get().await);
    assert!(!error.is_transient());
    let Error::LoginRefused { source: refusal, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code(refusal), Some("28P01"));
    let server_says = refusal.as_db_error().unwrap();
    assert!(server_says.message().contains("password authentication failed"));
    assert!(server_says.hint().is_none());
    let principal = credential.principal();
    for fact in [
        "pgaadauth_create_principal('nobody-made-me', false, false)",
        &principal.client_id,
        &principal.object_id,
        entra_pool_emulator::jwt::TENANT_ID,
        AUDIENCE,
        "The token is new (it was requested for this login), so no other token was requested.",
    ] {
        assert!(error.to_string().contains(fact), "{fact} is missing: {error}");
    }
    assert!(said(&error).contains("password authentication failed"));
    assert!(!said(&error).contains(&credential.secret()[..40]));
    assert_eq!(connector.report().refused, 1);
}

#[tokio::test]
async fn a_role_that_does_not_exist_does_not_cause_endless_token_requests() {
    let credential = TestCredential::new("never-made", 2_000).with_new_token_per_request();
    let clock = ManualClock::at(std::time::SystemTime::now());
    let identity = Identity::builder(credential.clone()).clock(clock.clone()).build();
    let connector = connector(&identity, &server().await.url("never-made"));
    let error = connector.connect().await.err().unwrap();
    assert!(said(&error).contains("Another token was refused as well."), "{}", said(&error));
    assert_eq!(credential.requests(), 2);
    // For a second, callers get the same error without a login.
    for damped in 1..5 {
        let again = connector.connect().await.err().unwrap();
        let repeated = "The connector returned its last refusal instead of logging in again.";
        let said = said(&again);
        assert!(said.contains(&format!("Another token was refused as well. {repeated}")), "{said}");
        assert_eq!((credential.requests(), connector.report().damped), (2, damped));
    }
    for requests in [3, 3, 4, 4, 4, 4, 5] {
        clock.advance(Duration::from_secs(1));
        assert!(matches!(connector.connect().await, Err(Error::LoginRefused { .. })));
        assert_eq!(credential.requests(), requests);
    }
    // After the role is created, the next login succeeds.
    server().await.create_principal(credential.principal()).await;
    clock.advance(Duration::from_secs(30));
    drop(connector.connect().await.unwrap());
}

#[tokio::test]
async fn the_servers_error_about_an_expired_token_is_reported() {
    let credential = credential_for("expired").await;
    issuer().expire(&credential.secret());
    let identity = Identity::new(credential);
    let error = failure(connector(&identity, &server().await.url("expired")).pool().get().await);
    assert!(matches!(error, Error::LoginRefused { .. }) && !error.is_transient(), "{error:?}");
    assert!(said(&error).contains("The access token has expired"), "{}", said(&error));
}

#[tokio::test]
async fn the_role_of_another_principal_is_reported() {
    credential_for("one-role").await;
    let identity = Identity::new(credential_for("another-role").await);
    let error = failure(connector(&identity, &server().await.url("one-role")).pool().get().await);
    assert!(matches!(error, Error::LoginRefused { .. }), "{error:?}");
    let error = said(&error);
    assert!(error.contains("Azure AD access token not valid for role one-role"), "{error}");
}

#[tokio::test]
async fn a_token_for_another_audience_is_reported() {
    let person = Principal::new("a@contoso.com", PrincipalKind::User);
    let credential = TestCredential::for_principal(person, "https://database.windows.net", 0);
    let identity = Identity::new(credential);
    let pool = postgres::pool_with(&identity, &server().await.url("")).unwrap();
    let error = said(&failure(pool.get().await));
    assert!(error.contains("as \"a@contoso.com\" was refused"), "{error}");
    assert!(error.contains("does not have a valid audience claim"), "{error}");
    assert!(error.contains("The token is for https://database.windows.net"), "{error}");
    assert!(error.contains("entra_scope"), "{error}");
}

#[tokio::test]
async fn the_pool_returns_the_error_of_the_credential_unchanged() {
    let credential = TestCredential::new("anybody", 0);
    credential.fail();
    let identity = Identity::new(credential);
    let pool = postgres::pool_with(&identity, &server().await.url("anybody")).unwrap();
    let error = pool.get().await.err().unwrap();
    assert!(matches!(Error::within(&error), Some(Error::Token { .. })), "{error:?}");
    let error = Error::from(error);
    assert!(matches!(error, Error::Token { .. }), "{error:?}");
    assert!(said(&error).contains("run `az login`"), "{}", said(&error));
}

#[tokio::test]
async fn hosts_are_tried_until_one_responds() {
    let identity = Identity::new(credential_for("several").await);
    let (dead, _held) = refusing_port();
    let server = server().await;
    let url = server.url("several").replace(
        &format!("@127.0.0.1:{}", server.port()),
        &format!("@127.0.0.1:{dead},127.0.0.1:{}", server.port()),
    );
    let url = format!("{url}&target_session_attrs=read-write&application_name=menu");
    let pool = postgres::pool_with(&identity, &url).unwrap();
    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT current_setting('application_name')").await, "menu");
}

#[tokio::test]
async fn after_a_refused_login_the_next_host_is_not_tried() {
    let identity = Identity::new(TestCredential::new("refused-at-the-first", 0));
    let (dead, _held) = refusing_port();
    let server = server().await;
    let url = server.url("refused-at-the-first").replace(
        &format!("@127.0.0.1:{}", server.port()),
        &format!("@127.0.0.1:{},127.0.0.1:{dead}", server.port()),
    );
    let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::LoginRefused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_database_name_is_reported() {
    let identity = Identity::new(credential_for("nameless").await);
    let url = server().await.url("nameless").replace(&format!("/{DATABASE}?"), "?");
    let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
    let Error::Login { source: cause, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code(cause), Some("3D000"));
    assert!(said(&error).contains("No database is configured"), "{}", said(&error));
}

/// The environment cannot be changed while tests run, so this test runs itself in another
/// process, with a logged-in `az` first on the PATH.
#[tokio::test]
async fn connect_finds_its_identity_in_the_environment() {
    const URL: &str = "ENTRA_POOL_TEST_URL";
    if let Ok(url) = std::env::var(URL) {
        let pool = postgres::pool(&url).unwrap();
        let client = pool.get().await.unwrap();
        assert_eq!(text(&client, "SELECT current_user::text").await, "dev@contoso.com");
        return;
    }
    let person = Principal::new("dev@contoso.com", PrincipalKind::User);
    server().await.create_principal(&person).await;
    let az = AzureCliStandIn::new(issuer(), person).unwrap();

    let mut path = az.executable().parent().unwrap().as_os_str().to_owned();
    path.push(":/usr/bin:/bin");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "login::connect_finds_its_identity_in_the_environment", "--nocapture"])
        .env(URL, server().await.url(""))
        .env("PATH", path)
        .env("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
    assert_eq!(az.invocations().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_that_expires_during_the_connect_is_replaced_and_is_not_a_refusal() {
    // Longer than the token's lifetime.
    const STALLED: Duration = Duration::from_secs(25 * 3600);
    let server = server().await;
    let credential = credential_for("stalled").await;
    let clock = ManualClock::at(SystemTime::now());
    let identity = Identity::builder(credential.clone()).clock(clock.clone()).build();
    let network = Network::to(([127, 0, 0, 1], server.port()).into()).unwrap();
    let url = server.url_at(network.addr().port(), "stalled", "&connect_timeout=172800");
    let connector = connector(&identity, &url);
    for there_is_another in [true, false] {
        network.hold();
        let connections = network.counters().connections;
        let connecting = tokio::spawn({
            let connector = connector.clone();
            async move { connector.connect().await.map(drop) }
        });
        while network.counters().connections == connections {
            tokio::task::yield_now().await;
        }
        credential.rotate();
        if !there_is_another {
            credential.fail();
        }
        clock.advance(STALLED);
        network.release();
        let connected = connecting.await.unwrap();
        if there_is_another {
            connected.unwrap();
            assert_eq!((credential.requests(), connector.report().renewed), (2, 1));
        } else {
            assert!(matches!(connected, Err(Error::Token { .. })), "{connected:?}");
        }
    }
}
