use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr, time::Duration};

use rustls::pki_types::ServerName;

use super::connection_string::{self, SyntaxError};
use crate::{
    Cloud,
    tls::Trust,
    token::{InvalidScope, Scope},
};

/// Where an Azure SQL database is and how to connect to it: an ADO.NET
/// connection string, read and checked.
///
/// | keyword | meaning | default |
/// |---|---|---|
/// | `Server` (`Data Source`, `Address`, `Addr`, `Network Address`) | `[tcp:]host[,port]` | required; port 1433 |
/// | `Database` (`Initial Catalog`) | the database; without it a login goes to `master` | none |
/// | `Authentication` | `Active Directory Default`, `Active Directory Managed Identity` or `MSI`, `Active Directory Workload Identity` | as `Default` |
/// | `User Id` (`UID`, `User`) | client ID of the user-assigned managed identity, or of the workload identity (a service principal of the environment comes before either) | system-assigned, or `AZURE_CLIENT_ID` |
/// | `Encrypt` | `True` or `Mandatory` | `True`; less is refused |
/// | `TrustServerCertificate` | `False` | `False`; `True` is refused |
/// | `TrustServerCertificateCA` | a PEM file: trust these roots and no others | the platform's roots |
/// | `HostNameInCertificate` | the name that the certificate must have | the server's host |
/// | `Application Name` (`App`) | shown in `sys.dm_exec_sessions` | `entra-pool` |
/// | `ApplicationIntent` | `ReadWrite` or `ReadOnly` | `ReadWrite` |
/// | `Connect Timeout` (`Connection Timeout`, `Timeout`) | seconds for all of a connect, from resolving the name to the login | 15 |
/// | `Command Timeout` | seconds for an answer to a request; 0 for none | 30 |
/// | `Max Pool Size` | connections in the pool that `connect` makes | deadpool's: 2 for each CPU |
/// | `Persist Security Info`, `MultipleActiveResultSets` | `False` | `False`; `True` is refused |
/// | `Entra Scope` | what tokens are asked for with | follows from the host |
///
/// Keywords are not case-sensitive and may have spaces between their words or
/// not. An unknown one is an error, and so is one given twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: Option<String>,
    pub(super) authentication: Option<Authentication>,
    pub(super) client_id: Option<String>,
    pub(super) encrypt: Encrypt,
    pub(super) trust: Trust,
    pub(super) host_in_certificate: Option<String>,
    pub(super) application_name: String,
    pub(super) workstation_id: Option<String>,
    pub(super) read_only: bool,
    pub(super) packet_size: Option<u32>,
    pub(super) multi_subnet_failover: bool,
    pub(super) connect_timeout: Duration,
    pub(super) command_timeout: Option<Duration>,
    /// How often a login that failed with a transient error is tried again;
    /// `None`: as long as there is time.
    pub(super) retry_count: Option<u32>,
    /// The pause before such a try; `None`: backing off.
    pub(super) retry_interval: Option<Duration>,
    pub(super) max_pool_size: Option<usize>,
    pub(super) min_pool_size: usize,
    /// `None`: never retired for their age.
    pub(super) max_lifetime: Option<Duration>,
    /// Suffixes of hosts, beside those of the server's own cloud, that a login
    /// may be routed to.
    pub(super) routing_suffixes: Vec<String>,
    pub(super) scope: Scope,
}

/// How a connection is encrypted; unencrypted ones there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Encrypt {
    /// TDS 7.4: TLS after the first exchange, which is in plain text.
    #[default]
    Mandatory,
    /// TDS 8.0: TLS before anything else.
    Strict,
}

/// Which identity a connection string asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Authentication {
    /// `Active Directory Default`: whatever the environment has, see
    /// [`credential::from_env`](crate::credential::from_env).
    Default,
    /// `Active Directory Managed Identity`, `Active Directory MSI`.
    ManagedIdentity,
    /// `Active Directory Workload Identity`.
    WorkloadIdentity,
}

/// Why a connection string is refused. None shows a value that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It does not parse.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A keyword that means nothing here.
    #[error("unknown keyword '{keyword}'")]
    #[non_exhaustive]
    UnknownKeyword {
        /// As written.
        keyword: String,
    },
    /// A keyword, or another name for it, stands twice.
    #[error("'{keyword}' is given twice (or under two of its names)")]
    #[non_exhaustive]
    Twice {
        /// As written the second time.
        keyword: String,
    },
    /// No `Server`.
    #[error("the server is missing: Server=tcp:NAME.database.windows.net")]
    NoServer,
    /// A value that the keyword does not take.
    #[error("'{keyword}' {problem}")]
    #[non_exhaustive]
    Value {
        /// As written.
        keyword: String,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// The host is of no Azure cloud, so that nobody knows which tokens it takes.
    #[error(
        "'{host}' is no Azure SQL host, so that the tokens for it cannot be told: add 'Entra Scope=…' (for the public cloud https://database.windows.net/.default)"
    )]
    #[non_exhaustive]
    UnknownHost {
        /// The host.
        host: String,
    },
    /// The string names an identity, but one was given beside it.
    #[error(
        "'{keyword}' names an identity, but an Identity is given beside the connection string: keep one of them"
    )]
    #[non_exhaustive]
    TwoIdentities {
        /// `Authentication` or `User Id`.
        keyword: &'static str,
    },
    /// The tokens that are given beside it are for something else.
    #[error(
        "this server wants tokens for {wanted}, but the tokens given beside the connection string are for {tokens}"
    )]
    #[non_exhaustive]
    OtherScope {
        /// What the string or its host says.
        wanted: Scope,
        /// What the tokens are for.
        tokens: Scope,
    },
    /// `Entra Scope` is none.
    #[error(transparent)]
    Scope(#[from] InvalidScope),
}

impl Config {
    /// Reads and checks an ADO.NET connection string.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the keyword.
    pub fn from_ado_string(text: &str) -> Result<Self, ConfigError> {
        let mut read = Keywords::default();
        for (keyword, value) in connection_string::pairs(text)? {
            read.keyword(&keyword, &value)?;
        }
        read.finish()
    }

    /// What tokens for this server are asked for with.
    #[must_use]
    pub fn token_scope(&self) -> &Scope {
        &self.scope
    }

    /// A string that names an identity contradicts one that is given beside it.
    pub(super) fn refuse_identity(&self) -> Result<(), ConfigError> {
        if self.authentication.is_some() {
            return Err(ConfigError::TwoIdentities { keyword: "Authentication" });
        }
        if self.client_id.is_some() {
            return Err(ConfigError::TwoIdentities { keyword: "User Id" });
        }
        Ok(())
    }

    /// The server's host name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The database, if one is named.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The time that all of a connect may take.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::from_ado_string(text)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp:{},{}", self.host, self.port)?;
        match &self.database {
            Some(database) => write!(f, "/{database}"),
            None => Ok(()),
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct Keywords {
    server: Option<(String, u16)>,
    database: Option<String>,
    authentication: Option<Authentication>,
    client_id: Option<String>,
    encrypt: Option<()>,
    trust: Option<()>,
    ca_file: Option<PathBuf>,
    host_in_certificate: Option<String>,
    application_name: Option<String>,
    read_only: Option<bool>,
    connect_timeout: Option<Duration>,
    command_timeout: Option<Duration>,
    max_pool_size: Option<usize>,
    scope: Option<Scope>,
    /// Accepted, and of no consequence.
    ignored: BTreeSet<String>,
}

impl Keywords {
    fn keyword(&mut self, keyword: &str, value: &str) -> Result<(), ConfigError> {
        let refuse =
            |problem: String| Err(ConfigError::Value { keyword: keyword.to_owned(), problem });
        let squeezed: String =
            keyword.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
        let first = match squeezed.as_str() {
            "server" | "datasource" | "address" | "addr" | "networkaddress" => {
                match server(value) {
                    Ok(server) => set(&mut self.server, server),
                    Err(problem) => return refuse(problem),
                }
            }
            "database" | "initialcatalog" => set(&mut self.database, value.to_owned()),
            "authentication" => match authentication(value) {
                Ok(authentication) => set(&mut self.authentication, authentication),
                Err(problem) => return refuse(problem),
            },
            "userid" | "uid" | "user" => set(&mut self.client_id, value.to_owned()),
            "password" | "pwd" => {
                return refuse(
                    "has no place here: a login is made with a token of the machine's identity; \
                     remove it (and User Id, unless it is the client ID of a managed identity)"
                        .into(),
                );
            }
            "encrypt" => match value.to_lowercase().as_str() {
                "true" | "yes" | "mandatory" => set(&mut self.encrypt, ()),
                "strict" => {
                    return refuse("=strict (TDS 8.0) is not supported yet: use True".into());
                }
                _ => {
                    return refuse(
                        "must be True (or Mandatory): a token is only sent over TLS".into(),
                    );
                }
            },
            "trustservercertificate" => match value.to_lowercase().as_str() {
                "false" | "no" => set(&mut self.trust, ()),
                _ => {
                    return refuse(
                        "must be False: a token is only sent to a server whose certificate is \
                         verified; to trust a CA of your own, give its file with \
                         TrustServerCertificateCA"
                            .into(),
                    );
                }
            },
            "trustservercertificateca" => set(&mut self.ca_file, PathBuf::from(value)),
            "hostnameincertificate" => {
                if ServerName::try_from(value).is_err() {
                    return refuse("is no host name".into());
                }
                set(&mut self.host_in_certificate, value.to_owned())
            }
            "applicationname" | "app" => set(&mut self.application_name, value.to_owned()),
            "applicationintent" => match value.to_lowercase().as_str() {
                "readonly" => set(&mut self.read_only, true),
                "readwrite" => set(&mut self.read_only, false),
                _ => return refuse("must be ReadWrite or ReadOnly".into()),
            },
            "connecttimeout" | "connectiontimeout" | "timeout" => match value.parse::<u32>() {
                Ok(seconds @ 1..) => {
                    set(&mut self.connect_timeout, Duration::from_secs(seconds.into()))
                }
                _ => return refuse("must be a number of seconds, 1 or more".into()),
            },
            "commandtimeout" => match value.parse::<u32>() {
                Ok(seconds) => set(&mut self.command_timeout, Duration::from_secs(seconds.into())),
                Err(_) => return refuse("must be a number of seconds (0 for no limit)".into()),
            },
            "persistsecurityinfo" | "multipleactiveresultsets" => {
                // What they default to, and all there is here; strings have them.
                match value.to_lowercase().as_str() {
                    "false" | "no" => self.ignored.insert(squeezed.clone()),
                    _ => return refuse("must be False, or be left out".into()),
                }
            }
            "maxpoolsize" => match value.parse::<usize>() {
                Ok(size @ 1..=32_767) => set(&mut self.max_pool_size, size),
                _ => return refuse("must be a number from 1 to 32767".into()),
            },
            "entrascope" => set(&mut self.scope, Scope::new(value)?),
            _ => return Err(ConfigError::UnknownKeyword { keyword: keyword.to_owned() }),
        };
        if first { Ok(()) } else { Err(ConfigError::Twice { keyword: keyword.to_owned() }) }
    }

    fn finish(self) -> Result<Config, ConfigError> {
        let (host, port) = self.server.ok_or(ConfigError::NoServer)?;
        let scope = match self.scope {
            Some(scope) => scope,
            None => Cloud::of_azure_sql_host(&host)
                .ok_or_else(|| ConfigError::UnknownHost { host: host.clone() })?
                .azure_sql_scope(),
        };
        Ok(Config {
            host,
            port,
            database: self.database,
            authentication: self.authentication,
            client_id: self.client_id,
            encrypt: Encrypt::Mandatory,
            trust: self.ca_file.map_or(Trust::Platform, Trust::Roots),
            host_in_certificate: self.host_in_certificate,
            application_name: self.application_name.unwrap_or_else(|| "entra-pool".to_owned()),
            workstation_id: None,
            read_only: self.read_only.unwrap_or(false),
            connect_timeout: self.connect_timeout.unwrap_or(Duration::from_secs(15)),
            command_timeout: match self.command_timeout {
                Some(Duration::ZERO) => None,
                Some(limit) => Some(limit),
                None => Some(Duration::from_secs(30)),
            },
            packet_size: None,
            multi_subnet_failover: false,
            retry_count: None,
            retry_interval: None,
            max_pool_size: self.max_pool_size,
            min_pool_size: 0,
            max_lifetime: Some(Duration::from_secs(3600)),
            routing_suffixes: Vec::new(),
            scope,
        })
    }
}

/// Fills an empty place; says whether it was empty.
fn set<T>(place: &mut Option<T>, value: T) -> bool {
    let empty = place.is_none();
    *place = Some(value);
    empty
}

/// `[tcp:]host[,port]`
fn server(value: &str) -> Result<(String, u16), String> {
    let value = value.trim();
    let value = match value.get(..4) {
        Some(prefix) if prefix.eq_ignore_ascii_case("tcp:") => value[4..].trim_start(),
        _ => value,
    };
    let (host, port) = match value.split_once(',') {
        None => (value, 1433),
        Some((host, port)) => match port.trim().parse() {
            Ok(port @ 1..) => (host.trim_end(), port),
            _ => return Err("must be tcp:HOST,PORT with a port from 1 to 65535".into()),
        },
    };
    if host.contains('\\') {
        return Err(
            "names an instance (HOST\\INSTANCE), which Azure SQL has none of: use tcp:HOST,PORT"
                .into(),
        );
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if ServerName::try_from(host).is_err() {
        return Err("must be tcp:HOST[,PORT], with a host name or an address".into());
    }
    Ok((host.to_owned(), port))
}

fn authentication(value: &str) -> Result<Authentication, String> {
    let squeezed: String =
        value.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
    match squeezed.strip_prefix("activedirectory").unwrap_or_default() {
        "default" => Ok(Authentication::Default),
        "managedidentity" | "msi" => Ok(Authentication::ManagedIdentity),
        "workloadidentity" => Ok(Authentication::WorkloadIdentity),
        "serviceprincipal" => Err(
            "=Active Directory Service Principal is not read from a connection string yet: set \
             AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET and use Active Directory \
             Default, or pass an Identity to connect_with"
                .into(),
        ),
        "interactive" | "integrated" | "password" | "devicecodeflow" => Err(
            "asks for a person's login, which a service does not have: on a laptop run `az login` \
             and use Active Directory Default"
                .into(),
        ),
        _ => {
            Err("must be Active Directory Default, Active Directory Managed Identity (or MSI) or \
                  Active Directory Workload Identity"
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_defaults_are_those_of_the_table() {
        let config = config("Server=tcp:shop.database.windows.net;Database=orders");
        assert_eq!((config.host(), config.port()), ("shop.database.windows.net", 1433));
        assert_eq!(config.database(), Some("orders"));
        assert_eq!(config.token_scope(), &Scope::AZURE_SQL);
        assert_eq!(config.connect_timeout, Duration::from_secs(15));
        assert_eq!(config.command_timeout, Some(Duration::from_secs(30)));
        assert_eq!(config.to_string(), "tcp:shop.database.windows.net,1433/orders");
    }

    #[test]
    fn every_keyword_and_its_other_names_are_read() {
        let config = config(
            "data source = tcp:127.0.0.1,1500; InitialCatalog=db; Authentication=ActiveDirectoryMSI; \
             UID=3f; Encrypt=Mandatory; TrustServerCertificate=no; Trust Server Certificate CA=ca.pem; \
             HostNameInCertificate=sql.example; App=shop; Application Intent=readonly; Timeout=3; \
             command timeout=0; Max Pool Size=7; Entra Scope=api://x/.default",
        );
        assert_eq!((config.host(), config.port()), ("127.0.0.1", 1500));
        assert_eq!(config.authentication, Some(Authentication::ManagedIdentity));
        assert_eq!(config.client_id.as_deref(), Some("3f"));
        assert_eq!(config.trust, Trust::Roots("ca.pem".into()));
        assert_eq!(config.host_in_certificate.as_deref(), Some("sql.example"));
        assert_eq!(config.application_name, "shop");
        assert!(config.read_only);
        assert_eq!(
            (config.connect_timeout, config.command_timeout),
            (Duration::from_secs(3), None)
        );
        assert_eq!(config.max_pool_size, Some(7));
        assert_eq!(config.token_scope().as_str(), "api://x/.default");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_shown() {
        let azure = "Server=a.database.windows.net;";
        let cases = [
            ("Database=x", "server is missing"),
            ("Server=localhost", "Entra Scope"),
            ("Server=evil-database.windows.net", "Entra Scope"),
            (r"Server=a\SQLEXPRESS", "instance"),
            ("Server=a,0", "port"),
            ("Server=a b", "host name"),
            (&format!("{azure}Password=hunter2"), "'Password' has no place here"),
            (&format!("{azure}Pwd='hunter2'"), "'Pwd' has no place here"),
            (&format!("{azure}Encrypt=False"), "'Encrypt' must be True"),
            (&format!("{azure}Encrypt=optional"), "'Encrypt' must be True"),
            (
                &format!("{azure}TrustServerCertificate=True"),
                "'TrustServerCertificate' must be False",
            ),
            (&format!("{azure}Authentication=SqlPassword"), "'Authentication' must be"),
            (&format!("{azure}Authentication=Active Directory Interactive"), "az login"),
            (&format!("{azure}Databse=x"), "unknown keyword 'Databse'"),
            (&format!("{azure}Initial Catalog=x;database=y"), "'database' is given twice"),
            (&format!("{azure}Connect Timeout=soon"), "'Connect Timeout' must be a number"),
            (&format!("{azure}Connect Timeout=0"), "'Connect Timeout' must be a number"),
            (&format!("{azure}Max Pool Size=0"), "'Max Pool Size' must be"),
            (&format!("{azure}Entra Scope=$(rm)"), "no scope"),
            (&format!("{azure}hunter2"), "keyword number 2"),
        ];
        for (text, expected) in cases {
            let error = Config::from_ado_string(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
