//! The keywords of SqlClient, ODBC, mssql-jdbc, go-mssqldb, tedious and Prisma, and this crate's.
//!
//! Every form of a connection string accepts every name. `Display` of a configuration writes the
//! first name of each keyword.

use crate::pasted::Keywords;

/// The settings of a connection string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Setting {
    #[default]
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
    CliTimeout,
}

impl Setting {
    /// Returns the first name of the setting's keyword.
    pub(super) fn name(self) -> &'static str {
        SETTINGS[self as usize].0.split('|').next().unwrap_or_default()
    }

    /// Returns the end of an error message that describes the accepted values.
    pub(super) fn accepted_values(self) -> &'static str {
        SETTINGS[self as usize].2
    }
}

/// The spellings of booleans in SqlClient and Go.
pub(super) const YES: &[&str] = &["true", "yes", "1", "t"];
pub(super) const NO: &[&str] = &["false", "no", "0", "f"];

/// For settings that accept any text.
const A_TEXT: &str = "must have a value";
const SECONDS_OR_NO_LIMIT: &str = "must be a number of seconds (0 for no limit)";

pub(super) const KEYWORDS: Keywords<Setting> =
    Keywords { settings: SETTINGS, named: "", others: include_str!("keywords.md"), unknown: "" };

/// The names, the setting and the accepted values, in the order of the variants of [`Setting`].
const SETTINGS: &[(&str, Setting, &str)] = &[
    (
        "Server|Data Source|Address|Addr|Network Address|serverName",
        Setting::Server,
        "must be tcp:HOST[,PORT], with a host name or an address",
    ),
    ("Port|portNumber", Setting::Port, "must be a number from 1 to 65535"),
    ("Database|Initial Catalog|databaseName", Setting::Database, A_TEXT),
    ("Authentication|fedauth", Setting::Authentication, A_TEXT),
    (
        "User Id|UID|User|userName|msiClientId|AADSecurePrincipalId|clientId",
        Setting::UserId,
        A_TEXT,
    ),
    ("Password|PWD|AADSecurePrincipalSecret|clientSecret", Setting::Password, A_TEXT),
    ("Entra Tenant|tenantId", Setting::Tenant, A_TEXT),
    (
        "Encrypt",
        Setting::Encrypt,
        "must be True (or Mandatory, or Strict): a token is only sent over TLS",
    ),
    (
        "TrustServerCertificate",
        Setting::TrustServerCertificate,
        "must be False: a token is only sent to a server whose certificate is verified; to \
         trust your own CA, give its file with TrustServerCertificateCA (for a server on \
         this machine, Config::dangerous_parse accepts it)",
    ),
    ("TrustServerCertificateCA|certificate", Setting::CaFile, A_TEXT),
    ("ServerCertificate", Setting::ServerCertificate, A_TEXT),
    ("HostNameInCertificate", Setting::HostNameInCertificate, "is not a host name"),
    ("Application Name|App|app name", Setting::ApplicationName, A_TEXT),
    ("Workstation ID|WSID", Setting::WorkstationId, A_TEXT),
    ("ApplicationIntent", Setting::ApplicationIntent, "must be ReadWrite or ReadOnly"),
    ("Packet Size", Setting::PacketSize, "must be a number of bytes from 512 to 32767"),
    ("MultiSubnetFailover", Setting::MultiSubnetFailover, "must be True or False"),
    (
        "Connect Timeout|Connection Timeout|Timeout|loginTimeout",
        Setting::ConnectTimeout,
        "must be a number of seconds, 1 or more (0 would wait for ever: give the longest time \
         that a connect may take, or leave it out for 15 seconds)",
    ),
    ("Command Timeout|queryTimeout", Setting::CommandTimeout, SECONDS_OR_NO_LIMIT),
    ("ConnectRetryCount", Setting::ConnectRetryCount, "must be a number from 0 to 255"),
    (
        "ConnectRetryInterval",
        Setting::ConnectRetryInterval,
        "must be a number of seconds from 1 to 60",
    ),
    ("Max Pool Size|connectionLimit", Setting::MaxPoolSize, "must be a number from 1 to 32767"),
    ("Min Pool Size", Setting::MinPoolSize, "must be a number from 0 to 32767"),
    ("Connection Lifetime|Load Balance Timeout", Setting::ConnectionLifetime, SECONDS_OR_NO_LIMIT),
    (
        "Allow Routing To",
        Setting::AllowRoutingTo,
        "must be suffixes of host names, such as database.windows.net, separated by commas",
    ),
    (
        "Entra Scope",
        Setting::Scope,
        "is not a scope: it must consist of letters, digits and . _ : / - (such as \
         https://database.windows.net/.default)",
    ),
    ("Entra CLI Timeout", Setting::CliTimeout, "must be a number of seconds, 1 or more"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pasted::{Known, is_same};

    #[test]
    fn the_rows_are_in_the_order_of_the_settings() {
        for (at, (name, setting, _)) in SETTINGS.iter().enumerate() {
            assert_eq!(*setting as usize, at, "{name}");
        }
    }

    #[test]
    fn keywords_are_found_by_any_name_spacing_and_case() {
        for name in
            ["Max Pool Size", "maxpoolsize", "MAX POOL  SIZE", "maxPoolSize", "max_pool_size"]
        {
            let (_, found) = KEYWORDS.find(name).unwrap();
            assert!(matches!(found, Known::Sets(Setting::MaxPoolSize)), "{name}");
        }
        assert!(KEYWORDS.find("Max-Pool-Size").is_none());
    }

    #[test]
    fn every_name_belongs_to_one_setting() {
        let names: Vec<_> = KEYWORDS.names().collect();
        for (at, name) in names.iter().enumerate() {
            assert!(names[..at].iter().all(|other| !is_same(other, name)), "{name}");
        }
    }

    #[test]
    fn a_similar_keyword_is_suggested() {
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
            assert_eq!(KEYWORDS.nearest(written), meant, "{written}");
        }
    }
}
