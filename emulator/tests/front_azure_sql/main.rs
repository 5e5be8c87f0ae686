//! Azure SQL's login in front of an engine that knows only SQL logins.
#![allow(clippy::disallowed_methods)] // Servers use the real clock.

mod attacks;
mod borders;
mod engines;
#[path = "../azure_sql/raw.rs"]
mod raw;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool_emulator::{
    azure_sql::{AzureSqlEndpoint, AzureSqlOptions, AzureSqlServer, ServerError},
    certificates::Authority,
    database::Database,
    front::{
        EngineLogin,
        azure_sql::{AzureSqlFront, EngineTrust},
    },
    jwt::{Directory, Issuer, Principal, PrincipalKind},
};
use tiberius::{AuthMethod, Client, Config, EncryptionLevel};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

const AUDIENCE: &str = "https://database.windows.net/";
const PASSWORD: &str = "the engine's pässword";

struct Setup {
    authority: Authority,
    issuer: Arc<Issuer>,
    shop: Principal,
    engine: AzureSqlServer,
    front: AzureSqlServer,
}

impl Setup {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut AzureSqlFront)) -> Self {
        let authority = Authority::new().unwrap();
        let tls = authority.issue(&["localhost"]).unwrap().server_config().unwrap();
        let (issuer, directory) = (Arc::new(Issuer::new()), Arc::new(Directory::default()));
        let shop = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        directory.add(shop.clone());
        let engine = engine(&authority).await;
        let mut front = AzureSqlFront {
            endpoint: AzureSqlEndpoint::new(Arc::clone(&issuer), directory, tls),
            engine: ("localhost".into(), engine.addr().port()),
            engine_trust: EngineTrust::CaFile(authority.path()),
            engine_logins: [(shop.name.clone(), shop_login())].into(),
        };
        change(&mut front);
        let front = front.start().unwrap();
        Self { authority, issuer, shop, engine, front }
    }

    fn token(&self, length: usize) -> String {
        let later = SystemTime::now() + Duration::from_secs(3600);
        self.issuer.sign(&self.shop, AUDIENCE, later, length)
    }

    fn config(&self, token: &str) -> Config {
        let mut config = Config::new();
        config.host("localhost");
        config.port(self.front.addr().port());
        config.database("orders");
        config.application_name("shop");
        config.authentication(AuthMethod::aad_token(token));
        config.encryption(EncryptionLevel::Required);
        config.trust_cert_ca(self.authority.path().to_str().unwrap());
        config
    }

    async fn login_at(
        &self,
        port: u16,
        token: &str,
    ) -> tiberius::Result<Client<Compat<TcpStream>>> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Client::connect(self.config(token), stream.compat()).await
    }

    async fn login(&self, token: &str) -> tiberius::Result<Client<Compat<TcpStream>>> {
        self.login_at(self.front.addr().port(), token).await
    }

    /// The error of a login that the server refuses.
    async fn refusal(&self, token: &str) -> (u32, String) {
        match self.login(token).await {
            Err(tiberius::error::Error::Server(error)) => (error.code(), error.message().into()),
            other => panic!("{other:?}"),
        }
    }
}

fn shop_login() -> EngineLogin {
    EngineLogin { user: "shop_login".into(), password: PASSWORD.into() }
}

/// A server that accepts the SQL login of the front, and no tokens of its issuer.
async fn engine(authority: &Authority) -> AzureSqlServer {
    engine_with(authority, |_| {}).await
}

async fn engine_with(
    authority: &Authority,
    change: impl FnOnce(&mut AzureSqlOptions),
) -> AzureSqlServer {
    let mut options = AzureSqlOptions::new(
        Arc::new(Issuer::new()),
        Arc::default(),
        Arc::new(Database::new().unwrap()),
        authority.issue(&["localhost"]).unwrap().server_config().unwrap(),
    );
    options.sql_logins = vec![shop_login()];
    change(&mut options);
    AzureSqlServer::start(options).await.unwrap()
}

async fn one<T: tiberius::FromSqlOwned>(
    client: &mut Client<Compat<TcpStream>>,
    sql: &str,
) -> Option<T> {
    let row = client.simple_query(sql).await.unwrap().into_row().await.unwrap().unwrap();
    T::from_sql_owned(row.into_iter().next().unwrap()).unwrap()
}

/// Runs other tasks until `done`.
async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), waiting).await.expect("the condition is met within 30 s");
}

impl raw::Target for Setup {
    async fn connect(&self) -> Box<dyn raw::Stream> {
        Box::new(raw::connect(self.front.addr(), &self.authority.path()).await)
    }

    fn valid_token(&self) -> String {
        self.token(0)
    }
}

#[tokio::test]
async fn a_token_logs_in_to_the_engine_as_the_login_of_its_principal() {
    let setup = Setup::new().await;
    for length in [0, 2200, 8000, 30_000] {
        let mut client = setup.login(&setup.token(length)).await.unwrap();
        assert_eq!(one::<String>(&mut client, "SELECT SUSER_SNAME()").await.unwrap(), "shop_login");
        assert_eq!(one::<String>(&mut client, "SELECT DB_NAME()").await.unwrap(), "orders");
        assert_eq!(one::<String>(&mut client, "SELECT APP_NAME()").await.unwrap(), "shop");
    }
    let (front, engine) = (setup.front.counters(), setup.engine.counters());
    assert_eq!((front.logins, engine.logins), (4, 4));
    assert_eq!((front.requests, engine.requests), (12, 12));
}

#[test]
fn passwords_are_not_in_debug_output() {
    let issuer = Arc::new(Issuer::new());
    let tls = Authority::new().unwrap().issue(&["localhost"]).unwrap().server_config().unwrap();
    let front = AzureSqlFront {
        endpoint: AzureSqlEndpoint::new(issuer.clone(), Arc::default(), tls.clone()),
        engine: ("localhost".into(), 1433),
        engine_trust: EngineTrust::DangerousAny,
        engine_logins: [("shop".into(), shop_login())].into(),
    };
    let database = Arc::new(Database::new().unwrap());
    let mut server = AzureSqlOptions::new(issuer, Arc::default(), database, tls);
    server.sql_logins = vec![shop_login()];
    for text in [format!("{front:?}"), format!("{server:?}")] {
        assert!(text.contains("EngineLogin") && !text.contains("pässword"), "{text}");
    }
}

#[tokio::test]
async fn statements_and_results_of_every_size_are_relayed() {
    let setup = Setup::new().await;
    let mut client = setup.login(&setup.token(1500)).await.unwrap();
    let create = "CREATE TABLE t (id int IDENTITY(1,1) PRIMARY KEY, story nvarchar(max))";
    client.simple_query(create).await.unwrap().into_results().await.unwrap();
    for length in [0, 1, 2000, 200_000] {
        let story = "κ".repeat(length);
        let insert = "INSERT INTO t (story) VALUES (@P1)";
        client.execute(insert, &[&story.as_str()]).await.unwrap();
        let select = "SELECT TOP 1 story FROM t ORDER BY id DESC";
        assert_eq!(one::<String>(&mut client, select).await.unwrap(), story);
    }
    let many = "SELECT a.story FROM t a, t b, t c, t d WHERE a.id = 3";
    let rows = client.simple_query(many).await.unwrap().into_first_result().await.unwrap();
    assert_eq!(rows.len(), 64);
    assert_eq!(setup.front.counters().requests, setup.engine.counters().requests);
}

#[tokio::test]
async fn tds_8_clients_log_in_with_either_library_and_reset_their_session() {
    let setup = Setup::new().await;
    let login = |fed_auth: &[u8]| {
        let mut login = raw::login7(fed_auth);
        login[4..8].copy_from_slice(&0x0800_0000_u32.to_le_bytes());
        login
    };
    let acknowledged = [0xae, 2, 0, 0, 0, 0, 0xff];
    // LOGINACK: interface, TDS 8.0.
    let version = [1, 8, 0, 0, 0];
    let token = setup.token(2200);
    for fed_auth in [raw::security_token(&token), vec![0x05, 1], vec![0x05, 2], vec![0x05, 3]] {
        let mut raw = raw::Raw::hello(&setup).await;
        let mut answer = raw.ask(raw::LOGIN7, &login(&fed_auth)).await;
        if fed_auth.len() == 2 {
            assert_eq!(answer[0], 0xee, "FEDAUTHINFO");
            answer = raw.ask(raw::FED_AUTH_TOKEN, &raw::token_message(&token)).await;
        }
        assert!(raw::contains(&answer, &acknowledged) && raw::contains(&answer, &version));
        let batch = [raw::headers(0), raw::utf16("SELECT 1 AS n")].concat();
        raw.send_with(raw::BATCH, 0x08, &batch).await;
        let answer = raw.answer().await;
        assert!(answer.starts_with(&[0xe3, 3, 0, 18]), "the reset is acknowledged: {answer:?}");
        assert!(raw::contains(&answer, &[0xd1, 4, 1, 0, 0, 0]), "{answer:?}");
    }
    assert_eq!((setup.front.counters().reset_bits, setup.engine.counters().resets), (4, 4));
}

#[tokio::test]
async fn users_from_the_external_provider_are_translated_for_the_engine() {
    let setup = Setup::new().await;
    let mut raw = raw::Raw::session(&setup).await;
    let batch = |sql: &str| [raw::headers(0), raw::utf16(sql)].concat();
    // The embedded engine has no users. It names the construct that it does not support.
    let known = "CREATE USER [shop-identity] FROM EXTERNAL PROVIDER";
    let (number, own) = raw::error(&raw.ask(raw::BATCH, &batch(known)).await);
    let for_login = "CREATE USER [shop-identity] FOR LOGIN [shop_login]";
    let (_, direct) = raw::error(&raw.ask(raw::BATCH, &batch(for_login)).await);
    assert_eq!((number, own), (102, direct));
    // With a reset: the engine acknowledges it, then refuses THROW, which it does not support.
    let unknown = "CREATE USER [nobody's] FROM EXTERNAL PROVIDER;";
    raw.send_with(raw::BATCH, 0x08, &batch(unknown)).await;
    let answer = raw.answer().await;
    let answer = answer.strip_prefix(&[0xe3, 3, 0, 18, 0, 0]).unwrap();
    let (number, text) = raw::error(answer);
    assert!(number == 102 && text.contains("THROW 50000"), "{number}: {text}");
    let answer = raw.ask(raw::BATCH, &batch("SELECT 7 AS n")).await;
    assert!(raw::contains(&answer, &[0xd1, 4, 7, 0, 0, 0]), "the session continues");
}

#[tokio::test]
async fn failures_routes_and_delays_happen_as_often_as_requested() {
    let setup = Setup::new().await;
    let behaviour = setup.front.behaviour();
    behaviour.fail_logins(2, ServerError::new(40613, 20, "Database is not currently available."));
    behaviour.route_logins(1, "elsewhere.database.windows.net", 11001);
    for _ in 0..2 {
        assert_eq!(setup.refusal(&setup.token(0)).await.0, 40613);
    }
    match setup.login(&setup.token(0)).await {
        Err(tiberius::error::Error::Routing { host, port }) => {
            assert_eq!((host.as_str(), port), ("elsewhere.database.windows.net", 11001));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(setup.engine.counters().logins, 0);
    setup.login(&setup.token(0)).await.unwrap();
    let counters = setup.front.counters();
    assert_eq!((counters.refused_logins, counters.routed_logins, counters.logins), (2, 1, 1));
    behaviour.acknowledge_tokens(false);
    let mut raw = raw::Raw::hello(&setup).await;
    let login = raw::login7(&raw::security_token(&setup.token(0)));
    assert!(!raw::contains(&raw.ask(raw::LOGIN7, &login).await, &[0xae, 2]));
    setup.front.go_away().await.unwrap();
    setup.login(&setup.token(0)).await.unwrap_err();
    setup.front.come_back().unwrap();
    setup.login(&setup.token(0)).await.unwrap();
}
