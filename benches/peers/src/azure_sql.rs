//! Azure SQL: the emulator. SSL_CERT_FILE has its authority and the system's roots, because some
//! of the drivers have no other setting for roots.

use std::{fs, path::Path, rc::Rc};

use entra_pool::{
    adapters,
    azure_sql::{self, Connector, Recycling},
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::Identity,
};
use entra_pool_emulator::emulator::Emulator;
use mssql_client::Credentials;
use mssql_tds::{
    connection::{
        client_context::{ClientContext, TdsAuthenticationMethod},
        tds_client::{ResultSet, TdsClient},
    },
    connection_provider::tds_connection_provider::TdsConnectionProvider,
    core::EncryptionSetting,
};
use tiberius::{AuthMethod, Client};
use tokio::{net::TcpStream, runtime::Runtime, sync::Mutex};
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use crate::measure::{Side, on_one_thread, table};

const QUERY: &str = "SELECT @@TRANCOUNT";

pub(crate) fn tables() {
    let server = Runtime::new().expect("a runtime");
    let emulator = server.block_on(Emulator::start()).expect("the emulator starts");
    let roots = system_roots_and(&emulator.ca_path());
    // SAFETY: no other thread of this process reads or writes the environment now.
    unsafe { std::env::set_var("SSL_CERT_FILE", roots.path()) };
    let port = emulator.azure_sql().addr().port();

    let runtime = on_one_thread();
    let connector = connector(&emulator);
    let token = runtime.block_on(connector.tokens().token()).expect("a token");
    let token = token.secret().to_owned();
    let config = connector.config().clone();
    let by_microsoft = adapters::mssql_tds::Connector::new(config, connector.tokens().clone())
        .expect("the driver supports the configuration");
    let stock = Rc::new(stock(port, &token));
    let other = mssql_client::Config::new()
        .host("localhost")
        .port(port)
        .database("orders")
        .credentials(Credentials::azure_token(token.clone()))
        .encrypt(true);

    let connect = {
        let (ours, by_microsoft) = (connector.clone(), by_microsoft.clone());
        let (stock, other, token) = (stock.clone(), other.clone(), token.clone());
        vec![
            Side::new("entra-pool", move || {
                let connector = ours.clone();
                async move { connector.connect().await.expect("a connection") }
            }),
            Side::new("entra-pool over mssql-tds", move || {
                let connector = by_microsoft.clone();
                async move { connector.connect().await.expect("a connection") }
            }),
            Side::new("mssql-client", move || {
                let config = other.clone();
                async move { mssql_client::Client::connect(config).await.expect("a connection") }
            }),
            Side::new("mssql-tds", move || connect_microsoft(port, token.clone())),
            Side::new("tiberius", move || connect_stock(stock.clone())),
        ]
    };
    table("Azure SQL: connect and log in", &runtime, 200, connect);

    let pool = |recycling| {
        let config = connector.config().clone().recycling(recycling);
        Connector::new(config, connector.tokens().clone())
            .expect("the configuration is valid")
            .pool()
    };
    let pooled = |name, pool: azure_sql::Pool| {
        Side::new(name, move || {
            let pool = pool.clone();
            async move {
                let mut client = pool.get().await.expect("a connection");
                let answer = client.simple_query(QUERY).await.expect("an answer");
                answer.into_row().await.expect("a row");
            }
        })
    };
    let (bare, microsoft, client, driver_pool) = runtime.block_on(async {
        let driver_pool = mssql_driver_pool::Pool::builder()
            .client_config(other.clone())
            .max_connections(1)
            .min_connections(1)
            .sp_reset_connection(true);
        (
            connect_stock(stock).await,
            connect_microsoft(port, token).await,
            mssql_client::Client::connect(other).await.expect("a connection"),
            driver_pool.build().await.expect("a pool"),
        )
    });
    let (bare, client) = (Rc::new(Mutex::new(bare)), Rc::new(Mutex::new(client)));
    let (microsoft, driver_pool) = (Rc::new(Mutex::new(microsoft)), Rc::new(driver_pool));
    let by_microsoft = by_microsoft.pool();
    let warm = vec![
        pooled("entra-pool, `Clean` (the default)", pool(Recycling::Clean)),
        pooled("entra-pool, `Fast`", pool(Recycling::Fast)),
        Side::new("entra-pool over mssql-tds", move || {
            let pool = by_microsoft.clone();
            async move {
                let mut client = pool.get().await.expect("a connection");
                ask_microsoft(&mut client).await;
            }
        }),
        Side::new("mssql-driver-pool (reset flag only)", move || {
            let pool = driver_pool.clone();
            async move {
                let mut client = pool.get().await.expect("a connection");
                let rows = client.query(QUERY, &[]).await.expect("an answer");
                assert_eq!(rows.filter_map(Result::ok).count(), 1);
            }
        }),
        Side::new("no pool: one query of mssql-client", move || {
            let client = client.clone();
            async move {
                let mut client = client.lock().await;
                let rows = client.query(QUERY, &[]).await.expect("an answer");
                assert_eq!(rows.filter_map(Result::ok).count(), 1);
            }
        }),
        Side::new("no pool: one query of mssql-tds", move || {
            let client = microsoft.clone();
            async move { ask_microsoft(&mut *client.lock().await).await }
        }),
        Side::new("no pool: one query of tiberius", move || {
            let client = bare.clone();
            async move {
                let mut client = client.lock().await;
                let answer = client.simple_query(QUERY).await.expect("an answer");
                answer.into_row().await.expect("a row");
            }
        }),
    ];
    table("Azure SQL: warm checkout with one query", &runtime, 2_000, warm);
}

/// Trusts the system's roots, like the other drivers.
fn connector(emulator: &Emulator) -> Connector {
    let string = emulator.azure_sql_string();
    let of_the_system = |keyword: &&str| !keyword.starts_with("TrustServerCertificateCA");
    let string: Vec<_> = string.split(';').filter(of_the_system).collect();
    let config: azure_sql::Config = string.join(";").parse().expect("a valid connection string");
    let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
    let environment = Environment::from_pairs(emulator.identity().app_service_env());
    let credential = ManagedIdentity::user_assigned(id).environment(environment).build();
    let identity = Identity::new(credential.expect("a valid configuration"));
    let tokens = identity.tokens(config.token_scope().expect("the scope is set"));
    Connector::new(config, tokens).expect("the roots can be read")
}

async fn connect_microsoft(port: u16, token: String) -> TdsClient {
    let mut context = ClientContext::default();
    context.tds_authentication_method = TdsAuthenticationMethod::AccessToken;
    context.access_token = Some(token);
    context.database = "orders".into();
    context.encryption_options.mode = EncryptionSetting::On;
    let server = format!("tcp:localhost,{port}");
    TdsConnectionProvider {}.create_client(context, &server, None).await.expect("a connection")
}

async fn ask_microsoft(client: &mut TdsClient) {
    client.execute(QUERY.to_owned(), ()).await.expect("an answer");
    assert!(client.next_row().await.expect("a row").is_some());
    client.close_query().await.expect("the end of the result");
}

fn stock(port: u16, token: &str) -> tiberius::Config {
    let mut config = tiberius::Config::new();
    config.host("localhost");
    config.port(port);
    config.database("orders");
    config.authentication(AuthMethod::aad_token(token));
    config
}

async fn connect_stock(config: Rc<tiberius::Config>) -> Client<Compat<TcpStream>> {
    let tcp = TcpStream::connect(config.get_addr()).await.expect("a connection");
    tcp.set_nodelay(true).expect("a socket");
    Client::connect((*config).clone(), tcp.compat_write()).await.expect("a login")
}

fn system_roots_and(authority: &Path) -> tempfile::NamedTempFile {
    let roots =
        fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").expect("the system's roots");
    let authority = fs::read_to_string(authority).expect("the emulator's authority");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), format!("{roots}\n{authority}")).expect("a file");
    file
}
