//! The actual Azure CLI, if `ENTRA_POOL_TEST_AZ` is the path of an `az` (`pip install azure-cli`):
//! not installed, logged out, and logged in as a managed identity of the emulator's endpoint.
#![cfg(all(unix, feature = "azure-sql"))]

use std::{path::Path, process::Output, sync::Arc};

use entra_pool::{
    credential::{AzureCli, Environment},
    token::{
        CredentialError, CredentialErrorKind::Unavailable, Reason, Scope, Token, TokenCredential,
        TokenRequest,
    },
};
use entra_pool_emulator::{
    certificates::Authority,
    identity::{IdentityEndpoint, IdentityOptions},
    jwt::{Issuer, Principal, PrincipalKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};
use tokio_rustls::TlsAcceptor;

const VARIABLE: &str = "ENTRA_POOL_TEST_AZ";

async fn request_token(cli: &AzureCli) -> Result<Token, CredentialError> {
    cli.get_token(TokenRequest::new(Scope::AZURE_SQL, Reason::Missing)).await
}

#[tokio::test]
async fn the_actual_azure_cli_has_the_three_results() {
    let Some(az) = std::env::var_os(VARIABLE) else {
        println!("skipped: {VARIABLE} is not set to the path of an az");
        return;
    };
    let az = Path::new(&az);
    let issuer = Arc::new(Issuer::new());
    let app = Principal::new("shop-app", PrincipalKind::SystemAssigned);
    let options =
        IdentityOptions { system_assigned: Some(app.clone()), ..IdentityOptions::default() };
    let endpoint = IdentityEndpoint::start(issuer.clone(), options).unwrap();
    let authority = Authority::new().unwrap();
    let resource_manager = resource_manager(&authority).await;

    let home = tempfile::tempdir().unwrap();
    let text = |path: &Path| path.display().to_string();
    let [endpoint_variable, header_variable] = endpoint.app_service_env();
    let variables = [
        ("PATH", text(az.parent().unwrap()) + ":/usr/bin:/bin"),
        ("HOME", text(home.path())),
        ("AZURE_CONFIG_DIR", text(&home.path().join("azure"))),
        ("AZURE_CORE_COLLECT_TELEMETRY", "false".into()),
        ("REQUESTS_CA_BUNDLE", text(&authority.path())),
        endpoint_variable,
        header_variable,
    ];
    let environment = Environment::from_pairs(variables.clone());
    let build = |executable: &Path| {
        AzureCli::builder()
            .executable(executable)
            .environment(environment.clone())
            .time_limit(std::time::Duration::from_secs(60))
            .build()
            .unwrap()
    };

    let error = request_token(&build(&home.path().join("az"))).await.unwrap_err();
    assert_eq!(error.kind(), Unavailable);
    assert!(error.to_string().contains("is not installed"), "{error}");

    let cli = build(az);
    let error = request_token(&cli).await.unwrap_err();
    assert_eq!(error.kind(), Unavailable, "{error}");
    let said = "run `az login` (it says: ERROR: Please run 'az login' to setup account.)";
    assert!(error.to_string().contains(said), "{error}");

    let run = async |arguments: &[&str]| -> Output {
        let mut command = Command::new(az);
        command.env_clear().envs(variables.clone()).args(arguments);
        let output = command.output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "az {arguments:?}: {stderr}");
        output
    };
    // A cloud whose subscriptions are requested from this test.
    run(&[
        "cloud",
        "register",
        "--name",
        "EntraPoolTest",
        "--skip-endpoint-discovery",
        "--endpoint-resource-manager",
        &resource_manager,
        "--endpoint-active-directory",
        "https://login.microsoftonline.com",
        "--endpoint-active-directory-resource-id",
        "https://management.core.windows.net/",
    ])
    .await;
    run(&["cloud", "set", "--name", "EntraPoolTest"]).await;
    run(&["login", "--identity", "--allow-no-subscriptions"]).await;

    let token = request_token(&cli).await.unwrap();
    let verified = issuer.verify(token.secret(), "https://database.windows.net").unwrap();
    assert_eq!(verified.object_id, app.object_id);
    assert_eq!(token.expires_on(), verified.expires_on);
    assert!(!format!("{cli:?} {token:?}").contains(token.secret()));
}

/// An Azure Resource Manager without subscriptions. The CLI sends its token over TLS only.
async fn resource_manager(authority: &Authority) -> String {
    let acceptor =
        TlsAcceptor::from(authority.issue(&["localhost"]).unwrap().server_config().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read_buf(&mut request).await {
                    Ok(1..) => {}
                    _ => break,
                }
            }
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                          content-length: 12\r\nconnection: close\r\n\r\n{\"value\":[]}";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("https://localhost:{port}/")
}
