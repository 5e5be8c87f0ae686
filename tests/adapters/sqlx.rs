//! sqlx's pool on PostgreSQL.

use std::time::Duration;

use ::sqlx::{PgConnection, PgPool, postgres::PgPoolOptions};
use entra_pool::{
    adapters::sqlx::{Pool, options},
    connect::RetireReason,
    postgres::{Config, ConfigError, Connector, Error, Recycling},
    token::Identity,
};
use entra_pool_emulator::certificates::Authority;

use crate::{
    Guest, TRACES, TRACES_LEFT, server,
    support::{
        credential::{TestCredential, said},
        logs,
        postgres::DATABASE,
    },
    until,
};

async fn pool(guest: &Guest, size: u32) -> Pool {
    Pool::new(&guest.connector, options(&guest.connector).max_connections(size)).await.unwrap()
}

async fn text(connection: &mut PgConnection, sql: &str) -> String {
    let sql = format!("SELECT ({sql})::text");
    ::sqlx::query_scalar(::sqlx::AssertSqlSafe(sql)).fetch_one(connection).await.unwrap()
}

async fn backend(connection: &mut PgConnection) -> String {
    text(connection, "SELECT pg_backend_pid()").await
}

#[tokio::test]
async fn sqlx_logs_in_with_the_token_over_tls() {
    let more = "&application_name=menu&options=-c%20app.a%3D1%20-c%20app.b%3Dx%5C%20y";
    let url = server().await.url_with("sqlx", more);
    let guest = Guest::with("sqlx", |_| url.parse().unwrap()).await;
    let pool = pool(&guest, 2).await;
    let mut connection = pool.acquire().await.unwrap();
    for (sql, expected) in [
        ("SELECT current_user", "sqlx"),
        ("SELECT current_database()", "restaurant"),
        ("SELECT current_setting('application_name')", "menu"),
        ("SELECT current_setting('app.a') || current_setting('app.b')", "1x y"),
    ] {
        assert_eq!(text(&mut connection, sql).await, expected, "{sql}");
    }
    assert_eq!(guest.credential.requests(), 1);
    let shown = format!("{pool:?}");
    assert!(!shown.contains(&guest.credential.secret()[..40]), "{shown}");
}

/// The first connection stays in use, so that the next checkout needs a login.
#[tokio::test]
async fn the_pool_gets_a_new_token_automatically() {
    let guest = Guest::new("sqlx-renewed").await;
    let pool = pool(&guest, 2).await;
    let mut first = pool.acquire().await.unwrap();
    guest.rotate();
    assert!(pool.acquire().await.is_err(), "sqlx has only the old token");
    // Between half and three quarters of the token's lifetime.
    guest.clock.advance(Duration::from_secs(18 * 3_600 + 1));
    let second = loop {
        match pool.acquire().await {
            Ok(second) => break second,
            Err(_) => guest.clock.advance(Duration::from_secs(1)),
        }
    };
    assert_eq!(guest.credential.requests(), 2);
    assert_eq!(text(&mut first, "SELECT 'still there'").await, "still there");
    drop(second);
}

#[tokio::test]
async fn failed_token_refreshes_are_retried_with_growing_pauses() {
    let guest = Guest::new("sqlx-outage").await;
    let logs = logs::capture();
    let _pool = pool(&guest, 1).await;
    until(|| guest.clock.sleepers() == 1).await;
    guest.clock.set_wall(guest.credential.expires_on());
    guest.credential.fail();
    let failures = || logs.text().matches("cannot refresh the pool's token").count();
    // A minute until the refresh is due, and then the pauses.
    for (times, seconds) in [60, 2, 4, 8, 16, 16].into_iter().enumerate() {
        until(|| guest.clock.sleepers() == 1).await;
        assert_eq!(guest.clock.next_wake(), Some(Duration::from_secs(seconds)));
        guest.clock.advance(Duration::from_secs(seconds));
        until(|| failures() == times + 1).await;
    }
}

#[tokio::test]
async fn the_idle_timeout_of_the_configuration_is_used() {
    let limit = Duration::from_secs(200);
    let guest = Guest::unregistered("sqlx-idle", |config| config.idle_timeout(limit)).await;
    assert_eq!(options(&guest.connector).get_idle_timeout(), Some(limit));
}

#[tokio::test]
async fn a_closed_connection_is_replaced_even_with_fast() {
    let guest = Guest::with("sqlx-fast", |config| config.recycling(Recycling::Fast)).await;
    let pool = pool(&guest, 1).await;
    let pid = backend(&mut pool.acquire().await.unwrap()).await;
    until(|| pool.num_idle() == 1).await;
    server().await.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)")).await;
    let mut next = pool.acquire().await.unwrap();
    assert_ne!(backend(&mut next).await, pid);
    assert_eq!(guest.retired(), 1);
}

/// Connects over TCP to the server itself, which supports these settings.
#[tokio::test]
async fn the_server_sends_keepalives() {
    let current = "SELECT concat_ws(' ', current_setting('tcp_keepalives_idle'), \
                   current_setting('tcp_keepalives_interval'), current_setting('tcp_keepalives_count'))";
    let server = server().await;
    let url = server.url_at(server.engine_port(), "sqlx-alive", "");
    let guest = Guest::unregistered("sqlx-alive", |_| url.parse().unwrap()).await;
    server.set_password("sqlx-alive", &guest.credential.secret()).await;
    let pool = pool(&guest, 1).await;
    for _ in ["new", "cleaned"] {
        let mut connection = pool.acquire().await.unwrap();
        assert_eq!(text(&mut connection, current).await, "30 10 3");
        drop(connection);
        until(|| pool.num_idle() == 1).await;
    }
}

#[tokio::test]
async fn without_dbname_the_database_is_named_like_the_role() {
    let url = server().await.url("sqlx-unnamed").replace(&format!("/{DATABASE}?"), "?");
    let guest = Guest::with("sqlx-unnamed", |_| url.parse().unwrap()).await;
    let pool = pool(&guest, 1).await;
    assert_eq!(pool.connect_options().get_database(), Some("sqlx-unnamed"));
}

#[tokio::test]
async fn renewed_refreshes_an_expired_token() {
    let guest = Guest::new("sqlx-asked").await;
    let pool = pool(&guest, 2).await;
    let _first = pool.acquire().await.unwrap();
    guest.rotate();
    // The machine was suspended until after the token expired.
    guest.clock.set_wall(guest.credential.expires_on());
    pool.renewed().await.unwrap().acquire().await.unwrap();
    assert_eq!(guest.credential.requests(), 2);
}

#[tokio::test]
async fn the_token_refresh_ends_when_the_pool_is_closed() {
    let guest = Guest::new("sqlx-closed").await;
    let pool = pool(&guest, 1).await;
    until(|| guest.clock.sleepers() == 1).await;
    pool.close().await;
    until(|| guest.clock.sleepers() == 0).await;
}

#[tokio::test]
async fn dropping_the_last_clone_closes_the_pool() {
    let guest = Guest::new("sqlx-dropped").await;
    let pool = pool(&guest, 1).await;
    let inner = PgPool::clone(&pool);
    let clone = pool.clone();
    drop(pool);
    drop(inner.acquire().await.unwrap());
    drop(clone);
    inner.close_event().await;
    until(|| guest.clock.sleepers() == 0).await;
    assert!(matches!(inner.acquire().await, Err(::sqlx::Error::PoolClosed)));
}

#[tokio::test]
async fn a_session_is_clean_for_the_next_caller() {
    let guest = Guest::new("sqlx-clean").await;
    let pool = pool(&guest, 1).await;
    let mut a = pool.acquire().await.unwrap();
    let pid = backend(&mut a).await;
    ::sqlx::raw_sql(TRACES).execute(&mut *a).await.unwrap();
    assert_ne!(text(&mut a, TRACES_LEFT).await, "");
    ::sqlx::raw_sql("SET TIME ZONE 'Asia/Tokyo'; BEGIN").execute(&mut *a).await.unwrap();
    drop(a);
    let mut b = pool.acquire().await.unwrap();
    assert_eq!(backend(&mut b).await, pid, "the same session");
    assert_eq!(text(&mut b, TRACES_LEFT).await, "");
    assert_eq!(text(&mut b, "SELECT current_setting('timezone')").await, "UTC");
    let vacuumed = ::sqlx::raw_sql("VACUUM").execute(&mut *b).await;
    vacuumed.expect("VACUUM fails in a transaction");
    assert_eq!(guest.retired(), 0);
}

#[tokio::test]
async fn a_connection_with_a_statement_prepared_by_sql_is_retired() {
    let guest = Guest::new("sqlx-preparer").await;
    let pool = pool(&guest, 1).await;
    let mut a = pool.acquire().await.unwrap();
    let pid = backend(&mut a).await;
    ::sqlx::raw_sql("PREPARE dishes AS SELECT 1").execute(&mut *a).await.unwrap();
    drop(a);
    assert_ne!(backend(&mut pool.acquire().await.unwrap()).await, pid, "another session");
    assert_eq!(guest.connector.report().retired, [(RetireReason::Recycling, 1)]);
}

#[tokio::test]
async fn a_dropped_or_failed_transaction_is_rolled_back_before_the_next_checkout() {
    let guest = Guest::new("sqlx-rollback").await;
    let table = "CREATE TABLE dishes (id int); GRANT ALL ON dishes TO \"sqlx-rollback\"";
    server().await.sql(table).await;
    let pool = pool(&guest, 1).await;
    for fails in [false, true] {
        let mut transaction = pool.begin().await.unwrap();
        let insert = "INSERT INTO dishes VALUES (1)";
        ::sqlx::raw_sql(insert).execute(&mut *transaction).await.unwrap();
        if fails {
            ::sqlx::raw_sql("SELECT 1/0").execute(&mut *transaction).await.unwrap_err();
        }
        drop(transaction);
        let mut next = pool.acquire().await.unwrap();
        assert_eq!(text(&mut next, "SELECT count(*) FROM dishes").await, "0");
    }
    assert_eq!(guest.retired(), 0);
}

#[tokio::test]
async fn the_connection_of_a_dropped_query_is_not_checked_out_again() {
    let guest = Guest::new("sqlx-stuck").await;
    let pool = pool(&guest, 2).await;
    let mut a = pool.acquire().await.unwrap();
    let pid = backend(&mut a).await;
    let asleep = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep')"
    );
    tokio::select! {
        answer = ::sqlx::raw_sql("SELECT pg_sleep(3600)").execute(&mut *a) => panic!("{answer:?}"),
        () = async {
            while server().await.value(&asleep).await.as_deref() != Some("t") {}
        } => {}
    }
    drop(a);
    assert_ne!(backend(&mut pool.acquire().await.unwrap()).await, pid, "another session");
    // sqlx does not cancel the query.
    server().await.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
}

#[tokio::test]
async fn a_server_that_is_not_verified_gets_no_token() {
    let unknown = Authority::new().unwrap();
    let guest = Guest::with("sqlx-unverified", |config| config.ca_file(unknown.path())).await;
    let error = pool(&guest, 1).await.acquire().await.unwrap_err();
    assert!(said(&error).contains("invalid peer certificate"), "{}", said(&error));
    let log = server().await.log();
    assert!(!log.contains("user=sqlx-unverified"), "{log}");
}

const URL: &str = "ADAPTERS_TEST_URL";

/// The part of the next test that runs in a separate process.
#[tokio::test]
#[ignore = "started by environment_variables_neither_add_a_root_nor_disable_tls"]
async fn with_libpqs_variables_in_the_environment() {
    let config: Config = std::env::var(URL).unwrap().parse().unwrap();
    let identity = Identity::new(TestCredential::new("sqlx-elsewhere", 2_000));
    let tokens = identity.tokens(config.token_scope().unwrap());
    let connector = Connector::new(config, tokens).unwrap();
    let pool = Pool::new(&connector, options(&connector)).await.unwrap();
    let error = pool.acquire().await.unwrap_err();
    assert!(said(&error).contains("invalid peer certificate"), "{}", said(&error));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn environment_variables_neither_add_a_root_nor_disable_tls() {
    let server = server().await;
    // Connects to the server itself, which would log the role.
    let (url, authority) =
        (server.url_at(server.engine_port(), "sqlx-elsewhere", ""), server.ca_file());
    let given = format!("sslrootcert={}&", authority.display());
    let other = Authority::new().unwrap();
    for roots in [String::new(), format!("sslrootcert={}&", other.path().display())] {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "sqlx::with_libpqs_variables_in_the_environment"]);
        child.env(URL, url.replace(&given, &roots)).env("PGSSLROOTCERT", &authority);
        for (name, value) in [
            ("PGSSLMODE", "disable"),
            ("PGHOST", "/tmp"),
            ("PGHOSTADDR", "127.0.0.2"),
            ("PGPORT", "1"),
            ("PGUSER", "somebody"),
            ("PGPASSWORD", "else"),
            ("PGDATABASE", "elsewhere"),
        ] {
            child.env(name, value);
        }
        let output = child.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
        assert!(ran, "the test ran in the child process");
    }
    assert!(!server.log().contains("sqlx-elsewhere"), "{}", server.log());
}

#[tokio::test]
async fn settings_that_sqlx_does_not_support_are_rejected() {
    let server = server().await;
    for (keyword, more) in [
        ("hostaddr", "&hostaddr=127.0.0.1"),
        ("target_session_attrs", "&target_session_attrs=read-write"),
        ("sslnegotiation", "&sslnegotiation=direct"),
        ("channel_binding", "&channel_binding=require"),
        ("host", ""),
    ] {
        let mut url = server.url_with("sqlx-refused", more);
        if keyword == "host" {
            url = url.replace("127.0.0.1:", "127.0.0.2,127.0.0.1:");
        }
        let guest = Guest::unregistered("sqlx-refused", |_| url.parse().unwrap()).await;
        let error = Pool::new(&guest.connector, PgPoolOptions::new()).await.unwrap_err();
        let Error::Config(ConfigError::Value { keyword: named, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(named, keyword);
        assert_eq!(guest.credential.requests(), 0);
    }
    let tls = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    let guest = Guest::unregistered("sqlx-refused", |_| {
        let config: Config = server.url_with("sqlx-refused", "").parse().unwrap();
        config.tls(std::sync::Arc::new(tls))
    })
    .await;
    let error = Pool::new(&guest.connector, PgPoolOptions::new()).await.unwrap_err();
    assert!(said(&error).contains("Config::tls"), "{}", said(&error));
}

#[tokio::test]
async fn without_a_token_there_is_no_pool() {
    let guest = Guest::new("sqlx-tokenless").await;
    guest.credential.fail();
    let error = Pool::new(&guest.connector, PgPoolOptions::new()).await.unwrap_err();
    assert!(matches!(error, Error::Token { .. }), "{error:?}");
    assert!(said(&error).contains("az login"), "{}", said(&error));
}
