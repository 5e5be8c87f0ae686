//! Flags, variables and the configuration file. A flag takes precedence over a variable, and
//! a variable over the file.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, ValueEnum};
use entra_pool_emulator::{
    entra::{Application, Certificate, FederatedCredential},
    front::{EngineLogin, azure_sql::EngineTrust},
    jwt::{Principal, PrincipalKind},
};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;

use crate::variables::Format;

/// Emulates Azure's identity endpoints, Entra's token endpoint, and Entra logins to Azure
/// SQL and PostgreSQL: embedded stand-ins, or real engines behind a front. For tests; it
/// listens on loopback unless --bind is set.
#[derive(Debug, Parser)]
#[command(name = "entra-pool-emulator", version)]
pub(crate) struct Arguments {
    /// A TOML file with the settings below (keys are the flags' names), and with
    /// the tables described in the README
    #[arg(long, value_name = "FILE", env = "EMULATOR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// How to print the variables on stdout
    #[arg(long, value_enum, default_value = "sh", value_name = "FORMAT")]
    pub(crate) print: Format,
    /// How much to log on stderr: off, error, warn, info (requests and logins), debug
    /// [default: info, or warn with a COMMAND]
    #[arg(long, value_name = "LEVEL", env = "EMULATOR_LOG")]
    pub(crate) log: Option<LevelFilter>,
    /// Checks whether a running emulator is ready: the exit status is 0 if it is
    #[arg(long)]
    pub(crate) health: bool,
    /// Runs this command with the variables in its environment instead of printing them, and
    /// exits when it exits, with its exit code
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Which credential the printed variables are for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Credential {
    /// App Service's endpoint and the user-assigned identity
    #[default]
    ManagedIdentity,
    /// The first application's client secret
    ClientSecret,
    /// The first application's service account
    WorkloadIdentity,
}

#[derive(Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "EMULATOR_BIND")]
    pub(crate) bind: Option<IpAddr>,
    /// A name or address by which clients reach this machine, for certificates;
    /// URLs contain the first. Repeatable
    #[arg(long, value_name = "NAME", env = "EMULATOR_HOST_NAME", value_delimiter = ',')]
    pub(crate) host_name: Option<Vec<String>>,
    /// Keeps the certificate authority and all keys in this folder
    #[arg(long, value_name = "FOLDER", env = "EMULATOR_CA_DIR")]
    pub(crate) ca_dir: Option<PathBuf>,
    /// The identity endpoint's port, 0 for a free one [default: 8421]
    #[arg(long, value_name = "PORT", env = "EMULATOR_IDENTITY_PORT")]
    identity_port: Option<u16>,
    /// The port of Entra's token endpoint [default: 8422]
    #[arg(long, value_name = "PORT", env = "EMULATOR_TOKEN_PORT")]
    pub(crate) token_port: Option<u16>,
    /// Azure SQL's port [default: 14330]
    #[arg(long, value_name = "PORT", env = "EMULATOR_AZURE_SQL_PORT")]
    pub(crate) azure_sql_port: Option<u16>,
    /// PostgreSQL's port [default: 54320]
    #[arg(long, value_name = "PORT", env = "EMULATOR_POSTGRES_PORT")]
    pub(crate) postgres_port: Option<u16>,
    /// The value of IDENTITY_HEADER [default: a random one]
    #[arg(long, value_name = "SECRET", env = "EMULATOR_IDENTITY_HEADER", hide_env_values = true)]
    pub(crate) identity_header: Option<String>,
    /// The system-assigned identity's name [default: shop-app]
    #[arg(long, value_name = "NAME")]
    system_assigned: Option<String>,
    /// A user-assigned identity's name [default: shop-identity]. Repeatable
    #[arg(long, value_name = "NAME")]
    user_assigned: Option<Vec<String>>,
    /// A database on Azure SQL; the printed string names the first [default:
    /// orders, or the database in the upstream's URL, or master]. Repeatable
    #[arg(long, value_name = "NAME")]
    azure_sql_database: Option<Vec<String>>,
    /// A database on PostgreSQL; the printed URL names the first [default:
    /// restaurant, or the database in the upstream's URL]. Repeatable
    #[arg(long, value_name = "NAME")]
    postgres_database: Option<Vec<String>>,
    /// A SQL Server behind the front,
    /// sqlserver://USER:PASSWORD@HOST:PORT?TrustServerCertificate=true
    #[arg(long, value_name = "URL", env = "EMULATOR_AZURE_SQL_UPSTREAM", hide_env_values = true)]
    pub(crate) azure_sql_upstream: Option<String>,
    /// A PostgreSQL behind the front, postgres://SUPERUSER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, value_name = "URL", env = "EMULATOR_POSTGRES_UPSTREAM", hide_env_values = true)]
    pub(crate) postgres_upstream: Option<String>,
    /// A SQL script (one batch) for the embedded Azure SQL, instead of the sample table
    #[cfg(feature = "embedded")]
    #[arg(long, value_name = "FILE", value_parser = |path: &str| std::path::absolute(path))]
    pub(crate) azure_sql_init: Option<PathBuf>,
    /// A SQL script for the embedded PostgreSQL, instead of the sample table
    #[cfg(feature = "embedded")]
    #[arg(long, value_name = "FILE", value_parser = |path: &str| std::path::absolute(path))]
    pub(crate) postgres_init: Option<PathBuf>,
    /// Which credential the variables are for [default: managed-identity]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) credential: Option<Credential>,
    // The other settings can only be set in the file.
    #[arg(skip)]
    #[serde(skip_serializing)]
    application: Vec<ApplicationTable>,
    /// Accounts at the engine, by principal.
    #[arg(skip)]
    #[serde(skip_serializing)]
    pub(crate) azure_sql_login: BTreeMap<String, EngineLogin>,
    #[arg(skip)]
    #[serde(skip_serializing)]
    pub(crate) postgres_login: BTreeMap<String, EngineLogin>,
    /// Principals that are Entra administrators of the PostgreSQL server.
    #[arg(skip)]
    #[serde(skip_serializing)]
    pub(crate) postgres_administrators: Vec<String>,
    /// The file's folder: its scripts, certificates and keys are relative to it.
    #[arg(skip)]
    #[serde(skip)]
    folder: PathBuf,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ApplicationTable {
    name: String,
    client_id: Option<String>,
    #[serde(default)]
    secrets: Vec<String>,
    /// Files.
    #[serde(default)]
    certificates: Vec<PathBuf>,
    #[serde(default)]
    federated: Vec<FederatedTable>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FederatedTable {
    /// Without an issuer, the emulator is the issuer.
    issuer: Option<String>,
    subject: String,
    /// A file with the issuer's JWKS.
    keys: Option<PathBuf>,
}

/// A SQL Server's URL, in parts.
pub(crate) struct SqlServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) trust: EngineTrust,
    /// For principals without their own.
    pub(crate) login: Option<EngineLogin>,
    database: String,
}

/// Reads a URL of go-mssqldb.
fn sql_server(url: &str) -> Option<SqlServer> {
    let url = url::Url::parse(url).ok().filter(|url| url.scheme() == "sqlserver")?;
    let (mut trust, mut database) = (None, "master".to_owned());
    for (name, value) in url.query_pairs() {
        match name.to_ascii_lowercase().as_str() {
            "trustservercertificate" if value == "true" => trust = Some(EngineTrust::DangerousAny),
            "certificate" => trust = Some(EngineTrust::CaFile(value.as_ref().into())),
            "database" => database = value.into_owned(),
            _ => return None,
        }
    }
    let login = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => Some(EngineLogin {
            user: percent_decode(user),
            password: percent_decode(password.unwrap_or("")),
        }),
    };
    let host = url.host_str().filter(|host| !host.is_empty())?.to_owned();
    Some(SqlServer { host, port: url.port().unwrap_or(1433), trust: trust?, login, database })
}

fn percent_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl Settings {
    /// The settings of the flags, the variables and the file.
    pub(crate) fn read(given: Self, file: Option<&Path>) -> Result<Self, String> {
        let Some(path) = file else { return Ok(given) };
        let text = read(path)?;
        let wrong =
            |error: toml::de::Error| format!("{} is not a configuration: {error}", path.display());
        // Reads the file separately first, so that errors have line numbers.
        toml::from_str::<Self>(&text).map_err(wrong)?;
        let mut merged: toml::Table = toml::from_str(&text).map_err(wrong)?;
        merged.extend(toml::Table::try_from(&given).map_err(|error| error.to_string())?);
        let mut merged: Self = merged.try_into().map_err(wrong)?;
        merged.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(merged)
    }

    pub(crate) fn azure_sql_upstream(&self) -> Result<Option<SqlServer>, String> {
        let wrong = "cannot use the URL of azure-sql-upstream: write \
                     sqlserver://USER:PASSWORD@HOST:PORT?TrustServerCertificate=true, or \
                     ?certificate=FILE with the authority of the server's certificate";
        let url = self.azure_sql_upstream.as_deref();
        url.map(|url| sql_server(url).ok_or_else(|| wrong.to_owned())).transpose()
    }

    /// The script in the file `init`, or the `sample`, for the embedded engine.
    #[cfg(feature = "embedded")]
    pub(crate) fn script(
        &self,
        init: &Option<PathBuf>,
        upstream: &Option<String>,
        sample: &str,
    ) -> Result<String, String> {
        match init {
            None => Ok(sample.to_owned()),
            Some(path) if upstream.is_none() => read(&self.folder.join(path)),
            Some(path) => Err(format!(
                "{} is not run in an upstream: run it there yourself, or leave the upstream out",
                path.display()
            )),
        }
    }

    pub(crate) fn identity_port(&self) -> u16 {
        self.identity_port.unwrap_or(8421)
    }

    pub(crate) fn azure_sql_databases(&self) -> Vec<String> {
        let upstream = self.azure_sql_upstream.as_deref().and_then(sql_server);
        let database = upstream.map(|upstream| upstream.database);
        or_one(&self.azure_sql_database, database.as_deref().unwrap_or("orders"))
    }

    pub(crate) fn postgres_databases(&self) -> Vec<String> {
        let url = self.postgres_upstream.as_deref().and_then(|url| url::Url::parse(url).ok());
        let database = url.map(|url| percent_decode(url.path().trim_start_matches('/')));
        let database = database.filter(|name| !name.is_empty());
        or_one(&self.postgres_database, database.as_deref().unwrap_or("restaurant"))
    }

    pub(crate) fn system_assigned(&self) -> Principal {
        let name = self.system_assigned.as_deref().unwrap_or("shop-app");
        Principal::new(name, PrincipalKind::SystemAssigned)
    }

    /// The user-assigned identities, at least one.
    pub(crate) fn user_assigned(&self) -> Vec<Principal> {
        let names = or_one(&self.user_assigned, "shop-identity");
        names.iter().map(|name| Principal::new(name, PrincipalKind::UserAssigned)).collect()
    }

    /// The applications, at least one. An application with the name of a user-assigned
    /// identity is that identity.
    pub(crate) fn applications(&self) -> Result<Vec<Application>, String> {
        let mut tables = self.application.clone();
        if tables.is_empty() {
            let subject = "system:serviceaccount:default:shop".to_owned();
            tables.push(ApplicationTable {
                name: "shop-service".to_owned(),
                secrets: vec![uuid::Uuid::new_v4().simple().to_string()],
                federated: vec![FederatedTable { subject, ..FederatedTable::default() }],
                ..ApplicationTable::default()
            });
        }
        let identities = self.user_assigned();
        tables.into_iter().map(|table| table.read(&identities, &self.folder)).collect()
    }
}

impl ApplicationTable {
    fn read(self, identities: &[Principal], folder: &Path) -> Result<Application, String> {
        let name = self.name;
        let wrong = |problem: &str| format!("application '{name}': {problem}");
        let identity = identities.iter().find(|identity| identity.name == name).cloned();
        let mut principal =
            identity.unwrap_or_else(|| Principal::new(&name, PrincipalKind::ServicePrincipal));
        if let Some(id) = self.client_id {
            if principal.kind == PrincipalKind::UserAssigned {
                return Err(wrong("a managed identity's client ID is given: remove client-id"));
            }
            if uuid::Uuid::try_parse(&id).is_err() {
                return Err(wrong("client-id must be a GUID"));
            }
            principal.client_id = id;
        }
        let certificate = |path: &PathBuf| {
            let certificate = Certificate::from_pem(&read(&folder.join(path))?);
            certificate.map_err(|error| format!("{}: {error}", path.display()))
        };
        let credential = |table: FederatedTable| match (table.issuer, &table.keys) {
            (None, None) => Ok(FederatedCredential::of_emulator(table.subject)),
            (Some(issuer), Some(path)) => {
                let keys = read(&folder.join(path))?;
                FederatedCredential::new(&issuer, table.subject, &keys)
                    .map_err(|error| format!("the keys of '{issuer}' are not a JWKS: {error}"))
            }
            _ => Err(wrong(
                "a federated credential has only an issuer or only keys: add keys = \"FILE\" with \
                 the issuer's JWKS, or remove both",
            )),
        };
        Ok(Application {
            principal,
            secrets: self.secrets,
            certificates: self.certificates.iter().map(certificate).collect::<Result<_, _>>()?,
            federated: self.federated.into_iter().map(credential).collect::<Result<_, _>>()?,
        })
    }
}

fn or_one(given: &Option<Vec<String>>, default: &str) -> Vec<String> {
    let given = given.clone().filter(|given| !given.is_empty());
    given.unwrap_or_else(|| vec![default.to_owned()])
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sql_servers_url_is_one_of_go_mssqldb() {
        let server = sql_server(
            "sqlserver://s%61:p%40+s=1@db:1434?database=orders&trustservercertificate=true",
        )
        .unwrap();
        assert_eq!((server.host.as_str(), server.port), ("db", 1434));
        assert_eq!((server.database.as_str(), server.trust), ("orders", EngineTrust::DangerousAny));
        let login = EngineLogin { user: "sa".to_owned(), password: "p@+s=1".to_owned() };
        assert_eq!(server.login, Some(login));
        let server = sql_server("sqlserver://db?certificate=/ca.pem").unwrap();
        assert_eq!((server.port, server.login), (1433, None));
        assert_eq!(server.trust, EngineTrust::CaFile("/ca.pem".into()));
        for bad in [
            "db",
            "postgres://db?TrustServerCertificate=true",
            "sqlserver://db",
            "sqlserver://?TrustServerCertificate=true",
            "sqlserver://db?TrustServerCertificate=false",
            "sqlserver://db?TrustServerCertificate=true&encrypt=disable",
        ] {
            assert!(sql_server(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn databases_are_the_upstreams_unless_they_are_given() {
        let mut settings = Settings::default();
        assert_eq!(settings.azure_sql_databases(), ["orders"]);
        assert_eq!(settings.postgres_databases(), ["restaurant"]);
        settings.azure_sql_upstream = Some("sqlserver://db?TrustServerCertificate=true".to_owned());
        settings.postgres_upstream = Some("postgres://u:p@db/sa%20les?host=/tmp".to_owned());
        assert_eq!(settings.azure_sql_databases(), ["master"]);
        assert_eq!(settings.postgres_databases(), ["sa les"]);
        settings.postgres_database = Some(vec!["b".to_owned()]);
        assert_eq!(settings.postgres_databases(), ["b"]);
    }
}
