//! Flags, variables and the configuration file: the first that gives a setting
//! decides.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, ValueEnum};
use entra_pool_emulator::{
    entra::{Application, FederatedCredential},
    front::{EngineLogin, azure_sql::EngineTrust},
    jwt::{Principal, PrincipalKind},
};
use serde::Deserialize;
use tracing_subscriber::filter::LevelFilter;

use crate::variables::Format;

/// Emulates Azure's identity endpoints and Entra's token endpoint, and lets
/// Entra logins in to Azure SQL and PostgreSQL: embedded stand-ins, or real
/// engines behind a front. For tests; it listens on loopback unless told
/// otherwise.
#[derive(Debug, Parser)]
#[command(name = "entra-pool-emulator", version)]
pub(crate) struct Arguments {
    /// A TOML file with the settings below (keys are the flags' names), and with
    /// the tables described in the README
    #[arg(long, value_name = "FILE", env = "EMULATOR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// How to print the variables on stdout
    #[arg(long, value_enum, default_value = "sh", value_name = "FORMAT")]
    pub(crate) print: Format,
    /// Also writes the variables to this file, as dotenv; it is removed at the end
    #[arg(long, value_name = "FILE", env = "EMULATOR_ENV_FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// How much to log on stderr: off, error, warn, info (requests and logins), debug
    #[arg(long, default_value = "info", value_name = "LEVEL", env = "EMULATOR_LOG")]
    pub(crate) log: LevelFilter,
    /// Asks a running emulator whether it is ready, and ends with 0 if it is
    #[arg(long)]
    pub(crate) health: bool,
}

/// Which credential the printed variables are for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
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

#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "EMULATOR_BIND")]
    bind: Option<IpAddr>,
    /// A name or address by which clients reach this machine, for certificates;
    /// the first is the one in URLs. Repeatable
    #[arg(long = "host-name", value_name = "NAME", env = "EMULATOR_HOST_NAME")]
    #[arg(value_delimiter = ',')]
    #[serde(rename = "host-name")]
    pub(crate) host_names: Vec<String>,
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
    #[arg(long = "user-assigned", value_name = "NAME")]
    #[serde(rename = "user-assigned")]
    user_assigned: Vec<String>,
    /// A database on Azure SQL; the first is the one in the printed string [default:
    /// orders, or the one in the upstream's URL, or master]. Repeatable
    #[arg(long = "azure-sql-database", value_name = "NAME")]
    #[serde(rename = "azure-sql-database")]
    azure_sql_databases: Vec<String>,
    /// A database on PostgreSQL; the first is the one in the printed URL [default:
    /// restaurant, or the one in the upstream's URL]. Repeatable
    #[arg(long = "postgres-database", value_name = "NAME")]
    #[serde(rename = "postgres-database")]
    postgres_databases: Vec<String>,
    /// A SQL Server behind the front,
    /// sqlserver://USER:PASSWORD@HOST:PORT?TrustServerCertificate=true
    #[arg(long, value_name = "URL", env = "EMULATOR_AZURE_SQL_UPSTREAM", hide_env_values = true)]
    azure_sql_upstream: Option<String>,
    /// A PostgreSQL behind the front, postgres://SUPERUSER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, value_name = "URL", env = "EMULATOR_POSTGRES_UPSTREAM", hide_env_values = true)]
    pub(crate) postgres_upstream: Option<String>,
    /// Which credential the printed variables are for [default: managed-identity]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) credential: Option<Credential>,
    #[arg(skip)]
    #[serde(rename = "application")]
    applications: Vec<ApplicationTable>,
    /// Accounts at the engine, by principal.
    #[arg(skip)]
    pub(crate) azure_sql_login: BTreeMap<String, EngineLogin>,
    #[arg(skip)]
    pub(crate) postgres_login: BTreeMap<String, EngineLogin>,
    /// Principals who are Entra administrators of the PostgreSQL server.
    #[arg(skip)]
    pub(crate) postgres_administrators: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FederatedTable {
    issuer: Option<String>,
    subject: String,
    audience: Option<String>,
    /// A file with the issuer's JWKS.
    keys: Option<PathBuf>,
}

/// A setting that cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, io::Error),
    #[error("{path} is not a configuration: {1}", path = .0.display())]
    Toml(PathBuf, Box<toml::de::Error>),
    #[error("{path}: {1}", path = .0.display())]
    Certificate(PathBuf, entra_pool_emulator::entra::CertificateError),
    #[error(
        "cannot use the URL of azure-sql-upstream: write \
         sqlserver://USER:PASSWORD@HOST:PORT?TrustServerCertificate=true, or \
         ?certificate=FILE with the authority of the server's certificate"
    )]
    SqlServer,
    #[error("the keys of '{0}' are not a JWKS: {1}")]
    Keys(String, String),
    #[error("application '{0}': {1}")]
    Application(String, &'static str),
}

/// A SQL Server, as its URL describes it.
pub(crate) struct SqlServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) trust: EngineTrust,
    /// For principals without their own.
    pub(crate) login: Option<EngineLogin>,
    database: String,
}

/// The URLs of go-mssqldb.
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
    // Of a form's rules, those for these three are not an URL's.
    let escaped = text.replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
    let pair = url::form_urlencoded::parse(escaped.as_bytes()).next();
    pair.map(|(text, _)| text.into_owned()).unwrap_or_default()
}

/// An application, and what the program needs to know of its credentials.
pub(crate) struct Registered {
    pub(crate) application: Application,
    pub(crate) secret: Option<String>,
    pub(crate) workload: Option<FederatedCredential>,
    /// Issuers and their keys.
    pub(crate) keys: Vec<(String, String)>,
}

impl Settings {
    /// Flags and variables come before the file.
    pub(crate) fn read(arguments: Arguments) -> Result<Self, SettingsError> {
        let given = arguments.settings;
        let Some(path) = arguments.config else { return Ok(given) };
        let text = read(&path)?;
        let file: Self = toml::from_str(&text)
            .map_err(|error| SettingsError::Toml(path.clone(), Box::new(error)))?;
        let some = |given: Vec<String>, file| if given.is_empty() { file } else { given };
        // Relative names in the file are relative to its folder.
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut applications = file.applications;
        for application in &mut applications {
            let keys = application.federated.iter_mut().filter_map(|it| it.keys.as_mut());
            for file in application.certificates.iter_mut().chain(keys) {
                *file = folder.join(&file);
            }
        }
        Ok(Self {
            bind: given.bind.or(file.bind),
            host_names: some(given.host_names, file.host_names),
            ca_dir: given.ca_dir.or(file.ca_dir),
            identity_port: given.identity_port.or(file.identity_port),
            token_port: given.token_port.or(file.token_port),
            azure_sql_port: given.azure_sql_port.or(file.azure_sql_port),
            postgres_port: given.postgres_port.or(file.postgres_port),
            identity_header: given.identity_header.or(file.identity_header),
            system_assigned: given.system_assigned.or(file.system_assigned),
            user_assigned: some(given.user_assigned, file.user_assigned),
            azure_sql_databases: some(given.azure_sql_databases, file.azure_sql_databases),
            postgres_databases: some(given.postgres_databases, file.postgres_databases),
            azure_sql_upstream: given.azure_sql_upstream.or(file.azure_sql_upstream),
            postgres_upstream: given.postgres_upstream.or(file.postgres_upstream),
            credential: given.credential.or(file.credential),
            applications,
            azure_sql_login: file.azure_sql_login,
            postgres_login: file.postgres_login,
            postgres_administrators: file.postgres_administrators,
        })
    }

    pub(crate) fn azure_sql_upstream(&self) -> Result<Option<SqlServer>, SettingsError> {
        let url = self.azure_sql_upstream.as_deref();
        url.map(|url| sql_server(url).ok_or(SettingsError::SqlServer)).transpose()
    }

    pub(crate) fn bind(&self) -> IpAddr {
        self.bind.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    pub(crate) fn identity_port(&self) -> u16 {
        self.identity_port.unwrap_or(8421)
    }

    pub(crate) fn azure_sql_databases(&self) -> Vec<String> {
        let upstream = self.azure_sql_upstream.as_deref().and_then(sql_server);
        let database = upstream.map(|upstream| upstream.database);
        or_one(&self.azure_sql_databases, database.as_deref().unwrap_or("orders"))
    }

    pub(crate) fn postgres_databases(&self) -> Vec<String> {
        let url = self.postgres_upstream.as_deref().and_then(|url| url::Url::parse(url).ok());
        let database = url.map(|url| percent_decode(url.path().trim_start_matches('/')));
        let database = database.filter(|name| !name.is_empty());
        or_one(&self.postgres_databases, database.as_deref().unwrap_or("restaurant"))
    }

    pub(crate) fn system_assigned(&self) -> Principal {
        let name = self.system_assigned.as_deref().unwrap_or("shop-app");
        Principal::new(name, PrincipalKind::SystemAssigned)
    }

    /// At least one.
    pub(crate) fn user_assigned(&self) -> Vec<Principal> {
        let names = or_one(&self.user_assigned, "shop-identity");
        names.iter().map(|name| Principal::new(name, PrincipalKind::UserAssigned)).collect()
    }

    /// At least one. An application with the name of a user-assigned identity is
    /// that identity.
    pub(crate) fn applications(&self) -> Result<Vec<Registered>, SettingsError> {
        let mut tables = self.applications.clone();
        if tables.is_empty() {
            tables.push(ApplicationTable {
                name: "shop-service".to_owned(),
                client_id: None,
                secrets: vec![uuid::Uuid::new_v4().simple().to_string()],
                certificates: Vec::new(),
                federated: vec![FederatedTable {
                    issuer: None,
                    subject: "system:serviceaccount:default:shop".to_owned(),
                    audience: None,
                    keys: None,
                }],
            });
        }
        let identities = self.user_assigned();
        tables.into_iter().map(|table| table.register(&identities)).collect()
    }
}

impl ApplicationTable {
    fn register(self, identities: &[Principal]) -> Result<Registered, SettingsError> {
        let identity = identities.iter().find(|identity| identity.name == self.name).cloned();
        let service = || Principal::new(&self.name, PrincipalKind::ServicePrincipal);
        let mut principal = identity.unwrap_or_else(service);
        if let Some(id) = self.client_id {
            if principal.kind == PrincipalKind::UserAssigned {
                let problem = "a managed identity's client ID is given: remove client-id";
                return Err(SettingsError::Application(self.name, problem));
            }
            if uuid::Uuid::try_parse(&id).is_err() {
                let problem = "client-id must be a GUID";
                return Err(SettingsError::Application(self.name, problem));
            }
            principal.client_id = id;
        }
        let mut application = Application::new(principal);
        let secret = self.secrets.first().cloned();
        for secret in self.secrets {
            application = application.secret(secret);
        }
        for path in self.certificates {
            let text = read(&path)?;
            application = application
                .certificate(&text)
                .map_err(|error| SettingsError::Certificate(path, error))?;
        }
        let (mut workload, mut keys) = (None, Vec::new());
        for table in self.federated {
            let mut credential = FederatedCredential::new(
                table.issuer.as_deref().unwrap_or(entra_pool_emulator::entra::WORKLOAD_ISSUER),
                table.subject,
            );
            if let Some(audience) = table.audience {
                credential.audience = audience;
            }
            if let Some(path) = &table.keys {
                keys.push((credential.issuer.clone(), read(path)?));
            }
            if table.issuer.is_none() && workload.is_none() {
                workload = Some(credential.clone());
            }
            application = application.federated(credential);
        }
        Ok(Registered { application, secret, workload, keys })
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    fs::read_to_string(path).map_err(|error| SettingsError::Read(path.to_owned(), error))
}

fn or_one(given: &[String], default: &str) -> Vec<String> {
    if given.is_empty() { vec![default.to_owned()] } else { given.to_vec() }
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
        settings.postgres_databases = vec!["b".to_owned()];
        assert_eq!(settings.postgres_databases(), ["b"]);
    }
}
