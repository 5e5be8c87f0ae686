mod ado_net;
mod authentication;
mod builder;
mod display;
mod error;
mod jdbc;
mod keywords;
mod read;
mod secret;
mod url;
mod validate;

use std::{str::FromStr, time::Duration};

pub use authentication::Authentication;
pub use builder::ConfigBuilder;
pub use error::{ConfigError, SyntaxError};

pub(super) use secret::Secret;

use crate::{tls::Trust, token::Scope};

/// Where an Azure SQL database is and how to connect to it, checked.
///
/// Read from a string, or made by a [builder](Self::builder); either way the same
/// settings give the same configuration:
///
/// ```
/// use entra_pool::azure_sql::Config;
///
/// let strings = [
///     "Server=tcp:shop.database.windows.net,1433;Database=orders;Connect Timeout=60",
///     "jdbc:sqlserver://shop.database.windows.net:1433;databaseName=orders;loginTimeout=60",
///     "mssql://shop.database.windows.net:1433/orders?connect+timeout=60",
/// ];
/// let built = Config::builder("shop.database.windows.net")
///     .database("orders")
///     .connect_timeout(std::time::Duration::from_secs(60))
///     .build()?;
/// for string in strings {
///     assert_eq!(string.parse::<Config>()?, built);
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
/// | `Max Pool Size` | connections in the pool that [`connect`](super::connect) makes, 1 to 32767 | deadpool's: 2 for each CPU; `Min Pool Size`, if that is more |
/// | `Min Pool Size` | connections that [`warm_up`](super::warm_up) opens (one at least) and [`keep_fresh`](super::keep_fresh) keeps | 0 |
/// | `Connection Lifetime`, `Load Balance Timeout` | seconds after which a pooled connection is retired, up to a tenth earlier; 0 for never | 3600 |
/// | `Entra Scope` | what tokens are asked for with | follows from the host |
/// | `Allow Routing To` | ends of host names, with commas, that a login may be routed to beside the server's own cloud | none |
///
/// # Identities
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
/// | `serviceConnectionId`, `systemToken` | the variables of [`Authentication::AzurePipelines`] |
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
pub struct Config {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: Option<String>,
    pub(super) authentication: Option<Authentication>,
    pub(super) client_id: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) client_secret: Option<Secret>,
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

impl Config {
    /// Reads an ADO.NET connection string, and no other form.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the keyword.
    pub fn from_ado_string(text: &str) -> Result<Self, ConfigError> {
        ConfigBuilder::read(&ado_net::pairs(text)?)?.build()
    }

    /// Reads a JDBC URL, and no other form.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the keyword.
    pub fn from_jdbc_string(text: &str) -> Result<Self, ConfigError> {
        ConfigBuilder::read(&jdbc::pairs(text)?)?.build()
    }

    /// Reads a URL (`mssql://…` or `sqlserver://…`), and no other form.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the keyword.
    pub fn from_url(text: &str) -> Result<Self, ConfigError> {
        ConfigBuilder::read(&url::pairs(text)?)?.build()
    }

    /// As [`str::parse`], but that `TrustServerCertificate=True` is let: any
    /// certificate is then accepted, from a server on this machine, and no other
    /// is connected to.
    ///
    /// # Errors
    ///
    /// As [`str::parse`]; also if the string says which certificates to trust.
    pub fn dangerous_parse(text: &str) -> Result<Self, ConfigError> {
        let mut builder = read(text)?;
        if std::mem::take(&mut builder.trust_server_certificate) {
            builder = builder.dangerous_trust_any_certificate_on_loopback();
        }
        builder.build()
    }

    /// Accepts any certificate, from a server on this machine; to no other is
    /// connected. In place of whatever was to be trusted.
    #[must_use]
    pub fn dangerous_trust_any_certificate_on_loopback(mut self) -> Self {
        self.trust = Trust::AnyOnLoopback;
        self
    }

    /// Accepts any certificate, from any server. Whoever is in between gets the
    /// token, and can log in with it.
    #[must_use]
    pub fn dangerous_trust_any_certificate_anywhere(mut self) -> Self {
        self.trust = Trust::AnyAnywhere;
        self
    }

    /// Lets a login be routed to hosts below `suffix`, or of that very name
    /// (`Allow Routing To`). Without it, a login follows the server within the
    /// cloud of the server's own name only: a host elsewhere would be given the
    /// token.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Value`], if it is no host name of two labels at least, no
    /// address and not `localhost`.
    pub fn allow_routing_to(mut self, suffix: &str) -> Result<Self, ConfigError> {
        self.routing_suffixes.push(validate::routing_suffix(suffix)?);
        Ok(self)
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

    /// The identity that is named, if one is.
    #[must_use]
    pub fn authentication(&self) -> Option<Authentication> {
        self.authentication
    }

    /// The client ID of the identity, if one is named.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// How connections are encrypted.
    #[must_use]
    pub fn encrypt(&self) -> Encrypt {
        self.encrypt
    }

    /// What the server shows as the program's name.
    #[must_use]
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// Whether a secondary replica may serve.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The time that all of a connect may take.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The time that an answer to a request may take.
    #[must_use]
    pub fn command_timeout(&self) -> Option<Duration> {
        self.command_timeout
    }

    /// The most connections in a pool, if it is said.
    #[must_use]
    pub fn max_pool_size(&self) -> Option<usize> {
        self.max_pool_size
    }

    /// The connections that a pool is to have from the start.
    #[must_use]
    pub fn min_pool_size(&self) -> usize {
        self.min_pool_size
    }

    /// When a pooled connection is retired for its age, if ever.
    #[must_use]
    pub fn max_lifetime(&self) -> Option<Duration> {
        self.max_lifetime
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

    /// The same, once the identity that it names is in use.
    pub(super) fn without_identity(self) -> Self {
        Self { authentication: None, client_id: None, tenant: None, client_secret: None, ..self }
    }
}

/// Any form.
fn read(text: &str) -> Result<ConfigBuilder, ConfigError> {
    let pairs = match () {
        () if jdbc::is_jdbc(text) => jdbc::pairs(text)?,
        () if url::is_url(text) => url::pairs(text)?,
        () => ado_net::pairs(text)?,
    };
    ConfigBuilder::read(&pairs)
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        read(text)?.build()
    }
}

#[cfg(test)]
mod tests;
