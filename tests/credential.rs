//! Credentials with stand-ins for the identity endpoint and for `az`, on a manual clock.

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/waiting.rs"]
mod waiting;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool::{
    clock::{Clock, ManualClock},
    credential::{
        AzureCli, AzureDeveloperCli, DefaultCredential, Environment, ManagedIdentity,
        ManagedIdentityHost, UserAssignedId,
    },
    token::{
        CredentialError, CredentialErrorKind, Identity, Reason, Scope, Token, TokenCredential,
        TokenRequest,
    },
};
use entra_pool_emulator::{
    azure_cli::{AzureCliMode, AzureCliStandIn},
    identity::{Fault, IdentityEndpoint, IdentityOptions},
    jwt::{Issuer, Principal, PrincipalKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use waiting::{ask, until, with_causes};

use CredentialErrorKind::{Refused, Transient, Unavailable};

const RESOURCE: &str = "https://database.windows.net";
const UNKNOWN_ID: &str = "00000000-0000-0000-0000-00000000beef";

struct World {
    issuer: Arc<Issuer>,
    endpoint: IdentityEndpoint,
    clock: ManualClock,
    system: Principal,
    user: Principal,
}

fn world() -> World {
    let issuer = Arc::new(Issuer::new());
    let system = Principal::new("shop-app", PrincipalKind::SystemAssigned);
    let user = Principal::new("shop-identity", PrincipalKind::UserAssigned);
    let options = IdentityOptions {
        system_assigned: Some(system.clone()),
        user_assigned: vec![user.clone()],
        ..IdentityOptions::default()
    };
    let endpoint = IdentityEndpoint::start(issuer.clone(), options).unwrap();
    World { issuer, endpoint, clock: ManualClock::new(), system, user }
}

impl World {
    fn app_service(&self, id: Option<&str>) -> ManagedIdentity {
        builder(id)
            .environment(Environment::from_pairs(self.endpoint.app_service_env()))
            .clock(self.clock.clone())
            .build()
            .unwrap()
    }

    fn imds(&self, id: Option<&str>) -> ManagedIdentity {
        builder(id)
            .imds_endpoint(self.endpoint.imds_endpoint())
            .clock(self.clock.clone())
            .build()
            .unwrap()
    }

    fn object_id_of(&self, token: &Token) -> String {
        self.issuer.verify(token.secret(), RESOURCE).unwrap().object_id
    }

    /// Advances the clock by these pauses, one for each retry.
    async fn pass(&self, pauses: impl IntoIterator<Item = u64>) {
        for pause in pauses {
            self.until_waiting_for(pause).await;
            self.clock.advance(Duration::from_secs(pause));
        }
    }

    async fn until_waiting_for(&self, seconds: u64) {
        until(|| self.clock.next_wake() == Some(Duration::from_secs(seconds))).await;
    }
}

fn builder(id: Option<&str>) -> entra_pool::credential::ManagedIdentityBuilder {
    match id {
        None => ManagedIdentity::system_assigned(),
        Some(id) => ManagedIdentity::user_assigned(UserAssignedId::ClientId(id.to_owned())),
    }
}

#[track_caller]
fn assert_error(error: &CredentialError, kind: CredentialErrorKind, words: &[&str]) {
    let shown = with_causes(error);
    assert_eq!(error.kind(), kind, "{shown}");
    for word in words {
        assert!(shown.contains(word), "{word:?} is not in {shown:?}");
    }
}

// App Service

#[tokio::test]
async fn app_service_returns_a_token_of_the_system_assigned_identity() {
    let world = world();
    let identity = world.app_service(None);
    assert_eq!(identity.host(), ManagedIdentityHost::AppService);
    assert_eq!(identity.name(), "managed identity (App Service)");
    let token = ask(&identity).await.unwrap();
    assert_eq!(world.object_id_of(&token), world.system.object_id);
    let verified = world.issuer.verify(token.secret(), RESOURCE).unwrap();
    assert_eq!(token.expires_on(), verified.expires_on);
    assert_eq!(token.refresh_on(), None);

    let received = &world.endpoint.received()[0];
    assert_eq!(received.method, "GET");
    assert_eq!(received.identity_header_is_right, Some(true));
    assert_eq!(received.metadata, None);
    let query = [("api-version", "2019-08-01"), ("resource", RESOURCE)];
    assert_eq!(received.query, query.map(|(name, value)| (name.into(), value.into())));
    assert!(received.user_agent.as_deref().unwrap().starts_with("entra-pool/"));
}

#[tokio::test]
async fn app_service_returns_a_token_of_a_user_assigned_identity() {
    let world = world();
    let id = world.user.client_id.clone();
    let identity = world.app_service(Some(&id));
    assert_eq!(identity.name(), format!("managed identity (App Service, client ID {id})"));
    let token = ask(&identity).await.unwrap();
    assert_eq!(world.object_id_of(&token), world.user.object_id);
    assert_eq!(world.endpoint.received()[0].query_value("client_id"), Some(&*id));
}

#[tokio::test]
async fn an_identity_that_the_app_does_not_have_is_named() {
    let world = world();
    let error = ask(&world.app_service(Some(UNKNOWN_ID))).await.unwrap_err();
    let words = [UNKNOWN_ID, "is not assigned to this app", "No managed identity found"];
    assert_error(&error, Refused, &words);
    world.endpoint.set_system_assigned(None);
    let error = ask(&world.app_service(None)).await.unwrap_err();
    assert_error(&error, Refused, &["no system-assigned identity", "AZURE_CLIENT_ID"]);
    assert_eq!(world.endpoint.requests(), 2, "a 400 is final");
}

#[tokio::test]
async fn app_service_is_requested_three_times_at_intervals_of_a_second() {
    let world = world();
    let identity = world.app_service(None);
    world.endpoint.fail_next(2, Fault::Status(500, String::new()));
    let (token, ()) = tokio::join!(ask(&identity), world.pass([1, 1]));
    assert_eq!(world.object_id_of(&token.unwrap()), world.system.object_id);
    assert_eq!(world.endpoint.requests(), 3);

    world.endpoint.fail(Fault::Throttled(Some(7)));
    let (failed, ()) = tokio::join!(ask(&identity), world.pass([7, 7]));
    let error = failed.unwrap_err();
    assert_error(&error, Transient, &["429", "Slow down"]);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(world.endpoint.requests(), 6);
}

#[tokio::test]
async fn an_app_service_endpoint_that_refuses_connections_is_retried_until_it_listens() {
    let world = world();
    let identity = world.app_service(None);
    world.endpoint.go_away().await.unwrap();
    let (failed, ()) = tokio::join!(ask(&identity), world.pass([1; 10]));
    let words = ["App Service", "is not listening", "/msi/token", "cannot connect"];
    assert_error(&failed.unwrap_err(), Transient, &words);
    let moves = async {
        world.pass([1]).await;
        world.until_waiting_for(1).await;
        world.endpoint.come_back().unwrap();
        world.pass([1]).await;
    };
    let (token, ()) = tokio::join!(ask(&identity), moves);
    token.unwrap();
}

#[tokio::test]
async fn a_wrong_identity_header_is_refused_and_not_shown() {
    let world = world();
    let [endpoint, _] = world.endpoint.app_service_env();
    let environment = [endpoint, ("IDENTITY_HEADER", "not-the-right-0ne".to_owned())];
    let identity = ManagedIdentity::system_assigned()
        .environment(Environment::from_pairs(environment))
        .clock(world.clock.clone())
        .build()
        .unwrap();
    // The request is retried once: an app that has just started may be refused.
    let (failed, ()) = tokio::join!(ask(&identity), world.pass([1]));
    let error = failed.unwrap_err();
    assert_error(&error, Refused, &["identity header", "IDENTITY_HEADER"]);
    for shown in [with_causes(&error), format!("{error:?}"), format!("{identity:?}")] {
        assert!(!shown.contains("not-the-right-0ne"), "{shown}");
    }
}

// IMDS

#[tokio::test]
async fn imds_returns_tokens_of_both_kinds_of_identity() {
    let world = world();
    let identity = world.imds(None);
    assert_eq!(identity.host(), ManagedIdentityHost::Imds);
    assert_eq!(identity.name(), "managed identity (IMDS)");
    world.endpoint.configure_tokens(|tokens| tokens.refresh_in = Some(43_200));
    let token = ask(&identity).await.unwrap();
    assert_eq!(world.object_id_of(&token), world.system.object_id);
    let received = world.endpoint.received().remove(0);
    assert_eq!(received.path, "/metadata/identity/oauth2/token");
    assert_eq!(received.metadata.as_deref(), Some("true"));
    assert_eq!(received.identity_header_is_right, None);
    let query = [("api-version", "2018-02-01"), ("resource", RESOURCE)];
    assert_eq!(received.query, query.map(|(name, value)| (name.into(), value.into())));
    let refresh_in = Duration::from_secs(43_200);
    assert_eq!(token.refresh_on(), Some(world.clock.wall() + refresh_in));

    let id = world.user.client_id.clone();
    let token = ask(&world.imds(Some(&id))).await.unwrap();
    assert_eq!(world.object_id_of(&token), world.user.object_id);
    assert_eq!(world.endpoint.received()[1].query_value("client_id"), Some(&*id));
}

#[tokio::test]
async fn an_identity_that_the_machine_does_not_have_is_named() {
    let world = world();
    let error = ask(&world.imds(Some(UNKNOWN_ID))).await.unwrap_err();
    let words = [UNKNOWN_ID, "is not assigned to this machine", "Identity not found"];
    assert_error(&error, Refused, &words);
    world.endpoint.set_system_assigned(None);
    world.endpoint.assign(Principal::new("another", PrincipalKind::UserAssigned));
    let error = ask(&world.imds(None)).await.unwrap_err();
    assert_error(&error, Refused, &["several user-assigned identities", "AZURE_CLIENT_ID"]);
    world.endpoint.unassign("another");
    world.endpoint.unassign("shop-identity");
    let error = ask(&world.imds(None)).await.unwrap_err();
    assert_error(&error, Unavailable, &["no system-assigned identity", "Identity not found"]);
    assert_eq!(world.endpoint.requests(), 3, "a 400 is final");
}

#[tokio::test]
async fn a_resource_unknown_to_entra_is_not_reported_as_an_unknown_identity() {
    let world = world();
    let scope = Scope::new("nonsense/.default").unwrap();
    let request = TokenRequest::new(scope, Reason::Missing);
    let error = world.imds(None).get_token(request).await.unwrap_err();
    assert_error(&error, Refused, &["IMDS does not issue this token", "AADSTS500011"]);
}

#[tokio::test]
async fn imds_is_retried_with_growing_pauses() {
    let world = world();
    let identity = world.imds(None);
    world.endpoint.fail_next(3, Fault::Status(500, "{}".into()));
    let (token, ()) = tokio::join!(ask(&identity), world.pass([1, 2, 4]));
    token.unwrap();
    world.endpoint.fail(Fault::Status(503, "{}".into()));
    let (failed, ()) = tokio::join!(ask(&identity), world.pass([1, 2, 4]));
    assert_error(&failed.unwrap_err(), Transient, &["IMDS returned 503"]);
    assert_eq!(world.endpoint.requests(), 8);
}

#[tokio::test]
async fn the_retry_after_header_of_imds_is_respected() {
    let world = world();
    let identity = world.imds(None);
    world.endpoint.fail_next(1, Fault::Throttled(Some(5)));
    let (token, ()) = tokio::join!(ask(&identity), world.pass([5]));
    token.unwrap();
    // This pause is too long to wait for: the caller gets the error.
    world.endpoint.fail(Fault::Throttled(Some(600)));
    let error = ask(&identity).await.unwrap_err();
    assert_error(&error, Transient, &["429"]);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(600)));
}

#[tokio::test]
async fn requests_are_retried_while_imds_is_updated() {
    let world = world();
    let identity = world.imds(None);
    world.endpoint.fail_next(8, Fault::Status(410, "{}".into()));
    let (token, ()) = tokio::join!(ask(&identity), world.pass([1, 2, 4, 8, 16, 16, 16, 7]));
    token.unwrap();
    assert_eq!(world.endpoint.requests(), 9);
}

#[tokio::test]
async fn a_request_without_a_response_times_out() {
    let world = world();
    let identity = world.imds(None);
    world.endpoint.fail(Fault::Silence);
    let moves = async {
        for (try_number, pause) in [(1, Some(1)), (2, Some(2)), (3, Some(4)), (4, None)] {
            world.endpoint.wait_for_requests(try_number).await;
            world.pass([20]).await;
            world.pass(pause).await;
        }
    };
    let (failed, ()) = tokio::join!(ask(&identity), moves);
    assert_error(&failed.unwrap_err(), Transient, &["IMDS", "no response within 20s"]);
    assert_eq!(world.endpoint.requests(), 4);
}

#[tokio::test]
async fn a_refused_connection_means_that_there_is_no_imds() {
    let world = world();
    world.endpoint.go_away().await.unwrap();
    let error = ask(&world.imds(None)).await.unwrap_err();
    assert_error(&error, Unavailable, &["cannot be reached", "az login", "cannot connect"]);
}

#[tokio::test]
async fn responses_of_other_services_are_not_taken_for_imds() {
    let world = world();
    let identity = world.imds(None);
    world.endpoint.fail(Fault::Status(403, "connection refused".into()));
    assert_error(&ask(&identity).await.unwrap_err(), Unavailable, &["is not IMDS", "403"]);
    world.endpoint.fail(Fault::Status(200, "<!doctype html>".to_owned()));
    assert_error(&ask(&identity).await.unwrap_err(), Unavailable, &["is not IMDS", "web page"]);
    world.endpoint.fail(Fault::Status(400, "<html>".into()));
    assert_error(&ask(&identity).await.unwrap_err(), Unavailable, &["is not IMDS"]);
    world.endpoint.fail(Fault::Status(404, "<html>".into()));
    assert_error(&ask(&identity).await.unwrap_err(), Unavailable, &["is not IMDS", "404"]);
    world.endpoint.recover();
    ask(&identity).await.unwrap();
}

#[tokio::test]
async fn a_response_without_a_token_is_a_typed_error() {
    let world = world();
    for identity in [world.imds(None), world.app_service(None)] {
        world.endpoint.fail(Fault::Status(200, String::new()));
        let error = ask(&identity).await.unwrap_err();
        assert_error(&error, Transient, &["cannot get a token from", "the response is empty"]);
        world.endpoint.fail(Fault::Status(200, r#"{"token_type":"Bear"#.to_owned()));
        let error = ask(&identity).await.unwrap_err();
        assert_error(&error, Transient, &["truncated"]);
        world.endpoint.fail(Fault::Status(200, r#"{"access_token":""}"#.into()));
        let error = ask(&identity).await.unwrap_err();
        assert_error(&error, Transient, &["access_token is empty"]);
        world.endpoint.fail(Fault::Status(200, " ".repeat(65 * 1024)));
        let error = ask(&identity).await.unwrap_err();
        assert!(with_causes(&error).contains("longer than 65536 bytes"), "{error:?}");
    }
    let error = {
        world.endpoint.fail(Fault::Status(200, "<!doctype html>".to_owned()));
        ask(&world.app_service(None)).await.unwrap_err()
    };
    assert_error(&error, Transient, &["web page"]);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = world.endpoint.imds_endpoint();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let answer =
            format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    };
    let identity = ManagedIdentity::system_assigned().imds_endpoint(url).build().unwrap();
    let (failed, ()) = tokio::join!(ask(&identity), serve);
    assert_error(&failed.unwrap_err(), Unavailable, &["302"]);
    assert_eq!(world.endpoint.requests(), 0);
}

const PROXY_TARGET: &str = "CREDENTIAL_TEST_TARGET";

/// The part of the next test that runs in a separate process.
#[tokio::test]
#[ignore = "started by a_proxy_is_never_used"]
async fn with_a_proxy_in_the_environment() {
    let target = std::env::var(PROXY_TARGET).unwrap();
    let identity = ManagedIdentity::system_assigned().imds_endpoint(target).build().unwrap();
    ask(&identity).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_is_never_used() {
    let world = world();
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "with_a_proxy_in_the_environment"]);
    child.env(PROXY_TARGET, world.endpoint.imds_endpoint());
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    {
        child.env(name, &url);
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("REQUEST_METHOD");
    let output = child.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(world.endpoint.tokens_handed_out(), 1);
    let accepted = proxy.accept().map(|_| ()).unwrap_err();
    assert_eq!(accepted.kind(), std::io::ErrorKind::WouldBlock);
}

// Azure CLI

fn az(issuer: &Arc<Issuer>) -> (AzureCliStandIn, Principal) {
    let developer = Principal::new("dev@contoso.com", PrincipalKind::User);
    (AzureCliStandIn::new(issuer.clone(), developer.clone()).unwrap(), developer)
}

#[tokio::test]
async fn the_azure_cli_returns_its_users_token() {
    let world = world();
    let (az, developer) = az(&world.issuer);
    let cli = AzureCli::builder()
        .executable(az.executable())
        .tenant(entra_pool_emulator::jwt::TENANT_ID)
        .subscription("My subscription")
        .build()
        .unwrap();
    for with_epoch in [true, false] {
        az.set_epoch(with_epoch).unwrap();
        let token = ask(&cli).await.unwrap();
        let verified = world.issuer.verify(token.secret(), RESOURCE).unwrap();
        assert_eq!(verified.object_id, developer.object_id);
        assert_eq!(token.expires_on(), verified.expires_on, "expires_on given: {with_epoch}");
    }
    let call = &az.invocations().unwrap()[0];
    let arguments = [
        "account",
        "get-access-token",
        "--output",
        "json",
        "--scope",
        "https://database.windows.net/.default",
        "--tenant",
        entra_pool_emulator::jwt::TENANT_ID,
        "--subscription",
        "My subscription",
    ];
    assert_eq!(call.arguments, arguments);
    if cfg!(unix) {
        let bin = Path::new("/bin").canonicalize().unwrap();
        assert_eq!(call.working_directory.canonicalize().unwrap(), bin);
    }
}

#[tokio::test]
async fn the_failures_of_the_azure_cli_are_distinguished() {
    let world = world();
    let (az, _) = az(&world.issuer);
    let cli = AzureCli::builder().executable(az.executable()).build().unwrap();
    az.set_mode(AzureCliMode::LoggedOut).unwrap();
    assert_error(&ask(&cli).await.unwrap_err(), Unavailable, &["is not logged in", "az login"]);
    az.set_mode(AzureCliMode::Broken).unwrap();
    assert_error(&ask(&cli).await.unwrap_err(), Refused, &["failed with", "unexpected error"]);
    az.set_mode(AzureCliMode::Garbage).unwrap();
    let error = ask(&cli).await.unwrap_err();
    assert_error(&error, Refused, &["did not print a token", "not a JSON object"]);
    assert!(!with_causes(&error).contains("updates"), "standard output is shown");

    let absent = AzureCli::builder().executable("/nowhere/az").build().unwrap();
    assert_error(&ask(&absent).await.unwrap_err(), Unavailable, &["is not installed"]);
}

#[tokio::test]
async fn the_azure_cli_runs_from_a_folder_with_characters_that_shells_treat_specially() {
    let world = world();
    let (az, developer) = az(&world.issuer);
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("Program Files (x86) & ^echo; 'Azure'");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join(az.executable().file_name().unwrap());
    // A file that was open for writing until now may fail to run.
    std::fs::hard_link(az.executable(), &file).unwrap();
    // On Windows, also without the extension.
    for executable in [file.clone(), file.with_extension("")] {
        let cli = AzureCli::builder().executable(executable).build().unwrap();
        let token = ask(&cli).await.unwrap();
        assert_eq!(world.object_id_of(&token), developer.object_id);
    }
}

#[tokio::test]
async fn an_azure_cli_that_hangs_times_out() {
    let world = world();
    let (az, _) = az(&world.issuer);
    az.set_mode(AzureCliMode::Hanging).unwrap();
    let cli = AzureCli::builder().executable(az.executable()).clock(world.clock.clone());
    let cli = cli.build().unwrap();
    let (failed, ()) = tokio::join!(ask(&cli), world.pass([30]));
    assert_error(&failed.unwrap_err(), Transient, &["within 30s"]);
}

// Azure Developer CLI

fn azd(issuer: &Arc<Issuer>) -> (AzureCliStandIn, Principal) {
    let developer = Principal::new("dev@contoso.com", PrincipalKind::User);
    let azd = AzureCliStandIn::azure_developer_cli(issuer.clone(), developer.clone()).unwrap();
    (azd, developer)
}

#[tokio::test]
async fn the_azure_developer_cli_returns_its_users_token() {
    let world = world();
    let (azd, developer) = azd(&world.issuer);
    let cli = AzureDeveloperCli::builder().executable(azd.executable());
    let cli = cli.tenant(entra_pool_emulator::jwt::TENANT_ID).build().unwrap();
    let token = ask(&cli).await.unwrap();
    let verified = world.issuer.verify(token.secret(), RESOURCE).unwrap();
    assert_eq!(verified.object_id, developer.object_id);
    assert_eq!(token.expires_on(), verified.expires_on);
    let call = &azd.invocations().unwrap()[0];
    let arguments = [
        "auth",
        "token",
        "--output",
        "json",
        "--no-prompt",
        "--scope",
        "https://database.windows.net/.default",
        "--tenant-id",
        entra_pool_emulator::jwt::TENANT_ID,
    ];
    assert_eq!(call.arguments, arguments);
    if cfg!(unix) {
        let bin = Path::new("/bin").canonicalize().unwrap();
        assert_eq!(call.working_directory.canonicalize().unwrap(), bin);
    }
}

#[tokio::test]
async fn the_failures_of_the_azure_developer_cli_are_distinguished() {
    let world = world();
    let (azd, _) = azd(&world.issuer);
    let build = |executable, tenant| {
        let cli = AzureDeveloperCli::builder().executable(executable).tenant(tenant);
        cli.clock(world.clock.clone()).build().unwrap()
    };
    let cli = build(azd.executable(), entra_pool_emulator::jwt::TENANT_ID);
    azd.set_mode(AzureCliMode::LoggedOut).unwrap();
    let error = ask(&cli).await.unwrap_err();
    assert_error(&error, Unavailable, &["run `azd auth login` (it says: ERROR: not logged in"]);
    azd.set_mode(AzureCliMode::Broken).unwrap();
    assert_error(&ask(&cli).await.unwrap_err(), Refused, &["failed with", "unexpected error"]);
    azd.set_mode(AzureCliMode::Garbage).unwrap();
    let error = ask(&cli).await.unwrap_err();
    assert_error(&error, Refused, &["did not print a token", "`azd auth token --output json`"]);
    assert!(!with_causes(&error).contains("updates"), "standard output is shown");
    azd.set_mode(AzureCliMode::Hanging).unwrap();
    let (failed, ()) = tokio::join!(ask(&cli), world.pass([30]));
    assert_error(&failed.unwrap_err(), Transient, &["Azure Developer CLI", "within 30s"]);
    azd.set_mode(AzureCliMode::LoggedIn).unwrap();
    let other_tenant = build(azd.executable(), "contoso.com");
    assert_error(&ask(&other_tenant).await.unwrap_err(), Refused, &["AADSTS90002"]);
    let absent = build("/nowhere/azd".into(), "contoso.com");
    assert_error(
        &ask(&absent).await.unwrap_err(),
        Unavailable,
        &["is not installed", "install-azd"],
    );
}

#[cfg(not(windows))] // On Windows, PATH is searched for azd.exe, but the stand-in is a batch file.
#[tokio::test]
async fn the_azure_developer_cli_is_used_if_it_is_the_only_credential() {
    let world = world();
    world.endpoint.go_away().await.unwrap();
    let (azd, developer) = azd(&world.issuer);
    let path = azd.executable().parent().unwrap().display().to_string();
    for selection in ["", "dev", "AzureDeveloperCliCredential"] {
        let chain = DefaultCredential::new()
            .environment(Environment::from_pairs([
                ("AZURE_POD_IDENTITY_AUTHORITY_HOST", world.endpoint.imds_endpoint()),
                ("PATH", path.clone()),
                ("AZURE_TOKEN_CREDENTIALS", selection.to_owned()),
            ]))
            .build()
            .unwrap();
        let token = ask(&chain).await.unwrap();
        assert_eq!(world.object_id_of(&token), developer.object_id, "{selection}");
        assert_eq!(chain.name(), "Azure Developer CLI");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_grandchild_that_keeps_the_pipe_open_does_not_exceed_the_limit() {
    let world = world();
    let folder = tempfile::tempdir().unwrap();
    // Neither the script nor the process that it starts ends by itself.
    let text = format!("sleep 60 & echo > '{}/up'; wait", folder.path().display());
    let executable = script(folder.path(), &text).await;
    let azd = AzureDeveloperCli::builder().executable(&executable).clock(world.clock.clone());
    let az = AzureCli::builder().executable(&executable).clock(world.clock.clone());
    let up = folder.path().join("up");
    for credential in [&azd.build().unwrap() as &dyn TokenCredential, &az.build().unwrap()] {
        let moves = async {
            until(|| up.exists()).await;
            world.pass([30]).await;
        };
        let (failed, ()) = tokio::join!(ask(credential), moves);
        assert_error(&failed.unwrap_err(), Transient, &["within 30s"]);
        std::fs::remove_file(&up).unwrap();
    }
}

/// Writes a script that replaces `az`.
#[cfg(unix)]
async fn script(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("az");
    // Written by another process: if this process had the file open for writing, a fork of
    // another test would keep it open, and the script could not be run.
    let mut child = tokio::process::Command::new("/bin/sh");
    child.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod +x \"$2\"", "sh", text]);
    assert!(child.arg(&path).status().await.unwrap().success());
    path
}

#[cfg(unix)]
#[tokio::test]
async fn a_hanging_azure_cli_is_killed() {
    let world = world();
    let folder = tempfile::tempdir().unwrap();
    // Like the `az` of some packages, which runs Python and waits for it.
    let text = format!("sleep 60 & echo $! > '{}/pid'; wait", folder.path().display());
    let az = script(folder.path(), &text).await;
    let pid_file = folder.path().join("pid");
    let pid = || std::fs::read_to_string(&pid_file).ok().filter(|pid| pid.ends_with('\n'));
    let cli = AzureCli::builder().executable(az).clock(world.clock.clone()).build().unwrap();
    let moves = async {
        until(|| pid().is_some()).await;
        world.pass([30]).await;
    };
    let (failed, ()) = tokio::join!(ask(&cli), moves);
    failed.unwrap_err();
    if Path::new("/proc/self/stat").exists() {
        let stat = format!("/proc/{}/stat", pid().unwrap().trim());
        let is_over = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        until(is_over).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_that_the_azure_cli_leaves_running_does_not_delay_the_token() {
    let world = world();
    let folder = tempfile::tempdir().unwrap();
    let text = r#"sleep 3 & echo '{"accessToken":"opaque","expires_on":1767225600}'"#;
    let az = script(folder.path(), text).await;
    let cli = AzureCli::builder().executable(az).clock(world.clock.clone()).build().unwrap();
    let moves = async {
        // The time limit, and the limit for the rest of the output.
        until(|| world.clock.sleepers() == 2).await;
        world.clock.advance(Duration::from_millis(500));
    };
    let (token, ()) = tokio::join!(ask(&cli), moves);
    assert_eq!(token.unwrap().secret(), "opaque");
}

#[cfg(unix)]
#[tokio::test]
async fn errors_of_the_azure_cli_are_short_and_contain_no_token() {
    let folder = tempfile::tempdir().unwrap();
    for (text, kind, word) in [
        ("echo eyJsecret; echo \"bad eyJsecret here\" >&2; exit 3", Refused, "bad [redacted]"),
        ("echo 'Max retries exceeded with url' >&2; exit 1", Transient, "Max retries"),
        ("kill -9 $$", Transient, "signal"),
        ("exit 127", Unavailable, "not installed"),
        ("head -c 100000 /dev/zero", Refused, "longer than"),
        ("head -c 100000 /dev/zero | tr '\\0' 'x' >&2; exit 1", Refused, "xxx…"),
    ] {
        let az = script(folder.path(), text).await;
        let cli = AzureCli::builder().executable(az).build().unwrap();
        let error = ask(&cli).await.unwrap_err();
        assert_error(&error, kind, &[word]);
        for shown in [with_causes(&error), format!("{error:?}")] {
            assert!(!shown.contains("eyJ") && shown.len() < 2_000, "{shown}");
        }
    }
}

/// `az` may be broken, need another login, or print more than the JSON.
#[cfg(unix)]
#[tokio::test]
async fn errors_of_az_name_the_command_to_run() {
    const LOGIN: &str = "az login --tenant t --scope https://database.windows.net/.default";
    let folder = tempfile::tempdir().unwrap();
    let policy = format!(
        "echo 'ERROR: AADSTS50076: you must use multi-factor authentication.' >&2; \
         echo 'Interactive authentication is needed. Please run:' >&2; echo '{LOGIN}' >&2; exit 1"
    );
    let traceback = "echo 'Traceback (most recent call last):' >&2; for i in $(seq 200); do \
                     echo '  File \"x.py\", line 7' >&2; done; echo 'OSError: disk full' >&2; exit 1";
    let run = format!("run `{LOGIN}` (it says: ");
    // As `az` 2.76 and later print it. The claims are not a token and must not be redacted.
    let challenge = format!(
        "{LOGIN} --claims-challenge \"eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJ2YWx1ZXMiOlsicDEiXX19fQ==\""
    );
    let claims = format!("echo 'ERROR: AADSTS50076' >&2; echo '{challenge}' >&2; exit 1");
    let run_claims = format!("run `{challenge}` (it says: ");
    let token = "echo 'az login --claims-challenge \"eyJh.eyJi.c2ln\"' >&2; exit 1";
    for (text, kind, said) in [
        (policy.as_str(), Refused, run.as_str()),
        (claims.as_str(), Refused, run_claims.as_str()),
        (token, Unavailable, "--claims-challenge \"[redacted]"),
        (
            "echo \"ERROR: AADSTS700082: expired. Run 'az login'\" >&2; exit 1",
            Refused,
            "AADSTS700082",
        ),
        ("echo \"Please run 'az login'\" >&2; exit 1", Unavailable, "run `az login` (it says"),
        (traceback, Refused, "OSError: disk full)"),
        ("echo 'env: python3: No such file' >&2; exit 127", Unavailable, "env: python3: No such"),
        ("echo 'sh: az: not found' >&2; exit 127", Unavailable, "is not installed"),
    ] {
        let az = script(folder.path(), text).await;
        let cli = AzureCli::builder().executable(az).build().unwrap();
        assert_error(&ask(&cli).await.unwrap_err(), kind, &[said]);
    }
    // The interpreter in the script's first line does not exist.
    let az = script(folder.path(), "").await;
    let mut sed = tokio::process::Command::new("sed");
    sed.args(["-i", "1s:.*:#!/nowhere/python3:"]).arg(&az);
    assert!(sed.status().await.unwrap().success());
    let by_path = Environment::from_pairs([("PATH", folder.path())]);
    let by_path = AzureCli::builder().environment(by_path).build().unwrap();
    for cli in [AzureCli::builder().executable(az).build().unwrap(), by_path] {
        let error = ask(&cli).await.unwrap_err();
        assert_error(&error, Unavailable, &["(az) cannot be run", "interpreter"]);
    }
    let noisy = "printf 'WARNING: {new} version\\n\\033[33m'; \
                 printf '{\"accessToken\":\"opaque\",\"expires_on\":1767225600}\\n\\033[0m'";
    let az = script(folder.path(), noisy).await;
    let cli = AzureCli::builder().executable(az).build().unwrap();
    assert_eq!(ask(&cli).await.unwrap().secret(), "opaque");
}

// Chain

#[tokio::test]
async fn a_machine_without_any_credential_is_reported_within_3_seconds() {
    let world = world();
    world.endpoint.fail(Fault::Silence);
    let empty = tempfile::tempdir().unwrap();
    let environment = Environment::from_pairs([
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", world.endpoint.imds_endpoint()),
        ("PATH", empty.path().display().to_string()),
    ]);
    let chain = DefaultCredential::new()
        .environment(environment)
        .clock(world.clock.clone())
        .build()
        .unwrap();
    let moves = async {
        world.endpoint.wait_for_requests(1).await;
        world.pass([1]).await;
        world.endpoint.wait_for_requests(2).await;
        world.pass([2]).await;
    };
    let (failed, ()) = tokio::join!(ask(&chain), moves);
    assert_eq!(world.clock.monotonic(), Duration::from_secs(3));
    let error = failed.unwrap_err();
    assert_error(
        &error,
        Unavailable,
        &[
            "\n- service principal: AZURE_CLIENT_SECRET",
            "\n- workload identity: AZURE_FEDERATED_TOKEN_FILE",
            "\n- managed identity (IMDS): IMDS (http://127.0.0.1",
            "\n- Azure CLI: the Azure CLI is not installed",
            "\n- Azure Developer CLI: the Azure Developer CLI is not installed",
            "\nOn a developer's machine, run `az login`",
        ],
    );
    assert_eq!(error.to_string().lines().count(), 7);
    let probe = &world.endpoint.received()[0];
    assert_eq!((probe.metadata.as_deref(), probe.query_value("resource")), (None, None));
}

#[tokio::test]
async fn the_same_environment_works_in_azure_and_on_a_laptop() {
    let world = world();
    let (az, developer) = az(&world.issuer);
    let path = az.executable().parent().unwrap().display().to_string();
    let variables =
        [("AZURE_POD_IDENTITY_AUTHORITY_HOST", world.endpoint.imds_endpoint()), ("PATH", path)];
    let chain = DefaultCredential::new()
        .environment(Environment::from_pairs(variables.clone()))
        .build()
        .unwrap();
    let token = ask(&chain).await.unwrap();
    assert_eq!(world.object_id_of(&token), world.system.object_id);
    assert_eq!(chain.name(), "managed identity (IMDS)");
    assert_eq!(world.endpoint.requests(), 2, "the probe and the request");
    // After a first token, IMDS is not probed again and never skipped.
    ask(&chain).await.unwrap();
    assert_eq!(world.endpoint.requests(), 3);
    world.endpoint.go_away().await.unwrap();
    assert_error(&ask(&chain).await.unwrap_err(), Transient, &["IMDS", "has responded before"]);
    assert!(az.invocations().unwrap().is_empty());

    let chain =
        DefaultCredential::new().environment(Environment::from_pairs(variables)).build().unwrap();
    let token = ask(&chain).await.unwrap();
    assert_eq!(world.object_id_of(&token), developer.object_id);
    assert_eq!(chain.name(), "Azure CLI");
}

#[tokio::test]
async fn the_environment_selects_the_user_assigned_identity() {
    let world = world();
    let mut variables = world.endpoint.app_service_env().to_vec();
    variables.push(("AZURE_CLIENT_ID", world.user.client_id.clone()));
    for selection in ["prod", "ManagedIdentityCredential", "managedidentitycredential"] {
        let mut variables = variables.clone();
        variables.push(("AZURE_TOKEN_CREDENTIALS", selection.to_owned()));
        let credential = DefaultCredential::new()
            .environment(Environment::from_pairs(variables))
            .build()
            .unwrap();
        let token = ask(&credential).await.unwrap();
        assert_eq!(world.object_id_of(&token), world.user.object_id);
    }
    assert_eq!(world.endpoint.requests(), 3, "App Service is not probed");
}

// Clouds

/// `connect` reads the variables of the process, so the test runs itself again with them.
#[tokio::test]
async fn the_authority_of_an_application_is_derived_from_the_databases_host() {
    const MARK: &str = "ENTRA_POOL_TEST_CLOUDS";
    let Ok(authority) = std::env::var(MARK) else {
        for authority in ["", "https://login.example"] {
            let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
            child.args(["the_authority_of_an_application", "--nocapture"]);
            child.env_clear().env(MARK, authority).env("AZURE_AUTHORITY_HOST", authority);
            child
                .env("AZURE_TENANT_ID", "contoso.onmicrosoft.com")
                .env("AZURE_CLIENT_ID", UNKNOWN_ID);
            child.env("AZURE_CLIENT_SECRET", "s3cret");
            child.env("AZURE_FEDERATED_TOKEN_FILE", "/nowhere/token");
            let output = child.output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        return;
    };
    for (sql, postgres, cloud) in [
        (
            "shop.database.windows.net",
            "shop.postgres.database.azure.com",
            "https://login.microsoftonline.com",
        ),
        (
            "shop.database.usgovcloudapi.net",
            "shop.postgres.database.usgovcloudapi.net",
            "https://login.microsoftonline.us",
        ),
        (
            "shop.database.chinacloudapi.cn",
            "shop.postgres.database.chinacloudapi.cn",
            "https://login.chinacloudapi.cn",
        ),
    ] {
        let expected = if authority.is_empty() { cloud } else { &authority };
        let workload = format!("Server={sql};Authentication=Active Directory Workload Identity");
        let from_string =
            |string: &str| entra_pool::azure_sql::Config::parse_with_credential(string).unwrap().1;
        let url = format!("postgres://app@{postgres}/menu");
        let (_, postgres) = entra_pool::postgres::Config::parse_with_credential(&url).unwrap();
        for (credential, applications) in
            [(from_string(&format!("Server={sql}")), 2), (postgres, 2), (from_string(&workload), 1)]
        {
            let shown = format!("{credential:?}");
            assert_eq!(shown.matches(expected).count(), applications, "{expected}: {shown}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}

// The Azure SDK's trait

#[tokio::test]
async fn other_azure_crates_can_use_these_credentials() {
    use azure_core::credentials::TokenCredential as AzureCredential;

    let world = world();
    let identity: Arc<dyn AzureCredential> = Arc::new(world.app_service(None));
    let scope = Scope::AZURE_SQL;
    let token = identity.get_token(&[scope.as_str()], None).await.unwrap();
    assert!(world.issuer.verify(token.token.secret(), RESOURCE).is_ok());
    assert!(identity.get_token(&[], None).await.is_err());
    assert!(identity.get_token(&["a b"], None).await.is_err());
    let unknown: Arc<dyn AzureCredential> = Arc::new(world.app_service(Some(UNKNOWN_ID)));
    let error = unknown.get_token(&[scope.as_str()], None).await.unwrap_err();
    assert!(error.to_string().contains("is not assigned to this app"), "{error}");

    // An `Identity` returns the tokens that its pools use.
    let shared = Identity::new(world.app_service(None));
    let in_pools = shared.tokens(scope.clone()).token().await.unwrap();
    let token = AzureCredential::get_token(&shared, &[scope.as_str()], None).await.unwrap();
    assert_eq!(token.token.secret(), in_pools.secret());
    assert_eq!(SystemTime::from(token.expires_on), in_pools.expires_on());
    let shared = Identity::new(world.app_service(Some(UNKNOWN_ID)));
    let error = AzureCredential::get_token(&shared, &[scope.as_str()], None).await.unwrap_err();
    assert!(error.to_string().contains("cannot get a token for"), "{error}");

    // The opposite direction.
    let adapted = entra_pool::credential::from_azure_core("azure_core", identity);
    assert_eq!(adapted.name(), "azure_core");
    assert_eq!(world.object_id_of(&ask(&adapted).await.unwrap()), world.system.object_id);
}

#[cfg(unix)]
#[tokio::test]
async fn the_output_of_a_command_line_tool_is_sanitized_in_errors() {
    use std::os::unix::fs::PermissionsExt;

    let signature: String = ('a'..='z').chain('A'..='Z').collect();
    let token = format!("eyJhbGci.eyJzdWIi.{signature}");
    let folder = tempfile::tempdir().unwrap();
    let tool = folder.path().join("tool");
    // It prints a token and then fails.
    let script = r#"#!/bin/sh
cd "${0%/*}" && cat out && cat err >&2; exit 1
"#;
    std::fs::write(&tool, script).unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("out"), format!(r#"{{"accessToken":"{token}"}}"#)).unwrap();
    let az = AzureCli::builder().executable(&tool).build().unwrap();
    let azd = AzureDeveloperCli::builder().executable(&tool).build().unwrap();
    for (what, text) in hostile::texts(&token) {
        std::fs::write(folder.path().join("err"), &text).unwrap();
        for credential in [&az as &dyn TokenCredential, &azd] {
            let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
            let error = credential.get_token(request).await.unwrap_err();
            assert!(error.to_string().contains("no"), "{error}");
            for text in hostile::shown(&error) {
                hostile::assert_fit(what, &text, &token);
            }
        }
    }
}
