mod ado_net;
mod authentication;
mod check;
mod display;
mod error;
mod identity;
mod jdbc;
mod keywords;
mod pairs;
mod read;
mod settings;
mod url;

use std::{str::FromStr, sync::Arc, time::Duration};

pub use error::ConfigError;

pub(super) use read::Written;

use super::{Error, Recycling};
use crate::{
    Cloud,
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
/// | ADO.NET: `Keyword=value;Keyword=value` | those of .NET's `DbConnectionStringBuilder`: a value may stand in `'…'` or `"…"`, a quote inside is doubled; in a keyword, `==` is `=` |
/// | JDBC: `jdbc:sqlserver://host:port;name=value` | those of mssql-jdbc: a value may stand in `{…}`, a `}` inside is doubled |
/// | URL: `mssql://client-id@host:port/database?keyword=value`, or `sqlserver://…` | percent-encoded; in parameters `+` is a space |
///
/// In each of them, keywords are not case-sensitive, may have spaces between their
/// words or not, and may be those of any driver. One that has no value is as good
/// as none. An unknown one is an error, and so is one given twice, under two of its
/// names even (where most drivers take the last).
///
/// # Keywords
///
/// | keyword, other names | meaning | default |
/// |---|---|---|
/// | `Server`, `Data Source`, `Address`, `Addr`, `Network Address`, `serverName` | `[tcp:]host[,port]`; `.` and `(local)` are this machine | required |
/// | `Port`, `portNumber` | the port, unless `Server` says it | 1433 |
/// | `Database`, `Initial Catalog`, `databaseName` | the database; without it a login goes to `master` | none |
/// | `Authentication`, `fedauth` | which identity, see [below](#identities) | as `Active Directory Default` |
/// | `User Id`, `UID`, `User`, `userName`, `msiClientId`, `AADSecurePrincipalId` | client ID of the user-assigned managed identity, of the workload identity, or of the service principal (`CLIENT_ID@TENANT`, too) | system-assigned, or `AZURE_CLIENT_ID` |
/// | `Password`, `PWD`, `AADSecurePrincipalSecret` | the service principal's secret; refused otherwise | `AZURE_CLIENT_SECRET` |
/// | `Entra Tenant` | the service principal's tenant | `AZURE_TENANT_ID` |
/// | `Encrypt` | `True`, `Yes` or `Mandatory`: TDS 7.4; `Strict`: TDS 8.0. Less (`False`, `Optional`, `disable`, …) is refused | `Mandatory` |
/// | `TrustServerCertificate` | `False`; `True` is refused, unless [`dangerous_parse`](Self::dangerous_parse) reads it | `False` |
/// | `TrustServerCertificateCA`, `certificate` | a PEM file: trust these roots and no others | the platform's roots |
/// | `ServerCertificate` | a PEM or DER file: the one certificate that the server may show, whatever name it bears | none |
/// | `HostNameInCertificate` | the name that the certificate must bear; a wildcard that stands for the host is the host | the server's host |
/// | `Application Name`, `App`, `app name` | shown in `sys.dm_exec_sessions`, 128 characters at most | `entra-pool` |
/// | `Workstation ID`, `WSID` | likewise, as `host_name` | this machine's name |
/// | `ApplicationIntent` | `ReadWrite` or `ReadOnly` | `ReadWrite` |
/// | `Packet Size` | bytes of a TDS packet, 512 to 32767 | 4096 |
/// | `MultiSubnetFailover` | `True`: all addresses of the server are tried at once | `False`: one after the other, soon |
/// | `Connect Timeout`, `Connection Timeout`, `Timeout`, `loginTimeout` | seconds for all of a connect, from the token to the login, with all its tries | 15 |
/// | `Command Timeout`, `queryTimeout` | seconds for the server to answer a request, or to go on answering; 0 (JDBC: -1, too) for no limit | 30 |
/// | `ConnectRetryCount` | how often a login that failed with a transient error is retried, 0 to 255 | until `Connect Timeout`; twice where the error may last and the server has accepted no login before |
/// | `ConnectRetryInterval` | seconds before such a try, 1 to 60 | 1, doubling up to 5 |
/// | `Max Pool Size` | connections in a pool, 1 to 32767 | deadpool's: 2 for each CPU; `Min Pool Size`, if that is more |
/// | `Min Pool Size` | connections that a pool keeps open once it has connected | 0 |
/// | `Connection Lifetime`, `Load Balance Timeout` | seconds after which a pooled connection is retired, up to a third earlier; 0 for never | 3600 |
/// | `Entra Scope` | what tokens are asked for with | follows from the host |
/// | `Allow Routing To` | ends of host names, with commas, that a login may be routed to beside the server's own cloud | none |
///
/// # Identities
///
/// A string may name the identity. [`pool`](super::pool), [`connector`](super::connector) and
/// [`parse_with_credential`](Self::parse_with_credential) use it. Where an
/// [`Identity`](crate::token::Identity) is given beside the string, as for
/// [`pool_with`](super::pool_with), the string may say `Active Directory Default` and no
/// more.
///
/// | `Authentication`, with `Active Directory` in front | who logs in |
/// |---|---|
/// | `Default` | whom the environment has: [`credential::from_env`](crate::credential::from_env). With `User Id`, only credentials that log in as that identity are used, and never a developer's login |
/// | `Managed Identity`, `MSI` | the machine's; `User Id` chooses a user-assigned one |
/// | `Workload Identity` | the pod's |
/// | `Service Principal`, `Application` | the application `User Id` with the secret `Password`; the variables of the environment stand in for what is left out |
/// | `Environment` | the service principal of the environment |
/// | `AzCli`, `Azure Developer CLI` | who is logged in there |
/// | `Azure Pipelines` | the service connection of the environment |
///
/// Without the spaces, too, and without `Active Directory`. A person's logins
/// (`Interactive`, `Integrated`, `Password`, `Device Code Flow`) are refused, and so
/// are SQL logins: on a laptop `az login` and `Active Directory Default` take their
/// place.
///
/// # Keywords of no consequence
///
/// Strings have them, and they may stay. At this value, at any other they are
/// refused with a reason: `Pooling=True`, `Persist Security Info=False`,
/// `MultipleActiveResultSets=False`, `Connection Reset=True`,
/// `Pool Blocking Period=Auto` or `NeverBlock`, `Integrated Security=False`
/// (`Trusted_Connection`), `User Instance=False`, `Context Connection=False`,
/// `Replication=False`, `Network Library=dbmssocn` (`Network`, `Net`, `protocol`;
/// or `tcp`), `Type System Version=Latest` (or `SQL Server 2012`, `2008`),
/// `Column Encryption Setting=Disabled` (`columnEncryption`),
/// `Attestation Protocol=None` (`enclaveAttestationProtocol`),
/// `authenticationScheme=nativeAuthentication`, `sslProtocol=TLS` or `TLSv1.2`,
/// `tlsmin=1.2` or less, `socketTimeout=0`, `cancelQueryTimeout=-1`,
/// `lockTimeout=-1`, `quotedIdentifier=ON`, `concatNullYieldsNull=ON`,
/// `sendStringParametersAsUnicode=true`, `fips=false`, `keepAlive=30` or `0`, `log=0`,
/// `epa enabled=false`, `guid conversion=false`.
///
/// At any value: `Enlist`, `Transaction Binding`, `Asynchronous Processing`
/// (`Async`), `IP Address Preference`, `Transparent Network IP Resolution`,
/// `disableRetry`, `noTraceId`; and of the JDBC driver what is about its own ways:
/// `bulkCopyForBatchInsertAllowEncryptedValueModifications`,
/// `bulkCopyForBatchInsertBatchSize`, `bulkCopyForBatchInsertCheckConstraints`,
/// `bulkCopyForBatchInsertFireTriggers`, `bulkCopyForBatchInsertKeepIdentity`,
/// `bulkCopyForBatchInsertKeepNulls`, `bulkCopyForBatchInsertTableLock`,
/// `cacheBulkCopyMetadata`, `calcBigDecimalPrecision`, `datetimeParameterType`,
/// `delayLoadingLobs`, `disableStatementPooling`,
/// `enablePrepareOnFirstPreparedStatementCall`,
/// `ignoreOffsetOnDateTimeOffsetConversion`, `lastUpdateCount`, `maxResultBuffer`,
/// `msiTokenCacheTtl`, `prepareMethod`, `responseBuffering`, `selectMethod`,
/// `sendTemporalDataTypesAsStringForBulkCopy`, `sendTimeAsDatetime`,
/// `serverNameAsACE`, `serverPreparedStatementDiscardThreshold`,
/// `statementPoolingCacheSize`, `useBulkCopyForBatchInsert`, `useFmtOnly`,
/// `vectorTypeSupport`, `xopenStates`.
///
/// # Refused keywords
///
/// | keyword | instead |
/// |---|---|
/// | `instanceName`, and an instance in `Server` | the port: Azure SQL has no instances |
/// | `pipe`, and `np:`, `lpc:`, `admin:` in `Server` | `tcp:` |
/// | `Failover Partner`, `failoverPort`, `Failover Partner SPN` | the failover group's listener as `Server` |
/// | `AttachDBFilename`, `Extended Properties`, `Initial File Name` | a database of the server |
/// | `Current Language`, `Language` | `SET LANGUAGE` with the query |
/// | `timezone` | none: datetimes are read without one |
/// | `dial timeout` | `Connect Timeout` |
/// | `retryExec`, `retryConn` | `ConnectRetryCount`; statements are not tried again |
/// | `accessToken`, `accessTokenCallbackClass` | an identity: a token would expire |
/// | `Resource Id` | `User Id`, or an [`Identity`](crate::token::Identity) |
/// | `serviceConnectionId`, `systemToken` | the variables that [`credential::azure_pipelines`](crate::credential::azure_pipelines) reads |
/// | `clientAssertion`, `userAssertion` | an [`Identity`](crate::token::Identity) of `Application::client_assertion` |
/// | `clientCertificate`, `clientKey`, `clientKeyPassword`, `clientCertPath` | an [`Identity`](crate::token::Identity) of `Application::client_certificate` |
/// | `applicationClientId` | `az login`: it is of a person's logins |
/// | `change password` | nothing: there is no password |
/// | `Server SPN`, `domain`, `realm`, `gssCredential`, `jaasConfigurationName`, `useDefaultJaasConfig`, `useDefaultGSSCredential`, `authenticator`, `krb5-configfile`, `krb5-keytabfile`, `krb5-credcachefile`, `krb5-realm`, `krb5-dnslookupkdc`, `krb5-udppreferencelimit` | an Entra identity: they are of Kerberos and NTLM |
/// | `trustStore`, `trustStorePassword`, `trustStoreType`, `trustManagerClass`, `trustManagerConstructorArg` | `TrustServerCertificateCA` |
/// | `Enclave Attestation Url`, `keyStoreAuthentication`, `keyStoreLocation`, `keyStorePrincipalId`, `keyStoreSecret`, `keyVaultProviderClientId`, `keyVaultProviderClientKey` | none: there is no Always Encrypted |
/// | `socketFactoryClass`, `socketFactoryConstructorArg` | none: they are classes of Java |
/// | `Driver`, `DSN`, `Provider` | none: they are of ODBC and OLE DB |
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Config {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: Option<String>,
    pub(super) encrypt: Encrypt,
    pub(super) trust: Trust,
    pub(super) host_in_certificate: Option<String>,
    pub(super) application_name: String,
    pub(super) workstation_id: Option<String>,
    pub(super) read_only: bool,
    pub(super) packet_size: Option<u32>,
    pub(super) multi_subnet_failover: bool,
    pub(crate) connect_timeout: Duration,
    pub(super) command_timeout: Option<Duration>,
    /// How often a login that failed with a transient error is retried; `None`: as long as
    /// there is time.
    pub(super) retry_count: Option<u32>,
    /// The pause before such a retry; `None`: backing off.
    pub(super) retry_interval: Option<Duration>,
    pub(super) max_size: Option<usize>,
    pub(super) min_size: usize,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) keepalive: Option<Duration>,
    pub(super) tcp_user_timeout: Option<Duration>,
    pub(super) recycling: Recycling,
    pub(super) maintenance: bool,
    /// Suffixes of hosts, beside those of the server's own cloud, that a login
    /// may be routed to.
    pub(super) routing_suffixes: Vec<String>,
    pub(super) scope: Option<Scope>,
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
        let scope = config.token_scope()?;
        let cloud = Cloud::of_scope(&scope).or(Cloud::of_azure_sql_host(&config.host));
        Ok((config, identity.credential(cloud)?))
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
