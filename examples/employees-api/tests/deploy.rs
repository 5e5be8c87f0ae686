//! Checks that the deployment files match the application and each other.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use entra_pool::azure_sql::Config;

const MAIN: &str = include_str!("../deploy/main.bicep");
const REGISTRY: &str = include_str!("../deploy/registry.bicep");
const DOCKERFILE: &str = include_str!("../Dockerfile");
const GRANT: &str = include_str!("../grant.sql");
const WORKFLOWS: [&str; 2] = [
    include_str!("../deploy/workflows/employees-api-check.yml"),
    include_str!("../deploy/workflows/employees-api-deploy.yml"),
];

/// The part of `text` between `before` and `after`.
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
fn all_files_use_the_same_identity_name() {
    let identity = between(REGISTRY, "  name: '", "'");
    assert_eq!(identity, "employees-api-identity");
    assert_eq!(between(MAIN, "existing = {\n  name: '", "'"), identity);
    assert!(GRANT.contains(&format!("CREATE USER [{identity}] FROM EXTERNAL PROVIDER;")));
    assert!(GRANT.contains(&format!("ADD MEMBER [{identity}];")));
}

#[test]
fn the_application_accepts_the_connection_string() {
    let string = app_setting("AZURE_SQL_CONNECTIONSTRING")
        .replace("${server.properties.fullyQualifiedDomainName}", "shop.database.windows.net")
        .replace("${databaseName}", "app");
    let config: Config = string.parse().unwrap();
    assert!(config.to_string().starts_with("Server=tcp:shop.database.windows.net,1433;"));
    assert!(string.contains("Authentication=Active Directory Default"), "{string}");
    assert_eq!(app_setting("AZURE_CLIENT_ID"), "identity.properties.clientId");
}

#[test]
fn the_image_listens_on_the_port_that_app_service_uses() {
    let listen: SocketAddr = between(DOCKERFILE, "LISTEN=", " ").parse().unwrap();
    assert!(listen.ip().is_unspecified());
    assert_eq!(listen.port().to_string(), app_setting("WEBSITES_PORT"));
    assert!(DOCKERFILE.contains(&format!("EXPOSE {}\n", listen.port())));
    assert!(DOCKERFILE.contains("\nUSER 65532:65532\n"));
}

#[test]
fn workflows_pass_every_parameter_without_a_default() {
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
fn no_file_contains_a_secret() {
    for text in [MAIN, REGISTRY, DOCKERFILE, WORKFLOWS[0], WORKFLOWS[1]] {
        let text = text.to_lowercase();
        for word in ["password", "secrets.", "listkeys", "listcredentials"] {
            assert!(!text.contains(word), "{word}");
        }
    }
    assert!(MAIN.contains("azureADOnlyAuthentication: true"));
    assert!(REGISTRY.contains("adminUserEnabled: false"));
}

#[test]
fn app_service_refuses_requests_without_a_token() {
    let authentication = between(MAIN, "name: 'authsettingsV2'", "\n}\n");
    for line in [
        "    platform: {\n      enabled: true\n",
        "requireAuthentication: true",
        "unauthenticatedClientAction: 'Return401'",
        "azureActiveDirectory: {\n        enabled: true\n",
        "openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'",
        "allowedAudiences: [\n            clientId\n            'api://${clientId}'\n          ]",
    ] {
        assert!(authentication.contains(line), "{line}");
    }
    // Verifying tokens needs no secret, because users are not signed in.
    assert!(!authentication.contains("clientSecretSettingName"));
    let excluded = between(authentication, "excludedPaths: [", "]");
    assert_eq!(excluded.trim(), "'/health'");
    assert_eq!(between(MAIN, "healthCheckPath: ", "\n"), "'/health'");
    let deploy = WORKFLOWS[1];
    assert!(deploy.contains("https://$NAME.azurewebsites.net/health"));
    assert!(deploy.contains("https://$NAME.azurewebsites.net/employees"));
}

#[test]
fn the_database_accepts_only_connections_from_the_applications_subnet() {
    assert!(!MAIN.contains("firewallRules"));
    let subnet = "virtualNetworkSubnetId: network.properties.subnets[0].id";
    assert!(between(MAIN, "servers/virtualNetworkRules@", "\n}\n").contains(subnet));
    assert!(between(MAIN, "Microsoft.Web/sites@", "\n}\n").contains(subnet));
    assert!(between(MAIN, "virtualNetworks@", "\n}\n").contains("service: 'Microsoft.Sql'"));
}

/// The examples' deployment files, and their READMEs.
fn deployments() -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if name == "Dockerfile"
                || [".bicep", ".md", ".yml"].iter().any(|end| name.ends_with(end))
            {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files
}

#[test]
fn no_example_opens_its_database_to_all_of_azure() {
    let mut databases = 0;
    for (path, text) in deployments() {
        // For Azure, this rule means all of Azure, including other customers.
        for rule in
            ["start-ip-address 0.0.0.0", "startIpAddress: '0.0.0.0'", "public-access 0.0.0.0"]
        {
            assert!(!text.contains(rule), "{}: {rule}", path.display());
        }
        databases += usize::from(text.contains("vnet-rule create"))
            + usize::from(text.contains("virtualNetworkRules@"))
            + usize::from(
                text.contains("privateEndpoints@") || text.contains("private-endpoint create"),
            );
    }
    assert!(databases >= 6, "{databases}");
}

#[test]
fn actions_are_pinned_by_commit_and_images_by_digest_or_minor_version() {
    let (mut actions, mut images) = (0, 0);
    for (path, text) in deployments() {
        let path = path.display();
        for line in text.lines().map(str::trim_start) {
            if let Some(action) = line.trim_start_matches("- ").strip_prefix("uses: ") {
                let (action, version) = action.split_once(" # v").expect(action);
                let (_, commit) = action.split_once('@').expect(action);
                assert!(
                    commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()),
                    "{path}: {action}"
                );
                assert_eq!(version.split('.').count(), 3, "{path}: {action}");
                actions += 1;
            }
            if let Some(image) = line.strip_prefix("FROM ") {
                let image = image.split(' ').next().unwrap();
                let digest =
                    image.split_once("@sha256:").is_some_and(|(_, digest)| digest.len() == 64);
                let minor = image.split_once(':').is_some_and(|(_, tag)| {
                    let version = tag.split('-').next().unwrap();
                    version.split('.').filter(|part| part.parse::<u32>().is_ok()).count() >= 2
                });
                assert!(digest || minor, "{path}: {image}");
                images += 1;
            }
        }
    }
    assert!(actions >= 8 && images >= 2, "{actions} {images}");
}
