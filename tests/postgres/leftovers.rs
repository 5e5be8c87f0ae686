//! What `Recycling::Clean` leaves in a session, as its documentation says, and what it does
//! not leave.

use entra_pool::{
    postgres::{
        self, Pool,
        deadpool_postgres::{Client, Hook, HookError},
    },
    token::Identity,
};

use crate::{backend, connector, let_in, pool_of_one, server, text};

const KITCHEN: &str = "SELECT 'kitchen'";

/// The name that the driver has given to a cached statement.
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
async fn a_statement_that_sql_puts_under_the_drivers_name_does_not_reach_the_next_borrower() {
    let pool = pool_of_one("forger").await;
    let a = pool.get().await.unwrap();
    let name = prepared(&a).await;
    let forge = format!("DEALLOCATE {name}; PREPARE {name} AS SELECT 'forged'");
    a.batch_execute(&forge).await.unwrap();
    assert_eq!(cached(&a).await, "forged", "its own borrower's");
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(cached(&b).await, "kitchen");
}

#[tokio::test]
async fn a_statement_prepared_by_sql_does_not_reach_the_next_borrower() {
    let pool = pool_of_one("preparer").await;
    for end in ["", "; BEGIN", "; BEGIN; SELECT 1/0"] {
        let a = pool.get().await.unwrap();
        let left = format!("PREPARE dishes AS SELECT 1{end}");
        assert_eq!(a.batch_execute(&left).await.is_err(), end.ends_with("1/0"));
        drop(a);
        let b = pool.get().await.unwrap();
        b.batch_execute("PREPARE dishes AS SELECT 2").await.unwrap();
    }
}

#[tokio::test]
async fn a_statement_that_sql_took_away_from_the_driver_is_prepared_again() {
    let pool = pool_of_one("deallocator").await;
    for how in ["DEALLOCATE ALL", "DISCARD ALL", "DEALLOCATE {}"] {
        let a = pool.get().await.unwrap();
        let name = prepared(&a).await;
        a.batch_execute(&how.replace("{}", &name)).await.unwrap();
        drop(a);
        let b = pool.get().await.unwrap();
        assert_eq!(cached(&b).await, "kitchen", "{how}");
    }
}

#[tokio::test]
async fn a_custom_setting_is_empty_and_not_null_for_the_next_borrower() {
    let pool = pool_of_one("setter").await;
    let is_null = "SELECT (current_setting('app.tenant', true) IS NULL)::text";
    let a = pool.get().await.unwrap();
    assert_eq!(text(&a, is_null).await, "true");
    let pid = backend(&a).await;
    a.batch_execute("SET app.tenant = 'a'").await.unwrap();
    drop(a);
    let b = pool.get().await.unwrap();
    assert_eq!(backend(&b).await, pid, "the same session");
    assert_eq!(text(&b, "SELECT current_setting('app.tenant')").await, "");
    assert_eq!(text(&b, is_null).await, "false");
}

#[tokio::test]
async fn the_seed_of_random_reaches_the_next_borrower() {
    let pool = pool_of_one("gambler").await;
    let draw = "SELECT random()::text";
    let a = pool.get().await.unwrap();
    a.batch_execute("SELECT setseed(0.5)").await.unwrap();
    let first = text(&a, draw).await;
    a.batch_execute("SELECT setseed(0.5)").await.unwrap();
    drop(a);
    assert_eq!(text(&pool.get().await.unwrap(), draw).await, first);
}

/// A pool of one, and SQL that opens a connection of that name to the same database.
async fn calling(role: &str, name: &str, hook: Option<Hook>) -> (Pool, String) {
    let (server, credential) = (server().await, let_in(role).await);
    server.sql("CREATE EXTENSION IF NOT EXISTS dblink").await;
    let connector = connector(&Identity::new(credential.clone()), &server.url(role));
    let mut builder = postgres::builder(connector).max_size(1);
    if let Some(hook) = hook {
        builder = builder.post_recycle(hook);
    }
    let connect = format!(
        "SELECT dblink_connect('{name}', 'host=127.0.0.1 port={} dbname=restaurant user={role} \
         password={} sslmode=require sslrootcert=none sslcert=none')",
        server.port(),
        credential.secret(),
    );
    (builder.build().unwrap(), connect)
}

const CALL: &str = "SELECT found FROM dblink('kitchen', 'SELECT current_user') AS (found text)";

#[tokio::test]
async fn connections_of_dblink_reach_the_next_borrower_unless_a_hook_closes_them() {
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
        let (pool, connect) = calling(role, "kitchen", hook).await;
        let a = pool.get().await.unwrap();
        a.batch_execute(&connect).await.unwrap();
        assert_eq!(text(&a, CALL).await, role);
        let pid = backend(&a).await;
        drop(a);
        let b = pool.get().await.unwrap();
        assert_eq!(backend(&b).await, pid, "the same session");
        let called = b.query_one(CALL, &[]).await;
        assert_eq!(called.is_err(), closed, "{called:?}");
    }
}
