//! The login front for PostgreSQL, with a real server as its engine.
#![cfg(unix)]
#![allow(clippy::disallowed_methods)] // Uses real sockets and the real clock.

mod attacks;
mod logins;
mod outages;
mod roles;
mod sessions;
#[allow(dead_code)]
mod support;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool_emulator::{
    front::postgres::{AUDIENCE, PostgresFront, PostgresFrontOptions},
    jwt::{Directory, Issuer, Principal, PrincipalKind},
};
use rustls::pki_types::pem::PemObject;
use support::postgres::{DATABASE, PostgresServer};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, Config, Error, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

/// One engine for all tests that do not stop it; each test has its own front and roles.
async fn engine() -> &'static PostgresServer {
    static ENGINE: OnceCell<PostgresServer> = OnceCell::const_new();
    ENGINE.get_or_init(PostgresServer::start).await
}

struct Service {
    engine: &'static PostgresServer,
    issuer: Arc<Issuer>,
    directory: Arc<Directory>,
    front: PostgresFront,
}

impl Service {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut PostgresFrontOptions)) -> Self {
        let engine = engine().await;
        let (issuer, directory) = (Arc::new(Issuer::new()), Arc::new(Directory::default()));
        let mut options = options(engine, &issuer, &directory);
        change(&mut options);
        Self { engine, issuer, directory, front: PostgresFront::start(options).unwrap() }
    }

    /// A principal that the front grants access.
    fn principal(&self, name: &str) -> Principal {
        let principal = Principal::new(name, PrincipalKind::UserAssigned);
        self.directory.add(principal.clone());
        principal
    }

    fn token(&self, principal: &Principal, length: usize) -> String {
        let later = SystemTime::now() + Duration::from_secs(3_600);
        self.issuer.sign(principal, AUDIENCE, later, length)
    }

    /// A login of `principal` with a token of 2,000 characters.
    fn config(&self, principal: &Principal) -> Config {
        self.config_at(self.front.addr().port(), principal)
    }

    fn config_at(&self, port: u16, principal: &Principal) -> Config {
        let mut config = Config::new();
        config
            .host("localhost")
            .hostaddr([127, 0, 0, 1].into())
            .port(port)
            .user(&principal.name)
            .password(self.token(principal, 2_000))
            .dbname(DATABASE)
            .ssl_mode(SslMode::Require);
        config
    }

    async fn connect_with(&self, config: &Config) -> Result<Client, Error> {
        connect(self.engine, config).await
    }

    async fn connect(&self, principal: &Principal) -> Client {
        self.connect_with(&self.config(principal)).await.unwrap()
    }

    /// SQLSTATE and message of a login that is refused.
    async fn refusal(&self, config: &Config) -> (String, String) {
        sqlstate(&self.connect_with(config).await.map(drop).expect_err("the login is accepted"))
    }

    /// Waits until neither the front nor the engine has a connection of `role`.
    async fn wait_until_idle(&self, role: &str) {
        self.front.behaviour().wait_until(|counters| counters.open_connections == 0).await;
        self.engine.wait_until_gone(role).await;
    }
}

fn options(
    engine: &PostgresServer,
    issuer: &Arc<Issuer>,
    directory: &Arc<Directory>,
) -> PostgresFrontOptions {
    let certificate = engine.authority().issue(&["localhost", "127.0.0.1"]).unwrap();
    let (issuer, directory) = (Arc::clone(issuer), Arc::clone(directory));
    let tls = certificate.server_config().unwrap();
    PostgresFrontOptions::new(issuer, directory, &engine.engine_url(), tls)
}

fn client_tls(engine: &PostgresServer) -> rustls::ClientConfig {
    let pem = engine.authority().pem();
    let certificate = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

async fn connect(engine: &PostgresServer, config: &Config) -> Result<Client, Error> {
    let mut tls = client_tls(engine);
    if config.get_ssl_negotiation() == tokio_postgres::config::SslNegotiation::Direct {
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
    tokio::spawn(async move {
        // Tests that cut connections check the client.
        let _ = connection.await;
    });
    Ok(client)
}

fn sqlstate(error: &Error) -> (String, String) {
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?} is not the server's"));
    (error.code().code().to_owned(), error.message().to_owned())
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}
