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

/// Where an Azure SQL database is and how to connect to it: all but the identity.
///
/// Parsed from a string, or made by [`new`](Self::new); each setting has a method, which
/// replaces what was set before. A string is checked when it is parsed, and everything is
/// checked by [`Connector::new`](super::Connector::new).
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
/// | ADO.NET and ODBC: `Keyword=value;Keyword=value`, also after `odbc:` | those of .NET's `DbConnectionStringBuilder`: a value may be in `'…'` or `"…"`, a quote inside is doubled; in a keyword, `==` is `=`. As in ODBC, braces around a value do not belong to it, unless they are in quotes |
/// | JDBC: `jdbc:sqlserver://host:port;name=value`, Prisma: `sqlserver://host:port;name=value` | those of mssql-jdbc: a value may be in `{…}`, a `}` inside is doubled |
/// | URL: `mssql://client-id@host:port/database?keyword=value`, or `sqlserver://…` | percent-encoded; in parameters `+` is a space |
///
/// In each of them, the keywords of any driver are accepted. Keywords are not case-sensitive, and
/// spaces and `_` between their words do not matter. A keyword without a value counts as absent.
/// White space, a byte-order mark and semicolons around the string are ignored. These are errors:
/// an unknown keyword, two keywords for one setting (most drivers use the last), and a placeholder
/// that a template left in a value (`{your_database}`, `<server>`, `${SERVER}`).
///
/// # Keywords
///
/// | keyword, other names | meaning | default |
/// |---|---|---|
/// | `Server`, `Data Source`, `Address`, `Addr`, `Network Address`, `serverName` | `[tcp:]host[,port]`; `.` and `(local)` are this machine. With a private endpoint also `NAME.database.windows.net`: Azure refuses logins to an address, and to the `privatelink` name, for which the login names the public one | required |
/// | `Port`, `portNumber` | the port, unless `Server` says it | 1433 |
/// | `Database`, `Initial Catalog`, `databaseName` | the database; without it a login goes to `master` | none |
/// | `Authentication`, `fedauth` | which identity, see [below](#identities) | as `Active Directory Default` |
/// | `User Id`, `UID`, `User`, `userName`, `msiClientId`, `AADSecurePrincipalId`, `clientId` | client ID of the user-assigned managed identity, of the workload identity, or of the service principal (`CLIENT_ID@TENANT`, too) | system-assigned, or `AZURE_CLIENT_ID` |
/// | `Password`, `PWD`, `AADSecurePrincipalSecret`, `clientSecret` | the service principal's secret; refused otherwise | `AZURE_CLIENT_SECRET` |
/// | `Entra Tenant`, `tenantId` | the service principal's tenant | `AZURE_TENANT_ID` |
/// | `Entra CLI Timeout` | seconds that `az` or `azd` may take for a token | 30 |
/// | `Encrypt` | `True`, `Yes` or `Mandatory`: TDS 7.4; `Strict`: TDS 8.0. Less (`False`, `Optional`, `disable`, …) is refused | `Mandatory` |
/// | `TrustServerCertificate` | `False`; `True` is refused, unless [`dangerous_parse`](Self::dangerous_parse) reads it | `False` |
/// | `TrustServerCertificateCA`, `certificate` | a PEM file: trust these roots and no others | the platform's roots |
/// | `ServerCertificate` | a PEM or DER file: the one certificate that the server may show, whatever name it bears | none |
/// | `HostNameInCertificate` | the name that the certificate must bear. A wildcard must match the host, and the certificate is then verified for the host. Where another address is dialled (a tunnel), the login names this server | the server's host, for a private endpoint without `privatelink.` |
/// | `Application Name`, `App`, `app name` | shown in `sys.dm_exec_sessions`, 128 characters at most | `entra-pool` |
/// | `Workstation ID`, `WSID` | likewise, as `host_name` | this machine's name |
/// | `ApplicationIntent` | `ReadWrite` or `ReadOnly` | `ReadWrite` |
/// | `Packet Size` | bytes of a TDS packet, 512 to 32767 | 4096 |
/// | `MultiSubnetFailover` | `True`: all addresses of the server are tried at once | `False`: one after the other, soon |
/// | `Connect Timeout`, `Connection Timeout`, `Timeout`, `loginTimeout` | seconds for all of a connect, from the token to the login, with all its tries; `loginTimeout=0` is the default | 15 |
/// | `Command Timeout`, `queryTimeout` | seconds for the server to answer a request, or to go on answering; 0 (JDBC: -1, too) for no limit | 30 |
/// | `ConnectRetryCount` | how often a login that failed with a transient error is retried, 0 to 255 | until `Connect Timeout`; twice where the error may last and the server has accepted no login before |
/// | `ConnectRetryInterval` | seconds before such a try, 1 to 60 | 1, doubling up to 5 |
/// | `Max Pool Size`, `connectionLimit` | connections in a pool, 1 to 32767 | deadpool's: 2 for each CPU; `Min Pool Size`, if that is more |
/// | `Min Pool Size` | connections that a pool keeps open once it has connected | 0 |
/// | `Connection Lifetime`, `Load Balance Timeout` | seconds after which a pooled connection is retired, up to a third earlier; 0 for never | 3600 |
/// | `Entra Scope` | what tokens are asked for with | follows from the host |
/// | `Allow Routing To` | ends of host names, with commas, that a login may be routed to beside the server's own cloud | none |
///
/// # Identities
///
/// A string may name the identity. [`pool`](super::pool), [`connector`](super::connector) and
/// [`parse_with_credential`](Self::parse_with_credential) use it. Where an
/// [`Identity`](crate::token::Identity) is passed as an argument, as to
/// [`pool_with`](super::pool_with), the string must not name another one: it may have
/// `Active Directory Default`.
///
/// | `Authentication`, with `Active Directory` in front | who logs in |
/// |---|---|
/// | `Default` | the identity of the environment: [`credential::from_env`](crate::credential::from_env). With `User Id`, only credentials that log in as that identity are used, and never a developer's login |
/// | `Managed Identity`, `MSI` | the machine's; `User Id` chooses a user-assigned one |
/// | `Workload Identity` | the pod's |
/// | `Service Principal`, `Application` | the application `User Id` with the secret `Password`; variables of the environment replace what is left out |
/// | `Environment` | the service principal of the environment |
/// | `AzCli`, `Azure Developer CLI` | the account that is logged in there |
/// | `Azure Pipelines` | the service connection of the environment |
///
/// The spaces and `Active Directory` may be left out, and tedious' names
/// (`azure-active-directory-msi-vm`, …) are read as well. A person's logins (`Interactive`,
/// `Integrated`, `Password`, `Device Code Flow`) are refused, and so are SQL logins: on a laptop
/// use `az login` and `Active Directory Default` instead.
///
/// # Other keywords
///
/// These keywords of other drivers set nothing here. A value of the second column is ignored; a
/// debug event names the keywords that were ignored in a string. Every other value is refused
/// with the reason and the alternative in the third column, because it would make the connection
/// less safe, lead to another server or identity, or change what the program does.
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
    /// How often a login that failed with a transient error is retried; `None`: as long as
    /// there is time.
    pub(crate) retry_count: Option<u32>,
    /// The pause before such a retry; `None`: backing off.
    pub(crate) retry_interval: Option<Duration>,
    pub(crate) max_size: Option<usize>,
    pub(crate) min_size: usize,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) recycling: Recycling,
    pub(crate) maintenance: bool,
    /// Suffixes of hosts, beside those of the server's own cloud, that a login
    /// may be routed to.
    pub(crate) routing_suffixes: Vec<String>,
    pub(crate) scope: Option<Scope>,
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

impl Config {
    /// Parses a string and returns the configuration and the credential that the string names:
    /// that of `Authentication`, else that of the environment
    /// ([`credential::from_env`](crate::credential::from_env)).
    ///
    /// # Errors
    ///
    /// As [`str::parse`]; [`Error::Identity`], if what the identity needs is neither in the
    /// string nor in the environment.
    pub fn parse_with_credential(text: &str) -> Result<(Self, Arc<dyn TokenCredential>), Error> {
        let (config, identity) = read::parse(text, false)?;
        Ok((config.clone(), config.credential(identity)?))
    }

    /// As `parse_with_credential`, from the variables that [`pool_from_env`](super::pool_from_env)
    /// describes.
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

    /// As [`str::parse`], but accepts `TrustServerCertificate=True`: any certificate is then
    /// accepted, from a server on this machine, and no other is connected to.
    ///
    /// # Errors
    ///
    /// As [`str::parse`]; also if the string says which certificates to trust.
    pub fn dangerous_parse(text: &str) -> Result<Self, ConfigError> {
        let (config, identity) = read::parse(text, true)?;
        identity.refuse_other()?;
        Ok(config)
    }

    /// What tokens for this server are requested with (`Entra Scope`; else by the host).
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownHost`], if the host belongs to no Azure cloud and no scope is set.
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
