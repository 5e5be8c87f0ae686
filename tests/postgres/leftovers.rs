//! The session state that `Recycling::Clean` leaves, as documented, and the state that it
//! removes.

use entra_pool::{
    connect::RetireReason,
    postgres::{
        Pool,
        deadpool_postgres::{Client, Hook, HookError},
    },
    token::Identity,
};

use crate::{
    backend, connector, credential_for, pool_of_one, server,
    support::{credential::code, logs::capture},
    text,
};

const KITCHEN: &str = "SELECT 'kitchen'";

/// Returns the driver's name for the cached statement.
async fn prepared(client: &Client) -> String {
    client.prepare_cached(KITCHEN).await.unwrap();
    let named = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT ''kitchen'''";
    text(client, named).await
}

async fn cached(client: &Client) -> String {
    let statement = client.prepare_cached(KITCHEN).await.unwrap();
    client.query_one(&statement, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_cached_statement_replaced_by_sql_does_not_reach_the_next_caller() {
    let identity = Identity::new(credential_for("forger").await);
    let connector = connector(&identity, &server().await.url("forger"));
    let pool = connector.pool_builder().max_size(1).build();
    for (retired, end) in (1..).zip(["", "; BEGIN", "; BEGIN; SELECT 1/0"]) {
        let a = pool.get().await.unwrap();
        let name = prepared(&a).await;
        let forge = format!("DEALLOCATE {name}; PREPARE {name} AS SELECT 'forged'");
        a.batch_execute(&forge).await.unwrap();
        assert_eq!(cached(&a).await, "forged", "for the same caller");
        assert_eq!(a.batch_execute(end).await.is_err(), end.ends_with("1/0"));
        drop(a);
        let logs = capture();
        let b = pool.get().await.unwrap();
        assert_eq!(cached(&b).await, "kitchen");
        assert_eq!(connector.report().retired, [(RetireReason::Recycling, retired)]);
        let why = format!("prepared by SQL: {name}");
        assert!(logs.text().contains(&why), "{}", logs.text());
    }
}

#[tokio::test]
async fn a_statement_prepared_by_sql_does_not_reach_the_next_caller() {
    let pool = pool_of_one("preparer").await;
    let a = pool.get().await.unwrap();
    a.batch_execute("PREPARE dishes AS SELECT 1").await.unwrap();
    drop(a);
    pool.get().await.unwrap().batch_execute("EXECUTE dishes").await.unwrap_err();
}

#[tokio::test]
async fn statements_deallocated_by_sql_are_missing_for_the_next_caller() {
    for (role, how) in [("deallocator", "DEALLOCATE ALL"), ("discarder", "DISCARD ALL")] {
        let types = format!("CREATE TYPE {role}_a AS ENUM (); CREATE TYPE {role}_b AS ENUM ()");
        server().await.sql(&types).await;
        let pool = pool_of_one(role).await;
        let a = pool.get().await.unwrap();
        prepared(&a).await;
        a.prepare(&format!("SELECT $1::{role}_a")).await.unwrap();
        a.batch_execute(how).await.unwrap();
        drop(a);
        let b = pool.get().await.unwrap();
        let statement = b.prepare_cached(KITCHEN).await.unwrap();
        let missing = b.query_one(&statement, &[]).await.unwrap_err();
        assert_eq!(code(&missing), Some("26000"), "{how}");
        let missing = b.prepare(&format!("SELECT $1::{role}_b")).await.unwrap_err();
        assert_eq!(code(&missing), Some("26000"), "{how}: the lookup of a type");
    }
}

#[tokio::test]
async fn a_custom_setting_is_empty_and_not_null_for_the_next_caller() {
    let pool = pool_of_one("setter").await;
    let a = pool.get().await.unwrap();
    for (setting, reset) in [("app.other", "DISCARD ALL"), ("app.tenant", "")] {
        let is_null = format!("SELECT (current_setting('{setting}', true) IS NULL)::text");
        assert_eq!(text(&a, &is_null).await, "true");
        a.batch_execute(&format!("SET {setting} = 'a'")).await.unwrap();
        a.batch_execute(reset).await.unwrap();
    }
    let pid = backend(&a).await;
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(backend(&b).await, pid, "the same session");
    for setting in ["app.tenant", "app.other"] {
        assert_eq!(text(&b, &format!("SELECT current_setting('{setting}')")).await, "");
        let or_null = format!("SELECT (nullif(current_setting('{setting}'), '') IS NULL)::text");
        assert_eq!(text(&b, &or_null).await, "true");
    }
}

#[tokio::test]
async fn the_seed_of_random_reaches_the_next_caller() {
    let pool = pool_of_one("gambler").await;
    let draw = "SELECT random()::text";
    for reset in ["", "DISCARD ALL"] {
        let a = pool.get().await.unwrap();
        a.batch_execute("SELECT setseed(0.5)").await.unwrap();
        let first = text(&a, draw).await;
        a.batch_execute("SELECT setseed(0.5)").await.unwrap();
        a.batch_execute(reset).await.unwrap();
        drop(a);
        assert_eq!(text(&pool.get().await.unwrap(), draw).await, first, "{reset}");
    }
}

/// Returns a pool of one connection, and SQL that opens two connections to the same database.
async fn calling(role: &str, hook: Option<Hook>) -> (Pool, String) {
    let (server, credential) = (server().await, credential_for(role).await);
    server.sql("CREATE EXTENSION IF NOT EXISTS dblink").await;
    let connector = connector(&Identity::new(credential.clone()), &server.url(role));
    let mut builder = connector.pool_builder().max_size(1);
    if let Some(hook) = hook {
        builder = builder.post_recycle(hook);
    }
    let to = format!(
        "'host=127.0.0.1 port={} dbname=restaurant user={role} password={} \
         sslmode=require sslrootcert=none sslcert=none'",
        server.port(),
        credential.secret(),
    );
    let connect = format!("SELECT dblink_connect('kitchen', {to}), dblink_connect({to})");
    (builder.build(), connect)
}

const CALL: &str = "SELECT found FROM dblink('kitchen', 'SELECT current_user') AS (found text)";
const CALL_UNNAMED: &str = "SELECT found FROM dblink('SELECT current_user') AS (found text)";

#[tokio::test]
async fn connections_of_dblink_reach_the_next_caller_unless_a_hook_closes_them() {
    let close = || {
        Hook::async_fn(|client, _| {
            Box::pin(async {
                let close = "SELECT dblink_disconnect(name) \
                             FROM unnest(dblink_get_connections()) AS name";
                client.batch_execute(close).await.map_err(HookError::Backend)
            })
        })
    };
    for (role, hook) in [("caller", None), ("tidy_caller", Some(close()))] {
        let closed = hook.is_some();
        let (pool, connect) = calling(role, hook).await;
        let a = pool.get().await.unwrap();
        a.batch_execute(&connect).await.unwrap();
        a.batch_execute("DISCARD ALL").await.unwrap();
        assert_eq!(text(&a, CALL).await, role);
        let pid = backend(&a).await;
        drop(a);
        let b = pool.get().await.unwrap();
        assert_eq!(backend(&b).await, pid, "the same session");
        let called = b.query_one(CALL, &[]).await;
        assert_eq!(called.is_err(), closed, "{called:?}");
        assert_eq!(text(&b, CALL_UNNAMED).await, role);
    }
}
