use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use super::{Config, ConfigError, keywords::KEYWORDS, variables};
use crate::{
    credential::Environment,
    tls::Trust,
    token::{Scope, with_causes},
};

const AZURE: &str = "host=a.postgres.database.azure.com user=u dbname=d";

/// The refused strings in `tests/cases`: the ID, and the parts that the error must contain.
const REFUSED: &[(&str, &[&str])] = &[
    ("P07", &["SQLAlchemy URL", "write postgresql://"]),
    (
        "P09",
        &[
            "schema is a Prisma parameter: use options=",
            "connection_limit is a Prisma parameter: use pool_max_conns",
            "pgbouncer is a Prisma parameter: leave it out",
        ],
    ),
    ("P17", &["sslmode is prefer", "sslmode=verify-full"]),
    ("P18", &["sslmode is no-verify", "sslmode=verify-full"]),
    ("P20", &["%40"]),
    ("P27", &["the whole string is in quotes"]),
    ("P28", &["password must be removed"]),
    ("P36", &["a value with a space must be quoted: options='-c search_path=app'"]),
    (
        "P37",
        &["statement_timeout is a setting", "search_path is a setting", "options='-c NAME=VALUE'"],
    ),
    ("P40", &["set entra_scope="]),
];

#[test]
fn pasted_strings_parse_or_are_refused_with_useful_advice() {
    let mut seen = 0;
    for line in include_str!("../../tests/cases/postgres_strings.tsv").lines() {
        let [id, expected, must_hold, string] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        if id.starts_with('#') {
            continue;
        }
        seen += 1;
        let read = string.replace("\\n", "\n").parse::<Config>();
        // `parse` does not determine the scope; a connector does.
        let read = read.and_then(|config| config.token_scope().map(|scope| (config, scope)));
        if expected == "err" {
            let (_, parts) = REFUSED.iter().find(|(it, _)| *it == id).expect(id);
            let said = with_causes(&read.expect_err(id));
            assert!(parts.iter().all(|it| said.contains(it)), "{id}: {said}");
            continue;
        }
        let (config, scope) = read.unwrap_or_else(|error| panic!("{id}: {error:?}"));
        let session = &config.session;
        let user = session.get_user().unwrap_or_default();
        for (key, value) in must_hold.split([';', ' ']).filter_map(|word| word.split_once('=')) {
            match key {
                "host" => assert_eq!(config.hosts[0].name, value, "{id}"),
                "database" => assert_eq!(session.get_dbname(), Some(value), "{id}"),
                // A role may have a space in its name.
                "user" => assert!(user.starts_with(value), "{id}: {user}"),
                "scope" => assert_eq!(scope.as_str(), value, "{id}"),
                "sslmode" => assert_eq!(session.get_ssl_mode(), SslMode::Require, "{id}"),
                _ => panic!("{id}: {key}"),
            }
        }
        match id {
            "P12" => assert_eq!(session.get_keepalives_retries(), Some(5)),
            "P15" => {
                assert_eq!(session.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
                assert_eq!(config.hosts.len(), 2);
            }
            "P33" => assert!(scope.as_str().contains("usgovcloudapi"), "{scope}"),
            "P34" => assert_eq!(user, "DB Admins"),
            "P38" => assert_eq!(config.max_size, Some(10)),
            _ => {}
        }
        assert_eq!((&config.trust, session.get_ssl_mode()), (&Trust::Platform, SslMode::Require));
        assert_eq!(session.get_password(), None, "{id}");
    }
    assert_eq!(seen, 30);
}

#[test]
fn ignored_keywords_never_change_encryption_verification_target_or_identity() {
    let bare = format!("{:?}", AZURE.parse::<Config>().unwrap());
    let rows = KEYWORDS.others.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|line| line.split('`').skip(1).step_by(2));
    let mut accepted = 0;
    for name in names {
        for value in ["true", "false", "0", "1", "x", "disable", "a.example"] {
            let string = format!("{AZURE} {}={value}", name.replace(' ', "_"));
            // `parse` refuses a session's setting and the selection of an identity.
            let Ok(config) = string.parse::<Config>() else { continue };
            accepted += 1;
            assert_eq!(format!("{config:?}"), bare, "{string}");
        }
    }
    assert!(accepted > 300, "{accepted}");
}

#[test]
fn only_their_own_keywords_change_verification_target_or_identity() {
    let bare: Config = AZURE.parse().unwrap();
    let names = KEYWORDS.named.lines().filter_map(|line| line.split('`').nth(1));
    for name in names.filter(|name| !["host", "hostaddr", "port", "user", "dbname"].contains(name))
    {
        for value in ["true", "1", "x", "a.example", "require", "standby", "10s"] {
            // A parsed string does not select an identity, because `parse` refuses it.
            let Ok(config) = format!("{AZURE} {name}={value}").parse::<Config>() else { continue };
            assert_eq!(config.hosts, bare.hosts, "{name}={value}");
            assert_eq!(config.session.get_ssl_mode(), SslMode::Require, "{name}={value}");
            assert_eq!(config.session.get_user(), Some("u"), "{name}={value}");
            assert!(name == "sslrootcert" || config.trust == bare.trust, "{name}={value}");
            assert!(name == "entra_scope" || config.scope == bare.scope, "{name}={value}");
        }
    }
}

#[test]
fn every_keyword_for_tls_is_verify_full_or_refused() {
    for keyword in ["sslmode", "ssl", "SSL_Mode", "ssl-mode"] {
        for (value, is_read) in [
            ("require", true),
            ("Require", true),
            ("verify-ca", true),
            ("VerifyFull", true),
            ("verify-full", true),
            ("true", true),
            ("prefer", false),
            ("allow", false),
            ("disable", false),
            ("false", false),
            ("no-verify", false),
            ("0", false),
        ] {
            let read = format!("{AZURE} {keyword}={value}").parse::<Config>();
            assert_eq!(read.is_ok(), is_read, "{keyword}={value}");
        }
    }
    for refused in [
        "sslaccept=accept_invalid_certs",
        "Trust_Server_Certificate=true",
        "sslfactory=org.postgresql.ssl.NonValidatingFactory",
        "requiressl=0",
        "ssl_min_protocol_version=TLSv1.3",
        "sslcrl=a.pem",
        "sslcert=a.pem",
        "sslcertmode=require",
        "gssencmode=require",
        "GSS_Encryption_Mode=require",
        "direct_tls=true",
        "scram_client_key=x",
        "require_auth=none",
        "socketFactory=x",
        "service=x",
        "sslrootcert=",
    ] {
        let error = format!("{AZURE} {refused}").parse::<Config>().unwrap_err();
        assert!(matches!(error, ConfigError::Value { .. }), "{refused}: {error:?}");
    }
    let roots = format!("{AZURE} sslrootcert=ca.pem ssl=true sslmode=require").parse::<Config>();
    assert_eq!(roots.unwrap().trust, Trust::Roots("ca.pem".into()));
}

#[test]
fn only_its_own_keywords_select_an_identity() {
    for (keyword, value) in [("entra_client_id", "c"), ("azure.clientId", "c")] {
        let error = format!("{AZURE} {keyword}={value}").parse::<Config>().unwrap_err();
        assert!(matches!(error, ConfigError::ConflictingIdentity { .. }), "{keyword}: {error:?}");
    }
    for refused in ["azure.tenantId", "oauth_client_id", "authenticationPluginClassName"] {
        let error = format!("{AZURE} {refused}=x").parse::<Config>().unwrap_err();
        assert!(matches!(error, ConfigError::Value { .. }), "{refused}: {error:?}");
    }
}

#[test]
fn hosts_of_other_services_are_refused_with_advice() {
    for (host, expected) in [
        ("shop.database.windows.net", "use entra_pool::azure_sql"),
        ("db.internal", "set entra_scope=https://ossrdbms-aad.database.windows.net/.default"),
        ("a.usgovcloudapi.net", "entra_scope=https://ossrdbms-aad.database.usgovcloudapi.net"),
        ("a.example.cn", "entra_scope=https://ossrdbms-aad.database.chinacloudapi.cn"),
    ] {
        let config: Config = format!("host={host}").parse().unwrap();
        let error = config.token_scope().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let string = "Server=tcp:shop.database.windows.net,1433;Database=orders;";
    let error = string.parse::<Config>().unwrap_err().to_string();
    assert!(error.contains("entra_pool::azure_sql"), "{error}");
    let string = format!("{string}Authentication=Active Directory Default");
    let error = string.parse::<Config>().unwrap_err().to_string();
    assert!(error.contains("entra_pool::azure_sql"), "{error}");
    for string in [
        "host=shop.postgres.database.azure.com:5432 dbname=orders",
        "Server=tcp:shop.postgres.database.azure.com;Database=orders",
        "Server=shop.postgres.database.azure.com,5432;Database=orders",
        "postgres://shop.postgres.database.azure.com:5432:5432/orders",
    ] {
        let error = string.parse::<Config>().unwrap_err().to_string();
        assert!(error.contains("port=5432"), "{string}: {error}");
    }
    for string in [
        "Server=tcp:u:hunter2@shop.database.windows.net;Database=orders",
        "Driver={ODBC Driver 18 for SQL Server};Server=tcp:a.database.windows.net,1433;Pwd=hunter2",
        "Data Source=a.database.windows.net;Initial Catalog=d;User ID=u;Password=hunter2",
    ] {
        let error = string.parse::<Config>().unwrap_err().to_string();
        assert!(error.contains("entra_pool::azure_sql") && !error.contains("hunter2"), "{error}");
    }
    let string = "Host=h;entra_scope=https://ossrdbms-aad.database.windows.net;Database=orders";
    assert!(string.parse::<Config>().is_ok(), "a scope is not a host");
    let cosmos: Config = "host=c-a.b.postgres.cosmos.azure.com".parse().unwrap();
    let scope = Scope::from_static("https://token.postgres.cosmos.azure.com/.default");
    assert_eq!(cosmos.token_scope().unwrap(), scope);
}

type Variables = &'static [(&'static str, &'static str)];

/// As Microsoft Learn lists them in "Integrate Azure Database for PostgreSQL with Service
/// Connector".
#[test]
fn the_variables_of_service_connector_are_read_for_every_client_type() {
    const STRING: &str = "AZURE_POSTGRESQL_CONNECTIONSTRING";
    const ID: (&str, &str) = ("AZURE_POSTGRESQL_CLIENTID", "11111111-2222-3333-4444-555555555555");
    let clients: [(&str, Variables); 8] = [
        (
            ".NET",
            &[(
                STRING,
                "Server=shop.postgres.database.azure.com;Database=orders;Port=5432;Ssl Mode=Require;User Id=shop-identity;",
            )],
        ),
        (
            "Java",
            &[(
                STRING,
                "jdbc:postgresql://shop.postgres.database.azure.com:5432/orders?sslmode=require&user=shop-identity",
            )],
        ),
        (
            "Python",
            &[(
                STRING,
                "dbname=orders host=shop.postgres.database.azure.com port=5432 sslmode=require user=shop-identity",
            )],
        ),
        (
            "Go",
            &[(
                STRING,
                "host=shop.postgres.database.azure.com dbname=orders sslmode=require user=shop-identity",
            )],
        ),
        (
            "Node.js",
            &[
                ("AZURE_POSTGRESQL_HOST", "shop.postgres.database.azure.com"),
                ("AZURE_POSTGRESQL_USER", "shop-identity"),
                ("AZURE_POSTGRESQL_DATABASE", "orders"),
                ("AZURE_POSTGRESQL_PORT", "5432"),
                ("AZURE_POSTGRESQL_SSL", "true"),
            ],
        ),
        (
            "Django",
            &[
                ("AZURE_POSTGRESQL_NAME", "orders"),
                ("AZURE_POSTGRESQL_HOST", "shop.postgres.database.azure.com"),
                ("AZURE_POSTGRESQL_USER", "shop-identity"),
            ],
        ),
        (
            "none",
            &[
                ("AZURE_POSTGRESQL_HOST", "shop.postgres.database.azure.com"),
                ("AZURE_POSTGRESQL_USERNAME", "shop-identity"),
                ("AZURE_POSTGRESQL_DATABASE", "orders"),
                ("AZURE_POSTGRESQL_PORT", "5432"),
                ("AZURE_POSTGRESQL_SSL", "true"),
            ],
        ),
        (
            "App Service",
            &[(
                "POSTGRESQLCONNSTR_Shop",
                "postgres://shop-identity@shop.postgres.database.azure.com/orders",
            )],
        ),
    ];
    let identities: [(Variables, &str, &str); 3] = [
        (&[], "default", ""),
        (&[ID], "client ID", ""),
        (
            &[
                ID,
                ("AZURE_POSTGRESQL_CLIENTSECRET", "s3cret"),
                ("AZURE_POSTGRESQL_TENANTID", "contoso"),
            ],
            "service principal",
            "s3cret",
        ),
    ];
    for (client, variables) in clients {
        for (identity, named, secret) in &identities {
            let environment = Environment::from_pairs(variables.iter().chain(*identity).copied());
            let (config, id) = variables::read(&environment).expect(client);
            let shown = "postgres://shop-identity@shop.postgres.database.azure.com:5432/orders";
            assert_eq!(config.to_string(), shown, "{client}");
            assert_eq!(id.as_ref().map(|(id, _)| id.as_str()), identity.first().map(|it| it.1));
            let Ok(credential) = variables::credential(&config, id, &environment) else {
                // The feature for service principals may be disabled.
                assert!(*named == "service principal" && !cfg!(feature = "azure-identity"));
                continue;
            };
            let shown = format!("{} {credential:?}", credential.name());
            assert_eq!(shown.contains(ID.1), *named != "default", "{client}: {shown}");
            let principal = format!("service principal {}", ID.1);
            assert_eq!(credential.name().contains(&principal), !secret.is_empty(), "{client}");
            assert!(!shown.contains("s3cret"), "{client}: {shown}");
        }
    }
}

#[test]
fn line_breaks_around_separate_variables_are_removed() {
    let environment = Environment::from_pairs([
        ("AZURE_POSTGRESQL_HOST", "shop.postgres.database.azure.com\n"),
        ("AZURE_POSTGRESQL_USERNAME", "shop-identity\r\n"),
        ("AZURE_POSTGRESQL_SSL", "true\n"),
    ]);
    let (config, _) = variables::read(&environment).unwrap();
    let shown = "postgres://shop-identity@shop.postgres.database.azure.com:5432/";
    assert_eq!(config.to_string(), shown);
}

#[test]
fn errors_name_the_missing_or_refused_variables() {
    const STRINGS: Variables =
        &[("POSTGRESQLCONNSTR_A", "host=a"), ("POSTGRESQLCONNSTR_B", "host=b")];
    for (variables, expected) in [
        (
            &[][..],
            "AZURE_POSTGRESQL_CONNECTIONSTRING is not set, and neither is POSTGRESQLCONNSTR_",
        ),
        (&[("AZURE_POSTGRESQL_USER", "u")], "AZURE_POSTGRESQL_HOST"),
        (
            STRINGS,
            "is one of several connection strings (POSTGRESQLCONNSTR_A, POSTGRESQLCONNSTR_B)",
        ),
        (
            &[("AZURE_POSTGRESQL_HOST", "h"), ("AZURE_POSTGRESQL_PASSWORD", "hunter2")],
            "password must be removed",
        ),
        (&[("AZURE_POSTGRESQL_HOST", "h"), ("AZURE_POSTGRESQL_SSL", "false")], "sslmode"),
    ] {
        let environment = Environment::from_pairs(variables.iter().copied());
        let error = variables::read(&environment).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}
