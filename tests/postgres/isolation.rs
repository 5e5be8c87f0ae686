//! Many tasks share few connections, and none of them sees another task's session state.

use std::time::{Duration, Instant};

use entra_pool::{
    clock::ManualClock,
    postgres::{Pool, deadpool_postgres::Client, tokio_postgres::Error},
    token::Identity,
};

use crate::{connector, credential_for, server, text};

const TASKS: usize = 50;
const LENGTH: Duration = Duration::from_secs(10);

/// The current user, the tenant, whether there is no temporary table, the number of advisory
/// locks, the number of rows that the policy shows, and whether there is no transaction.
const FOUND: &str = "SELECT current_user::text, coalesce(current_setting('app.tenant', true), ''), \
     to_regclass('bill') IS NULL, \
     (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
     (SELECT count(*) FROM tables_of_tenants), \
     pg_current_xact_id_if_assigned() IS NULL";

async fn assert_session_is_clean(client: &Client) {
    let found = client.prepare_cached(FOUND).await.unwrap();
    let row = client.query_one(&found, &[]).await.unwrap();
    let (user, tenant): (&str, &str) = (row.get(0), row.get(1));
    assert_eq!((user, tenant), ("isolated", ""));
    assert!(row.get::<_, bool>(2), "no temporary table");
    assert_eq!((row.get::<_, i64>(3), row.get::<_, i64>(4)), (0, 0), "no lock, no row");
    assert!(row.get::<_, bool>(5), "no transaction");
}

/// Works as `tenant`, and leaves the session in one of several states.
async fn leave_session_dirty(client: &mut Client, tenant: &str, how: usize) -> Result<(), Error> {
    client.execute("SELECT set_config('app.tenant', $1, false)", &[&tenant]).await?;
    let rows = client.query("SELECT tenant FROM tables_of_tenants", &[]).await?;
    let seen: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, [tenant], "only the tenant's own row");
    match how % 7 {
        0 => client.batch_execute("SET ROLE isolated_waiter; SET work_mem = '1MB'").await,
        1 => client.batch_execute("CREATE TEMP TABLE bill AS SELECT 1").await,
        2 => client.batch_execute("SELECT pg_advisory_lock_shared(815)").await,
        3 => {
            client
                .batch_execute(
                    "BEGIN; INSERT INTO acknowledged VALUES (1); SET LOCAL ROLE isolated_waiter",
                )
                .await
        }
        4 => {
            let failed = client
                .batch_execute("BEGIN; INSERT INTO acknowledged VALUES (1); SELECT 1/0")
                .await;
            assert!(failed.is_err());
            Ok(())
        }
        5 => {
            let transaction = client.transaction().await?;
            transaction.execute("INSERT INTO acknowledged VALUES (1)", &[]).await?;
            std::mem::forget(transaction);
            Ok(())
        }
        // Dropped while it runs.
        _ => {
            let query = client
                .batch_execute("BEGIN; INSERT INTO acknowledged SELECT generate_series(1, 2000)");
            tokio::select! {
                biased;
                done = query => done,
                () = tokio::task::yield_now() => Ok(()),
            }
        }
    }
}

async fn check_out_repeatedly(pool: Pool, task: usize) -> usize {
    let until = Instant::now() + LENGTH;
    let mut turns = 0;
    while Instant::now() < until {
        let mut client = pool.get().await.unwrap();
        assert_session_is_clean(&client).await;
        let tenant = format!("tenant {task}");
        leave_session_dirty(&mut client, &tenant, task + turns).await.unwrap();
        turns += 1;
    }
    turns
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_tasks_on_four_connections_do_not_see_each_others_session_state() {
    // The clock does not advance: on a busy machine, no time limit closes a healthy connection.
    let clock = ManualClock::at(std::time::SystemTime::now());
    let identity = Identity::builder(credential_for("isolated").await).clock(clock).build();
    server()
        .await
        .sql(&format!(
            "CREATE ROLE isolated_waiter; GRANT isolated_waiter TO isolated;
             CREATE TABLE acknowledged (id int);
             CREATE TABLE tables_of_tenants AS SELECT 'tenant ' || n AS tenant FROM generate_series(0, {TASKS} - 1) n;
             ALTER TABLE tables_of_tenants ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON tables_of_tenants USING (tenant = current_setting('app.tenant', true));
             GRANT ALL ON acknowledged, tables_of_tenants TO isolated, isolated_waiter"
        ))
        .await;
    let connector = connector(&identity, &server().await.url("isolated"));
    let pool = connector.pool_builder().max_size(4).wait_timeout(None).build();
    let tasks: Vec<_> =
        (0..TASKS).map(|task| tokio::spawn(check_out_repeatedly(pool.clone(), task))).collect();
    let mut turns = 0;
    for task in tasks {
        turns += task.await.unwrap();
    }
    println!("{turns} turns, {:?}", connector.report());
    assert!(turns >= TASKS * 7, "each task has left each state: {turns}");

    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT count(*)::text FROM acknowledged").await, "0");
    // Each of the four connections still has its statements, and none was retired.
    assert!(client.statement_cache.size() >= 1);
    let report = connector.report();
    assert_eq!((report.logins, report.retired.as_slice()), (4, [].as_slice()));
}
