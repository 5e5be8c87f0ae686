//! Invalid settings are rejected before any request, with the name of the setting. Proxies in the
//! environment are ignored.

use entra_pool::{
    credential::{
        Environment, ManagedIdentity, ManagedIdentityHost,
        ManagedIdentityHost::{AppService, AzureArc, AzureMl, CloudShell, Imds, ServiceFabric},
        UserAssignedId,
    },
    token::{Reason, Scope, TokenCredential, TokenRequest},
};

use crate::world::{HOSTS, World};

const GUID: &str = "11111111-2222-3333-4444-555555555555";

/// The variable with the host's URL.
fn endpoint_of(host: ManagedIdentityHost) -> &'static str {
    match host {
        AppService | ServiceFabric | AzureArc => "IDENTITY_ENDPOINT",
        AzureMl | CloudShell => "MSI_ENDPOINT",
        _ => "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    }
}

#[tokio::test]
async fn the_error_for_an_invalid_setting_has_its_name_and_not_its_value() {
    let world = World::new();
    let long = "0".repeat(41);
    let mut settings = vec![
        (AppService, "IDENTITY_HEADER", "hush\nhush"),
        (ServiceFabric, "IDENTITY_HEADER", "hush\u{7f}"),
        (AzureMl, "MSI_SECRET", "hush\0"),
        (AzureMl, "DEFAULT_IDENTITY_CLIENT_ID", "hush"),
        (ServiceFabric, "IDENTITY_ENDPOINT", "http://hush:2377/metadata/identity/oauth2/token"),
        (ServiceFabric, "IDENTITY_SERVER_THUMBPRINT", "hush"),
        (ServiceFabric, "IDENTITY_SERVER_THUMBPRINT", &long),
        (ServiceFabric, "IDENTITY_SERVER_THUMBPRINT", "XY9E364706816ABA3E25717850C26C9CD0D89DXY"),
    ];
    for host in HOSTS {
        for url in [
            "hush",
            "/hush/token",
            "http://",
            "ftp://hush/token",
            "file:///hush",
            "unix:/hush.sock",
            "http://user:hush@127.0.0.1/token",
            "http://hush@127.0.0.1/token",
            // An identity that was not selected, or a second one.
            "https://127.0.0.1/token?client_id=hush",
            "https://127.0.0.1/token?x=y&MSI_RES_ID=hush",
        ] {
            settings.push((host, endpoint_of(host), url));
        }
    }
    assert_eq!(settings.len(), 68);
    for (host, setting, value) in settings {
        let mut variables = world.variables(host);
        variables.push((setting, value.to_owned()));
        let error = world.builder_with(variables, None).build().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{setting} must be ")), "{host}: {error}");
        assert!(!error.contains("hush"), "{host}: {error}");
    }
    for url in ["hush", "ftp://hush", "http://u:hush@127.0.0.1"] {
        let error = ManagedIdentity::system_assigned().imds_endpoint(url).build().unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("imds_endpoint must be") && !error.contains("hush"), "{error}");
    }
    assert_eq!(world.endpoint.requests(), 0);
    world.finish(0);
}

#[tokio::test]
async fn an_invalid_selector_is_rejected_on_every_host() {
    let world = World::new();
    let group = format!("/subscriptions/{GUID}/resourceGroups/shop");
    let provider = "providers/Microsoft.ManagedIdentity/userAssignedIdentities";
    for host in HOSTS {
        for (id, expected) in [
            (UserAssignedId::ClientId(String::new()), "a client ID"),
            (UserAssignedId::ClientId("shop-identity".into()), "a client ID"),
            (UserAssignedId::ClientId(format!("{GUID}&object_id={GUID}")), "a client ID"),
            (UserAssignedId::ClientId(format!("{group}/{provider}/shop")), "a client ID"),
            (UserAssignedId::ObjectId(GUID.replace('-', "")), "an object ID"),
            (UserAssignedId::ObjectId("$(id)".into()), "an object ID"),
            (UserAssignedId::ResourceId(GUID.into()), "a resource ID"),
            (UserAssignedId::ResourceId(format!("{group}/{provider}/a b")), "a resource ID"),
            (UserAssignedId::ResourceId(format!("{group}/{provider}/a?b")), "a resource ID"),
            (UserAssignedId::ResourceId(format!("{group}/{provider}/a/b")), "a resource ID"),
        ] {
            let error = world.builder(host, Some(&id)).build().unwrap_err().to_string();
            let start = format!("user_assigned must be {expected}, such as ");
            assert!(error.starts_with(&start), "{host}: {error}");
        }
    }
    assert_eq!(world.endpoint.requests(), 0);
    world.finish(0);
}

#[test]
fn a_scope_with_special_characters_is_invalid() {
    for scope in [
        "",
        " ",
        "https://database.windows.net/.default https://vault.azure.net/.default",
        "https://database.windows.net/.default;id",
        "$(id)",
        "`id`",
        "a|b",
        "a&b=c",
        "a\"b",
        "a'b",
        "a%20b",
        "a\\b",
        "a\nb",
        "a?b",
        "a#b",
        "é",
    ] {
        let error = Scope::new(scope).unwrap_err().to_string();
        assert!(error.contains("not a scope"), "{error}");
    }
}

const HOST_UNDER_TEST: &str = "MANAGED_IDENTITY_TEST_ARC_ROOT";

/// The part of the next test that runs in a separate process.
#[tokio::test]
#[ignore = "started by a_proxy_is_never_used_on_any_host"]
async fn with_a_proxy_in_the_environment() {
    let root = std::env::var(HOST_UNDER_TEST).unwrap();
    let identity = ManagedIdentity::system_assigned().azure_arc_root(root).build().unwrap();
    let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
    identity.get_token(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_is_never_used_on_any_host() {
    let world = World::new();
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    for (number, host) in (1..).zip(HOSTS) {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "bad_input::with_a_proxy_in_the_environment"]);
        // The child detects its host by these variables.
        child.envs(world.variables(host)).env(HOST_UNDER_TEST, world.endpoint.azure_arc_root());
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            child.env(name, &url).env(name.to_lowercase(), &url);
        }
        child.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("REQUEST_METHOD");
        let output = child.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(world.endpoint.tokens_handed_out(), number, "{host}");
    }
    let accepted = proxy.accept().map(|_| ()).unwrap_err();
    assert_eq!(accepted.kind(), std::io::ErrorKind::WouldBlock);
    world.finish(0);
}

#[tokio::test]
async fn an_explicit_endpoint_overrides_the_environment() {
    let mut world = World::new();
    for host in HOSTS {
        let url = world.endpoint.imds_endpoint();
        let identity = world.builder(host, None).imds_endpoint(url).build().unwrap();
        assert_eq!(identity.host(), Imds);
        let outcome = world.ask(&identity, &[]).await;
        crate::world::assert_asked(Imds, &outcome.requests, None);
        outcome.result.unwrap();
    }
    let shown = format!("{:?}", Environment::from_pairs(world.variables(AppService)));
    assert_eq!(shown, r#"{"IDENTITY_ENDPOINT", "IDENTITY_HEADER"}"#);
    world.finish(6);
}
