//! The hosts of each cloud, and the scope of their tokens.
// If only one database's feature is enabled, the part for the other database is unused.
#![cfg_attr(not(all(feature = "azure-sql", feature = "postgres")), allow(dead_code))]

use super::Cloud;
use crate::token::Scope;

impl Cloud {
    /// Returns the cloud whose tokens an Azure SQL host accepts (Azure SQL Database, Managed
    /// Instance, Fabric, Synapse). Also finds the names of private endpoints.
    pub(crate) fn of_azure_sql_host(host: &str) -> Option<Self> {
        of_host(host, SQL_ROUTED).or_else(|| of_host(host, SQL_OTHER))
    }

    /// Returns the cloud of a host to which Azure SQL may route a login. The token is sent to the
    /// host that the server names, so hosts to which Azure SQL does not route are excluded.
    pub(crate) fn of_routed_host(host: &str) -> Option<Self> {
        of_host(host, SQL_ROUTED)
    }

    /// Returns the cloud whose databases accept tokens of `scope`.
    pub(crate) fn of_scope(scope: &Scope) -> Option<Self> {
        [Self::Public, Self::UsGovernment, Self::China]
            .into_iter()
            .find(|cloud| [cloud.azure_sql_scope(), cloud.postgresql_scope()].contains(scope))
    }

    /// Returns the scope of tokens for Azure SQL in this cloud.
    pub(crate) fn azure_sql_scope(self) -> Scope {
        match self {
            Self::Public => Scope::AZURE_SQL,
            Self::UsGovernment => Scope::from_static("https://database.usgovcloudapi.net/.default"),
            Self::China => Scope::from_static("https://database.chinacloudapi.cn/.default"),
        }
    }

    /// Returns the scope of tokens for Azure Database for PostgreSQL in this cloud.
    pub(crate) fn postgresql_scope(self) -> Scope {
        match self {
            Self::Public => Scope::AZURE_POSTGRESQL,
            Self::UsGovernment => {
                Scope::from_static("https://ossrdbms-aad.database.usgovcloudapi.net/.default")
            }
            Self::China => {
                Scope::from_static("https://ossrdbms-aad.database.chinacloudapi.cn/.default")
            }
        }
    }
}

/// The suffixes of the host names to which Azure SQL may route a login.
const SQL_ROUTED: &[(&str, Cloud)] = &[
    ("database.windows.net", Cloud::Public),
    ("database.fabric.microsoft.com", Cloud::Public),
    ("datawarehouse.fabric.microsoft.com", Cloud::Public),
    ("sql.azuresynapse.net", Cloud::Public),
    ("database.usgovcloudapi.net", Cloud::UsGovernment),
    ("sql.azuresynapse.usgovcloudapi.net", Cloud::UsGovernment),
    ("database.chinacloudapi.cn", Cloud::China),
    ("sql.azuresynapse.azure.cn", Cloud::China),
];

/// The suffixes of other hosts that accept the same tokens.
const SQL_OTHER: &[(&str, Cloud)] = &[
    ("fabric.microsoft.com", Cloud::Public),
    ("pbidedicated.windows.net", Cloud::Public),
    ("fabric.microsoft.us", Cloud::UsGovernment),
    ("pbidedicated.usgovcloudapi.net", Cloud::UsGovernment),
    ("pbidedicated.chinacloudapi.cn", Cloud::China),
];

/// Returns the scope of tokens for a PostgreSQL host, by the suffix of its name.
pub(crate) fn postgresql_scope(host: &str) -> Option<Scope> {
    let cosmos = Scope::from_static("https://token.postgres.cosmos.azure.com/.default");
    let suffixes = [
        ("postgres.database.azure.com", Cloud::Public.postgresql_scope()),
        ("postgres.database.usgovcloudapi.net", Cloud::UsGovernment.postgresql_scope()),
        ("postgres.database.chinacloudapi.cn", Cloud::China.postgresql_scope()),
        ("postgres.cosmos.azure.com", cosmos),
    ];
    of_host(host, &suffixes)
}

/// Returns what to do about a host that does not belong to Azure SQL.
pub(crate) fn azure_sql_advice(host: &str) -> String {
    #[cfg(feature = "postgres")]
    if postgresql_scope(host).is_some() {
        return "it belongs to Azure Database for PostgreSQL, so use entra_pool::postgres".into();
    }
    format!("correct it, or add 'Entra Scope={}'", of_unknown_host(host).azure_sql_scope())
}

/// Returns what to do about a host that does not belong to Azure Database for PostgreSQL.
pub(crate) fn postgresql_advice(host: &str) -> String {
    #[cfg(feature = "azure-sql")]
    if Cloud::of_azure_sql_host(host).is_some() {
        return "it belongs to Azure SQL, so use entra_pool::azure_sql".into();
    }
    format!("correct it, or set entra_scope={}", of_unknown_host(host).postgresql_scope())
}

/// Returns the cloud that the suffix of an unknown host name suggests.
fn of_unknown_host(host: &str) -> Cloud {
    let clouds = [
        ("usgovcloudapi.net", Cloud::UsGovernment),
        ("us", Cloud::UsGovernment),
        ("cn", Cloud::China),
    ];
    of_host(host, &clouds).unwrap_or(Cloud::Public)
}

fn of_host<T: Clone>(host: &str, suffixes: &[(&str, T)]) -> Option<T> {
    // The text is not copied, because it may be a secret that was set as the host by mistake.
    let host = host.strip_suffix('.').unwrap_or(host);
    // Only whole labels match: `evil-database.windows.net` does not belong to the cloud.
    let belongs = |suffix: &str| {
        let parts = host.len().checked_sub(suffix.len()).and_then(|at| host.split_at_checked(at));
        parts.is_some_and(|(name, end)| name.ends_with('.') && end.eq_ignore_ascii_case(suffix))
    };
    suffixes.iter().find(|(suffix, _)| belongs(suffix)).map(|(_, cloud)| cloud.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_belongs_to_the_cloud_of_its_suffix_of_whole_labels() {
        let sql = Cloud::of_azure_sql_host;
        assert_eq!(sql("shop.database.windows.net"), Some(Cloud::Public));
        assert_eq!(sql("shop.privatelink.database.windows.net"), Some(Cloud::Public));
        assert_eq!(sql("SHOP.Database.Windows.Net."), Some(Cloud::Public));
        assert_eq!(sql("mi.abc123.database.windows.net"), Some(Cloud::Public));
        assert_eq!(sql("shop.database.usgovcloudapi.net"), Some(Cloud::UsGovernment));
        assert_eq!(sql("shop.database.chinacloudapi.cn"), Some(Cloud::China));
        for other in ["database.windows.net", "evil-database.windows.net", "é.windows.net", "", "."]
        {
            assert_eq!(sql(other), None, "{other}");
        }
        assert_eq!(
            postgresql_scope("shop.postgres.database.azure.com"),
            Some(Scope::AZURE_POSTGRESQL)
        );
        assert_eq!(postgresql_scope("shop.database.windows.net"), None);
        for (host, authority) in [
            ("shop.database.windows.net", "https://login.microsoftonline.com"),
            ("shop.database.usgovcloudapi.net", "https://login.microsoftonline.us"),
            ("shop.database.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
        ] {
            assert_eq!(sql(host).unwrap().authority_host(), authority);
        }
    }
}
