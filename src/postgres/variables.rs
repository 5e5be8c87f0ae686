//! The settings that Service Connector and App Service provide (Microsoft Learn, "Integrate Azure
//! Database for PostgreSQL with Service Connector" and "Configure an App Service app").

use std::sync::Arc;

use super::{
    Config, ConfigError,
    config::of_settings,
    keywords::{CLIENT_ID, Settings},
};
use crate::{
    credential::{self, Environment},
    pasted,
    token::TokenCredential,
};

const STRING: &str = "AZURE_POSTGRESQL_CONNECTIONSTRING";
const ID: &str = "AZURE_POSTGRESQL_CLIENTID";

/// The separate variables of all client types, and their keywords.
const VARIABLES: &[(&str, &str)] = &[
    ("AZURE_POSTGRESQL_HOST", "host"),
    ("AZURE_POSTGRESQL_PORT", "port"),
    ("AZURE_POSTGRESQL_DATABASE", "dbname"),
    ("AZURE_POSTGRESQL_NAME", "dbname"),
    ("AZURE_POSTGRESQL_USER", "user"),
    ("AZURE_POSTGRESQL_USERNAME", "user"),
    ("AZURE_POSTGRESQL_PASSWORD", "password"),
    ("AZURE_POSTGRESQL_SSL", "ssl"),
];

/// A client ID, and the name of its setting.
pub(super) type Named = (String, &'static str);

/// Reads the connection string from the environment, otherwise the separate variables.
pub(super) fn read(environment: &Environment) -> Result<(Config, Option<Named>), ConfigError> {
    let text = pasted::connection_string(environment, STRING, &["POSTGRESQLCONNSTR_"])?;
    let settings = match text {
        Some(text) => Settings::parse(text)?,
        None => Settings::read(&pasted::settings(environment, VARIABLES))?,
    };
    if text.is_none() && settings.get("host").is_none() {
        let problem = "is not set, and neither is POSTGRESQLCONNSTR_… or AZURE_POSTGRESQL_HOST: \
                       create a service connection, or pass a connection string to pool";
        return Err(ConfigError::value(STRING, problem));
    }
    let (config, client_id) = of_settings(&settings)?;
    let of_variable = || environment.get(ID).map(|id| (id.to_owned(), ID));
    Ok((config, client_id.map(|id| (id, CLIENT_ID)).or_else(of_variable)))
}

pub(super) fn credential(
    config: &Config,
    client_id: Option<Named>,
    environment: &Environment,
) -> Result<Arc<dyn TokenCredential>, credential::ConfigError> {
    let names = ["AZURE_POSTGRESQL_TENANTID", ID, "AZURE_POSTGRESQL_CLIENTSECRET"];
    let parts = names.map(|name| (name, environment.get(name)));
    match client_id {
        // The secret belongs to the client ID in the variable.
        Some((_, ID)) if parts[2].1.is_some() => config.credential(None).service_principal(parts),
        client_id => config.credential(client_id).build(),
    }
}
