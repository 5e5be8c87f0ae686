mod authentication;
mod check;
mod display;
mod error;
mod identity;
mod jdbc;
mod keywords;
mod read;
mod settings;
mod url;
mod variables;

use std::{str::FromStr, sync::Arc, time::Duration};

pub use error::ConfigError;

use self::identity::NamedIdentity;
use super::{Error, Recycling};
use crate::{
    Cloud,
    credential::Environment,
    tls::Trust,
    token::{Scope, TokenCredential},
};

/// The address of an Azure SQL database and the settings of its connections, without the identity.
///
/// Parse it from a string, or create it with [`new`](Self::new). Methods set single settings and
/// replace the previous value. A string is checked when it is parsed, and
/// [`Connector::new`](super::Connector::new) checks every configuration.
///
/// ```
/// use entra_pool::azure_sql::Config;
///
/// let strings = [
///     "Server=tcp:shop.database.windows.net,1433;Database=orders;Connect Timeout=60",
///     "jdbc:sqlserver://shop.database.windows.net:1433;databaseName=orders;loginTimeout=60",
///     "mssql://shop.database.windows.net:1433/orders?connect+timeout=60",
/// ];
/// let config = Config::new("shop.database.windows.net")
///     .database("orders")
///     .connect_timeout(std::time::Duration::from_secs(60));
/// for string in strings {
///     assert_eq!(string.parse::<Config>()?, config);
/// }
/// # Ok::<(), entra_pool::azure_sql::ConfigError>(())
/// ```
///
/// | form | rules |
/// |---|---|
/// | ADO.NET and ODBC: `Keyword=value;Keyword=value`, also after `odbc:` | those of .NET's `DbConnectionStringBuilder`: a value may be in `'…'` or `"…"`, and a quote inside is doubled. In a keyword, `==` means `=`. As in ODBC, braces around a value are removed, unless they are in quotes |
/// | JDBC: `jdbc:sqlserver://host:port;name=value`, Prisma: `sqlserver://host:port;name=value` | those of mssql-jdbc: a value may be in `{…}`, and a `}` inside is doubled |
/// | URL: `mssql://client-id@host:port/database?keyword=value`, or `sqlserver://…` | percent-encoded. In parameters, `+` means a space |
///
/// Each form accepts the keywords of every driver. Keywords are not case-sensitive, and spaces and
/// `_` between their words do not matter. A keyword without a value has no effect. White space, a
/// byte-order mark and semicolons around the string are ignored. An unknown keyword is an error,
/// and so are two keywords for the same setting (most drivers use the last one), and a placeholder
/// of a template in a value (`{your_database}`, `<server>`, `${SERVER}`).
///
/// # Keywords
///
/// | keyword, other names | meaning | default |
/// |---|---|---|
/// | `Server`, `Data Source`, `Address`, `Addr`, `Network Address`, `serverName` | `[tcp:]host[,port]`; `.` and `(local)` mean this machine. Use `NAME.database.windows.net` even with a private endpoint, because Azure refuses logins to an IP address. For the `privatelink` name, the login sends the public name | required |
/// | `Port`, `portNumber` | the port, unless `Server` contains it | 1433 |
/// | `Database`, `Initial Catalog`, `databaseName` | the database; without it, a login uses `master` | none |
/// | `Authentication`, `fedauth` | the identity, see [below](#identities) | `Active Directory Default` |
/// | `User Id`, `UID`, `User`, `userName`, `msiClientId`, `AADSecurePrincipalId`, `clientId` | client ID of the user-assigned managed identity, of the workload identity, or of the service principal (`CLIENT_ID` or `CLIENT_ID@TENANT`) | system-assigned, or `AZURE_CLIENT_ID` |
/// | `Password`, `PWD`, `AADSecurePrincipalSecret`, `clientSecret` | the service principal's secret. Refused for other identities | `AZURE_CLIENT_SECRET` |
/// | `Entra Tenant`, `tenantId` | the service principal's tenant | `AZURE_TENANT_ID` |
/// | `Entra CLI Timeout` | seconds that `az` or `azd` may take for a token | 30 |
/// | `Encrypt` | `True`, `Yes` or `Mandatory` for TDS 7.4, `Strict` for TDS 8.0. Weaker values (`False`, `Optional`, `disable`, …) are refused | `Mandatory` |
/// | `TrustServerCertificate` | `False`. `True` is refused, except by [`dangerous_parse`](Self::dangerous_parse) | `False` |
/// | `TrustServerCertificateCA`, `certificate` | a PEM file with the only root certificates to trust | the platform's roots |
/// | `ServerCertificate` | a PEM or DER file with the only certificate to accept from the server, regardless of its names | none |
/// | `HostNameInCertificate` | the name that the certificate must have. A wildcard must match the host, and the certificate is then verified for the host. If `Server` is the address of a tunnel, the login sends this name | the server's host, without `privatelink.` for a private endpoint |
/// | `Application Name`, `App`, `app name` | shown in `sys.dm_exec_sessions`, at most 128 characters | `entra-pool` |
/// | `Workstation ID`, `WSID` | shown in `sys.dm_exec_sessions` as `host_name` | this machine's name |
/// | `ApplicationIntent` | `ReadWrite` or `ReadOnly` | `ReadWrite` |
/// | `Packet Size` | size of a TDS packet in bytes, 512 to 32767 | 4096 |
/// | `MultiSubnetFailover` | `True`: all addresses of the server are tried at once | `False`: the next address is tried after 250 ms, or when one fails |
/// | `Connect Timeout`, `Connection Timeout`, `Timeout`, `loginTimeout` | time limit of a whole connect in seconds: token, login and retries. `loginTimeout=0` means the default | 15 |
/// | `Command Timeout`, `queryTimeout` | seconds to wait for the response to a request, or for the rest of it. 0 (in JDBC also -1) means no limit | 30 |
/// | `ConnectRetryCount` | how often a login that failed with a transient error is retried, 0 to 255 | until `Connect Timeout`, but see [`Connector::connect`](super::Connector::connect) for errors that may be permanent |
/// | `ConnectRetryInterval` | pause before each of these retries in seconds, 1 to 60 | 1, doubling up to 5 |
/// | `Max Pool Size`, `connectionLimit` | maximum number of connections in a pool, 1 to 32767 | 2 per CPU, at least `Min Pool Size` |
/// | `Min Pool Size` | number of connections that a pool keeps open after its first connect | 0 |
/// | `Connection Lifetime`, `Load Balance Timeout` | seconds after which a pooled connection is retired, or up to a third earlier. 0 means never | 3600 |
/// | `Entra Scope` | the scope of the requested tokens | derived from the host |
/// | `Allow Routing To` | suffixes of host names, separated by commas, to which a login may be routed in addition to the server's own cloud | none |
///
/// # Identities
///
/// A string may select the identity. [`pool`](super::pool), [`connector`](super::connector) and
/// [`parse_with_credential`](Self::parse_with_credential) use it. If you pass an
/// [`Identity`](crate::token::Identity) as an argument, as to [`pool_with`](super::pool_with), the
/// string must not select an identity, except with `Active Directory Default`.
///
/// | `Authentication`, after `Active Directory` | identity |
/// |---|---|
/// | `Default` | the identity described by the environment: [`credential::from_env`](crate::credential::from_env). With `User Id`, only credentials that log in as that identity are used, and never a developer's login |
/// | `Managed Identity`, `MSI` | the machine's managed identity; `User Id` selects a user-assigned one |
/// | `Workload Identity` | the pod's workload identity |
/// | `Service Principal`, `Application` | the application `User Id` with the secret `Password`; environment variables replace missing values |
/// | `Environment` | the service principal described by the environment |
/// | `AzCli`, `Azure Developer CLI` | the account that is logged in to that CLI |
/// | `Azure Pipelines` | the service connection described by the environment |
///
/// The spaces and `Active Directory` are optional, and tedious' names
/// (`azure-active-directory-msi-vm`, …) are also accepted. Interactive logins (`Interactive`,
/// `Integrated`, `Password`, `Device Code Flow`) and SQL logins are refused: on a laptop, use `az
/// login` and `Active Directory Default` instead.
///
/// # Other keywords
///
/// These keywords of other drivers have no effect here. The values in the second column are
/// ignored, and a debug event names the ignored keywords of a string. Every other value is refused
/// with the reason and the alternative in the third column, because ignoring it would make the
/// connection less safe, lead to another server or identity, or change what the program does.
///
#[doc = include_str!("keywords.md")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Config {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: Option<String>,
    pub(crate) encrypt: Encrypt,
    pub(crate) trust: Trust,
    pub(crate) host_in_certificate: Option<String>,
    pub(crate) application_name: String,
    pub(crate) workstation_id: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) packet_size: Option<u32>,
    pub(crate) multi_subnet_failover: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Option<Duration>,
    /// How often a login that failed with a transient error is retried. `None`: until the deadline.
    pub(crate) retry_count: Option<u32>,
    /// The pause before each of these retries. `None`: exponential back-off.
    pub(crate) retry_interval: Option<Duration>,
    pub(crate) max_size: Option<usize>,
    pub(crate) min_size: usize,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) recycling: Recycling,
    pub(crate) maintenance: bool,
    /// Suffixes of hosts to which a login may be routed, in addition to those of the server's own
    /// cloud.
    pub(crate) routing_suffixes: Vec<String>,
    pub(crate) scope: Option<Scope>,
}

/// How a connection is encrypted. Plain text is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Encrypt {
    /// TDS 7.4: TLS after PRELOGIN, which is in plain text.
    #[default]
    Mandatory,
    /// TDS 8.0: TLS from the first byte.
    Strict,
}

impl Config {
    /// Parses a string, and returns the configuration and the credential that `Authentication`
    /// selects. Without `Authentication`, this is the credential described by the environment
    /// ([`credential::from_env`](crate::credential::from_env)).
    ///
    /// # Errors
    ///
    /// The errors of [`str::parse`]. [`Error::Identity`], if a value that the identity needs is
    /// neither in the string nor in the environment.
    pub fn parse_with_credential(text: &str) -> Result<(Self, Arc<dyn TokenCredential>), Error> {
        let (config, identity) = read::parse(text, false)?;
        Ok((config.clone(), config.credential(identity)?))
    }

    /// Reads the configuration and the credential from the environment variables that
    /// [`pool_from_env`](super::pool_from_env) describes.
    pub(super) fn of_variables(
        environment: &Environment,
    ) -> Result<(Self, Arc<dyn TokenCredential>), Error> {
        let (config, identity) = variables::read(environment)?;
        Ok((config.clone(), config.credential(identity)?))
    }

    fn credential(&self, identity: NamedIdentity) -> Result<Arc<dyn TokenCredential>, Error> {
        let scope = self.token_scope()?;
        let cloud = Cloud::of_scope(&scope).or(Cloud::of_azure_sql_host(&self.host));
        Ok(identity.credential(cloud)?)
    }

    /// Parses a string as [`str::parse`] does, but accepts `TrustServerCertificate=True`: then, any
    /// certificate of a server on this machine is accepted, and connecting to other machines fails.
    ///
    /// # Errors
    ///
    /// The errors of [`str::parse`]. [`ConfigError::Conflict`], if the string has
    /// `TrustServerCertificate=True` and also names trusted certificates.
    pub fn dangerous_parse(text: &str) -> Result<Self, ConfigError> {
        let (config, identity) = read::parse(text, true)?;
        identity.refuse_other()?;
        Ok(config)
    }

    /// Returns the scope of tokens for this server: `Entra Scope`, or else the scope that is
    /// derived from the host.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownHost`], if the host does not belong to an Azure cloud and no scope is
    /// set.
    pub fn token_scope(&self) -> Result<Scope, ConfigError> {
        if let Some(scope) = &self.scope {
            return Ok(scope.clone());
        }
        let unknown = || ConfigError::UnknownHost { host: self.host.clone() };
        Ok(Cloud::of_azure_sql_host(&self.host).ok_or_else(unknown)?.azure_sql_scope())
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (config, identity) = read::parse(text, false)?;
        identity.refuse_other()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
