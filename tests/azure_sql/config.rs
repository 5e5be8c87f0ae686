//! Every form of connection string configures the same pool. Invalid settings are errors when the
//! pool is built.

use entra_pool::{
    azure_sql::{self, Config, ConfigError, Connector, Error},
    token::{Identity, Scope},
};

use crate::{
    Shop,
    support::credential::{TestCredential, said},
};

const AZURE: &str = "Server=tcp:a.database.windows.net;Database=orders;";

fn identity() -> Identity {
    Identity::new(TestCredential::new("x", 0))
}

/// The error for a connection string, which contains `fact`.
fn refused(string: &str, fact: &str) -> ConfigError {
    let error = azure_sql::pool_with(&identity(), string).err().unwrap();
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
        assert!(matches!(refused(string, fact), ConfigError::Syntax { .. }));
    }
}

#[test]
fn an_unknown_keyword() {
    let error = refused(&format!("{AZURE}Databse=x"), "'Databse': did you mean 'Database'?");
    assert!(matches!(error, ConfigError::Syntax { .. }), "{error:?}");
}

#[test]
fn a_password_that_is_not_quoted() {
    // The second half of the password looks like a keyword.
    let error = refused(&format!("{AZURE}Password=a;hunter2=b"), "must be quoted");
    assert!(matches!(error, ConfigError::Syntax { .. }), "{error:?}");
}

#[test]
fn broken_urls() {
    for (string, fact) in [
        ("jdbc:sqlserver://a.database.windows.net;user={hunter2", "brace that is not closed"),
        ("jdbc:oracle:thin:hunter2@//a:1521/x", "not for SQL Server"),
        ("mssql://sa:hunter2/@a.database.windows.net", "does not parse"),
        ("mysql://sa:hunter2@a.database.windows.net/orders", "use one of mssql://"),
    ] {
        assert!(matches!(refused(string, fact), ConfigError::Syntax { .. }), "{string}");
    }
}

#[test]
fn settings_that_exclude_each_other() {
    let string = format!("{AZURE}certificate=ca.pem;ServerCertificate=db.pem");
    let error = refused(&string, "'certificate' and 'ServerCertificate' exclude each other");
    assert!(matches!(error, ConfigError::Conflict { .. }), "{error:?}");
}

#[test]
fn a_missing_server() {
    refused("Database=orders", "'Server' is missing");
}

#[test]
fn a_password_and_a_token() {
    let error = refused(&format!("{AZURE}User Id=sa;Password=hunter2"), "'Password'");
    assert!(matches!(error, ConfigError::Value { .. }), "{error:?}");
}

#[test]
fn encryption_without_verification() {
    for (keyword, value) in
        [("Encrypt", "False"), ("Encrypt", "Optional"), ("TrustServerCertificate", "True")]
    {
        let error = refused(&format!("{AZURE}{keyword}={value}"), keyword);
        assert!(matches!(error, ConfigError::Value { .. }), "{error:?}");
    }
}

#[test]
fn a_server_with_an_unknown_scope() {
    let error = refused("Server=sql.internal;Database=orders", "Entra Scope=");
    assert!(matches!(error, ConfigError::UnknownHost { .. }), "{error:?}");
}

#[test]
fn an_identity_and_a_string_that_names_another() {
    let string = format!("{AZURE}Authentication=Active Directory Default");
    azure_sql::pool_with(&identity(), &string).unwrap();
    let managed = format!("{AZURE}Authentication=Active Directory Managed Identity");
    let error = refused(&managed, "Config::parse_with_credential");
    assert!(
        matches!(error, ConfigError::ConflictingIdentity { keyword: "Authentication", .. }),
        "{error:?}"
    );
    let error = refused(&format!("{AZURE}User Id=c"), "'User Id'");
    assert!(matches!(error, ConfigError::ConflictingIdentity { .. }), "{error:?}");
}

#[test]
fn tokens_of_another_scope() {
    let config: Config = AZURE.parse().unwrap();
    let error = Connector::new(config, identity().tokens(Scope::AZURE_POSTGRESQL)).unwrap_err();
    assert!(matches!(error, Error::Config(ConfigError::ScopeMismatch { .. })), "{error:?}");
    for scope in [Scope::AZURE_SQL, Scope::AZURE_POSTGRESQL] {
        assert!(said(&error).contains(scope.as_str()), "{}", said(&error));
    }
}

#[test]
fn a_missing_ca_file() {
    let string = format!("{AZURE}TrustServerCertificateCA=/nowhere/ca.pem");
    let error = azure_sql::pool_with(&identity(), &string).err().unwrap();
    assert!(matches!(error, Error::TlsConfig(_)), "{error:?}");
    assert!(said(&error).contains("/nowhere/ca.pem"), "{}", said(&error));
}

#[test]
fn a_user_id_that_is_not_a_client_id() {
    let string = format!("{AZURE}Authentication=Active Directory MSI;User Id=shop");
    let error = azure_sql::pool(&string).err().unwrap();
    assert!(matches!(error, Error::Identity(_)), "{error:?}");
    assert!(said(&error).contains("client ID"), "{}", said(&error));
}

#[test]
fn an_interactive_login() {
    let string = format!("{AZURE}Authentication=Active Directory Interactive");
    let error = azure_sql::pool(&string).err().unwrap();
    assert!(matches!(error, Error::Config(ConfigError::Value { .. })), "{error:?}");
    assert!(said(&error).contains("az login"), "{}", said(&error));
}

#[test]
fn the_error_for_a_user_id_names_the_keyword_as_written() {
    let string = "Server=a.database.windows.net;Authentication=Active Directory MSI;User Id=sa";
    let error = entra_pool::azure_sql::pool(string).unwrap_err();
    let said = said(&error);
    assert!(said.contains("User Id must be a client ID"), "{said}");
}

#[test]
fn a_configuration_is_displayed_as_its_connection_string() {
    let shown = "Server=tcp:shop.database.windows.net,1433;Database=orders;\
                  Encrypt=Strict;ApplicationIntent=ReadOnly;Connect Timeout=60;Max Pool Size=16";
    let principal = "Authentication=Active Directory Service Principal;User Id=3f@contoso";
    let string = format!("{shown};{principal};Password=hunter2");
    let (config, _) = Config::parse_with_credential(&string).unwrap();
    assert_eq!(config.to_string(), shown);
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[tokio::test]
async fn every_format_of_connection_string_connects_to_the_database() {
    let shop = Shop::open().await;
    let port = shop.server().addr().port();
    let ca = shop.emulator.ca_path().display().to_string();
    let scope = Scope::AZURE_SQL;
    let encoded = ca.replace('/', "%2F");
    let built = Config::new("localhost").port(port).database("orders").ca_file(&ca);
    for config in [
        shop.emulator.azure_sql_string().parse(),
        format!(
            "jdbc:sqlserver://localhost:{port};databaseName=orders;trustServerCertificateCA={{{ca}}};\
             entraScope={scope}"
        )
        .parse(),
        format!("mssql://localhost:{port}/orders?certificate={encoded}&entra+scope={scope}").parse(),
        // Strings for ODBC and Prisma.
        format!(
            "Driver={{ODBC Driver 18 for SQL Server}};Server=tcp:localhost,{port};Database={{orders}};\
             MARS_Connection=yes;Trust_Server_Certificate_CA={{{ca}}};Entra Scope={scope}"
        )
        .parse(),
        format!(
            "sqlserver://localhost:{port};database=orders;trustServerCertificateCA={ca};\
             entraScope={scope};connectionLimit=5"
        )
        .parse(),
        Ok(built.scope(scope.clone())),
    ] {
        let tokens = shop.identity.tokens(scope.clone());
        let mut connection =
            Connector::new(config.unwrap(), tokens).unwrap().connect().await.unwrap();
        let row = connection.query("SELECT DB_NAME()", &[]).await.unwrap();
        let row = row.into_row().await.unwrap().unwrap();
        assert_eq!(row.get::<&str, _>(0), Some("orders"));
    }
}

#[tokio::test]
async fn dangerous_parse_accepts_any_certificate_of_a_local_server() {
    let shop = Shop::open().await;
    let port = shop.server().addr().port();
    let string = format!(
        "Server=tcp:localhost,{port};Database=orders;TrustServerCertificate=True;Entra Scope={}",
        Scope::AZURE_SQL
    );
    refused(&string, "Config::dangerous_parse");
    let config = Config::dangerous_parse(&string).unwrap();
    let tokens = shop.identity.tokens(Scope::AZURE_SQL);
    Connector::new(config, tokens).unwrap().connect().await.unwrap();
}

#[test]
fn a_connection_string_can_select_a_command_line_tool() {
    for (authentication, name) in [
        ("ActiveDirectoryAzCli", "Azure CLI"),
        ("ActiveDirectoryAzureDeveloperCli", "Azure Developer CLI"),
    ] {
        let string = format!("{AZURE}fedauth={authentication}");
        let (_, credential) = Config::parse_with_credential(&string).unwrap();
        assert_eq!(credential.name(), name);
    }
}

/// `parse_with_credential` reads the process' variables: the test runs itself again with others.
#[cfg(feature = "azure-identity")]
#[test]
fn the_environment_completes_the_string_of_a_service_principal() {
    const MARK: &str = "ENTRA_POOL_TEST_PRINCIPAL";
    const ID: &str = "11111111-2222-3333-4444-555555555555";
    let credential = |more: &str| match Config::parse_with_credential(&format!(
        "{AZURE}Authentication=Active Directory {more}"
    )) {
        Ok((_, credential)) => Ok(format!("{} {credential:?}", credential.name())),
        Err(Error::Identity(error)) => Err(error),
        Err(error) => panic!("{error:?}"),
    };
    match std::env::var(MARK).as_deref() {
        Ok("nothing") => {
            for (more, fact) in [
                ("Service Principal", "AZURE_CLIENT_ID is not set"),
                ("Service Principal;User Id=3f", "AZURE_TENANT_ID is not set"),
                ("Service Principal;User Id=3f", "User Id=CLIENT_ID@TENANT"),
                ("Service Principal;User Id=3f@contoso", "AZURE_CLIENT_SECRET is not set"),
                ("Service Principal;User Id=3 f@contoso;Password=x", "User Id must be a client ID"),
                ("Service Principal;User Id=3f@con/toso;Password=x", "Entra Tenant must be"),
                ("Environment", "AZURE_CLIENT_SECRET is not set, but Authentication needs it"),
                ("Azure Pipelines", "AZURESUBSCRIPTION_TENANT_ID is not set"),
            ] {
                let error = credential(more).unwrap_err().to_string();
                assert!(error.contains(fact), "{more}: {error}");
            }
            let shown = credential(&format!("Service Principal;UID={ID}@contoso;PWD=hunter2"));
            let shown = shown.unwrap();
            assert!(shown.contains(&format!("service principal {ID}")), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        Ok(_) => {
            for (more, id) in [
                ("Service Principal", ID),
                ("Environment", ID),
                ("Service Principal;User Id=3f", "3f"),
                ("Service Principal;User Id=3f;Password=x;Entra Tenant=contoso", "3f"),
            ] {
                let shown = credential(more).unwrap();
                assert!(shown.contains(&format!("service principal {id}")), "{more}: {shown}");
            }
        }
        Err(_) => {
            for mark in ["nothing", "all"] {
                let mut child = std::process::Command::new(std::env::current_exe().unwrap());
                child.args(["the_environment_completes_the_string", "--nocapture"]);
                child.env_clear().env(MARK, mark);
                if mark == "all" {
                    child.env("AZURE_TENANT_ID", "contoso").env("AZURE_CLIENT_ID", ID);
                    child.env("AZURE_CLIENT_SECRET", "s3cret");
                }
                let output = child.output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success() && said.contains("1 passed"), "{said}");
            }
        }
    }
}

/// `pool_from_env` reads the process' variables: the test runs itself again with others.
#[test]
fn a_pool_is_built_from_the_environment_and_the_variables_are_logged() {
    const MARK: &str = "ENTRA_POOL_TEST_FROM_ENV";
    if std::env::var_os(MARK).is_some() {
        let logs = crate::support::logs::capture();
        let pool = azure_sql::pool_from_env();
        if std::env::var_os("AZURE_SQL_SERVER").is_none() {
            let said = said(&pool.unwrap_err());
            assert!(said.contains("'AZURE_SQL_CONNECTIONSTRING' is not set"), "{said}");
            return;
        }
        assert_eq!(pool.unwrap().status().size, 0);
        let logged = logs.text();
        assert!(logged.contains("INFO") && logged.contains("AZURE_SQL_SERVER, AZURE_SQL_DATABASE"));
        return;
    }
    for variables in [
        &[][..],
        &[("AZURE_SQL_SERVER", "shop.database.windows.net"), ("AZURE_SQL_DATABASE", "orders")],
    ] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["a_pool_is_built_from_the_environment", "--nocapture"]).env_clear();
        let output = child.env(MARK, "").envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}

#[test]
fn ignored_keywords_are_logged_once_without_their_values() {
    let logs = crate::support::logs::capture();
    let string =
        format!("{AZURE}Driver={{ODBC Driver 18}};MARS_Connection=yes;Persist Security Info=True");
    drop(string.parse::<Config>().unwrap());
    let logged = logs.text();
    assert_eq!(
        logged.matches("Driver, MARS_Connection, Persist Security Info").count(),
        1,
        "{logged}"
    );
    assert!(logged.contains("DEBUG") && !logged.contains("ODBC Driver 18"), "{logged}");
}
