//! Many borrowers on few connections: nobody finds what another left.

use std::time::{Duration, Instant};

use entra_pool::{
    clock::ManualClock,
    postgres::{Pool, deadpool_postgres::Client, tokio_postgres::Error},
    token::Identity,
};

use crate::{connector, let_in, server, text};

const BORROWERS: usize = 50;
const LENGTH: Duration = Duration::from_secs(10);

/// Who one is, one's tenant, whether a temporary table is there, advisory locks, rows
/// that the policy shows, and the transaction that one is in.
const FOUND: &str = "SELECT current_user::text, coalesce(current_setting('app.tenant', true), ''), \
     to_regclass('bill') IS NULL, \
     (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
     (SELECT count(*) FROM tables_of_tenants), \
     pg_current_xact_id_if_assigned() IS NULL";

async fn finds_nothing_of_others(client: &Client) {
    let found = client.prepare_cached(FOUND).await.unwrap();
    let row = client.query_one(&found, &[]).await.unwrap();
    let (user, tenant): (&str, &str) = (row.get(0), row.get(1));
    assert_eq!((user, tenant), ("isolated", ""));
    assert!(row.get::<_, bool>(2), "no temporary table");
    assert_eq!((row.get::<_, i64>(3), row.get::<_, i64>(4)), (0, 0), "no lock, no row");
    assert!(row.get::<_, bool>(5), "no transaction");
}

/// Works as `tenant`, and leaves the session in one state or another.
async fn leaves_a_mess(client: &mut Client, tenant: &str, how: usize) -> Result<(), Error> {
    client.execute("SELECT set_config('app.tenant', $1, false)", &[&tenant]).await?;
    let rows = client.query("SELECT tenant FROM tables_of_tenants", &[]).await?;
    let seen: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, [tenant], "one's own row, and no other");
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

async fn borrow_again_and_again(pool: Pool, borrower: usize) -> usize {
    let until = Instant::now() + LENGTH;
    let mut turns = 0;
    while Instant::now() < until {
        let mut client = pool.get().await.unwrap();
        finds_nothing_of_others(&client).await;
        let tenant = format!("tenant {borrower}");
        leaves_a_mess(&mut client, &tenant, borrower + turns).await.unwrap();
        turns += 1;
    }
    turns
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_borrowers_of_four_connections_find_nothing_of_each_other() {
    // Its clock stands still: on a busy machine, no time limit ends a healthy connection.
    let clock = ManualClock::at(std::time::SystemTime::now());
    let identity = Identity::builder(let_in("isolated").await).clock(clock).build();
    server()
        .await
        .sql(&format!(
            "CREATE ROLE isolated_waiter; GRANT isolated_waiter TO isolated;
             CREATE TABLE acknowledged (id int);
             CREATE TABLE tables_of_tenants AS SELECT 'tenant ' || n AS tenant FROM generate_series(0, {BORROWERS} - 1) n;
             ALTER TABLE tables_of_tenants ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON tables_of_tenants USING (tenant = current_setting('app.tenant', true));
             GRANT ALL ON acknowledged, tables_of_tenants TO isolated, isolated_waiter"
        ))
        .await;
    let connector = connector(&identity, &server().await.url("isolated"));
    let pool = connector.pool_builder().max_size(4).wait_timeout(None).build();
    let borrowers: Vec<_> = (0..BORROWERS)
        .map(|borrower| tokio::spawn(borrow_again_and_again(pool.clone(), borrower)))
        .collect();
    let mut turns = 0;
    for borrower in borrowers {
        turns += borrower.await.unwrap();
    }
    println!("{turns} turns, {:?}", connector.report());
    assert!(turns >= BORROWERS * 7, "each has left each mess: {turns}");

    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT count(*)::text FROM acknowledged").await, "0");
    // Each of the four knows its statements still, and none had to go.
    assert!(client.statement_cache.size() >= 1);
    let report = connector.report();
    assert_eq!((report.logins, report.retired.as_slice()), (4, [].as_slice()));
}
