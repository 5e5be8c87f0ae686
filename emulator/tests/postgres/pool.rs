//! deadpool-postgres with the embedded engine.

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};

use super::Service;

#[tokio::test]
async fn deadpool_resets_and_reuses_a_session() {
    let service = Service::start();
    let config = ManagerConfig { recycling_method: RecyclingMethod::Clean };
    let manager = Manager::from_config(service.config(), service.tls(), config);
    let pool = Pool::builder(manager).max_size(1).build().unwrap();
    for borrower in 0..3 {
        let mut client = pool.get().await.unwrap();
        // The reset keeps the statement cache.
        let cached = client.prepare_cached("SELECT $1::int").await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let row = transaction.query_one(&cached, &[&borrower]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), borrower);
        transaction.commit().await.unwrap();
    }
    assert_eq!(service.front.counters().logins, 1);
}
