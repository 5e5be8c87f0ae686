//! What is written for tokio-postgres and deadpool-postgres works as it did.

use std::sync::Arc;

use entra_pool::{
    postgres::{self, Pool, deadpool_postgres, tokio_postgres},
    token::Identity,
};

use crate::{backend, connector, let_in, server, support::credential::code, text};

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
