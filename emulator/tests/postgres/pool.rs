//! deadpool-postgres in front of it.

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use entra_pool_emulator::jwt::{Principal, PrincipalKind};

use super::{Service, sqlstate};

fn pool(service: &Service, recycling_method: RecyclingMethod) -> Pool {
    let config = ManagerConfig { recycling_method };
    let manager = Manager::from_config(service.config(), service.tls(), config);
    Pool::builder(manager).max_size(1).build().unwrap()
}

/// Leaves behind all that a session can carry.
async fn dirty(service: &Service, pool: &Pool) {
    let reader = Principal::new("reader", PrincipalKind::UserAssigned);
    service.directory.add(reader);
    let client = pool.get().await.unwrap();
    client
        .batch_execute(
            "SET app.user = 'ada'; SET ROLE reader; SET statement_timeout = 5000; \
             CREATE TEMP TABLE scratch (id int); SELECT pg_advisory_lock(42); \
             CREATE TABLE IF NOT EXISTS numbered (id serial); \
             INSERT INTO numbered DEFAULT VALUES",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn clean_recycling_cleans_the_session() {
    let service = Service::start();
    let pool = pool(&service, RecyclingMethod::Clean);
    let statement = "SELECT current_user, coalesce(current_setting('app.user', true), ''), \
                     current_setting('statement_timeout')";
    let backend = "SELECT pg_backend_pid()";
    let pid: i32 = {
        let client = pool.get().await.unwrap();
        let cached = client.prepare_cached(statement).await.unwrap();
        client.query_one(&cached, &[]).await.unwrap();
        client.query_one(backend, &[]).await.unwrap().get(0)
    };
    dirty(&service, &pool).await;

    let client = pool.get().await.unwrap();
    let same: i32 = client.query_one(backend, &[]).await.unwrap().get(0);
    assert_eq!(same, pid, "it is the same session");
    // The statement cache outlives the cleaning.
    let cached = client.prepare_cached(statement).await.unwrap();
    let row = client.query_one(&cached, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "shop-identity");
    assert_eq!(row.get::<_, String>(1), "");
    assert_eq!(row.get::<_, String>(2), "0");
    let scratch = client.query("SELECT * FROM scratch", &[]).await.unwrap_err();
    assert_eq!(sqlstate(&scratch).0, "42P01");
    let sequence = client.query("SELECT lastval()", &[]).await.unwrap_err();
    assert_eq!(sqlstate(&sequence).0, "55000");
    let other = service.connect().await;
    let lock = other.query_one("SELECT pg_try_advisory_lock(42)", &[]).await.unwrap();
    assert!(lock.get::<_, bool>(0));
}

/// So that the test above cannot pass by accident.
#[tokio::test]
async fn fast_recycling_hands_everything_on() {
    let service = Service::start();
    let pool = pool(&service, RecyclingMethod::Fast);
    dirty(&service, &pool).await;
    let client = pool.get().await.unwrap();
    let row = client
        .query_one(
            "SELECT current_user, current_setting('app.user', true), \
             current_setting('statement_timeout'), count(*), lastval() FROM scratch",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "reader");
    assert_eq!(row.get::<_, String>(1), "ada");
    assert_eq!(row.get::<_, String>(2), "5000");
    assert_eq!(row.get::<_, i64>(3), 0);
    assert_eq!(row.get::<_, i64>(4), 1);
    let other = service.connect().await;
    let lock = other.query_one("SELECT pg_try_advisory_lock(42)", &[]).await.unwrap();
    assert!(!lock.get::<_, bool>(0));
}
