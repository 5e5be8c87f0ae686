use std::{error::Error, sync::Arc, time::Duration};

use entra_pool::{
    azure_sql,
    clock::{Clock, SystemClock},
    credential::from_env,
    postgres,
    token::{Scope, TokenCache, TokenCredential},
};

use crate::{report::Report, watch};

/// The database to check, if any, and the credential for the login.
pub(crate) struct Target {
    pub(crate) database: Option<Database>,
    pub(crate) credential: Arc<dyn TokenCredential>,
    pub(crate) scope: Scope,
}

pub(crate) enum Database {
    AzureSql(azure_sql::Config),
    Postgres(postgres::Config),
}

impl Target {
    /// Parses a connection string or a host name. Without `text`, no database is checked. A `limit`
    /// replaces the connect timeout of the connection string.
    pub(crate) fn parse(
        text: Option<&str>,
        limit: Option<Duration>,
    ) -> Result<Self, Box<dyn Error>> {
        let Some(text) = text else {
            return Ok(Self { database: None, credential: from_env()?, scope: Scope::AZURE_SQL });
        };
        let lower = text.to_ascii_lowercase();
        let text = match lower.contains('=') || lower.contains("://") {
            true => text.to_owned(),
            // Every PostgreSQL server has a database named `postgres`.
            false if lower.contains(".postgres.") => format!("postgres://{text}/postgres"),
            false => format!("Server={text}"),
        };
        if is_postgres(&text) {
            let (mut config, credential) = postgres::Config::parse_with_credential(&text)?;
            config = limit.into_iter().fold(config, postgres::Config::connect_timeout);
            let scope = config.token_scope()?;
            Ok(Self { database: Some(Database::Postgres(config)), credential, scope })
        } else {
            let (mut config, credential) = azure_sql::Config::parse_with_credential(&text)?;
            config = limit.into_iter().fold(config, azure_sql::Config::connect_timeout);
            let scope = config.token_scope()?;
            Ok(Self { database: Some(Database::AzureSql(config)), credential, scope })
        }
    }
}

fn is_postgres(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let schemes = ["postgres://", "postgresql", "jdbc:postgresql:"];
    // No driver for Azure SQL has the keyword `host`. Npgsql also has `Server`.
    text.contains(".postgres.")
        || schemes.iter().any(|scheme| text.trim_start().starts_with(scheme))
        || text
            .replace(" =", "=")
            .split([';', ' ', '\n', '"', '\''])
            .any(|pair| pair.starts_with("host="))
}

impl Database {
    /// Logs in, and queries the session's database and user. `limit` is the timeout of the query.
    pub(crate) async fn log_in(
        self,
        tokens: TokenCache,
        limit: Duration,
        report: &Report,
    ) -> Result<(), Box<dyn Error>> {
        let [database, user] = match self {
            Self::AzureSql(config) => {
                let tls = watch::client_config(config.certificate_verifier()?, report)?;
                let config = config.tls(tls).command_timeout(limit);
                let mut connection = azure_sql::Connector::new(config, tokens)?.connect().await?;
                report.passed("login");
                let results = connection.simple_query("SELECT DB_NAME(), USER_NAME()").await?;
                let row = results.into_row().await?.ok_or("the server returned no row")?;
                [0, 1].map(|column| row.get(column).map(str::to_owned))
            }
            Self::Postgres(config) => {
                let tls = watch::client_config(config.certificate_verifier()?, report)?;
                let connector = postgres::Connector::new(config.tls(tls), tokens)?;
                let (client, connection) = connector.connect().await?;
                report.passed("login");
                // If the connection fails, the query returns the same error.
                tokio::spawn(async { connection.await.ok() });
                let query = "SELECT current_database()::text, current_user::text";
                let row = tokio::select! {
                    row = client.query_one(query, &[]) => row?,
                    () = SystemClock::new().sleep(limit) => Err("no response within the time limit")?,
                };
                [row.try_get(0)?, row.try_get(1)?]
            }
        };
        report.note("database", database.unwrap_or_default());
        report.note("user", user.unwrap_or_default());
        report.passed("query");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_string_that_people_paste_is_given_to_its_database() {
        let cases = [
            (include_str!("../../../tests/cases/azure_sql_strings.tsv"), false),
            (include_str!("../../../tests/cases/postgres_strings.tsv"), true),
        ];
        for (table, expected) in cases {
            let rows = table.lines().map(|line| line.split('\t').collect::<Vec<_>>());
            for row in rows.filter(|row| row.get(1) == Some(&"ok")) {
                assert_eq!(is_postgres(row[3]), expected, "{row:?}");
            }
        }
    }

    #[test]
    fn the_scope_is_derived_from_the_argument() {
        for (target, scope) in [
            ("shop.database.windows.net", "https://database.windows.net/.default"),
            ("shop.database.windows.net,1433", "https://database.windows.net/.default"),
            (
                "shop.postgres.database.azure.com",
                "https://ossrdbms-aad.database.windows.net/.default",
            ),
            (
                "shop.postgres.database.usgovcloudapi.net:6432",
                "https://ossrdbms-aad.database.usgovcloudapi.net/.default",
            ),
            ("shop.database.chinacloudapi.cn", "https://database.chinacloudapi.cn/.default"),
            (
                "Server=shop.database.usgovcloudapi.net;Database=orders",
                "https://database.usgovcloudapi.net/.default",
            ),
            (
                "Server=localhost;Entra Scope=https://database.windows.net/.default",
                "https://database.windows.net/.default",
            ),
            (
                "jdbc:sqlserver://shop.database.windows.net:1433;databaseName=orders",
                "https://database.windows.net/.default",
            ),
            (
                "postgres://app@shop.postgres.database.usgovcloudapi.net/menu",
                "https://ossrdbms-aad.database.usgovcloudapi.net/.default",
            ),
            (
                "host=shop.postgres.database.azure.com dbname=menu",
                "https://ossrdbms-aad.database.windows.net/.default",
            ),
            (
                "Database=menu;Host=shop.postgres.database.azure.com",
                "https://ossrdbms-aad.database.windows.net/.default",
            ),
            (
                "jdbc:postgresql://shop.postgres.database.azure.com/menu",
                "https://ossrdbms-aad.database.windows.net/.default",
            ),
        ] {
            let read = Target::parse(Some(target), None).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(read.scope.as_str(), scope, "{target}");
        }
        for bad in ["localhost", "evil-database.windows.net", "Server=localhost", ""] {
            assert!(Target::parse(Some(bad), None).is_err(), "{bad}");
        }
    }
}
