//! The stand-in for Azure SQL, asked by a driver that was made for the real
//! one.
#![allow(clippy::disallowed_methods)] // It lives in real time, as the server does.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use entra_pool_emulator::{
    azure_sql::{AzureSqlOptions, AzureSqlServer, ServerError},
    certificates::Authority,
    database::Database,
    jwt::{Directory, Issuer, Principal, PrincipalKind},
};
use tiberius::{
    AuthMethod, Client, Config, EncryptionLevel, IsolationLevel, Row, time::time as dates,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

const AUDIENCE: &str = "https://database.windows.net/";

struct Setup {
    authority: Authority,
    issuer: Arc<Issuer>,
    directory: Arc<Directory>,
    shop: Principal,
    server: AzureSqlServer,
}

impl Setup {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut AzureSqlOptions)) -> Self {
        let authority = Authority::new().unwrap();
        let tls = authority.issue(&["localhost"]).unwrap().server_config().unwrap();
        let (issuer, directory) = (Arc::new(Issuer::new()), Arc::new(Directory::default()));
        let shop = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        directory.add(shop.clone());
        let database = Arc::new(Database::new().unwrap());
        let mut options =
            AzureSqlOptions::new(Arc::clone(&issuer), Arc::clone(&directory), database, tls);
        change(&mut options);
        let server = AzureSqlServer::start(options).await.unwrap();
        Self { authority, issuer, directory, shop, server }
    }

    fn token(&self, length: usize) -> String {
        let later = SystemTime::now() + Duration::from_secs(3600);
        self.issuer.sign(&self.shop, AUDIENCE, later, length)
    }

    fn config(&self, token: &str) -> Config {
        let mut config = Config::new();
        config.host("localhost");
        config.port(self.server.addr().port());
        config.database("orders");
        config.authentication(AuthMethod::aad_token(token));
        config.encryption(EncryptionLevel::Required);
        config.trust_cert_ca(self.authority.path().to_str().unwrap());
        config
    }

    async fn login(&self, config: Config) -> tiberius::Result<Client<Compat<TcpStream>>> {
        let stream = TcpStream::connect(self.server.addr()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client::connect(config, stream.compat()).await
    }

    async fn client(&self) -> Client<Compat<TcpStream>> {
        self.login(self.config(&self.token(1500))).await.unwrap()
    }

    /// A client without TLS, whose packets' status bits can be set.
    async fn client_with_bits(&self, bits: &Arc<AtomicU8>) -> Client<Compat<StatusBits>> {
        let mut config = self.config(&self.token(1500));
        config.encryption(EncryptionLevel::NotSupported);
        let stream = TcpStream::connect(self.server.addr()).await.unwrap();
        Client::connect(config, StatusBits { stream, bits: Arc::clone(bits) }.compat())
            .await
            .unwrap()
    }
}

fn number(error: &tiberius::Error) -> u32 {
    error.code().unwrap_or_else(|| panic!("{error}"))
}

trait Ask {
    async fn rows(&mut self, sql: &str) -> tiberius::Result<Vec<Row>>;
    async fn one<T: for<'a> tiberius::FromSql<'a>>(&mut self, sql: &str) -> Option<T>;
    async fn error(&mut self, sql: &str) -> u32;
}

impl<S: futures::AsyncRead + futures::AsyncWrite + Unpin + Send> Ask for Client<S> {
    async fn rows(&mut self, sql: &str) -> tiberius::Result<Vec<Row>> {
        Ok(self
            .simple_query(sql)
            .await?
            .into_results()
            .await?
            .into_iter()
            .next_back()
            .unwrap_or_default())
    }

    async fn one<T: for<'a> tiberius::FromSql<'a>>(&mut self, sql: &str) -> Option<T> {
        let rows = self.rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let row = rows.first().unwrap_or_else(|| panic!("{sql}: no row"));
        T::from_sql_owned_hack(row)
    }

    async fn error(&mut self, sql: &str) -> u32 {
        number(&self.rows(sql).await.expect_err(sql))
    }
}
