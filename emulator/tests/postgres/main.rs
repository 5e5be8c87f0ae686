//! The embedded PostgreSQL engine, used by tokio-postgres and deadpool-postgres.
#![allow(clippy::disallowed_methods)] // Uses real sockets and the real clock.

mod login;
mod pool;
mod queries;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool_emulator::{
    certificates::Authority,
    database::Database,
    front::postgres::{AUDIENCE, PostgresFront, PostgresFrontOptions},
    jwt::{Directory, Issuer, Principal, PrincipalKind},
    postgres::Embedded,
};
use rustls::pki_types::pem::PemObject;
use tokio_postgres::{Client, Config, Error, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

struct Service {
    authority: Authority,
    issuer: Arc<Issuer>,
    directory: Arc<Directory>,
    shop: Principal,
    front: PostgresFront,
}

impl Service {
    fn start() -> Self {
        let authority = Authority::new().unwrap();
        let tls = authority.issue(&["localhost"]).unwrap().server_config().unwrap();
        let issuer = Arc::new(Issuer::new());
        let directory = Arc::new(Directory::default());
        let shop = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        directory.add(shop.clone());
        let database = Arc::new(Database::new().unwrap());
        let engine = Embedded::new(database, vec!["restaurant".to_owned()]);
        let (checks, roles) = (Arc::clone(&issuer), Arc::clone(&directory));
        let options = PostgresFrontOptions::embedded(checks, roles, engine, tls);
        let front = PostgresFront::start(options).unwrap();
        Self { authority, issuer, directory, shop, front }
    }

    fn token(&self, length: usize) -> String {
        let later = SystemTime::now() + Duration::from_secs(3_600);
        self.issuer.sign(&self.shop, AUDIENCE, later, length)
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host("localhost")
            .hostaddr(self.front.addr().ip())
            .port(self.front.addr().port())
            .user("shop-identity")
            .password(self.token(2_000))
            .dbname("restaurant")
            .ssl_mode(SslMode::Require);
        config
    }

    fn tls(&self) -> MakeRustlsConnect {
        let pem = self.authority.pem();
        let certificate = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        MakeRustlsConnect::new(config)
    }

    async fn connect_with(&self, config: &Config) -> Result<Client, Error> {
        let (client, connection) = config.connect(self.tls()).await?;
        tokio::spawn(async move {
            // Tests that cut connections check the client.
            let _ = connection.await;
        });
        Ok(client)
    }

    async fn connect(&self) -> Client {
        self.connect_with(&self.config()).await.unwrap()
    }

    /// SQLSTATE and message of a login that is refused.
    async fn refusal(&self, config: &Config) -> (String, String) {
        sqlstate(&self.connect_with(config).await.err().unwrap())
    }
}

fn sqlstate(error: &Error) -> (String, String) {
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?} is not the server's"));
    (error.code().code().to_owned(), error.message().to_owned())
}
