//! Checks that the deployment files match the application and each other.

use entra_pool::postgres::Config;

const MAIN: &str = include_str!("../deploy/main.bicep");
const GRANT: &str = include_str!("../grant.sql");
const IDENTITY: &str = "restaurants-identity";

#[test]
fn all_files_use_the_same_identity_name() {
    assert!(
        MAIN.contains(&format!("userAssignedIdentities@2023-01-31' = {{\n  name: '{IDENTITY}'"))
    );
    assert!(GRANT.contains(&format!("pgaadauth_create_principal('{IDENTITY}', false, false)")));
    assert!(GRANT.contains(&format!(" TO \"{IDENTITY}\";")));
}

#[test]
fn the_application_accepts_the_connection_string() {
    let (_, string) = MAIN.split_once("output connectionString string = '").unwrap();
    let string = string
        .lines()
        .next()
        .unwrap()
        .trim_end_matches('\'')
        .replace("${identity.name}", IDENTITY)
        .replace("${server.properties.fullyQualifiedDomainName}", "r.postgres.database.azure.com")
        .replace("${database.name}", "restaurants");
    let config: Config = string.parse().unwrap();
    assert_eq!(config.token_scope().unwrap(), entra_pool::token::Scope::AZURE_POSTGRESQL);
}

#[test]
fn no_login_uses_a_secret() {
    for line in
        ["passwordAuth: 'Disabled'", "allowSharedKeyAccess: false", "allowBlobPublicAccess: false"]
    {
        assert!(MAIN.contains(line), "{line}");
    }
    for word in ["administratorLogin", "listKeys", "secure()"] {
        assert!(!MAIN.contains(word), "{word}");
    }
}

#[test]
fn the_database_is_reachable_only_through_its_private_endpoint() {
    assert!(!MAIN.contains("firewallRules"));
    for line in [
        "privateLinkServiceId: server.id",
        "'postgresqlServer'",
        "name: 'privatelink.postgres.database.azure.com'",
        "privateDnsZoneId: zone.id",
        "id: network.properties.subnets[1].id",
        "output subnet string = network.properties.subnets[0].id",
    ] {
        assert!(MAIN.contains(line), "{line}");
    }
    assert!(include_str!("../README.md").contains("--subnet $(output subnet)"));
}
