//! The settings that Service Connector and App Service provide (Microsoft Learn, "Integrate Azure
//! SQL Database with Service Connector" and "Configure an App Service app").

use zeroize::Zeroizing;

use super::{Config, ConfigError, authentication, identity::NamedIdentity, read};
use crate::{
    credential::{Environment, Member},
    pasted,
};

const STRING: &str = "AZURE_SQL_CONNECTIONSTRING";
const USER: &str = "AZURE_SQL_USER";

/// The separate variables of all client types, and their keywords.
const VARIABLES: &[(&str, &str)] = &[
    ("AZURE_SQL_SERVER", "Server"),
    ("AZURE_SQL_SERVERNAME", "Server"),
    ("AZURE_SQL_HOST", "Server"),
    ("AZURE_SQL_PORT", "Port"),
    ("AZURE_SQL_DATABASE", "Database"),
    ("AZURE_SQL_NAME", "Database"),
    ("AZURE_SQL_AUTHENTICATION", "Authentication"),
    ("AZURE_SQL_AUTHENTICATIONTYPE", "Authentication"),
    ("AZURE_SQL_CLIENTID", "User Id"),
    ("AZURE_SQL_USERNAME", "User Id"),
    ("AZURE_SQL_UID", "User Id"),
    (USER, "User Id"),
    ("AZURE_SQL_CLIENTSECRET", "Password"),
    ("AZURE_SQL_PASSWORD", "Password"),
    ("AZURE_SQL_TENANTID", "Entra Tenant"),
];

/// Reads the connection string from the environment, or else the separate variables.
pub(super) fn read(environment: &Environment) -> Result<(Config, NamedIdentity), ConfigError> {
    let prefixes = ["SQLAZURECONNSTR_", "SQLCONNSTR_"];
    if let Some(text) = pasted::connection_string(environment, STRING, &prefixes)? {
        let (config, mut identity) = read::parse(text, false)?;
        if identity.authentication == Some(Member::ServicePrincipal) && identity.tenant.is_none() {
            // The string of a service principal does not contain the tenant.
            identity.tenant = environment.get("AZURE_SQL_TENANTID").map(str::to_owned);
        }
        return Ok((config, identity));
    }
    let mut pairs = pasted::settings(environment, VARIABLES);
    let has = |keyword: &str| pairs.iter().any(|(it, _)| it == keyword);
    if !has("Server") {
        let problem = "is not set, and neither is SQLAZURECONNSTR_…, SQLCONNSTR_…, \
                       AZURE_SQL_SERVER, AZURE_SQL_SERVERNAME or AZURE_SQL_HOST: create a service \
                       connection, or pass a connection string to pool";
        return Err(ConfigError::value(STRING, problem));
    }
    if has("Password")
        && let Some((_, value)) = pairs.iter_mut().find(|(keyword, _)| keyword == "Authentication")
        && authentication::read(value) == Ok(None)
    {
        // Node.js and others also get `azure-active-directory-default` for a service principal.
        *value = Zeroizing::new("ActiveDirectoryServicePrincipal".to_owned());
    }
    let (config, mut identity) = read::read(&pairs, false)?;
    // Python gets the object ID of a user-assigned identity.
    let is_managed = identity.authentication == Some(Member::ManagedIdentity);
    identity.object_id_of = environment.get(USER).filter(|_| is_managed).map(|_| USER);
    Ok((config, identity))
}
