//! Invalid input causes an early, typed error that states what to do and contains no secret.

use entra_pool::{
    postgres::{self, ConfigError, Error},
    token::Identity,
};
use entra_pool_emulator::{
    certificates::Authority,
    jwt::{Principal, PrincipalKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    connector, credential_for, failure, server,
    support::{
        credential::{AUDIENCE, TestCredential, code, said},
        postgres::DATABASE,
    },
    tls::scoped,
};

const AZURE: &str = "postgres://u@a.postgres.database.azure.com/d";

/// Returns the error of building a pool for `url`.
fn rejected(url: &str) -> Error {
    let identity = Identity::new(TestCredential::new("x", 0));
    let error = postgres::pool_with(&identity, url).err().unwrap();
    assert!(!error.is_transient());
    error
}

#[test]
fn a_password_in_the_url() {
    for url in [
        AZURE.replace("u@", "u:hunter2@"),
        format!("{AZURE}?password=hunter2"),
        "host=a.postgres.database.azure.com password='hunter2 x'".to_owned(),
    ] {
        let error = rejected(&url);
        let Error::Config(ConfigError::Value { keyword, .. }) = &error else { panic!("{error:?}") };
        assert_eq!(keyword, "password");
        assert!(said(&error).contains("password must be removed: the token replaces it"));
        assert!(!said(&error).contains("hunter2"), "{}", said(&error));
    }
}

#[test]
fn an_npgsql_string_with_a_password() {
    for text in [
        "host=h;username=u;password=hunter2;database=d",
        "sslmode=disable;host=h;password=hunter2",
        "entra_scope=x;host=h;password=hunter2",
        "postgres://h;password=hunter2/d",
        "Host=h;Username=u;Password=hunter2",
    ] {
        let error = rejected(text);
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        let shown = format!("{} {error:?}", said(&error));
        assert!(shown.contains("password must be removed") || shown.contains("%3B"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn text_after_a_semicolon_is_not_shown() {
    for text in [
        "postgres://h/d?sslmode=require;password=hunter2",
        "host=h sslmode=require;password=hunter2",
        "postgres://h/d;password=hunter2",
        "postgres://h/d;password=hunter2?sslmode=require",
        "postgres://h/d?entra_scope=https://x/.default;password=hunter2",
        "postgres://h/d?pool_max_conns=3;password=hunter2",
        "postgres://h/d?pool_max_conn_lifetime=3h;password=hunter2",
    ] {
        let error = rejected(text);
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        let shown = format!("{} {error:?}", said(&error));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn sslmode_disable() {
    for mode in ["disable", "allow", "prefer", "verify"] {
        let error = said(&rejected(&format!("{AZURE}?sslmode={mode}")));
        assert!(error.contains(&format!("sslmode is {mode}")), "{error}");
        assert!(error.contains("use sslmode=verify-full"), "{error}");
    }
}

#[test]
fn an_unknown_parameter() {
    let error = rejected(&format!("{AZURE}?colour=red"));
    assert!(matches!(error, Error::Config(ConfigError::Syntax { .. })), "{error:?}");
    assert!(said(&error).contains("unknown keyword 'colour'"), "{}", said(&error));
}

#[tokio::test]
async fn a_user_that_cannot_be_derived() {
    let machine = Principal::new("vm", PrincipalKind::SystemAssigned);
    let identity = Identity::new(TestCredential::for_principal(machine.clone(), AUDIENCE, 0));
    let pool = postgres::pool_with(&identity, &server().await.url("")).unwrap();
    let error = failure(pool.get().await);
    assert!(matches!(error, Error::NoUser { .. }) && !error.is_transient(), "{error:?}");
    for fact in [machine.object_id.as_str(), "set user to", "pgaadauth_create_principal"] {
        assert!(error.to_string().contains(fact), "{fact} is missing: {error}");
    }
}

#[tokio::test]
async fn a_role_that_does_not_exist() {
    let identity = Identity::new(TestCredential::new("no-such-role", 2_000));
    let pool = postgres::pool_with(&identity, &server().await.url("no-such-role")).unwrap();
    let error = failure(pool.get().await);
    let Error::LoginRefused { source: cause, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code(cause), Some("28P01"));
    let statement = "select * from pgaadauth_create_principal('no-such-role', false, false)";
    assert!(error.to_string().contains(statement), "{error}");
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let identity = Identity::new(credential_for("lost").await);
    let url = server().await.url("lost").replace(&format!("/{DATABASE}?"), "/nowhere?");
    let connector = connector(&identity, &url);
    let error = connector.connect().await.err().unwrap();
    let Error::Login { source: cause, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code(cause), Some("3D000"));
    assert!(said(&error).contains("\"nowhere\" does not exist"), "{}", said(&error));
    let report = connector.report();
    assert_eq!((report.refused, report.retried), (0, 0));
}

/// SSLRequest (PostgreSQL documentation, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Logs in to a server that answers the request for TLS with `answer`, and checks that it
/// receives no byte of the login.
async fn declined(answer: &'static [u8]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        socket.read_exact(&mut request).await.unwrap();
        socket.write_all(answer).await.unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
        [request.as_slice(), &rest].concat()
    });
    let authority = Authority::new().unwrap();
    let identity = Identity::new(TestCredential::new("shop", 2_000));
    let url = scoped("127.0.0.1", port, &authority.path());
    let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::EncryptionDeclined { .. }), "{error:?}");
    assert!(!error.is_transient());
    for fact in [&format!("127.0.0.1:{port}"), "no token was sent", "a PostgreSQL server, with TLS"]
    {
        assert!(error.to_string().contains(fact), "{fact} is missing: {error}");
    }
    assert_eq!(received.await.unwrap(), SSL_REQUEST);
}

#[tokio::test]
async fn a_server_without_tls() {
    declined(b"N").await;
    // An error without a text, and no further answer.
    declined(b"E").await;
}

#[tokio::test]
async fn a_host_that_is_not_a_postgresql_server() {
    declined(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let server = server().await;
    let identity = Identity::new(credential_for("misnamed").await);
    let url = scoped("db.example", server.port(), &server.ca_file());
    let url = format!("{url}&hostaddr=127.0.0.1");
    let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Tls { .. }) && !error.is_transient(), "{error:?}");
    for fact in ["not valid for name", "db.example", "no token was sent"] {
        assert!(said(&error).contains(fact), "{fact} is missing: {}", said(&error));
    }
    let url = url.replace("db.example", "localhost");
    let url = url.replace("shop@", "misnamed@").replace("/db?", &format!("/{DATABASE}?"));
    drop(postgres::pool_with(&identity, &url).unwrap().get().await.unwrap());
}

#[tokio::test]
async fn a_host_name_that_does_not_resolve() {
    let authority = Authority::new().unwrap();
    let identity = Identity::new(TestCredential::new("shop", 0));
    // RFC 6761: never resolves.
    let url = scoped("db.invalid", 5432, &authority.path());
    let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Resolve { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("db.invalid:5432"), "{error}");
}
