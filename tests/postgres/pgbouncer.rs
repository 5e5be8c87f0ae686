//! The session state that a client of PgBouncer leaves for the next client, as documented in the
//! module `postgres`.

use entra_pool::{
    postgres::{
        self, Config, Connector, Pool, Recycling,
        tokio_postgres::{Client, SimpleQueryMessage},
    },
    token::Identity,
};

use crate::{credential_for, server, support::pgbouncer::PgBouncer};

/// Starts a PgBouncer with one server session, unless `settings` override that, and builds a
/// pool of two connections to it.
async fn pool(role: &str, settings: &str, recycling: Recycling) -> (PgBouncer, Pool) {
    let (server, credential) = (server().await, credential_for(role).await);
    let settings = format!("default_pool_size = 1\n{settings}");
    server.sql(&format!("GRANT pg_read_all_stats TO {role}")).await;
    let secret = credential.secret();
    let bouncer = PgBouncer::start_with(&settings, server, &[(role, &secret)]).await;
    let config: Config = server.url_at(bouncer.port(), role, "").parse().unwrap();
    let tokens = Identity::new(credential).tokens(config.token_scope().unwrap());
    let connector = Connector::new(config.recycling(recycling), tokens).unwrap();
    (bouncer, connector.pool_builder().max_size(2).build())
}

/// Queries without a prepared statement: PgBouncer 1.18 does not support them in transaction mode.
async fn value(client: &Client, sql: &str) -> String {
    let answer = client.simple_query(sql).await.unwrap();
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    rows.last().unwrap()
}

const LEAVE: [&str; 4] = [
    "SET app.tenant = 'a'",
    "CREATE TEMP TABLE bill (total int)",
    "SELECT pg_advisory_lock(4712)",
    "SET ROLE pg_read_all_stats",
];

const LEFT: &str = "a,bill,lock,pg_read_all_stats";

const FOUND: &str = "SELECT concat_ws(',', nullif(current_setting('app.tenant', true), ''), \
     to_regclass('bill')::text, \
     (SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
     nullif(current_setting('role'), 'none'))";

async fn leave_traces(client: &Client) {
    for statement in LEAVE {
        client.batch_execute(statement).await.unwrap();
    }
}

#[tokio::test]
async fn in_transaction_mode_session_state_reaches_the_next_client_with_each_recycling() {
    for recycling in [Recycling::Clean, Recycling::Fast] {
        let (_bouncer, pool) = pool("shared", "pool_mode = transaction", recycling.clone()).await;
        let a = pool.get().await.unwrap();
        leave_traces(&a).await;
        a.batch_execute("PREPARE dishes AS SELECT 'soup'").await.unwrap();
        let b = pool.get().await.unwrap();
        assert_eq!(value(&b, FOUND).await, LEFT, "{recycling:?}");
        assert_eq!(value(&b, "EXECUTE dishes").await, "soup");
        let taken = value(&b, "SELECT pg_try_advisory_lock(4712)").await;
        assert_eq!(taken, "t", "the lock does not exclude other clients");
    }
}

/// The cleaning resets the session that PgBouncer happens to assign.
#[tokio::test]
async fn in_transaction_mode_cleaning_resets_a_session_that_another_client_uses() {
    let (_bouncer, pool) = pool("taken", "pool_mode = transaction", Recycling::Clean).await;
    drop(pool.get().await.unwrap());
    let a = {
        let idle = pool.get().await.unwrap();
        let a = pool.get().await.unwrap();
        drop(idle);
        a
    };
    leave_traces(&a).await;
    assert_eq!(value(&a, FOUND).await, LEFT);
    drop(pool.get().await.unwrap());
    assert_eq!(value(&a, FOUND).await, "");
}

#[tokio::test]
async fn in_transaction_mode_a_transaction_left_open_is_rolled_back() {
    let (_bouncer, pool) = pool("open_there", "pool_mode = transaction", Recycling::Clean).await;
    let a = pool.get().await.unwrap();
    a.batch_execute("BEGIN; SET LOCAL app.tenant = 'a'").await.unwrap();
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(value(&b, FOUND).await, "");
    b.batch_execute("VACUUM pg_class").await.expect("VACUUM fails in a transaction");
}

#[tokio::test]
async fn in_transaction_mode_transaction_local_state_ends_with_the_transaction() {
    let settings = "pool_mode = transaction\ndefault_pool_size = 2";
    let (_bouncer, pool) = pool("local", settings, Recycling::Fast).await;
    let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    a.batch_execute(
        "BEGIN; SET LOCAL app.tenant = 'a'; SELECT pg_advisory_xact_lock(4713); \
         CREATE TEMP TABLE bill (total int) ON COMMIT DROP",
    )
    .await
    .unwrap();
    assert_eq!(value(&a, FOUND).await, "a,bill,lock");
    // In the other session, as the first one is in use.
    b.batch_execute("BEGIN").await.unwrap();
    assert_eq!(value(&b, FOUND).await, "");
    assert_eq!(value(&b, "SELECT pg_try_advisory_xact_lock(4713)").await, "f");
    a.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&b, "SELECT pg_try_advisory_xact_lock(4713)").await, "t");
    // In the first session again, as the other one is in use.
    assert_eq!(value(&a, FOUND).await, "");
    b.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn in_session_mode_no_state_reaches_the_next_caller_or_the_next_client() {
    let (_bouncer, pool) = pool("own", "pool_mode = session", Recycling::Clean).await;
    let a = pool.get().await.unwrap();
    leave_traces(&a).await;
    assert_eq!(value(&a, FOUND).await, LEFT);
    let pid = value(&a, "SELECT pg_backend_pid()").await;
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(value(&b, FOUND).await, "", "the next caller");
    leave_traces(&b).await;
    // The client disconnects, and PgBouncer gives its session to another client.
    drop(postgres::deadpool_postgres::Object::take(b));
    let c = pool.get().await.unwrap();
    assert_eq!(value(&c, "SELECT pg_backend_pid()").await, pid, "the same session");
    assert_eq!(value(&c, FOUND).await, "", "the next client");
}

#[tokio::test]
async fn in_transaction_mode_a_reset_after_each_transaction_leaves_nothing() {
    let settings = "pool_mode = transaction\nserver_reset_query_always = 1";
    let (_bouncer, pool) = pool("reset", settings, Recycling::Fast).await;
    let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    leave_traces(&a).await;
    for client in [&b, &a] {
        assert_eq!(value(client, FOUND).await, "");
    }
}
