//! Code for deadpool-postgres that uses this crate only to create its pool.

use deadpool_postgres::{GenericClient, Pool, PoolError};
use entra_pool::postgres::pool_with;
use tokio_postgres::{Error, IsolationLevel, types::ToSql};

use crate::{identity_of, url_of};

async fn add(client: &impl GenericClient, dish: &str) -> Result<i64, Error> {
    let insert =
        client.prepare_cached("INSERT INTO dishes (name) VALUES ($1) RETURNING id").await?;
    let parameters: [&(dyn ToSql + Sync); 1] = [&dish];
    Ok(client.query_one(&insert, &parameters).await?.get("id"))
}

async fn count(client: &impl GenericClient) -> i64 {
    client.query_one("SELECT count(*) FROM dishes", &[]).await.unwrap().get(0)
}

async fn serve(pool: &Pool) -> Result<(), PoolError> {
    let mut client = pool.get().await?;
    client
        .batch_execute("CREATE TABLE dishes (id bigserial PRIMARY KEY, name text UNIQUE)")
        .await?;

    // The client, a transaction and a savepoint: each is a GenericClient.
    add(&client, "soup").await?;
    let mut transaction = client.transaction().await?;
    add(&transaction, "fish").await?;
    let savepoint = transaction.transaction().await?;
    add(&savepoint, "tart").await?;
    assert_eq!(count(&savepoint).await, 3);
    savepoint.rollback().await?;
    transaction.commit().await?;
    assert_eq!(count(&client).await, 2);

    // A dropped transaction is rolled back.
    let transaction = client.transaction().await?;
    add(&transaction, "tart").await?;
    drop(transaction);
    assert_eq!(count(&client).await, 2);

    let careful = client.build_transaction().isolation_level(IsolationLevel::Serializable);
    let transaction = careful.read_only(true).start().await?;
    let refused = add(&transaction, "tart").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
    drop(transaction);

    // Prepared once for the client, its transactions and the next caller.
    let cached = client.statement_cache.size();
    add(&client, "cheese").await?;
    assert_eq!(client.statement_cache.size(), cached);
    let twice = add(&client, "cheese").await.unwrap_err();
    assert_eq!(twice.as_db_error().unwrap().constraint(), Some("dishes_name_key"));
    drop(client);
    assert_eq!(pool.status().available, 1);
    let client = pool.get().await?;
    assert_eq!(client.statement_cache.size(), cached);
    add(&client, "coffee").await?;
    pool.manager().statement_caches.clear();
    assert_eq!(client.statement_cache.size(), 0);
    Ok(())
}

#[tokio::test]
async fn generic_clients_cached_statements_and_transactions_work_unchanged() {
    let pool = pool_with(&identity_of("unchanged").await, &url_of("unchanged").await).unwrap();
    serve(&pool).await.unwrap();

    let taken = deadpool_postgres::Client::take(pool.get().await.unwrap());
    assert_eq!(pool.status().size, 0);
    assert!(!taken.is_closed());
    pool.close();
    assert!(matches!(pool.get().await, Err(PoolError::Closed)));
}
