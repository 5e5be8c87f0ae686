//! What cannot be is refused when a pool is built.

use entra_pool::{
    postgres::{self, Config, ConfigError, Connector, Error, tokio_postgres},
    token::{Identity, Scope},
};

use crate::support::credential::{TestCredential, said};

fn refused(text: &str) -> String {
    let identity = Identity::new(TestCredential::new("x", 0));
    said(&postgres::connect_with(&identity, text).err().unwrap())
}

#[test]
fn what_cannot_be_is_refused_when_the_pool_is_built_with_the_keyword_named() {
    let azure = "postgres://u@a.postgres.database.azure.com/d";
    for (text, says) in [
        ("postgres://u:hunter2@a.postgres.database.azure.com/d".to_owned(), "password must go"),
        (format!("{azure}?password=hunter2"), "password must go"),
        ("host=a.postgres.database.azure.com password='hunter2 x'".to_owned(), "password must go"),
        (format!("{azure}?sslmode=disable"), "use sslmode=verify-full"),
        (format!("{azure}?sslmode=prefer"), "use sslmode=verify-full"),
        (format!("{azure}?colour=red"), "unknown option `colour`"),
        (format!("{azure}?connect_timeout=soon"), "connect_timeout"),
        (format!("{azure}?entra_scope=a b"), "entra_scope cannot be used"),
        (format!("{azure}?sslrootcert=/nowhere/ca.pem"), "/nowhere/ca.pem"),
        (format!("{azure}?entra_client_id=c"), "entra_client_id chooses an identity"),
        ("postgres://u@db.internal/d".to_owned(), "entra_scope="),
        ("postgres://u@%2Frun%2Fpostgresql/d".to_owned(), "Unix socket"),
        ("postgres:///d".to_owned(), "host is missing"),
        ("postgres://a@contoso.com@db/d".to_owned(), "%40"),
        ("hostaddr=127.0.0.1".to_owned(), "hostaddr stands without host"),
        ("sqlserver://u@h/d".to_owned(), "cannot be read"),
        (
            "postgres://u@a.postgres.database.azure.com,b.postgres.database.chinacloudapi.cn/d"
                .to_owned(),
            "different clouds",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn entra_client_id_is_a_client_id() {
    let url = "postgres://u@a.postgres.database.azure.com/d?entra_client_id=";
    let error = postgres::connect(&format!("{url}shop")).err().unwrap();
    assert!(matches!(error, Error::Identity(_)), "{error:?}");
    assert!(said(&error).contains("client ID"), "{}", said(&error));
}

#[test]
fn a_configuration_of_tokio_postgres_is_taken_by_the_same_rules() {
    let mut pg = tokio_postgres::Config::new();
    pg.host("a.postgres.database.usgovcloudapi.net").user("u").dbname("d");
    let config = Config::new(&pg).unwrap();
    assert!(config.token_scope().unwrap().as_str().contains("usgovcloudapi"));
    assert_eq!(config.to_string(), "postgres://u@a.postgres.database.usgovcloudapi.net:5432/d");
    let identity = Identity::new(TestCredential::new("x", 0));
    let error = Connector::new(config, identity.tokens(Scope::AZURE_POSTGRESQL)).err().unwrap();
    assert!(matches!(error, Error::Config(ConfigError::OtherScope { .. })), "{error:?}");

    pg.password("hunter2");
    assert!(Config::new(&pg).unwrap_err().to_string().contains("password"));
    let mut plain = tokio_postgres::Config::new();
    plain.host("h").ssl_mode(tokio_postgres::config::SslMode::Disable);
    assert!(Config::new(&plain).unwrap_err().to_string().contains("verify-full"));
}
