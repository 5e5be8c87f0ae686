//! `ENTRA_POOL_TEST_SQL_SERVER` runs the suite through `AzureSqlFront` against another server.
//!
//! Its value is the URL of a SQL Server, `sqlserver://USER:PASSWORD@HOST:PORT`, or `stand-in` for
//! the emulator's own engine with a SQL login. Each test creates the database `orders` of a SQL
//! Server again, so the tests must run one after the other. `tests/sql-server` runs the tests that
//! do not need the faults of the stand-in.

use std::{collections::BTreeMap, env, sync::Arc};

use entra_pool_emulator::{
    azure_sql::{AzureSqlEndpoint, AzureSqlOptions, AzureSqlServer},
    database::Database,
    emulator::Emulator,
    front::{
        EngineLogin,
        azure_sql::{AzureSqlFront, EngineTrust},
    },
};
use url::Url;

use crate::{Shop, run};

pub(crate) struct Engine {
    front: AzureSqlServer,
    /// `None` for a SQL Server.
    stand_in: Option<AzureSqlServer>,
}

impl Engine {
    /// Returns `None` if the variable is not set.
    pub(crate) async fn start(emulator: &Emulator) -> Option<Self> {
        let text = env::var("ENTRA_POOL_TEST_SQL_SERVER").ok().filter(|text| !text.is_empty())?;
        let (issuer, directory) = (Arc::clone(emulator.issuer()), Arc::clone(emulator.directory()));
        let certificate = emulator.authority().issue(&["localhost"]).unwrap();
        let tls = certificate.server_config().unwrap();
        let mut login =
            EngineLogin { user: "shop_login".to_owned(), password: "secret".to_owned() };
        let (stand_in, engine) = if text == "stand-in" {
            let database = Arc::new(Database::new().unwrap());
            let (issuer, directory) = (Arc::clone(&issuer), Arc::clone(&directory));
            let mut options = AzureSqlOptions::new(issuer, directory, database, Arc::clone(&tls));
            options.sql_logins = vec![login.clone()];
            let server = AzureSqlServer::start(options).await.unwrap();
            let port = server.addr().port();
            (Some(server), ("localhost".to_owned(), port))
        } else {
            let url = Url::parse(&text).expect("sqlserver://USER:PASSWORD@HOST:PORT");
            let decoded = |text: &str| {
                percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned()
            };
            login.user = decoded(url.username());
            login.password = decoded(url.password().expect("a password"));
            let host = url.host_str().expect("a host").to_owned();
            (None, (host, url.port().unwrap_or(1433)))
        };
        let front = AzureSqlFront {
            endpoint: AzureSqlEndpoint::new(issuer, directory, tls),
            engine,
            // The certificate of a container is self-signed.
            engine_trust: EngineTrust::DangerousAny,
            engine_logins: BTreeMap::from([(emulator.user_assigned().name.clone(), login)]),
        };
        Some(Self { front: front.start().unwrap(), stand_in })
    }

    pub(crate) fn front(&self) -> &AzureSqlServer {
        &self.front
    }

    pub(crate) fn is_sql_server(&self) -> bool {
        self.stand_in.is_none()
    }
}

/// Creates an empty database `orders`, which replaces that of an earlier test.
pub(crate) async fn create_database(shop: &Shop) {
    let master = shop.string().replace("Database=orders", "Database=master");
    let mut connection = shop.connector_of(&master).connect().await.unwrap();
    let drop = "IF DB_ID(N'orders') IS NOT NULL BEGIN \
        ALTER DATABASE orders SET SINGLE_USER WITH ROLLBACK IMMEDIATE; DROP DATABASE orders END";
    for statement in [drop, "CREATE DATABASE orders"] {
        run(&mut connection, statement).await;
    }
}
