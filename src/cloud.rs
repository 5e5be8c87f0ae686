//! The Azure clouds: which host belongs to which, what token it wants, and who
//! gives it.

#[cfg(any(feature = "azure-sql", feature = "postgres"))]
use crate::token::Scope;

/// An Azure cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cloud {
    /// The public cloud.
    Public,
    /// Azure Government (United States).
    UsGovernment,
    /// Azure operated by 21Vianet (China).
    China,
}

impl Cloud {
    /// The cloud of an Azure SQL host (Azure SQL Database and Managed Instance,
    /// Fabric, Synapse), private endpoints' names included.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn of_azure_sql_host(host: &str) -> Option<Self> {
        let suffixes = [
            ("database.windows.net", Self::Public),
            ("database.fabric.microsoft.com", Self::Public),
            ("datawarehouse.fabric.microsoft.com", Self::Public),
            ("sql.azuresynapse.net", Self::Public),
            ("database.usgovcloudapi.net", Self::UsGovernment),
            ("database.chinacloudapi.cn", Self::China),
        ];
        of_host(host, &suffixes)
    }

    /// The cloud of an Azure Database for PostgreSQL host.
    #[cfg(feature = "postgres")]
    pub(crate) fn of_postgresql_host(host: &str) -> Option<Self> {
        let suffixes = [
            ("postgres.database.azure.com", Self::Public),
            ("postgres.database.usgovcloudapi.net", Self::UsGovernment),
            ("postgres.database.chinacloudapi.cn", Self::China),
        ];
        of_host(host, &suffixes)
    }

    /// The cloud whose databases take tokens of `scope`.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn of_scope(scope: &Scope) -> Option<Self> {
        [Self::Public, Self::UsGovernment, Self::China]
            .into_iter()
            .find(|cloud| [cloud.azure_sql_scope(), cloud.postgresql_scope()].contains(scope))
    }

    /// Where applications (service principals) of this cloud ask for tokens, if
    /// `AZURE_AUTHORITY_HOST` does not say otherwise. Managed identities and the
    /// command-line tools know by themselves.
    #[cfg(any(test, feature = "azure-identity"))]
    pub(crate) fn authority_host(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGovernment => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }

    /// What a token for Azure SQL in this cloud is asked for with.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn azure_sql_scope(self) -> Scope {
        match self {
            Self::Public => Scope::AZURE_SQL,
            Self::UsGovernment => Scope::from_static("https://database.usgovcloudapi.net/.default"),
            Self::China => Scope::from_static("https://database.chinacloudapi.cn/.default"),
        }
    }

    /// What a token for Azure Database for PostgreSQL in this cloud is asked
    /// for with.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
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

#[cfg(any(feature = "azure-sql", feature = "postgres"))]
fn of_host(host: &str, suffixes: &[(&str, Cloud)]) -> Option<Cloud> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // At a label's border: `evil-database.windows.net` is not of the cloud.
    let belongs = |suffix: &str| host.strip_suffix(suffix).is_some_and(|name| name.ends_with('.'));
    suffixes.iter().find(|(suffix, _)| belongs(suffix)).map(|(_, cloud)| *cloud)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_belong_to_clouds_by_suffix_at_a_labels_border() {
        let sql = Cloud::of_azure_sql_host;
        assert_eq!(sql("shop.database.windows.net"), Some(Cloud::Public));
        assert_eq!(sql("shop.privatelink.database.windows.net"), Some(Cloud::Public));
        assert_eq!(sql("SHOP.Database.Windows.Net."), Some(Cloud::Public));
        assert_eq!(sql("mi.abc123.database.windows.net"), Some(Cloud::Public));
        assert_eq!(sql("shop.database.usgovcloudapi.net"), Some(Cloud::UsGovernment));
        assert_eq!(sql("shop.database.chinacloudapi.cn"), Some(Cloud::China));
        for other in ["database.windows.net", "evil-database.windows.net", "localhost", "", "."] {
            assert_eq!(sql(other), None, "{other}");
        }
        let pg = Cloud::of_postgresql_host;
        assert_eq!(pg("shop.postgres.database.azure.com"), Some(Cloud::Public));
        assert_eq!(pg("shop.database.windows.net"), None);
        for (host, authority) in [
            ("shop.database.windows.net", "https://login.microsoftonline.com"),
            ("shop.database.usgovcloudapi.net", "https://login.microsoftonline.us"),
            ("shop.database.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
        ] {
            assert_eq!(sql(host).unwrap().authority_host(), authority);
        }
    }
}
