//! diesel-async's pools on PostgreSQL.

use std::time::Duration;

use ::diesel::{IntoSql, QueryableByName, sql_types};
use diesel_async::{
    AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection, TransactionManager,
    pooled_connection::{bb8, deadpool},
};
use entra_pool::{
    adapters::diesel::{connect, manager},
    connect::RetireReason,
    postgres::{Config, Connector, Recycling},
    token::Identity,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};

use crate::{
    Guest, TRACES, TRACES_LEFT, server,
    support::{credential::TestCredential, pgbouncer::PgBouncer},
    until, until_true,
};

#[derive(QueryableByName)]
struct Text {
    #[diesel(sql_type = sql_types::Text)]
    text: String,
}

async fn text(connection: &mut AsyncPgConnection, sql: &str) -> String {
    let sql = format!("SELECT coalesce(({sql})::text, '') AS text");
    ::diesel::sql_query(sql).get_result::<Text>(connection).await.unwrap().text
}

async fn backend(connection: &mut AsyncPgConnection) -> String {
    text(connection, "SELECT pg_backend_pid()").await
}

/// A pool of one connection, so that each checkout gets the same one.
fn pool_of_one(guest: &Guest) -> deadpool::Pool<AsyncPgConnection> {
    deadpool::Pool::builder(manager(guest.connector.clone())).max_size(1).build().unwrap()
}

#[tokio::test]
async fn diesels_pools_log_in_with_the_token() {
    let guest = Guest::new("diesel").await;
    let pool = pool_of_one(&guest);
    let mut connection = pool.get().await.unwrap();
    assert_eq!(text(&mut connection, "SELECT current_user").await, "diesel");
    let two = 2.into_sql::<sql_types::Integer>();
    assert_eq!(::diesel::select(two).get_result(&mut connection).await, Ok(2));

    let pool = bb8::Pool::builder().build(manager(guest.connector.clone())).await.unwrap();
    let mut connection = pool.get().await.unwrap();
    assert_eq!(text(&mut connection, "SELECT current_user").await, "diesel");
    assert_eq!((guest.credential.requests(), guest.connector.report().logins), (1, 2));
}

#[tokio::test]
async fn a_session_is_clean_for_the_next_caller_and_has_the_settings_of_diesel() {
    let guest = Guest::new("diesel-clean").await;
    let pool = pool_of_one(&guest);
    let mut a = pool.get().await.unwrap();
    let pid = backend(&mut a).await;
    a.batch_execute(TRACES).await.unwrap();
    assert_ne!(text(&mut a, TRACES_LEFT).await, "");
    a.batch_execute("SET TIME ZONE 'Asia/Tokyo'; BEGIN").await.unwrap();
    drop(a);
    let mut b = pool.get().await.unwrap();
    assert_eq!(backend(&mut b).await, pid, "the same session");
    assert_eq!(text(&mut b, TRACES_LEFT).await, "");
    assert_eq!(text(&mut b, "SELECT current_setting('timezone')").await, "UTC");
    assert_eq!(text(&mut b, "SELECT current_setting('client_encoding')").await, "UTF8");
    b.batch_execute("VACUUM").await.expect("VACUUM fails in a transaction");
}

#[tokio::test]
async fn a_connection_with_a_statement_prepared_by_sql_is_retired() {
    let guest = Guest::new("diesel-preparer").await;
    let pool = pool_of_one(&guest);
    let mut a = pool.get().await.unwrap();
    let pid = backend(&mut a).await;
    a.batch_execute("PREPARE dishes AS SELECT 1").await.unwrap();
    drop(a);
    let mut b = pool.get().await.unwrap();
    assert_ne!(backend(&mut b).await, pid, "another session");
    assert_eq!(guest.connector.report().retired, [(RetireReason::Recycling, 1)]);
}

#[tokio::test]
async fn a_stale_plan_retires_the_connection() {
    let guest = Guest::with("diesel-altered", |config| config.recycling(Recycling::Fast)).await;
    server().await.sql("CREATE TABLE diesels_altered (id int)").await;
    server().await.sql("GRANT ALL ON diesels_altered TO \"diesel-altered\"").await;
    let pool = pool_of_one(&guest);
    // diesel does not cache statements of raw SQL.
    ::diesel::table! { diesels_altered (id) { id -> Integer, } }
    let mut client = pool.get().await.unwrap();
    let query = || {
        ::diesel::query_dsl::methods::SelectDsl::select(diesels_altered::table, diesels_altered::id)
    };
    let rows: Vec<i32> = query().load(&mut client).await.unwrap();
    assert!(rows.is_empty());
    server().await.sql("ALTER TABLE diesels_altered ALTER id TYPE bigint").await;
    let error = query().load::<i32>(&mut client).await.unwrap_err();
    assert!(error.to_string().contains("cached plan"), "{error}");
    server().await.sql("ALTER TABLE diesels_altered ALTER id TYPE int").await;
    drop(client);
    let mut client = pool.get().await.unwrap();
    let rows: Vec<i32> = query().load(&mut client).await.unwrap();
    assert!(rows.is_empty());
    assert_eq!(guest.connector.report().retired, [(RetireReason::Recycling, 1)]);
}

/// PgBouncer does not remember the query of a client that has disconnected.
#[tokio::test]
async fn dropped_queries_are_cancelled_through_pgbouncer_and_retire_their_connections() {
    let server = server().await;
    let credential = TestCredential::new("diesel-bounced", 2_000);
    server.create_principal(credential.principal()).await;
    let settings = "default_pool_size = 20\npool_mode = session";
    let roles = [("diesel-bounced", &*credential.secret())];
    let bouncer = PgBouncer::start_with(settings, server, &roles).await;
    let config: Config = server.url_at(bouncer.port(), "diesel-bounced", "").parse().unwrap();
    let tokens = Identity::new(credential).tokens(config.token_scope().unwrap());
    let connector = Connector::new(config, tokens).unwrap();
    let pool = deadpool::Pool::builder(manager(connector.clone())).max_size(10).build().unwrap();
    let mut dropped = JoinSet::new();
    for _ in 0..10 {
        let mut client = pool.get().await.unwrap();
        dropped.spawn(async move {
            let query = client.batch_execute("SELECT pg_sleep(600)");
            timeout(Duration::from_millis(200), query).await.unwrap_err();
        });
    }
    dropped.join_all().await;
    // Each checkout times out while it waits for a connection. On a busy machine, it may wait for
    // several connections.
    for _ in 0..10 {
        if timeout(Duration::from_millis(20), pool.get()).await.is_ok() {
            break;
        }
    }
    let ended = "SELECT count(*) = 0 FROM pg_stat_activity \
                 WHERE usename = 'diesel-bounced' AND state = 'active'";
    timeout(Duration::from_secs(3), until_true(ended)).await.unwrap();
    assert_eq!(connector.report().retired, [(RetireReason::Unsettled, 10)]);
}

/// diesel-async's manager does not know whether the pool tests its connections.
#[tokio::test]
async fn a_bb8_pool_without_test_on_check_out_does_not_clean_its_connections() {
    let guest = Guest::new("diesel-careless").await;
    let builder = bb8::Pool::builder().max_size(1).test_on_check_out(false);
    let pool = builder.build(manager(guest.connector.clone())).await.unwrap();
    let mut a = pool.get().await.unwrap();
    let pid = backend(&mut a).await;
    a.batch_execute(TRACES).await.unwrap();
    let traces = text(&mut a, TRACES_LEFT).await;
    assert_ne!(traces, "");
    drop(a);
    let mut b = pool.get().await.unwrap();
    assert_eq!(backend(&mut b).await, pid, "the same session");
    assert_eq!(text(&mut b, TRACES_LEFT).await, traces);
}

#[tokio::test]
async fn a_session_is_recycled_as_configured() {
    for (sql, retired) in [("SET app.tenant = 'b'", 0), ("SELECT 1/0", 1)] {
        let recycling = Recycling::Custom(sql.into());
        let guest = Guest::with("diesel-custom", |config| config.recycling(recycling)).await;
        let pool = pool_of_one(&guest);
        let pid = backend(&mut pool.get().await.unwrap()).await;
        let mut next = pool.get().await.unwrap();
        assert_eq!(backend(&mut next).await == pid, retired == 0);
        let tenant = text(&mut next, "SELECT current_setting('app.tenant', true)");
        assert_eq!(tenant.await, if retired == 0 { "b" } else { "" }, "{sql}");
        assert_eq!(guest.retired(), retired);
    }
}

#[tokio::test]
async fn a_dropped_transaction_is_rolled_back_before_the_next_checkout() {
    let guest = Guest::new("diesel-dropped").await;
    let table = "CREATE TABLE drinks (id int); GRANT ALL ON drinks TO \"diesel-dropped\"";
    server().await.sql(table).await;
    let pool = pool_of_one(&guest);
    for fails in [false, true] {
        let mut a = pool.get().await.unwrap();
        type Transactions = <AsyncPgConnection as AsyncConnection>::TransactionManager;
        Transactions::begin_transaction(&mut *a).await.unwrap();
        a.batch_execute("INSERT INTO drinks VALUES (1)").await.unwrap();
        assert_eq!(a.batch_execute(if fails { "SELECT 1/0" } else { "" }).await.is_err(), fails);
        drop(a);
        let mut b = pool.get().await.unwrap();
        assert_eq!(text(&mut b, "SELECT count(*) FROM drinks").await, "0");
    }
}

#[tokio::test]
async fn a_dropped_query_that_keeps_running_is_cancelled_and_its_connection_retired() {
    let guest = Guest::new("diesel-stuck").await;
    let pool = pool_of_one(&guest);
    let mut a = pool.get().await.unwrap();
    let pid = backend(&mut a).await;
    let asleep = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep')"
    );
    tokio::select! {
        answer = a.batch_execute("SELECT pg_sleep(3600)") => panic!("{answer:?}"),
        () = async {
            while server().await.value(&asleep).await.as_deref() != Some("t") {}
        } => {}
    }
    drop(a);
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { backend(&mut pool.get().await.unwrap()).await }
    });
    until(|| guest.clock.sleepers() > 0).await;
    guest.clock.advance(Duration::from_secs(2));
    assert_ne!(next.await.unwrap(), pid, "another session");
    assert_eq!(guest.connector.report().retired, [(RetireReason::Unsettled, 1)]);
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    while server().await.value(&gone).await.as_deref() != Some("t") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_refused_login_is_retried_once_with_a_newer_token() {
    let guest = Guest::new("diesel-renewed").await;
    let pool = deadpool::Pool::builder(manager(guest.connector.clone())).build().unwrap();
    let first = pool.get().await.unwrap();
    guest.rotate();
    let second = pool.get().await.unwrap();
    drop((first, second));
    assert_eq!((guest.connector.report().renewed, guest.credential.requests()), (1, 2));
}

/// A proxy that forwards no more requests once the server has logged in `role`.
async fn silent_after_login(role: &'static str) -> (u16, oneshot::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (held_back, signal) = oneshot::channel();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let upstream = TcpStream::connect(("127.0.0.1", server().await.port())).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = upstream.into_split();
        let requests = async {
            let mut bytes = [0; 4_096];
            loop {
                let length = from_client.read(&mut bytes).await.unwrap();
                // The server logs this before it responds to the client.
                if server().await.log().contains(&format!("connection authorized: user={role}")) {
                    break;
                }
                to_server.write_all(&bytes[..length]).await.unwrap();
            }
            held_back.send(()).unwrap();
        };
        let answers = async {
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        };
        tokio::join!(requests, answers);
    });
    (port, signal)
}

#[tokio::test]
async fn a_server_that_does_not_respond_after_the_login_causes_a_timeout() {
    let (port, held_back) = silent_after_login("diesel-silent").await;
    let url = server().await.url_at(port, "diesel-silent", "");
    let guest = Guest::with("diesel-silent", |_| url.parse().unwrap()).await;
    let connector = guest.connector.clone();
    let connecting = tokio::spawn(async move { connect(&connector).await.err().unwrap() });
    held_back.await.unwrap();
    until(|| guest.clock.sleepers() == 1).await;
    guest.clock.advance(Duration::from_secs(15));
    let error = connecting.await.unwrap().to_string();
    assert!(error.contains("took longer than 15s (connect_timeout)"), "{error}");
}

#[tokio::test]
async fn the_error_of_a_refused_login_states_what_to_do() {
    let guest = Guest::unregistered("diesel-stranger", |config| config).await;
    let error = connect(&guest.connector).await.err().unwrap().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
    assert!(error.contains("pgaadauth_create_principal('diesel-stranger'"), "{error}");
}
