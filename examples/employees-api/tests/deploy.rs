//! What deploys the application fits it, and its parts fit each other.

use std::net::SocketAddr;

use entra_pool::azure_sql::{Authentication, Config};

const MAIN: &str = include_str!("../deploy/main.bicep");
const REGISTRY: &str = include_str!("../deploy/registry.bicep");
const DOCKERFILE: &str = include_str!("../Dockerfile");
const GRANT: &str = include_str!("../grant.sql");
const WORKFLOWS: [&str; 2] = [
    include_str!("../deploy/workflows/employees-api-check.yml"),
    include_str!("../deploy/workflows/employees-api-deploy.yml"),
];

/// What stands in `text` between `before` and `after`.
#[track_caller]
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).expect(before);
    rest.split_once(after).expect(after).0
}

/// The value of an app setting in Bicep.
#[track_caller]
fn app_setting(name: &str) -> &'static str {
    between(MAIN, &format!("name: '{name}'\n          value: "), "\n").trim_matches('\'')
}

#[test]
fn the_identity_has_one_name() {
    let identity = between(REGISTRY, "  name: '", "'");
    assert_eq!(identity, "employees-api-identity");
    assert_eq!(between(MAIN, "existing = {\n  name: '", "'"), identity);
    assert!(GRANT.contains(&format!("CREATE USER [{identity}] FROM EXTERNAL PROVIDER;")));
    assert!(GRANT.contains(&format!("ADD MEMBER [{identity}];")));
}

#[test]
fn the_connection_string_is_one_that_the_application_reads() {
    let string = app_setting("AZURE_SQL_CONNECTIONSTRING")
        .replace("${server.properties.fullyQualifiedDomainName}", "shop.database.windows.net")
        .replace("${databaseName}", "app");
    let config: Config = string.parse().unwrap();
    assert_eq!(config.host(), "shop.database.windows.net");
    assert_eq!(config.authentication(), Some(Authentication::Default));
    assert_eq!(app_setting("AZURE_CLIENT_ID"), "identity.properties.clientId");
}

#[test]
fn the_image_listens_where_app_service_looks() {
    let listen: SocketAddr = between(DOCKERFILE, "LISTEN=", " ").parse().unwrap();
    assert!(listen.ip().is_unspecified());
    assert_eq!(listen.port().to_string(), app_setting("WEBSITES_PORT"));
    assert!(DOCKERFILE.contains(&format!("EXPOSE {}\n", listen.port())));
    assert!(DOCKERFILE.contains("\nUSER 65532:65532\n"));
}

#[test]
fn workflows_give_every_parameter_that_has_no_default() {
    for (file, bicep) in [("registry.bicep", REGISTRY), ("main.bicep", MAIN)] {
        let parameters: Vec<&str> = bicep
            .lines()
            .filter_map(|line| line.strip_prefix("param "))
            .filter(|line| !line.contains('='))
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert!(!parameters.is_empty());
        for workflow in WORKFLOWS {
            let mut deployments = workflow.split("az deployment group ").skip(1).peekable();
            assert!(deployments.peek().is_some());
            for deployment in deployments.filter(|deployment| deployment.contains(file)) {
                let command = deployment.split("\n      - ").next().unwrap();
                for parameter in &parameters {
                    assert!(command.contains(&format!(" {parameter}=")), "{parameter}: {command}");
                }
            }
        }
    }
}

#[test]
fn nothing_of_it_holds_a_secret() {
    for text in [MAIN, REGISTRY, DOCKERFILE, WORKFLOWS[0], WORKFLOWS[1]] {
        let text = text.to_lowercase();
        for word in ["password", "secrets.", "listkeys", "listcredentials"] {
            assert!(!text.contains(word), "{word}");
        }
    }
    assert!(MAIN.contains("azureADOnlyAuthentication: true"));
    assert!(REGISTRY.contains("adminUserEnabled: false"));
}
