use std::net::SocketAddr;

use examples_common::{
    BoxError,
    settings::{self, InvalidSetting, Listen},
};

/// Asked where nothing else is; `setup.sql` and `setup.postgres.sql` make its table.
const QUERY: &str = "SELECT id, item, amount, sold_on FROM sales ORDER BY id";

/// Which database, where no connection string tells.
const NAMED: &str = "REPORT_DATABASE";

/// What the environment sets.
pub(crate) struct Config {
    pub(crate) database: DatabaseConfig,
    /// `REPORT_QUERY`; default: that of the table that the set-up script makes.
    pub(crate) query: String,
    /// `LISTEN`, or, within Functions, which tells the port,
    /// `FUNCTIONS_CUSTOMHANDLER_PORT` on 127.0.0.1; default 127.0.0.1:8080.
    pub(crate) listen: Listen,
}

/// Which database, and its connection string. Without one, the emulator is used.
pub(crate) enum DatabaseConfig {
    /// `AZURE_SQL_CONNECTIONSTRING`; the default.
    AzureSql(Option<String>),
    /// `AZURE_POSTGRESQL_CONNECTIONSTRING`; or `REPORT_DATABASE` is `postgresql`.
    Postgres(Option<String>),
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, BoxError> {
        Ok(Self {
            database: database()?,
            query: settings::optional("REPORT_QUERY")?.unwrap_or_else(|| QUERY.to_owned()),
            listen: listen()?,
        })
    }
}

fn database() -> Result<DatabaseConfig, BoxError> {
    let azure_sql = settings::optional(settings::AZURE_SQL)?;
    let postgres = settings::optional(settings::POSTGRES)?;
    let named: Option<String> = settings::optional(NAMED)?;
    match (named.as_deref(), azure_sql, postgres) {
        (None | Some("azure-sql"), azure_sql, None) => Ok(DatabaseConfig::AzureSql(azure_sql)),
        (None, None, postgres @ Some(_)) | (Some("postgresql"), None, postgres) => {
            Ok(DatabaseConfig::Postgres(postgres))
        }
        (None | Some("azure-sql" | "postgresql"), ..) => {
            let (one, other) = (settings::AZURE_SQL, settings::POSTGRES);
            Err(format!("the settings name more than one database: {one}, {other}, {NAMED}").into())
        }
        _ => Err(InvalidSetting::new(NAMED, "it is neither azure-sql nor postgresql").into()),
    }
}

fn listen() -> Result<Listen, InvalidSetting> {
    match settings::optional("FUNCTIONS_CUSTOMHANDLER_PORT")? {
        Some(port) => Listen::at(SocketAddr::from(([127, 0, 0, 1], port))),
        None => settings::listen(),
    }
}
