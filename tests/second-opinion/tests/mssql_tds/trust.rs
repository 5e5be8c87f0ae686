//! Which servers get the token: the driver's verification, its limits, and routing.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use entra_pool::{
    adapters::mssql_tds::Connector,
    azure_sql::{Config, Error, Recycling},
    token::{Identity, Scope},
};
use entra_pool_emulator::{
    azure_sql::{AzureSqlOptions, AzureSqlServer},
    database::Database,
    emulator::Emulator,
};

use crate::{Shop, credential::TestCredential, number};

#[test]
fn a_setting_that_the_driver_does_not_support_is_rejected_by_name() {
    let identity = Identity::new(TestCredential::new("shop-identity", 1_500));
    let rustls = rustls_config();
    let config = || Config::new("shop.database.windows.net");
    for (config, name) in [
        (config().ca_file("ca.pem"), "TrustServerCertificateCA"),
        (config().tls(rustls), "Config::tls"),
        (
            config().dangerous_trust_any_certificate_on_loopback(),
            "dangerous_trust_any_certificate_on_loopback",
        ),
        (
            config().dangerous_trust_any_certificate_anywhere(),
            "dangerous_trust_any_certificate_anywhere",
        ),
        (config().recycling(Recycling::Fast), "Config::recycling"),
        (config().command_timeout(Duration::from_secs(5)), "Command Timeout"),
        (config().command_timeout(None), "Command Timeout"),
        (config().tcp_user_timeout(None), "Config::tcp_user_timeout"),
    ] {
        let error = Connector::new(config, identity.tokens(Scope::AZURE_SQL)).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().contains(name), "{error}");
    }
    Connector::new(config(), identity.tokens(Scope::AZURE_SQL)).unwrap();
}

fn rustls_config() -> Arc<tokio_rustls::rustls::ClientConfig> {
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

#[tokio::test]
async fn a_server_that_is_not_verified_gets_no_token() {
    let shop = Shop::open().await;
    let (port, scope) = (shop.server.addr().port(), Scope::AZURE_SQL);
    let connector = |string: String| {
        let config: Config = string.parse().unwrap();
        let tokens = shop.identity.tokens(config.token_scope().unwrap());
        Connector::new(config, tokens).unwrap()
    };
    // The platform does not trust the certificate, or another certificate is pinned.
    let other = tempfile::tempdir().unwrap();
    shop.emulator.authority().issue(&["localhost"]).unwrap().write_to(other.path()).unwrap();
    let pinned = format!("ServerCertificate={}", other.path().join("server.crt").display());
    for more in ["", &pinned] {
        let string = format!("Server=localhost,{port};Entra Scope={scope};{more}");
        let error = connector(string).connect().await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    }
    let counters = shop.counters();
    assert_eq!((counters.logins, counters.refused_logins), (0, 0));
}

#[tokio::test]
async fn the_driver_follows_the_routing_to_any_host() {
    let shop = Shop::open().await;
    let target = shop.server.addr().port();
    // Another host than the configured one: with tiberius, a login stays at its host.
    shop.server.behaviour().route_logins(1, "127.0.0.1", target);
    let mut client = shop.connector("").connect().await.unwrap();
    assert_eq!(number(&mut client, "SELECT 1").await, 1);
    assert_eq!(shop.counters().logins, 1);
}

/// The environment variable with the server's port for the child processes of `within`.
const SERVER: &str = "ENTRA_POOL_TEST_SERVER";

/// Runs a test of this file in a separate process whose platform trusts the roots in `ca`: the
/// driver reads them once in each process.
fn within(ca: &Path, port: u16, test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("SSL_CERT_FILE", ca)
        .env(SERVER, port.to_string())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("1 passed"), "{printed}");
}

async fn server_for(emulator: &Emulator, name: &str) -> AzureSqlServer {
    let options = AzureSqlOptions::new(
        Arc::clone(emulator.issuer()),
        Arc::clone(emulator.directory()),
        Arc::new(Database::new().unwrap()),
        emulator.authority().issue(&[name]).unwrap().server_config().unwrap(),
    );
    AzureSqlServer::start(options).await.unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_platforms_roots_are_trusted_for_the_expected_name() {
    let emulator = Emulator::start().await.unwrap();
    for (name, test) in [
        ("localhost", "trust::connects"),
        ("sql.example", "trust::connects_only_for_the_name_in_the_certificate"),
    ] {
        let server = server_for(&emulator, name).await;
        let (ca, port) = (emulator.ca_path(), server.addr().port());
        let running = tokio::task::spawn_blocking(move || within(&ca, port, test));
        running.await.unwrap();
    }
}

/// Connects in a child process.
async fn connect(more: &str) -> Result<(), Error> {
    let port = std::env::var(SERVER).expect("the parent sets it");
    let string = format!("Server=localhost,{port};Entra Scope={};{more}", Scope::AZURE_SQL);
    let config: Config = string.parse().unwrap();
    // This process signs its own tokens: a refusal shows that the server received the token.
    let identity = Identity::new(TestCredential::new("shop-identity", 1_500));
    let tokens = identity.tokens(Scope::AZURE_SQL);
    Connector::new(config, tokens).unwrap().connect().await.map(drop)
}

#[tokio::test]
#[ignore = "run by the_platforms_roots_are_trusted_for_the_expected_name"]
async fn connects() {
    let error = connect("").await.unwrap_err();
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
    let error = connect("HostNameInCertificate=sql.example").await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
}

#[tokio::test]
#[ignore = "run by the_platforms_roots_are_trusted_for_the_expected_name"]
async fn connects_only_for_the_name_in_the_certificate() {
    let error = connect("").await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    let error = connect("HostNameInCertificate=sql.example").await.unwrap_err();
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
}
