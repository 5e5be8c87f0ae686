//! Many tasks share few connections: whatever a task does to its session, the next task finds it
//! clean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use entra_pool::adapters::mssql_tds::{
    Pool,
    mssql_tds::{
        connection::tds_client::{ResultSet, TdsClient},
        datatypes::column_values::ColumnValues,
        message::transaction_management::TransactionIsolationLevel,
    },
};
use tokio::{task::JoinSet, time::timeout};

use crate::{Shop, as_text, code, retired, rows, run, until};

const TASKS: u64 = 50;
const CONNECTIONS: usize = 4;

/// Real time, because the test looks for races.
const DURATION: Duration = Duration::from_secs(5);

const CHANGES: usize = 12;

/// Counts checkouts and changes.
#[derive(Debug, Default)]
struct Tally {
    checkouts: AtomicU64,
    changes: [AtomicU64; CHANGES],
}

/// Changes the session in one of several ways.
async fn change_session(client: &mut TdsClient, number: usize) {
    const BEGIN: &str = "SET LOCK_TIMEOUT 20; BEGIN TRANSACTION; INSERT INTO orders VALUES (1)";
    let one_moment = Duration::from_millis(1);
    match number {
        0 => run(client, "CREATE TABLE #bill (n int); INSERT INTO #bill VALUES (1)").await,
        1 => run(client, "EXEC sp_set_session_context N'tenant', N'mine'").await,
        2 => run(client, "SET LANGUAGE French; SET LOCK_TIMEOUT 5").await,
        3 => run(client, "SET NOEXEC ON").await,
        4 => run(client, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await,
        5 => run(client, "USE master").await,
        6 | 7 => {
            // Another task may have locked the table: then the transaction contains no order.
            if let Err(error) = rows(client, BEGIN).await {
                assert!(matches!(code(&error), Some(1222 | 1205)), "{error:?}");
            }
            if number == 7 {
                run(client, "SET NOEXEC ON").await;
            }
        }
        8 => {
            let level = TransactionIsolationLevel::Snapshot;
            client.begin_transaction(level, None).await.unwrap();
        }
        9 => {
            // More packets than a task can write without waiting.
            let long = format!("SELECT '{}'", "x".repeat(400_000));
            tokio::select! {
                biased;
                answered = client.execute(long, ()) => drop(answered),
                () = std::future::ready(()) => {}
            }
        }
        10 => {
            let waiting = client.execute("SELECT 'not yours'; WAITFOR DELAY '00:00:01'".into(), ());
            let _ = timeout(one_moment, waiting).await;
        }
        _ => {
            let long = "x".repeat(4_000);
            let sql = vec![format!("SELECT '{long}'"); 10].join(" UNION ALL ");
            client.execute(sql, ()).await.unwrap();
            client.next_row().await.unwrap();
        }
    }
}

/// Checks the session's state in one row, which also contains the caller's name.
async fn assert_clean(client: &mut TdsClient, caller: &str) {
    let sql = format!(
        "SELECT '{caller}', @@TRANCOUNT, @@LOCK_TIMEOUT, \
         DB_NAME(), @@LANGUAGE, CAST(SESSION_CONTEXT(N'tenant') AS nvarchar(20)), \
         CAST(transaction_isolation_level AS int), CAST(SESSION_CONTEXT(N'borrower') AS nvarchar(20)) \
         FROM sys.dm_exec_sessions"
    );
    let found = rows(client, &sql).await.unwrap_or_else(|error| panic!("{caller}: {error:?}"));
    let [row] = &found[..] else { panic!("{caller}: {found:?}") };
    let texts = [0, 3, 4, 5, 7].map(|column| as_text(&row[column]));
    let expected = [Some(caller), Some("orders"), Some("us_english"), None, None];
    assert_eq!(texts, expected.map(|text| text.map(str::to_owned)));
    let number = |value: &ColumnValues| match value {
        ColumnValues::Int(number) => *number,
        other => panic!("{caller}: {other:?}"),
    };
    let numbers = [1, 2, 6].map(|column| number(&row[column]));
    assert_eq!(numbers, [0, -1, 2], "{caller}: transaction, lock timeout, isolation");
    let orders = rows(client, "SELECT COUNT(*) FROM orders").await.unwrap();
    assert_eq!(number(&orders[0][0]), 0, "{caller}: an order was committed");
    // If the session is not reset, the next caller reads this value.
    run(client, &format!("EXEC sp_set_session_context N'borrower', N'{caller}'")).await;
    let bill = rows(client, "SELECT * FROM #bill").await.unwrap_err();
    assert_eq!(code(&bill), Some(208), "{caller}");
    assert_eq!(rows(client, "SELECT 1 UNION ALL SELECT 2").await.unwrap().len(), 2, "{caller}");
}

async fn check_out_repeatedly(pool: &Pool, seed: u64, until: Instant, tally: &Tally) {
    for round in 0.. {
        if Instant::now() >= until {
            return;
        }
        let mut connection = pool.get().await.unwrap();
        assert_clean(&mut connection, &format!("{seed}-{round}")).await;
        tally.checkouts.fetch_add(1, Relaxed);
        let chosen = (seed + round) as usize % CHANGES;
        change_session(&mut connection, chosen).await;
        tally.changes[chosen].fetch_add(1, Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_state_reaches_other_tasks() {
    let shop = Shop::open().await;
    let connector = shop.connector("Connect Timeout=60");
    run(&mut connector.connect().await.unwrap(), "CREATE TABLE orders (id int)").await;
    let pool = connector.pool_builder().max_size(CONNECTIONS).build();
    let tally = Arc::new(Tally::default());
    let end = Instant::now() + DURATION;
    let mut tasks = JoinSet::new();
    for seed in 0..TASKS {
        let (pool, tally) = (pool.clone(), Arc::clone(&tally));
        tasks.spawn(async move { check_out_repeatedly(&pool, seed, end, &tally).await });
    }
    tasks.join_all().await;
    until(|| pool.status().available == pool.status().size).await;
    let (counters, checkouts) = (shop.counters(), tally.checkouts.load(Relaxed));
    println!("{tally:?}\n{counters:?}\n{:?}", retired(&connector));
    assert!(checkouts > TASKS, "{checkouts}");
    assert!(tally.changes.iter().all(|count| count.load(Relaxed) > 0), "{tally:?}");
    assert!(counters.logins < checkouts, "sessions were reused");
    drop(pool);
    until(|| shop.counters().open_connections == 0).await;
}
