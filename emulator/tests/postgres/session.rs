//! What belongs to a session, and what takes it away.

use tokio_postgres::Client;

use super::{Service, sqlstate};

async fn text(client: &Client, sql: &str) -> Option<String> {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn settings_are_set_shown_and_reset() {
    let service = Service::start();
    let mut config = service.config();
    config.application_name("orders");
    let client = service.connect_with(&config).await.unwrap();
    assert_eq!(text(&client, "SHOW application_name").await.unwrap(), "orders");
    client
        .batch_execute("SET app.tenant = 'one'; SET application_name TO other; SET TIME ZONE 'UTC'")
        .await
        .unwrap();
    assert_eq!(text(&client, "SELECT current_setting('app.tenant')").await.unwrap(), "one");
    assert_eq!(text(&client, "SHOW application_name").await.unwrap(), "other");
    assert_eq!(text(&client, "SELECT current_setting('app.none', true)").await, None);
    let unknown = client.query("SELECT current_setting('app.none')", &[]).await.unwrap_err();
    assert_eq!(sqlstate(&unknown).0, "42704");
    client.batch_execute("RESET ALL").await.unwrap();
    assert_eq!(text(&client, "SHOW application_name").await.unwrap(), "orders");
    assert_eq!(text(&client, "SELECT current_setting('app.tenant', true)").await.unwrap(), "");
}

#[tokio::test]
async fn settings_follow_their_transaction() {
    let service = Service::start();
    let client = service.connect().await;
    let setting = "SELECT current_setting('app.tenant', true)";
    client.batch_execute("BEGIN; SET LOCAL app.tenant = 'local'").await.unwrap();
    assert_eq!(text(&client, setting).await.unwrap(), "local");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(text(&client, setting).await, None);
    client.batch_execute("BEGIN; SET app.tenant = 'lost'; ROLLBACK").await.unwrap();
    assert_eq!(text(&client, setting).await, None);
    client.batch_execute("BEGIN; SET app.tenant = 'kept'; COMMIT").await.unwrap();
    assert_eq!(text(&client, setting).await.unwrap(), "kept");
}

#[tokio::test]
async fn roles_are_taken_and_left() {
    let service = Service::start();
    let client = service.connect().await;
    let reader = entra_pool_emulator::jwt::Principal::new(
        "reader",
        entra_pool_emulator::jwt::PrincipalKind::UserAssigned,
    );
    service.directory.add(reader);
    for leave in ["RESET ROLE", "SET ROLE NONE", "SET SESSION AUTHORIZATION DEFAULT"] {
        client.batch_execute("SET ROLE reader").await.unwrap();
        assert_eq!(text(&client, "SELECT current_user").await.unwrap(), "reader");
        assert_eq!(text(&client, "SELECT session_user").await.unwrap(), "shop-identity");
        client.batch_execute(leave).await.unwrap();
        assert_eq!(text(&client, "SELECT current_user").await.unwrap(), "shop-identity", "{leave}");
    }
}

#[tokio::test]
async fn advisory_locks_exclude_other_sessions() {
    let service = Service::start();
    let (one, two) = (service.connect().await, service.connect().await);
    one.query_one("SELECT pg_advisory_lock($1)", &[&7_i64]).await.unwrap();
    let tried = two.query_one("SELECT pg_try_advisory_lock(7)", &[]).await.unwrap();
    assert!(!tried.get::<_, bool>(0));
    let queries = service.server.counters().queries;
    let waiting = tokio::spawn(async move {
        two.query_one("SELECT pg_advisory_lock(7)", &[]).await.unwrap();
        two
    });
    service.server.wait_until(|counters| counters.queries > queries).await;
    assert!(!waiting.is_finished());
    let unlocked = one.query_one("SELECT pg_advisory_unlock(7)", &[]).await.unwrap();
    assert!(unlocked.get::<_, bool>(0));
    let two = waiting.await.unwrap();
    // Released with the session that holds it.
    drop(two);
    one.query_one("SELECT pg_advisory_lock(7)", &[]).await.unwrap();
}

#[tokio::test]
async fn discard_all_leaves_nothing_and_wants_no_transaction() {
    let service = Service::start();
    let client = service.connect().await;
    let statement = client.prepare("SELECT 1").await.unwrap();
    client
        .batch_execute(
            "CREATE TEMP TABLE scratch (id serial, note text); \
             INSERT INTO scratch (note) VALUES ('x'); \
             SET app.user = 'ada'; SELECT pg_advisory_lock(1)",
        )
        .await
        .unwrap();
    let by_sql = "SELECT name FROM pg_prepared_statement() WHERE from_sql";
    assert!(client.query(by_sql, &[]).await.unwrap().is_empty());
    client.batch_execute("BEGIN").await.unwrap();
    let inside = client.batch_execute("DISCARD ALL").await.unwrap_err();
    assert_eq!(sqlstate(&inside).0, "25001");
    client.batch_execute("ROLLBACK; DISCARD ALL").await.unwrap();

    let scratch = client.query("SELECT * FROM scratch", &[]).await.unwrap_err();
    assert_eq!(sqlstate(&scratch).0, "42P01");
    let sequence = client.query("SELECT lastval()", &[]).await.unwrap_err();
    assert_eq!(sqlstate(&sequence).0, "55000");
    assert_eq!(text(&client, "SELECT current_setting('app.user', true)").await.unwrap(), "");
    let other = service.connect().await;
    let lock = other.query_one("SELECT pg_try_advisory_lock(1)", &[]).await.unwrap();
    assert!(lock.get::<_, bool>(0));
    let gone = client.query(&statement, &[]).await.unwrap_err();
    assert_eq!(sqlstate(&gone).0, "26000");
}
