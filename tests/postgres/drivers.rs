//! Code for tokio-postgres and deadpool-postgres works unchanged.

use std::{sync::Arc, time::Duration};

use entra_pool::{
    postgres::{Pool, deadpool_postgres, tokio_postgres},
    token::{Identity, Scope},
};

use crate::{
    backend, connector, credential_for, server,
    support::{
        credential::{TestCredential, code},
        front::PostgresService,
        postgres::DATABASE,
    },
    text,
};

#[tokio::test]
async fn a_query_is_cancelled_over_the_connectors_tls() {
    let identity = Identity::new(credential_for("cancel").await);
    let connector = connector(&identity, &server().await.url("cancel"));
    let pool = connector.pool();
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

/// Starts a second server, makes the first one read-only for `role`, and writes the certificates
/// of both authorities to a file.
pub async fn two_servers(
    role: &str,
) -> (PostgresService, TestCredential, String, tempfile::NamedTempFile) {
    let (standby, other) = (server().await, PostgresService::start().await);
    let credential = credential_for(role).await;
    other.create_principal(credential.principal()).await;
    standby.sql(&format!("ALTER ROLE {role} SET default_transaction_read_only = on")).await;
    let authorities = tempfile::NamedTempFile::new().unwrap();
    let both = standby.authority().pem() + &other.authority().pem();
    std::fs::write(authorities.path(), both).unwrap();
    let url = format!(
        "postgres://{role}@127.0.0.1:{},127.0.0.1:{}/{DATABASE}?sslrootcert={}&entra_scope={}",
        standby.port(),
        other.port(),
        authorities.path().display(),
        Scope::AZURE_POSTGRESQL
    );
    (other, credential, url, authorities)
}

#[tokio::test]
async fn target_session_attrs_selects_one_of_two_servers() {
    let (primary, credential, url, _authorities) = two_servers("attrs").await;
    let identity = Identity::new(credential);
    let standby = server().await.engine_port().to_string();
    for (wanted, port) in [
        ("any", &standby),
        ("read-only", &standby),
        ("read-write", &primary.engine_port().to_string()),
    ] {
        let connector = connector(&identity, &format!("{url}&target_session_attrs={wanted}"));
        let pool = connector.pool();
        let client = pool.get().await.unwrap();
        assert_eq!(text(&client, "SHOW port").await, *port, "{wanted}");
        // The cancel request goes to the same server, although the pool has two.
        let (token, tls) = (client.cancel_token(), connector.tls());
        let (slept, cancelled) =
            tokio::join!(client.batch_execute("SELECT pg_sleep(3600)"), async move {
                // An earlier request would find no query to cancel.
                tokio::time::sleep(Duration::from_millis(200)).await;
                token.cancel_query(tls).await
            });
        cancelled.unwrap();
        assert_eq!(code(&slept.unwrap_err()), Some("57014"), "{wanted}");
    }

    // After a failover, the connector connects to the new primary.
    server().await.sql("ALTER ROLE attrs RESET default_transaction_read_only").await;
    primary.sql("ALTER ROLE attrs SET default_transaction_read_only = on").await;
    let connector = connector(&identity, &format!("{url}&target_session_attrs=read-write"));
    let pool = connector.pool();
    assert_eq!(text(&pool.get().await.unwrap(), "SHOW port").await, standby);
}

#[tokio::test]
async fn a_connector_connects_without_a_pool() {
    let identity = Identity::new(credential_for("bare").await);
    let (client, connection) =
        connector(&identity, &server().await.url("bare")).connect().await.unwrap();
    let driver = tokio::spawn(connection);
    let row = client.query_one("SELECT 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
    drop(client);
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connector_works_with_a_custom_manager() {
    let identity = Identity::new(credential_for("own").await);
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
