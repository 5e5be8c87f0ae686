//! Every keyword of SqlClient, mssql-jdbc and go-mssqldb, and our own: what each
//! sets here, or why it cannot.
//!
//! Any name is taken in any form of a connection string. The first of its names
//! is the one that a configuration shows.

use Meaning::{Never, Nothing, Only, Sets};
use Setting::{
    AllowRoutingTo, ApplicationIntent, ApplicationName, Authentication, CaFile, CommandTimeout,
    ConnectRetryCount, ConnectRetryInterval, ConnectTimeout, ConnectionLifetime, Database, Encrypt,
    HostNameInCertificate, MaxPoolSize, MinPoolSize, MultiSubnetFailover, PacketSize, Password,
    Port, Scope, Server, ServerCertificate, Tenant, TrustServerCertificate, UserId, WorkstationId,
};

/// What a connection string can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    Server,
    Port,
    Database,
    Authentication,
    UserId,
    Password,
    Tenant,
    Encrypt,
    TrustServerCertificate,
    CaFile,
    ServerCertificate,
    HostNameInCertificate,
    ApplicationName,
    WorkstationId,
    ApplicationIntent,
    PacketSize,
    MultiSubnetFailover,
    ConnectTimeout,
    CommandTimeout,
    ConnectRetryCount,
    ConnectRetryInterval,
    MaxPoolSize,
    MinPoolSize,
    ConnectionLifetime,
    AllowRoutingTo,
    Scope,
}

/// What a keyword does.
#[derive(Debug)]
pub(super) enum Meaning {
    /// Sets this. The text describes the accepted values, as the end of a sentence that begins
    /// with the keyword.
    Sets(Setting, &'static str),
    /// Of no consequence here, whatever it says.
    Nothing,
    /// Says what is so anyway; any other value is refused.
    Only(&'static [&'static str], &'static str),
    /// Refused.
    Never(&'static str),
}

/// Names, with bars between them, and what they mean.
type Keyword = (&'static str, Meaning);

impl Setting {
    /// The keyword's first name, and the description of the accepted values.
    fn keyword(self) -> (&'static str, &'static str) {
        let of_this = |(names, meaning): &Keyword| match meaning {
            Sets(setting, takes) if *setting == self => Some((split(names).next()?, *takes)),
            _ => None,
        };
        KEYWORDS.iter().find_map(of_this).unwrap_or_default()
    }

    pub(super) fn name(self) -> &'static str {
        self.keyword().0
    }

    pub(super) fn takes(self) -> &'static str {
        self.keyword().1
    }
}

/// Every known name.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KEYWORDS.iter().flat_map(|(names, _)| split(names))
}

fn split(names: &'static str) -> impl Iterator<Item = &'static str> {
    names.split('|')
}

/// Without regard to case, and to spaces between words.
pub(super) fn find(name: &str) -> Option<&'static Meaning> {
    let is_this = |(names, _): &&Keyword| split(names).any(|it| is_same(it, name));
    KEYWORDS.iter().find(is_this).map(|(_, meaning)| meaning)
}

/// The known name that differs least, unless it differs too much to be meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = squeezed(name);
    let (distance, nearest) = names()
        .map(|known| (strsim::levenshtein(&name, &squeezed(known)), known))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.len() / 3).max(1)).then_some(nearest)
}

/// Whether the value may be a secret, so that what seems to follow it may be the
/// rest of one.
pub(super) fn may_be_secret(name: &str) -> bool {
    let name = squeezed(name);
    ["password", "pwd", "secret", "token", "assertion", "key"]
        .iter()
        .any(|part| name.contains(part))
}

pub(super) fn is_same(one: &str, other: &str) -> bool {
    letters(one).eq(letters(other))
}

pub(super) fn is_one_of(names: &[&str], value: &str) -> bool {
    names.iter().any(|name| is_same(name, value))
}

fn squeezed(text: &str) -> String {
    letters(text).collect()
}

fn letters(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase())
}

/// As SqlClient writes it, or Go.
pub(super) const YES: &[&str] = &["true", "yes", "1", "t"];
pub(super) const NO: &[&str] = &["false", "no", "0", "f"];

/// For settings that accept any text.
const A_TEXT: &str = "must have a value";
const SECONDS_OR_NO_LIMIT: &str = "must be a number of seconds (0 for no limit)";

const NO_INSTANCES: &str = "names an instance, which Azure SQL has none of: give the port";
const NO_PARTNER: &str = "is of database mirroring, which Azure SQL does not have: give the failover group's listener as Server";
const NO_KERBEROS: &str = "is of Kerberos or NTLM; here a token logs in, see Authentication";
const NO_ALWAYS_ENCRYPTED: &str = "is of Always Encrypted, which tiberius does not do";
const NO_KEY_STORE: &str = "is of a Java key store: give the authority's certificate as a PEM file with TrustServerCertificateCA";
const NO_CERTIFICATE_LOGIN: &str = "is of a login with a certificate: pass an Identity of \
     credential::Application::client_certificate to pool_with";
const NO_TOKEN: &str = "is a token, which would expire: name an identity with Authentication, or \
     implement token::TokenCredential";
const NO_FILE: &str = "attaches a database file, which Azure SQL cannot do";
const PER_RESPONSE: &str = "limits what Command Timeout does here";

/// Names as their driver writes them.
const KEYWORDS: &[Keyword] = &[
    (
        "Server|Data Source|Address|Addr|Network Address|serverName",
        Sets(Server, "must be tcp:HOST[,PORT], with a host name or an address"),
    ),
    ("Port|portNumber", Sets(Port, "must be a number from 1 to 65535")),
    ("Database|Initial Catalog|databaseName", Sets(Database, A_TEXT)),
    ("Authentication|fedauth", Sets(Authentication, A_TEXT)),
    ("User Id|UID|User|userName|msiClientId|AADSecurePrincipalId", Sets(UserId, A_TEXT)),
    ("Password|PWD|AADSecurePrincipalSecret", Sets(Password, A_TEXT)),
    ("Entra Tenant", Sets(Tenant, A_TEXT)),
    (
        "Encrypt",
        Sets(Encrypt, "must be True (or Mandatory, or Strict): a token is only sent over TLS"),
    ),
    (
        "TrustServerCertificate",
        Sets(
            TrustServerCertificate,
            "must be False: a token is only sent to a server whose certificate is verified; to \
             trust a CA of your own, give its file with TrustServerCertificateCA (for a server on \
             this machine, Config::dangerous_parse accepts it)",
        ),
    ),
    ("TrustServerCertificateCA|certificate", Sets(CaFile, A_TEXT)),
    ("ServerCertificate", Sets(ServerCertificate, A_TEXT)),
    ("HostNameInCertificate", Sets(HostNameInCertificate, "is not a host name")),
    ("Application Name|App|app name", Sets(ApplicationName, A_TEXT)),
    ("Workstation ID|WSID", Sets(WorkstationId, A_TEXT)),
    ("ApplicationIntent", Sets(ApplicationIntent, "must be ReadWrite or ReadOnly")),
    ("Packet Size", Sets(PacketSize, "must be a number of bytes from 512 to 32767")),
    ("MultiSubnetFailover", Sets(MultiSubnetFailover, "must be True or False")),
    (
        "Connect Timeout|Connection Timeout|Timeout|loginTimeout",
        Sets(ConnectTimeout, "must be a number of seconds, 1 or more"),
    ),
    ("Command Timeout|queryTimeout", Sets(CommandTimeout, SECONDS_OR_NO_LIMIT)),
    ("ConnectRetryCount", Sets(ConnectRetryCount, "must be a number from 0 to 255")),
    (
        "ConnectRetryInterval",
        Sets(ConnectRetryInterval, "must be a number of seconds from 1 to 60"),
    ),
    ("Max Pool Size", Sets(MaxPoolSize, "must be a number from 1 to 32767")),
    ("Min Pool Size", Sets(MinPoolSize, "must be a number from 0 to 32767")),
    ("Connection Lifetime|Load Balance Timeout", Sets(ConnectionLifetime, SECONDS_OR_NO_LIMIT)),
    (
        "Allow Routing To",
        Sets(
            AllowRoutingTo,
            "must be ends of host names, such as database.windows.net, with a comma between them",
        ),
    ),
    ("Entra Scope", Sets(Scope, A_TEXT)),
    // Of SqlClient and other drivers
    ("Persist Security Info", Only(NO, "no password is kept that could be told")),
    ("MultipleActiveResultSets", Only(NO, "take several connections from the pool instead")),
    ("Pooling", Only(YES, "use a Connector without a pool")),
    ("Connection Reset", Only(YES, "every session is reset between two borrowers")),
    (
        "Pool Blocking Period",
        Only(&["auto", "neverblock"], "no error keeps the next connect from being tried"),
    ),
    ("Integrated Security|Trusted_Connection|epa enabled", Only(NO, NO_KERBEROS)),
    ("User Instance", Only(NO, NO_INSTANCES)),
    ("Context Connection", Only(NO, "there is no server around this program")),
    ("Replication", Only(NO, "tiberius has no replication logins")),
    (
        "Network Library|Network|Net|protocol",
        Only(&["dbmssocn", "tcp"], "Azure SQL speaks TCP only"),
    ),
    (
        "Type System Version",
        Only(
            &["latest", "sqlserver2012", "sqlserver2008"],
            "values have the types of TDS 7.3 and newer",
        ),
    ),
    (
        "Column Encryption Setting|columnEncryption",
        Only(&["disabled", "false", "0"], NO_ALWAYS_ENCRYPTED),
    ),
    (
        "Attestation Protocol|enclaveAttestationProtocol",
        Only(&["none", "notspecified"], NO_ALWAYS_ENCRYPTED),
    ),
    ("AttachDBFilename|Extended Properties|Initial File Name", Never(NO_FILE)),
    ("Failover Partner|failoverPort|Failover Partner SPN", Never(NO_PARTNER)),
    (
        "Current Language|Language",
        Never("cannot be chosen at the login: send SET LANGUAGE with the query"),
    ),
    (
        "Enlist|Transaction Binding|Asynchronous Processing|Async|IP Address Preference|\
         Transparent Network IP Resolution|disableRetry|noTraceId",
        Nothing,
    ),
    // Of mssql-jdbc and other drivers
    ("instanceName", Never(NO_INSTANCES)),
    ("accessToken|accessTokenCallbackClass", Never(NO_TOKEN)),
    ("authenticationScheme", Only(&["nativeauthentication"], NO_KERBEROS)),
    (
        "Server SPN|domain|realm|gssCredential|jaasConfigurationName|useDefaultJaasConfig|\
         useDefaultGSSCredential|authenticator|krb5-configfile|krb5-keytabfile|\
         krb5-credcachefile|krb5-realm|krb5-dnslookupkdc|krb5-udppreferencelimit",
        Never(NO_KERBEROS),
    ),
    ("clientCertificate|clientKey|clientKeyPassword|clientCertPath", Never(NO_CERTIFICATE_LOGIN)),
    (
        "Enclave Attestation Url|keyStoreAuthentication|keyStoreLocation|keyStorePrincipalId|\
         keyStoreSecret|keyVaultProviderClientId|keyVaultProviderClientKey",
        Never(NO_ALWAYS_ENCRYPTED),
    ),
    (
        "trustStore|trustStorePassword|trustStoreType|trustManagerClass|\
         trustManagerConstructorArg",
        Never(NO_KEY_STORE),
    ),
    ("sslProtocol", Only(&["tls", "tlsv1.2"], "TLS 1.2 and 1.3 are spoken")),
    ("socketFactoryClass|socketFactoryConstructorArg", Never("is a class of Java")),
    ("socketTimeout", Only(&["0"], PER_RESPONSE)),
    ("cancelQueryTimeout", Only(&["-1"], PER_RESPONSE)),
    ("lockTimeout", Only(&["-1"], "send SET LOCK_TIMEOUT with the query")),
    (
        "retryExec|retryConn",
        Never(
            "chooses errors to try again: logins are tried again as ConnectRetryCount says, statements are not",
        ),
    ),
    ("quotedIdentifier|concatNullYieldsNull", Only(&["on", "true"], "send SET with the query")),
    ("sendStringParametersAsUnicode", Only(YES, "parameters that are strings go as nvarchar")),
    (
        "bulkCopyForBatchInsertAllowEncryptedValueModifications|\
         bulkCopyForBatchInsertBatchSize|bulkCopyForBatchInsertCheckConstraints|\
         bulkCopyForBatchInsertFireTriggers|bulkCopyForBatchInsertKeepIdentity|\
         bulkCopyForBatchInsertKeepNulls|bulkCopyForBatchInsertTableLock|\
         cacheBulkCopyMetadata|calcBigDecimalPrecision|datetimeParameterType|\
         delayLoadingLobs|disableStatementPooling|\
         enablePrepareOnFirstPreparedStatementCall|\
         ignoreOffsetOnDateTimeOffsetConversion|lastUpdateCount|maxResultBuffer|\
         msiTokenCacheTtl|prepareMethod|responseBuffering|selectMethod|\
         sendTemporalDataTypesAsStringForBulkCopy|sendTimeAsDatetime|serverNameAsACE|\
         serverPreparedStatementDiscardThreshold|statementPoolingCacheSize|\
         useBulkCopyForBatchInsert|useFmtOnly|vectorTypeSupport|xopenStates",
        Nothing,
    ),
    ("fips", Only(NO, "TLS is by aws-lc-rs, not in its FIPS build")),
    // Of go-mssqldb
    (
        "applicationClientId",
        Never(
            "is of logins of a person: on a laptop run `az login` and use Active Directory Default",
        ),
    ),
    (
        "Resource Id",
        Never(
            "cannot choose the identity: give its client ID as User Id, or pass an Identity to pool_with",
        ),
    ),
    (
        "serviceConnectionId|systemToken",
        Never(
            "is read from the environment: set AZURESUBSCRIPTION_SERVICE_CONNECTION_ID and SYSTEM_ACCESSTOKEN",
        ),
    ),
    (
        "clientAssertion|userAssertion",
        Never(
            "is a proof of who logs in: pass an Identity of credential::Application::client_assertion to pool_with",
        ),
    ),
    ("tlsmin", Only(&["1.0", "1.1", "1.2"], "TLS 1.2 and 1.3 are spoken")),
    ("dial timeout", Never("is not told apart: Connect Timeout is for all of a connect")),
    ("keepAlive", Only(&["30", "0"], "Config::keepalive sets another time")),
    ("pipe", Never("is a named pipe; Azure SQL speaks TCP only")),
    ("log", Only(&["0"], "events go to `tracing`")),
    ("change password", Never("has no place here: a token logs in, see Authentication")),
    ("guid conversion", Only(NO, "uniqueidentifiers are read in the order of .NET")),
    ("timezone", Never("is not applied: datetimes are read without one")),
    // Of ODBC and OLE DB
    ("Driver|DSN|Provider", Never("is of ODBC or OLE DB: leave it out")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyword_is_found_by_any_name_however_it_is_spaced_and_cased() {
        for name in ["Max Pool Size", "maxpoolsize", "MAX POOL  SIZE", "maxPoolSize"] {
            let found = find(name).unwrap();
            assert!(matches!(found, Sets(MaxPoolSize, _)), "{name}");
        }
        assert!(find("Max-Pool-Size").is_none());
    }

    #[test]
    fn no_name_means_two_things() {
        let names: Vec<_> = names().collect();
        for (at, name) in names.iter().enumerate() {
            assert!(names[..at].iter().all(|other| !is_same(other, name)), "{name}");
        }
    }

    #[test]
    fn the_nearest_keyword_is_offered_if_it_is_near() {
        for (written, meant) in [
            ("Databse", Some("Database")),
            ("Initial Catalogue", Some("Initial Catalog")),
            ("ApplicationIntend", Some("ApplicationIntent")),
            ("Conect Time out", Some("Connect Timeout")),
            ("Authentification", Some("Authentication")),
            ("Servr", Some("Server")),
            ("Colour", None),
            ("x", None),
            ("日本", None),
            ("", None),
        ] {
            assert_eq!(nearest(written), meant, "{written}");
        }
    }
}
