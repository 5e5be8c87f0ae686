//! Invalid configurations are rejected when a pool is built.

use std::time::Duration;

use entra_pool::{
    credential::Environment,
    postgres::{self, Config, ConfigError, Connector, Error, tokio_postgres},
    token::{Identity, Scope},
};

use crate::{
    connector, credential_for, server,
    support::{
        credential::{TestCredential, said},
        postgres::DATABASE,
    },
    text,
};

fn rejected(text: &str) -> String {
    let identity = Identity::new(TestCredential::new("x", 0));
    said(&postgres::pool_with(&identity, text).err().unwrap())
}

#[test]
fn an_invalid_value_is_rejected_when_the_pool_is_built_and_its_keyword_is_named() {
    let azure = "postgres://u@a.postgres.database.azure.com/d";
    for (text, expected) in [
        (format!("{azure}?connect_timeout=soon"), "connect_timeout"),
        (format!("{azure}?entra_scope=a b"), "entra_scope is not a valid scope"),
        (format!("{azure}?entra_cli_timeout=0"), "entra_cli_timeout must be 1 or more"),
        (format!("{azure}?tcp_user_timeout=30"), "tcp_user_timeout is in milliseconds"),
        (format!("{azure}?sslrootcert=/nowhere/ca.pem"), "/nowhere/ca.pem"),
        (format!("{azure}?entra_client_id=c"), "entra_client_id names an identity"),
        ("postgres://u@db.internal/d".to_owned(), "entra_scope="),
        ("postgres://u@%2Frun%2Fpostgresql/d".to_owned(), "Unix socket"),
        ("postgres:///d".to_owned(), "host must be set to the server's name"),
        ("postgres://a@contoso.com@db/d".to_owned(), "%40"),
        ("hostaddr=127.0.0.1".to_owned(), "hostaddr needs host as well"),
        ("sqlserver://u@h/d".to_owned(), "is for another database: use entra_pool::azure_sql"),
        (
            "postgres://u@a.postgres.database.azure.com,b.postgres.database.chinacloudapi.cn/d"
                .to_owned(),
            "different clouds",
        ),
    ] {
        let error = rejected(&text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_value_that_makes_no_sense_is_rejected_before_connecting() {
    let identity = Identity::new(TestCredential::new("x", 0));
    let config: Config = "postgres://a.postgres.database.azure.com/d".parse().unwrap();
    for (config, expected) in [
        (config.clone().connect_timeout(Duration::ZERO), "connect_timeout is 0"),
        (config.user(""), "user is empty"),
    ] {
        let error = Connector::new(config, identity.tokens(Scope::AZURE_POSTGRESQL)).err().unwrap();
        assert!(matches!(error, Error::Config(ConfigError::Value { .. })), "{error:?}");
        assert!(said(&error).contains(expected), "{}", said(&error));
    }
}

#[test]
fn entra_client_id_must_be_a_client_id() {
    let url = "postgres://u@a.postgres.database.azure.com/d?entra_client_id=";
    let error = postgres::pool(&format!("{url}shop")).err().unwrap();
    assert!(matches!(error, Error::Identity(_)), "{error:?}");
    assert!(said(&error).contains("client ID"), "{}", said(&error));
}

#[test]
fn a_configuration_of_tokio_postgres_follows_the_same_rules() {
    let mut pg = tokio_postgres::Config::new();
    pg.host("a.postgres.database.usgovcloudapi.net").user("u").dbname("d");
    let config = Config::new(&pg).unwrap();
    assert!(config.token_scope().unwrap().as_str().contains("usgovcloudapi"));
    assert_eq!(config.to_string(), "postgres://u@a.postgres.database.usgovcloudapi.net:5432/d");
    let identity = Identity::new(TestCredential::new("x", 0));
    let error = Connector::new(config, identity.tokens(Scope::AZURE_POSTGRESQL)).err().unwrap();
    assert!(matches!(error, Error::Config(ConfigError::ScopeMismatch { .. })), "{error:?}");

    pg.password("hunter2");
    assert!(Config::new(&pg).unwrap_err().to_string().contains("password"));
    let mut plain = tokio_postgres::Config::new();
    plain.host("h").ssl_mode(tokio_postgres::config::SslMode::Disable);
    assert!(Config::new(&plain).unwrap_err().to_string().contains("verify-full"));
}

#[test]
fn sslmode_require_and_stricter_modes_are_accepted() {
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = format!("postgres://u@a.postgres.database.azure.com/d?sslmode={mode}");
        assert!(url.parse::<Config>().is_ok(), "{mode}");
    }
}

#[test]
fn the_environment_variables_of_libpq_are_read_on_request() {
    let config = Config::from_environment(&Environment::from_pairs([
        ("PGHOST", "a.postgres.database.azure.com,b.postgres.database.azure.com"),
        ("PGPORT", "6432"),
        ("PGUSER", "ann@contoso.com"),
        ("PGDATABASE", "restaurant"),
        ("PGPASSWORD", "hunter2"),
    ]))
    .unwrap();
    assert_eq!(
        config.to_string(),
        "postgres://ann%40contoso.com@a.postgres.database.azure.com:6432,b.postgres.database.azure.com:6432/restaurant"
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    for (pairs, expected) in [
        (vec![("PGUSER", "u")], "PGHOST is not set"),
        (vec![("PGHOST", "h"), ("PGPORT", "many")], "PGPORT is not a port"),
        (vec![("PGHOST", "/run/postgresql")], "Unix socket"),
    ] {
        let error = Config::from_environment(&Environment::from_pairs(pairs)).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}? {error}");
    }
}

/// `pool_from_env` reads the variables of the process, so the test runs itself again with them.
#[test]
fn a_pool_is_built_from_the_environment_and_the_variable_is_logged() {
    const MARK: &str = "ENTRA_POOL_TEST_FROM_ENV";
    const STRING: &str = "AZURE_POSTGRESQL_CONNECTIONSTRING";
    if std::env::var_os(MARK).is_some() {
        let logs = crate::support::logs::capture();
        let pool = postgres::pool_from_env();
        if std::env::var_os(STRING).is_none() {
            let said = said(&pool.unwrap_err());
            assert!(said.contains("AZURE_POSTGRESQL_CONNECTIONSTRING is not set"), "{said}");
            return;
        }
        assert_eq!(pool.unwrap().status().size, 0);
        let logged = logs.text();
        assert!(logged.contains("INFO") && logged.contains(STRING), "{logged}");
        assert!(!logged.contains("shop-identity"), "{logged}");
        return;
    }
    let string = "host=shop.postgres.database.azure.com dbname=orders user=shop-identity";
    for variables in [&[][..], &[(STRING, string)]] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["a_pool_is_built_from_the_environment", "--nocapture"]).env_clear();
        let output = child.env(MARK, "").envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}

#[tokio::test]
async fn every_format_of_connection_string_connects_to_the_database() {
    let (server, identity) = (server().await, Identity::new(credential_for("forms").await));
    let (port, ca, scope) = (server.port(), server.ca_file(), Scope::AZURE_POSTGRESQL);
    let ca = ca.display();
    for string in [
        server.url("forms"),
        format!(
            "host=127.0.0.1 port={port} dbname='{DATABASE}' user=forms sslrootcert='{ca}' \
             entra_scope={scope} sslmode=require client_encoding=UTF8 keepalives_count=5"
        ),
        format!(
            "Server=127.0.0.1;Port={port};Database={DATABASE};User Id=forms;Ssl Mode=Require;\
             Root Certificate={ca};Entra Scope={scope};Include Error Detail=true"
        ),
        format!(
            "jdbc:postgresql://127.0.0.1:{port}/{DATABASE}?user=forms&sslmode=require\
             &sslrootcert={ca}&entra_scope={scope}&prepareThreshold=0"
        ),
    ] {
        let client = connector(&identity, &string).pool().get().await.unwrap();
        let found = text(&client, "SELECT current_user || ' ' || current_database()").await;
        assert_eq!(found, format!("forms {DATABASE}"), "{string}");
    }
}
