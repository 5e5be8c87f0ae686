//! What cannot be is refused when a pool is built.

use entra_pool::{
    azure_sql::{self, Config, ConfigError, Connector, Error},
    token::{Identity, Scope},
};

use crate::support::credential::{TestCredential, said};

const AZURE: &str = "Server=tcp:a.database.windows.net;Database=orders;";

fn identity() -> Identity {
    Identity::new(TestCredential::new("x", 0))
}

/// The refusal of a connection string, which names `fact`.
fn refused(string: &str, fact: &str) -> ConfigError {
    let error = azure_sql::connect_with(&identity(), string).err().unwrap();
    let said = said(&error);
    assert!(said.contains(fact), "{fact} is missing: {said}");
    assert!(!said.contains("hunter2"), "{said}");
    let Error::Config(error) = error else { panic!("{error:?}") };
    error
}

#[test]
fn a_broken_connection_string() {
    for (string, fact) in [
        ("Server=a.database.windows.net;hunter2", "keyword number 2"),
        ("Server='a.database.windows.net", "quote that is not closed"),
        ("=hunter2", "without a keyword"),
    ] {
        assert!(matches!(refused(string, fact), ConfigError::Syntax(_)));
    }
}

#[test]
fn an_unknown_keyword() {
    let error = refused(&format!("{AZURE}Databse=x"), "'Databse'");
    assert!(matches!(error, ConfigError::UnknownKeyword { .. }), "{error:?}");
}

#[test]
fn no_server() {
    assert_eq!(refused("Database=orders", "Server="), ConfigError::NoServer);
}

#[test]
fn a_password_beside_a_token() {
    let error = refused(&format!("{AZURE}User Id=sa;Password=hunter2"), "'Password'");
    assert!(matches!(error, ConfigError::Value { .. }), "{error:?}");
}

#[test]
fn encryption_that_is_less_than_verified() {
    for (keyword, value) in
        [("Encrypt", "False"), ("Encrypt", "Optional"), ("TrustServerCertificate", "True")]
    {
        let error = refused(&format!("{AZURE}{keyword}={value}"), keyword);
        assert!(matches!(error, ConfigError::Value { .. }), "{error:?}");
    }
}

#[test]
fn a_server_that_nobody_knows_the_scope_of() {
    let error = refused("Server=sql.internal;Database=orders", "Entra Scope=");
    assert!(matches!(error, ConfigError::UnknownHost { .. }), "{error:?}");
}

#[test]
fn an_identity_and_a_string_that_names_another() {
    let error = refused(&format!("{AZURE}Authentication=Active Directory Default"), "keep one");
    assert!(
        matches!(error, ConfigError::TwoIdentities { keyword: "Authentication", .. }),
        "{error:?}"
    );
    let error = refused(&format!("{AZURE}User Id=c"), "'User Id'");
    assert!(matches!(error, ConfigError::TwoIdentities { .. }), "{error:?}");
}

#[test]
fn tokens_of_another_scope() {
    let config: Config = AZURE.parse().unwrap();
    let error = Connector::new(config, identity().tokens(Scope::AZURE_POSTGRESQL)).unwrap_err();
    assert!(matches!(error, Error::Config(ConfigError::OtherScope { .. })), "{error:?}");
    for scope in [Scope::AZURE_SQL, Scope::AZURE_POSTGRESQL] {
        assert!(said(&error).contains(scope.as_str()), "{}", said(&error));
    }
}

#[test]
fn a_ca_file_that_is_not_there() {
    let string = format!("{AZURE}TrustServerCertificateCA=/nowhere/ca.pem");
    let error = azure_sql::connect_with(&identity(), &string).err().unwrap();
    assert!(matches!(error, Error::TlsConfig(_)), "{error:?}");
    assert!(said(&error).contains("/nowhere/ca.pem"), "{}", said(&error));
}

#[test]
fn a_user_id_that_is_no_client_id() {
    let string = format!("{AZURE}Authentication=Active Directory MSI;User Id=shop");
    let error = azure_sql::connect(&string).err().unwrap();
    assert!(matches!(error, Error::Identity(_)), "{error:?}");
    assert!(said(&error).contains("client ID"), "{}", said(&error));
}

#[test]
fn a_login_that_needs_a_person() {
    let string = format!("{AZURE}Authentication=Active Directory Interactive");
    let error = azure_sql::connect(&string).err().unwrap();
    assert!(matches!(error, Error::Config(ConfigError::Value { .. })), "{error:?}");
    assert!(said(&error).contains("az login"), "{}", said(&error));
}

#[test]
fn a_user_id_that_is_no_client_id_is_named_as_it_is_written() {
    let string = "Server=a.database.windows.net;Authentication=Active Directory MSI;User Id=sa";
    let error = entra_pool::azure_sql::connect(string).unwrap_err();
    let said = said(&error);
    assert!(said.contains("User Id must be a client ID"), "{said}");
}
