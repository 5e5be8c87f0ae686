//! PostgreSQL: a separate server. `SELECT 1` is a simple query, so that no side saves a round trip
//! by preparing it.

use std::{rc::Rc, str::FromStr};

use bb8_postgres::{PostgresConnectionManager, bb8};
use deadpool_postgres::{ManagerConfig, RecyclingMethod};
use entra_pool::{
    adapters,
    postgres::{self, Connector, Recycling, tokio_postgres},
    token::Identity,
};
use sqlx::{
    ConnectOptions, Executor,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use tokio::{runtime::Runtime, sync::Mutex};

use crate::{
    measure::{Side, on_one_thread, table},
    support::{
        credential::TestCredential,
        postgres::{DATABASE, PostgresServer},
    },
};

const ROLE: &str = "peers";

/// From here on, this process and the server that it starts run on one core: a round trip to a
/// server process on another core takes longer, and the core differs between connections.
fn stay_on_this_core() {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).expect("the core exists");
    }
}

pub(crate) fn tables() {
    stay_on_this_core();
    let servers = Runtime::new().expect("a runtime");
    let (server, token, identity) = servers.block_on(async {
        let credential = TestCredential::new(ROLE, 2_000);
        let server = PostgresServer::start().await;
        let token = credential.secret();
        server.set_password(ROLE, &token).await;
        (server, token, Identity::new(credential))
    });
    let connector = |recycling: Recycling| {
        let config: postgres::Config = server.url(ROLE).parse().expect("a valid URL");
        let tokens = identity.tokens(config.token_scope().expect("the scope is known"));
        Connector::new(config.recycling(recycling), tokens).expect("the authority can be read")
    };
    let ours = connector(Recycling::Clean);
    let mut bare = tokio_postgres::Config::new();
    bare.host("127.0.0.1").port(server.port()).user(ROLE).dbname(DATABASE).password(&token);
    bare.ssl_mode(tokio_postgres::config::SslMode::Require);
    let options = PgConnectOptions::from_str(&format!(
        "postgres://{ROLE}@127.0.0.1:{}/{DATABASE}",
        server.port()
    ))
    .expect("a valid URL")
    .password(&token)
    .ssl_mode(PgSslMode::VerifyFull)
    .ssl_root_cert(server.ca_file());

    let runtime = on_one_thread();
    let connect = {
        let (connector, tls) = (ours.clone(), ours.tls());
        let (bare, options) = (bare.clone(), options.clone());
        vec![
            Side::new("entra-pool", move || {
                let connector = connector.clone();
                async move { connector.connect().await.expect("a connection") }
            }),
            Side::new("tokio-postgres", move || {
                let (bare, tls) = (bare.clone(), tls.clone());
                async move { bare.connect(tls).await.expect("a connection") }
            }),
            Side::new("sqlx", move || {
                let options = options.clone();
                async move { options.connect().await.expect("a connection") }
            }),
        ]
    };
    table("PostgreSQL: connect and log in", &runtime, 200, connect);

    let deadpool = |method| {
        let config = ManagerConfig { recycling_method: method };
        let manager = deadpool_postgres::Manager::from_config(bare.clone(), ours.tls(), config);
        deadpool_postgres::Pool::builder(manager).max_size(1).build().expect("a pool")
    };
    let (sqlx, bb8, our_bb8) = runtime.block_on(async {
        let sqlx = PgPoolOptions::new().max_connections(1).connect_with(options);
        let manager = PostgresConnectionManager::new(bare.clone(), ours.tls());
        let bb8 = bb8::Pool::builder().max_size(1).build(manager);
        let manager = adapters::bb8::postgres::Manager::new(ours.clone());
        let our_bb8 = adapters::bb8::postgres::builder(&manager).max_size(1).build(manager);
        (sqlx.await.expect("a pool"), bb8.await.expect("a pool"), our_bb8.await.expect("a pool"))
    });
    let checkout = |name, pool: deadpool_postgres::Pool| {
        Side::new(name, move || {
            let pool = pool.clone();
            async move {
                let client = pool.get().await.expect("a connection");
                client.simple_query("SELECT 1").await.expect("a row");
            }
        })
    };
    let (client, connection) = runtime.block_on(bare.connect(ours.tls())).expect("a connection");
    runtime.spawn(connection);
    let client = Rc::new(Mutex::new(client));
    let warm = vec![
        checkout("entra-pool, `Clean` (the default)", ours.pool()),
        checkout("entra-pool, `Fast`", connector(Recycling::Fast).pool()),
        Side::new("entra-pool's bb8, `Clean`", move || {
            let pool = our_bb8.clone();
            async move {
                let client = pool.get().await.expect("a connection");
                client.simple_query("SELECT 1").await.expect("a row");
            }
        }),
        checkout("deadpool-postgres, `Clean`", deadpool(RecyclingMethod::Clean)),
        checkout("deadpool-postgres, `Fast`", deadpool(RecyclingMethod::Fast)),
        Side::new("bb8-postgres (asks `SELECT 1` first)", move || {
            let pool = bb8.clone();
            async move {
                let client = pool.get().await.expect("a connection");
                client.simple_query("SELECT 1").await.expect("a row");
            }
        }),
        Side::new("sqlx (pings first)", move || {
            let pool = sqlx.clone();
            async move {
                let mut connection = pool.acquire().await.expect("a connection");
                connection.execute(sqlx::raw_sql("SELECT 1")).await.expect("a row");
            }
        }),
        Side::new("no pool: one query of tokio-postgres", move || {
            let client = client.clone();
            async move {
                client.lock().await.simple_query("SELECT 1").await.expect("a row");
            }
        }),
    ];
    table("PostgreSQL: warm checkout with `SELECT 1`", &runtime, 2_000, warm);
}
