//! Logins that are granted access, and logins that are refused.

use std::time::{Duration, SystemTime};

use entra_pool_emulator::{
    front::{
        EngineLogin,
        postgres::{AUDIENCE, LoginError},
    },
    jwt::{Issuer, Principal, PrincipalKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_postgres::{
    NoTls,
    config::{SslMode, SslNegotiation},
};

use super::{DATABASE, Service, text};

#[tokio::test]
async fn a_principal_logs_in_as_its_role() {
    let service = Service::start().await;
    let shop = service.principal("shop-identity");
    for (length, negotiation) in [
        (0, SslNegotiation::Postgres),
        (2_000, SslNegotiation::Direct),
        (8_000, SslNegotiation::Postgres),
        (65_500, SslNegotiation::Direct),
    ] {
        let mut config = service.config(&shop);
        config.password(service.token(&shop, length)).ssl_negotiation(negotiation);
        let client = service.connect_with(&config).await.unwrap();
        let whoami = "SELECT concat(session_user, ' ', current_user, ' ', current_database())";
        let expected = format!("shop-identity shop-identity {DATABASE}");
        assert_eq!(text(&client, whoami).await, expected, "{length}");
        // Not by a SET SESSION AUTHORIZATION, which a pool's reset would undo.
        client.batch_execute("DISCARD ALL").await.unwrap();
        assert_eq!(text(&client, whoami).await, expected, "{length}");
    }
    let counters = service.front.counters();
    assert_eq!((counters.logins, counters.refused_logins), (4, 0));
}

#[tokio::test]
async fn psql_logs_in() {
    let service = Service::start().await;
    let shop = service.principal("shop-psql");
    let port = service.front.addr().port();
    let ca = service.engine.ca_file();
    for gss in ["disable", "prefer"] {
        let output = Command::new("psql")
            .args(["-X", "-A", "-t", "-c", "SELECT current_user", "-c", "\\d"])
            .arg(format!(
                "host=localhost port={port} user=shop-psql dbname={DATABASE} \
                 sslmode=verify-full sslrootcert={} gssencmode={gss}",
                ca.display()
            ))
            .env("PGPASSWORD", service.token(&shop, 2_000))
            .output()
            .await
            .expect("psql is not installed: tests/run installs it");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with("shop-psql\n"), "{}", text(&output.stdout));
    }
}

/// Tokens that the role does not accept: the service's messages, and nothing reaches the engine.
#[tokio::test]
async fn a_refused_token_does_not_reach_the_engine() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", listener.local_addr().unwrap());
    let service = Service::start_with(|options| options.engine_url = url).await;
    let shop = service.principal("shop-refused");
    let stranger = Principal::new("stranger", PrincipalKind::UserAssigned);
    let now = SystemTime::now();
    let later = now + Duration::from_secs(3_600);
    let sign = |issuer: &Issuer, principal, audience, expires_on| {
        issuer.sign(principal, audience, expires_on, 0)
    };
    let good = service.token(&shop, 0);
    let parts: Vec<&str> = good.split('.').collect();
    let failed = "password authentication failed for user \"shop-refused\"";
    let past = now - Duration::from_secs(1);
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
    let cases = [
        (
            "expired",
            sign(&service.issuer, &shop, AUDIENCE, past),
            "The access token has expired. Please acquire a new token and retry",
        ),
        (
            "for another resource",
            sign(&service.issuer, &shop, "https://database.windows.net", later),
            "The access token does not have a valid audience claim",
        ),
        (
            "of another principal",
            sign(&service.issuer, &stranger, AUDIENCE, later),
            "Azure AD access token not valid for role shop-refused",
        ),
        ("of a foreign issuer", sign(&Issuer::new(), &shop, AUDIENCE, later), failed),
        ("unsigned", unsigned, failed),
        ("with a cut signature", good[..good.len() - 4].to_owned(), failed),
        ("not a token", "hunter2".to_owned(), failed),
        ("empty", String::new(), failed),
        ("too long", service.token(&shop, 65_600), "the access token is longer than 65535 bytes"),
    ];
    for (what, token, message) in &cases {
        let mut config = service.config(&shop);
        config.password(token);
        let expected = ("28P01".to_owned(), (*message).to_owned());
        assert_eq!(service.refusal(&config).await, expected, "{what}");
    }
    // The same token, after its expiry.
    service.front.behaviour().age_tokens(Duration::from_secs(7_200));
    assert_eq!(service.refusal(&service.config(&shop)).await.1, cases[0].2);

    let counters = service.front.counters();
    assert_eq!((counters.logins, counters.refused_logins), (0, cases.len() as u64 + 1));
    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "the engine was connected to");
}

#[tokio::test]
async fn tls_is_required() {
    let service = Service::start().await;
    let shop = service.principal("shop-plain");
    let mut config = service.config(&shop);
    let error = config.ssl_mode(SslMode::Disable).connect(NoTls).await.err().unwrap();
    let (code, message) = super::sqlstate(&error);
    assert_eq!(code, "28000");
    assert_eq!(
        message,
        format!(
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"shop-plain\", database \
             \"{DATABASE}\", no encryption"
        )
    );
}

/// Direct TLS without ALPN is closed, as by PostgreSQL 17.
#[tokio::test]
async fn direct_tls_needs_alpn() {
    let service = Service::start().await;
    let connector =
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(super::client_tls(service.engine)));
    let stream = TcpStream::connect(service.front.addr()).await.unwrap();
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let read = stream.read(&mut [0; 1]).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
}

#[tokio::test]
async fn the_engines_refusals_are_forwarded() {
    let service = Service::start().await;
    let shop = service.principal("shop-limited");
    let mut config = service.config(&shop);
    config.dbname("nowhere");
    let expected = ("3D000".to_owned(), "database \"nowhere\" does not exist".to_owned());
    assert_eq!(service.refusal(&config).await, expected);

    service.engine.sql("ALTER ROLE \"shop-limited\" CONNECTION LIMIT 1").await;
    let _first = service.connect(&shop).await;
    let (code, message) = service.refusal(&service.config(&shop)).await;
    assert_eq!(code, "53300", "{message}");
    let counters = service.front.counters();
    assert_eq!((counters.logins, counters.refused_logins), (1, 2));
}

#[tokio::test]
async fn logins_fail_as_often_as_requested() {
    let service = Service::start().await;
    let shop = service.principal("shop-failing");
    let starting = LoginError::new("57P03", "the database system is starting up");
    service.front.behaviour().fail_logins(2, starting);
    for _ in 0..2 {
        let (code, message) = service.refusal(&service.config(&shop)).await;
        assert_eq!(
            (code.as_str(), message.as_str()),
            ("57P03", "the database system is starting up")
        );
    }
    service.connect(&shop).await;
}

/// By SCRAM, which PostgreSQL also uses if the rule is `md5`, or without a password. The front
/// does not change an account that the options name.
#[tokio::test]
async fn the_front_logs_in_to_the_engine_by_scram_or_trust() {
    for method in ["scram-sha-256", "md5", "trust"] {
        let rule = format!("host all all 127.0.0.1/32 {method}");
        let engine = super::PostgresServer::start_with_rule(&rule).await;
        engine
            .sql(
                "CREATE ROLE menu LOGIN PASSWORD 'soup';
                 CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'steak'",
            )
            .await;
        let given = EngineLogin { user: "menu".to_owned(), password: "soup".to_owned() };
        let port = engine.port();
        let service = Service::start_with(|options| {
            options.engine_url = format!("postgres://boss:steak@127.0.0.1:{port}/postgres");
            options.engine_logins.insert("shop-given".to_owned(), given);
        })
        .await;
        let client = service.connect(&service.principal("shop-given")).await;
        assert_eq!(text(&client, "SELECT session_user::text").await, "menu", "{method}");
        let client = service.connect(&service.principal("shop-made")).await;
        assert_eq!(text(&client, "SELECT session_user::text").await, "shop-made", "{method}");
    }
}

#[tokio::test]
async fn a_wrong_password_in_the_options_causes_the_engines_refusal() {
    let service = Service::start_with(|options| {
        let given = EngineLogin { user: "menu".to_owned(), password: "wrong".to_owned() };
        options.engine_logins.insert("shop-wrong".to_owned(), given);
    })
    .await;
    let shop = service.principal("shop-wrong");
    let (code, message) = service.refusal(&service.config(&shop)).await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("28P01", "password authentication failed for user \"menu\"")
    );
}

#[tokio::test]
async fn an_unsupported_authentication_method_is_named() {
    let engine = super::PostgresServer::start_with_rule("host all all 127.0.0.1/32 password").await;
    engine.sql("CREATE ROLE menu LOGIN PASSWORD 'soup'").await;
    let given = EngineLogin { user: "menu".to_owned(), password: "soup".to_owned() };
    let port = engine.port();
    let service = Service::start_with(|options| {
        options.engine_url = format!("postgres://boss:steak@127.0.0.1:{port}/postgres");
        options.engine_logins.insert("shop-cleartext".to_owned(), given);
    })
    .await;
    let shop = service.principal("shop-cleartext");
    let (code, message) = service.refusal(&service.config(&shop)).await;
    assert_eq!(code, "08P01");
    assert!(message.contains("another authentication method"), "{message}");
}

#[tokio::test]
async fn other_protocols_and_unknown_options_are_refused_by_name() {
    let service = Service::start().await;
    let parameters = b"user\0shop\0_pq_.colour\0blue\0\0";
    for (minor, named) in [(2, "protocol 3.2"), (0, "_pq_.colour")] {
        let mut stream = super::attacks::tls_stream(&service).await;
        let mut startup = (8 + parameters.len() as u32).to_be_bytes().to_vec();
        startup.extend([0, 3, 0, minor]);
        startup.extend(parameters);
        stream.write_all(&startup).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("C0A000\0") && answer.contains(named), "{answer:?}");
    }
}
