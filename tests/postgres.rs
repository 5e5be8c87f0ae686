//! The PostgreSQL pool against a PostgreSQL server of the test's own, with a
//! role whose password is the token.
#![cfg(feature = "postgres")]
#![allow(clippy::disallowed_methods)] // A server lives in real time.

mod support;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::GenericClient;
use entra_pool::{
    clock::ManualClock,
    postgres::{
        self, Config, ConfigError, Connector, Error, Pool, Recycling, Stage, deadpool_postgres,
        tokio_postgres,
    },
    token::{Identity, Scope},
};
use entra_pool_emulator::{
    azure_cli::AzureCliStandIn,
    certificates::Authority,
    jwt::{Issuer, Principal, PrincipalKind},
};
use support::{
    credential::{AUDIENCE, TestCredential, code, said},
    postgres::{DATABASE, PostgresServer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    sync::OnceCell,
};

/// One server for all tests here; each has roles of its own.
async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(PostgresServer::start).await
}

/// A credential for `role`, whose token the server takes.
async fn let_in(role: &str) -> TestCredential {
    let credential = TestCredential::new(role, 2_000);
    server().await.set_password(role, &credential.secret()).await;
    credential
}

/// A pool of one connection, so that the next borrower gets the last one's.
async fn pool_of_one(role: &str) -> Pool {
    let identity = Identity::new(let_in(role).await);
    let pool = postgres::connect_with(&identity, &server().await.url(role)).unwrap();
    pool.resize(1);
    pool
}

fn connector(identity: &Identity, url: &str) -> Connector {
    let config: Config = url.parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    Connector::new(config, tokens).unwrap()
}

async fn text(client: &impl GenericClient, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get::<_, String>(0)
}

async fn backend(client: &impl GenericClient) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

fn failure(outcome: Result<deadpool_postgres::Client, deadpool_postgres::PoolError>) -> Error {
    match outcome {
        Ok(_) => panic!("a connection where none should be"),
        Err(error) => error.into(),
    }
}

// ---- logging in ----

#[tokio::test]
async fn a_token_of_any_length_logs_in() {
    for length in [1_500, 2_000, 2_200, 8_000] {
        let role = format!("length_{length}");
        let credential = TestCredential::new(&role, length);
        assert!(credential.secret().len().abs_diff(length) < 10);
        server().await.set_password(&role, &credential.secret()).await;
        let identity = Identity::new(credential);
        let pool = postgres::connect_with(&identity, &server().await.url(&role)).unwrap();
        let client = pool.get().await.unwrap();
        assert_eq!(text(&client, "SELECT current_user::text").await, role);
        let row = client
            .query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[])
            .await
            .unwrap();
        assert!(row.get::<_, bool>(0), "over TLS");
    }
}

#[tokio::test]
async fn the_role_is_the_tokens_principal_where_none_is_named() {
    let identity = Identity::new(let_in("shop-identity").await);
    let pool = postgres::connect_with(&identity, &server().await.url("")).unwrap();
    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT current_user::text").await, "shop-identity");

    let machine = Principal::new("vm", PrincipalKind::SystemAssigned);
    let identity = Identity::new(TestCredential::for_principal(machine.clone(), AUDIENCE, 0));
    let pool = postgres::connect_with(&identity, &server().await.url("")).unwrap();
    let error = failure(pool.get().await);
    assert!(matches!(error, Error::NoUser { .. }), "{error:?}");
    assert!(error.to_string().contains(&machine.object_id), "{error}");
}

#[tokio::test]
async fn one_token_is_asked_for_whatever_the_number_of_pools_and_connections() {
    let credential = let_in("shared").await;
    let identity = Identity::new(credential.clone());
    let mut clients = Vec::new();
    let url = server().await.url("shared");
    for _ in 0..3 {
        let pool = postgres::connect_with(&identity, &url).unwrap();
        pool.resize(4);
        let borrowers: Vec<_> = (0..4)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.get().await.unwrap() })
            })
            .collect();
        for borrower in borrowers {
            clients.push(borrower.await.unwrap());
        }
    }
    assert_eq!(clients.len(), 12);
    assert_eq!(credential.requests(), 1);
}

#[tokio::test]
async fn a_refused_login_is_tried_once_more_with_a_newer_token() {
    let credential = let_in("renewed").await;
    let identity = Identity::new(credential.clone());
    let connector = connector(&identity, &server().await.url("renewed"));
    let pool = postgres::builder(connector.clone()).build().unwrap();
    let first = pool.get().await.unwrap();
    assert_eq!(credential.requests(), 1);

    let newer = credential.next_token();
    server().await.set_password("renewed", &newer).await;
    let second = pool.get().await.unwrap();
    assert_eq!(credential.requests(), 2);
    let report = connector.report();
    assert_eq!((report.logins, report.refused, report.renewed), (2, 0, 1));
    assert_eq!(text(&first, "SELECT 'still there'").await, "still there");
    drop(second);
}

#[tokio::test]
async fn a_login_refused_for_good_keeps_the_servers_error_and_gets_advice() {
    let credential = TestCredential::new("nobody-made-me", 2_000);
    let identity = Identity::new(credential.clone());
    let connector = connector(&identity, &server().await.url("nobody-made-me"));
    let pool = postgres::builder(connector.clone()).build().unwrap();
    let Err(deadpool_postgres::PoolError::Backend(error)) = pool.get().await else {
        panic!("a login of nobody");
    };
    assert_eq!(code(&error), Some("28P01"));
    let server_says = error.as_db_error().unwrap();
    assert!(server_says.message().contains("password authentication failed"));
    assert_eq!(server_says.routine(), Some("auth_failed"));
    let hint = server_says.hint().unwrap();
    let principal = credential.principal();
    for fact in [
        "pgaadauth_create_principal('nobody-made-me', false, false)",
        &principal.client_id,
        &principal.object_id,
        entra_pool_emulator::jwt::TENANT_ID,
        AUDIENCE,
        "There was no newer token",
    ] {
        assert!(hint.contains(fact), "{fact} is missing: {hint}");
    }
    let error = Error::from(error);
    assert!(matches!(error, Error::LoginRefused(_)) && !error.is_transient());
    assert!(said(&error).contains("password authentication failed"));
    assert!(!said(&error).contains(&credential.secret()[..40]));
    assert_eq!(connector.report().refused, 1);
}

#[tokio::test]
async fn a_role_that_does_not_exist_does_not_have_tokens_fetched_without_end() {
    let credential = TestCredential::new("never-made", 2_000).never_the_same();
    let clock = ManualClock::at(std::time::SystemTime::now());
    let identity = Identity::builder(credential.clone()).clock(clock.clone()).build();
    let connector = connector(&identity, &server().await.url("never-made"));
    let error = connector.connect().await.err().unwrap();
    assert!(said(&error).contains("A new token was refused too"), "{}", said(&error));
    assert_eq!(credential.requests(), 2);
    for _ in 0..5 {
        assert!(matches!(connector.connect().await, Err(Error::LoginRefused(_))));
    }
    assert_eq!(credential.requests(), 2);
    clock.advance(Duration::from_secs(301));
    assert!(matches!(connector.connect().await, Err(Error::LoginRefused(_))));
    assert_eq!(credential.requests(), 3);
}

#[tokio::test]
async fn a_token_for_another_audience_is_told() {
    let person = Principal::new("a@contoso.com", PrincipalKind::User);
    let credential = TestCredential::for_principal(person, "https://database.windows.net", 0);
    let identity = Identity::new(credential);
    let pool = postgres::connect_with(&identity, &server().await.url("")).unwrap();
    let error = said(&failure(pool.get().await));
    assert!(error.contains("for user \"a@contoso.com\""), "{error}");
    assert!(error.contains("The token is for https://database.windows.net"), "{error}");
    assert!(error.contains("entra_scope"), "{error}");
}

#[tokio::test]
async fn an_error_of_the_credential_comes_through_the_pool_as_it_was() {
    let credential = TestCredential::new("anybody", 0);
    credential.fail();
    let identity = Identity::new(credential);
    let pool = postgres::connect_with(&identity, &server().await.url("anybody")).unwrap();
    let error = pool.get().await.err().unwrap();
    assert!(matches!(Error::within(&error), Some(Error::Token(_))), "{error:?}");
    let error = Error::from(error);
    assert!(matches!(error, Error::Token(_)), "{error:?}");
    assert!(said(&error).contains("run `az login`"), "{}", said(&error));
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_told_by_the_server() {
    let identity = Identity::new(let_in("lost").await);
    let url = server().await.url("lost").replace(&format!("/{DATABASE}?"), "/nowhere?");
    let connector = connector(&identity, &url);
    let error = connector.connect().await.err().unwrap();
    let Error::Login(cause) = &error else { panic!("{error:?}") };
    assert_eq!(code(cause), Some("3D000"));
    assert!(said(&error).contains("\"nowhere\" does not exist"), "{}", said(&error));
    assert_eq!(connector.report().refused, 0);
}

/// A port that is taken, so that nobody else gets it, but not listened on.
fn nobody_listens() -> (u16, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap().port(), socket)
}

#[tokio::test]
async fn further_hosts_are_tried_until_one_answers() {
    let identity = Identity::new(let_in("several").await);
    let (dead, _held) = nobody_listens();
    let server = server().await;
    let url = server.url("several").replace(
        &format!("@127.0.0.1:{}", server.port()),
        &format!("@127.0.0.1:{dead},127.0.0.1:{}", server.port()),
    );
    let url = format!("{url}&target_session_attrs=read-write&application_name=menu");
    let pool = postgres::connect_with(&identity, &url).unwrap();
    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT current_setting('application_name')").await, "menu");
}

#[tokio::test]
async fn a_host_that_refuses_the_login_is_not_given_up_for_the_next() {
    let identity = Identity::new(TestCredential::new("refused-at-the-first", 0));
    let (dead, _held) = nobody_listens();
    let server = server().await;
    let url = server.url("refused-at-the-first").replace(
        &format!("@127.0.0.1:{}", server.port()),
        &format!("@127.0.0.1:{},127.0.0.1:{dead}", server.port()),
    );
    let error = failure(postgres::connect_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
}

#[tokio::test]
async fn a_database_that_was_not_named_is_told() {
    let identity = Identity::new(let_in("nameless").await);
    let url = server().await.url("nameless").replace(&format!("/{DATABASE}?"), "?");
    let error = failure(postgres::connect_with(&identity, &url).unwrap().get().await);
    let Error::Login(cause) = &error else { panic!("{error:?}") };
    assert_eq!(code(cause), Some("3D000"));
    assert!(said(&error).contains("No database was named"), "{}", said(&error));
}

/// The environment cannot be changed while tests run, so this test runs itself
/// in another process, with an `az` in front of the PATH that is logged in.
#[tokio::test]
async fn connect_finds_its_identity_in_the_environment() {
    const URL: &str = "ENTRA_POOL_TEST_URL";
    if let Ok(url) = std::env::var(URL) {
        let pool = postgres::connect(&url).unwrap();
        let client = pool.get().await.unwrap();
        assert_eq!(text(&client, "SELECT current_user::text").await, "dev@contoso.com");
        return;
    }
    let person = Principal::new("dev@contoso.com", PrincipalKind::User);
    let az = AzureCliStandIn::new(Arc::new(Issuer::new()), person).unwrap();
    let answer = std::process::Command::new(az.executable())
        .args(["account", "get-access-token", "--output", "json", "--scope"])
        .arg(Scope::AZURE_POSTGRESQL.as_str())
        .output()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    let token = answer["accessToken"].as_str().unwrap();
    server().await.set_password("dev@contoso.com", token).await;

    let mut path = az.executable().parent().unwrap().as_os_str().to_owned();
    path.push(":/usr/bin:/bin");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "connect_finds_its_identity_in_the_environment", "--nocapture"])
        .env(URL, server().await.url(""))
        .env("PATH", path)
        .env("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
    assert_eq!(az.invocations().unwrap().len(), 2);
}

// ---- TLS ----

/// A server on loopback that answers the request for TLS with `answer`, and
/// tells all that it was sent.
async fn fake_server(answer: &'static [u8]) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        socket.read_exact(&mut request).await.unwrap();
        socket.write_all(answer).await.unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
        [request.as_slice(), &rest].concat()
    });
    (port, received)
}

/// SSLRequest (PostgreSQL documentation, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

fn scoped(host: &str, port: u16, ca: &std::path::Path) -> String {
    format!(
        "postgres://shop@{host}:{port}/db?sslrootcert={}&entra_scope={}",
        ca.display(),
        Scope::AZURE_POSTGRESQL
    )
}

#[tokio::test]
async fn a_server_that_has_no_tls_gets_not_a_byte_of_the_login() {
    let authority = Authority::new().unwrap();
    // 'N': no TLS. 'H': not PostgreSQL at all, but HTTP. 'E': an old server's error.
    for answer in [b"N".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n", b"E"] {
        let (port, received) = fake_server(answer).await;
        let identity = Identity::new(TestCredential::new("shop", 2_000));
        let url = scoped("127.0.0.1", port, &authority.path());
        let pool = postgres::connect_with(&identity, &url).unwrap();
        let error = failure(pool.get().await);
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
        assert!(!error.is_transient());
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(said(&error).contains("the token was not sent"), "{}", said(&error));
        assert_eq!(received.await.unwrap(), SSL_REQUEST);
    }
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_token() {
    let server = server().await;
    let credential = let_in("stranger").await;
    let stranger = Authority::new().unwrap();
    let url = scoped("127.0.0.1", server.port(), &stranger.path());
    let identity = Identity::new(credential);
    let error = failure(postgres::connect_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(said(&error).contains("invalid peer certificate"), "{}", said(&error));
    assert!(said(&error).contains("sslrootcert"), "{}", said(&error));
}

#[tokio::test]
async fn a_server_of_another_name_gets_no_token() {
    let server = server().await;
    let identity = Identity::new(let_in("misnamed").await);
    let url = scoped("db.example", server.port(), &server.ca_file());
    let url = format!("{url}&hostaddr=127.0.0.1");
    let error = failure(postgres::connect_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(said(&error).contains("NotValidForName"), "{}", said(&error));
    let url = url.replace("db.example", "localhost");
    let url = url.replace("shop@", "misnamed@").replace("/db?", &format!("/{DATABASE}?"));
    drop(postgres::connect_with(&identity, &url).unwrap().get().await.unwrap());
}

#[tokio::test]
async fn nobody_there_is_told_by_name() {
    let (port, _held) = nobody_listens();
    let authority = Authority::new().unwrap();
    let identity = Identity::new(TestCredential::new("shop", 0));
    let url = scoped("127.0.0.1", port, &authority.path());
    let error = failure(postgres::connect_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Dial { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_by_the_clock_with_the_stage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let authority = Authority::new().unwrap();
    let clock = ManualClock::at(std::time::SystemTime::now());
    let credential = TestCredential::new("shop", 0);
    let identity = Identity::builder(credential).clock(clock.clone()).build();
    let connector = connector(&identity, &scoped("127.0.0.1", port, &authority.path()));
    let connecting = tokio::spawn(async move { connector.connect().await.err().unwrap() });
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = [0; 8];
    socket.read_exact(&mut request).await.unwrap();
    clock.advance(Duration::from_secs(15));
    let error = connecting.await.unwrap();
    let Error::TimedOut { stage, limit, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*stage, *limit), (Stage::Tls, Duration::from_secs(15)));
    assert!(error.is_transient());
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

// ---- one borrower after another ----

#[tokio::test]
async fn a_session_is_clean_for_its_next_borrower() {
    let pool = pool_of_one("clean").await;
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    let before = text(&a, "SELECT current_setting('work_mem')").await;
    server().await.sql("CREATE ROLE waiter; GRANT waiter TO clean").await;
    a.batch_execute(
        "CREATE TEMP TABLE bill (total int);
         SET work_mem = '1MB';
         SET app.tenant = 'a';
         SET ROLE waiter;
         LISTEN kitchen;
         DECLARE menu CURSOR WITH HOLD FOR SELECT 1;
         SELECT pg_advisory_lock(4711);",
    )
    .await
    .unwrap();
    drop(a);

    let b = pool.get().await.unwrap();
    assert_eq!(backend(&b).await, pid, "the same session");
    let gone = b.query_one("SELECT to_regclass('bill') IS NULL", &[]).await.unwrap();
    assert!(gone.get::<_, bool>(0), "the temporary table is gone");
    assert_eq!(text(&b, "SELECT current_setting('work_mem')").await, before);
    assert_eq!(text(&b, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
    assert_eq!(text(&b, "SELECT current_user::text").await, "clean");
    for nothing in [
        "SELECT count(*) FROM pg_listening_channels()",
        "SELECT count(*) FROM pg_cursors WHERE name = 'menu'",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ] {
        assert_eq!(b.query_one(nothing, &[]).await.unwrap().get::<_, i64>(0), 0, "{nothing}");
    }
}

#[tokio::test]
async fn a_transaction_left_open_or_failed_is_gone_for_the_next_borrower() {
    let pool = pool_of_one("rollback").await;
    server().await.sql("CREATE TABLE orders (id int); GRANT ALL ON orders TO rollback").await;
    let mut pids = Vec::new();
    for trouble in ["SELECT 1", "SELECT 1/0", "SELECT pg_advisory_lock(1); SELECT 1/0"] {
        let a = pool.get().await.unwrap();
        pids.push(backend(&a).await);
        a.batch_execute("BEGIN; INSERT INTO orders VALUES (1); SET LOCAL app.tenant = 'a'")
            .await
            .unwrap();
        let failed = a.batch_execute(trouble).await.is_err();
        assert_eq!(failed, trouble.contains("1/0"));
        drop(a);

        let b = pool.get().await.unwrap();
        pids.push(backend(&b).await);
        let orders = b.query_one("SELECT count(*) FROM orders", &[]).await.unwrap();
        assert_eq!(orders.get::<_, i64>(0), 0, "after {trouble}");
        assert_eq!(text(&b, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
        // Refused in a transaction.
        b.batch_execute("DISCARD ALL").await.unwrap();
    }
    assert!(pids.iter().all(|pid| *pid == pids[0]), "the same session: {pids:?}");
}

#[tokio::test]
async fn a_transaction_that_was_dropped_is_gone_for_the_next_borrower() {
    let pool = pool_of_one("dropped").await;
    server().await.sql("CREATE TABLE drinks (id int); GRANT ALL ON drinks TO dropped").await;
    let mut a = pool.get().await.unwrap();
    let transaction = a.transaction().await.unwrap();
    transaction.execute("INSERT INTO drinks VALUES (1)", &[]).await.unwrap();
    std::mem::forget(transaction);
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(b.query_one("SELECT count(*) FROM drinks", &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn prepared_statements_survive_the_cleaning() {
    let pool = pool_of_one("prepared").await;
    let a = pool.get().await.unwrap();
    let statement = a.prepare_cached("SELECT $1::int + 1").await.unwrap();
    assert_eq!(a.query_one(&statement, &[&1]).await.unwrap().get::<_, i32>(0), 2);
    assert_eq!(a.statement_cache.size(), 1);
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(b.statement_cache.size(), 1);
    let again = b.prepare_cached("SELECT $1::int + 1").await.unwrap();
    assert_eq!(b.query_one(&again, &[&2]).await.unwrap().get::<_, i32>(0), 3);
    let row = b.query_one("SELECT count(*) FROM pg_prepared_statements", &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) >= 1);
}

#[tokio::test]
async fn fast_recycling_leaves_a_session_as_it_is() {
    let identity = Identity::new(let_in("fast").await);
    let config: Config = server().await.url("fast").parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    let connector = Connector::new(config.recycling(Recycling::Fast), tokens).unwrap();
    let pool = postgres::builder(connector).max_size(1).build().unwrap();
    pool.get().await.unwrap().batch_execute("SET app.tenant = 'a'").await.unwrap();
    let b = pool.get().await.unwrap();
    assert_eq!(text(&b, "SELECT current_setting('app.tenant')").await, "a");
}

/// Polls a query until it is with the server, then drops it.
async fn begin_and_drop(client: &deadpool_postgres::Client, sql: &str, begun: &str) {
    let query = client.batch_execute(sql);
    tokio::pin!(query);
    let seen = async {
        while server().await.value(begun).await.as_deref() != Some("t") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut query => panic!("the query ended"),
        () = seen => {}
    }
}

#[tokio::test]
async fn a_dropped_query_is_over_before_the_next_borrower_comes() {
    let pool = pool_of_one("impatient").await;
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    // It waits for a lock that somebody else has, so that the test says when it ends.
    let holder = pool_of_one("holder").await;
    let holder = holder.get().await.unwrap();
    holder.batch_execute("SELECT pg_advisory_lock(99)").await.unwrap();
    let waiting = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock')"
    );
    begin_and_drop(
        &a,
        "SELECT set_config('app.tenant', 'a', false), pg_advisory_lock(99)",
        &waiting,
    )
    .await;
    drop(a);
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap() }
    });
    holder.batch_execute("SELECT pg_advisory_unlock(99)").await.unwrap();
    let b = next.await.unwrap();
    assert_eq!(backend(&b).await, pid, "the same session");
    assert_eq!(text(&b, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
    // The dropped query has got the lock since; the cleaning gave it back.
    let free = holder.query_one("SELECT pg_try_advisory_lock(99)", &[]).await.unwrap();
    assert!(free.get::<_, bool>(0));
}

#[tokio::test]
async fn a_dropped_query_that_goes_on_is_cancelled_and_its_connection_retired() {
    let clock = ManualClock::at(std::time::SystemTime::now());
    let credential = let_in("stuck").await;
    let identity = Identity::builder(credential).clock(clock.clone()).build();
    let connector = connector(&identity, &server().await.url("stuck"));
    let pool = postgres::builder(connector.clone()).max_size(1).build().unwrap();
    let a = pool.get().await.unwrap();
    let pid = backend(&a).await;
    let asleep = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep')"
    );
    begin_and_drop(&a, "SELECT pg_sleep(3600)", &asleep).await;
    drop(a);
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap() }
    });
    while clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(2));
    let b = next.await.unwrap();
    assert_ne!(backend(&b).await, pid, "another session");
    assert_eq!(connector.report().retired, 1);
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    while server().await.value(&gone).await.as_deref() != Some("t") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_end_when_they_are_old_or_closed() {
    let identity = Identity::new(let_in("old").await);
    let config: Config = server().await.url("old").parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    let old = Connector::new(config.clone().max_lifetime(Duration::ZERO), tokens.clone()).unwrap();
    let pool = postgres::builder(old.clone()).max_size(1).build().unwrap();
    let first = backend(&pool.get().await.unwrap()).await;
    assert_ne!(backend(&pool.get().await.unwrap()).await, first);
    assert_eq!(old.report().retired, 1);

    let young = Connector::new(config.max_lifetime(None), tokens).unwrap();
    let pool = postgres::builder(young.clone()).max_size(1).build().unwrap();
    let first = backend(&pool.get().await.unwrap()).await;
    assert_eq!(backend(&pool.get().await.unwrap()).await, first);
    server().await.sql(&format!("SELECT pg_terminate_backend({first}, 10000)")).await;
    assert_ne!(backend(&pool.get().await.unwrap()).await, first);
    assert_eq!(young.report().retired, 1);
}

// ---- what is written for tokio-postgres and deadpool-postgres ----

#[tokio::test]
async fn a_query_is_cancelled_over_the_connectors_tls() {
    let identity = Identity::new(let_in("cancel").await);
    let connector = connector(&identity, &server().await.url("cancel"));
    let pool = postgres::builder(connector.clone()).build().unwrap();
    let client = Arc::new(pool.get().await.unwrap());
    let token = client.cancel_token();
    let pid = backend(&*client).await;
    let sleeping = tokio::spawn({
        let client = client.clone();
        async move { client.batch_execute("SELECT pg_sleep(3600)").await.unwrap_err() }
    });
    let asleep = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep')"
    );
    while server().await.value(&asleep).await.as_deref() != Some("t") {
        tokio::task::yield_now().await;
    }
    token.cancel_query(connector.tls()).await.unwrap();
    assert_eq!(code(&sleeping.await.unwrap()), Some("57014"));
}

#[tokio::test]
async fn a_connector_connects_without_a_pool() {
    let identity = Identity::new(let_in("bare").await);
    let (client, connection) =
        connector(&identity, &server().await.url("bare")).connect().await.unwrap();
    let driver = tokio::spawn(connection);
    let row = client.query_one("SELECT 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
    drop(client);
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connector_fits_into_a_manager_of_ones_own() {
    let identity = Identity::new(let_in("own").await);
    let connector = connector(&identity, &server().await.url("own"));
    let config = deadpool_postgres::ManagerConfig::default();
    let manager =
        deadpool_postgres::Manager::from_connect(tokio_postgres::Config::new(), connector, config);
    let pool = Pool::builder(manager).build().unwrap();
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    assert_eq!(text(&transaction, "SELECT current_user::text").await, "own");
    transaction.commit().await.unwrap();
}

#[test]
fn pools_and_connectors_go_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send>(_: T) {}
    shared::<Pool>();
    shared::<Connector>();
    shared::<Config>();
    shared::<Error>();
    let identity = Identity::new(TestCredential::new("x", 0));
    let config: Config = "postgres://u@a.postgres.database.azure.com/d".parse().unwrap();
    let connector =
        Connector::new(config.clone(), identity.tokens(config.token_scope().unwrap())).unwrap();
    sent(connector.connect());
}

// ---- configuration ----

fn refused(text: &str) -> String {
    let identity = Identity::new(TestCredential::new("x", 0));
    said(&postgres::connect_with(&identity, text).err().unwrap())
}

#[test]
fn what_cannot_be_is_refused_when_the_pool_is_built_with_the_keyword_named() {
    let azure = "postgres://u@a.postgres.database.azure.com/d";
    for (text, says) in [
        ("postgres://u:hunter2@a.postgres.database.azure.com/d".to_owned(), "password must go"),
        (format!("{azure}?password=hunter2"), "password must go"),
        ("host=a.postgres.database.azure.com password='hunter2 x'".to_owned(), "password must go"),
        (format!("{azure}?sslmode=disable"), "use sslmode=verify-full"),
        (format!("{azure}?sslmode=require"), "use sslmode=verify-full"),
        (format!("{azure}?colour=red"), "unknown option `colour`"),
        (format!("{azure}?connect_timeout=soon"), "connect_timeout"),
        (format!("{azure}?entra_scope=a b"), "entra_scope cannot be used"),
        (format!("{azure}?sslrootcert=/nowhere/ca.pem"), "/nowhere/ca.pem"),
        (format!("{azure}?entra_client_id=c"), "entra_client_id chooses an identity"),
        ("postgres://u@db.internal/d".to_owned(), "entra_scope="),
        ("postgres://u@%2Frun%2Fpostgresql/d".to_owned(), "Unix socket"),
        ("postgres:///d".to_owned(), "host is missing"),
        ("postgres://a@contoso.com@db/d".to_owned(), "%40"),
        ("hostaddr=127.0.0.1".to_owned(), "hostaddr stands without host"),
        ("sqlserver://u@h/d".to_owned(), "cannot be read"),
        (
            "postgres://u@a.postgres.database.azure.com,b.postgres.database.chinacloudapi.cn/d"
                .to_owned(),
            "different clouds",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn entra_client_id_is_a_client_id() {
    let url = "postgres://u@a.postgres.database.azure.com/d?entra_client_id=";
    let error = postgres::connect(&format!("{url}shop")).err().unwrap();
    assert!(matches!(error, Error::Identity(_)), "{error:?}");
    assert!(said(&error).contains("client ID"), "{}", said(&error));
}

#[test]
fn a_configuration_of_tokio_postgres_is_taken_by_the_same_rules() {
    let mut pg = tokio_postgres::Config::new();
    pg.host("a.postgres.database.usgovcloudapi.net").user("u").dbname("d");
    let config = Config::new(&pg).unwrap();
    assert!(config.token_scope().unwrap().as_str().contains("usgovcloudapi"));
    assert_eq!(config.to_string(), "postgres://u@a.postgres.database.usgovcloudapi.net:5432/d");
    let identity = Identity::new(TestCredential::new("x", 0));
    let error = Connector::new(config, identity.tokens(Scope::AZURE_POSTGRESQL)).err().unwrap();
    assert!(matches!(error, Error::Config(ConfigError::OtherScope { .. })), "{error:?}");

    pg.password("hunter2");
    assert!(Config::new(&pg).unwrap_err().to_string().contains("password"));
    let mut plain = tokio_postgres::Config::new();
    plain.host("h").ssl_mode(tokio_postgres::config::SslMode::Disable);
    assert!(Config::new(&plain).unwrap_err().to_string().contains("verify-full"));
}
