//! Logins at the embedded engine. How tokens are refused is in `tests/front_postgres`.

use super::Service;

#[tokio::test]
async fn a_role_logs_in_with_its_token() {
    let service = Service::start();
    for length in [1_500, 8_000, 60_000] {
        let mut config = service.config();
        config.password(service.token(length));
        let client = service.connect_with(&config).await.unwrap();
        let row = client
            .query_one("SELECT current_user, current_database(), version()", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), "shop-identity");
        assert_eq!(row.get::<_, String>(1), "restaurant");
        assert!(row.get::<_, String>(2).starts_with("PostgreSQL 16"));
    }
    let counters = service.front.counters();
    assert_eq!((counters.logins, counters.refused_logins), (3, 0));
}

#[tokio::test]
async fn unknown_databases_and_removed_roles_are_refused() {
    let service = Service::start();
    let mut nowhere = service.config();
    nowhere.dbname("nowhere");
    assert_eq!(
        service.refusal(&nowhere).await,
        ("3D000".to_owned(), "database \"nowhere\" does not exist".to_owned())
    );
    service.connect().await;
    service.directory.remove("shop-identity");
    assert_eq!(
        service.refusal(&service.config()).await,
        ("28000".to_owned(), "role \"shop-identity\" does not exist".to_owned())
    );
    let counters = service.front.counters();
    assert_eq!((counters.logins, counters.refused_logins), (1, 2));
}

#[tokio::test]
async fn a_login_with_an_unsupported_setting_is_refused() {
    let service = Service::start();
    let mut config = service.config();
    config.options("-c statement_timeout=30s");
    let (code, message) = service.refusal(&config).await;
    assert_eq!(code, "0A000");
    assert!(message.contains("options"), "{message}");
}

#[tokio::test]
async fn a_cut_connection_ends_its_session() {
    let service = Service::start();
    let client = service.connect().await;
    client.batch_execute("CREATE TABLE dish (id int)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO dish VALUES (1)").await.unwrap();
    service.front.cut_connections().await;
    assert!(client.simple_query("SELECT 1").await.is_err());
    // The transaction is rolled back, and another one can write.
    let client = service.connect().await;
    client.batch_execute("INSERT INTO dish VALUES (2)").await.unwrap();
    let row = client.query_one("SELECT count(*) FROM dish", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}
