//! Many borrowers, few connections: whatever one does to its session, the next finds a new one.

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

/// Of real time: what is looked for are races.
const DURATION: Duration = Duration::from_secs(5);

const MISDEEDS: usize = 12;

/// What the borrowers have met with.
#[derive(Debug, Default)]
struct Tally {
    borrowed: AtomicU64,
    misdeeds: [AtomicU64; MISDEEDS],
}

/// What a borrower leaves behind.
async fn misdeed(client: &mut TdsClient, number: usize) {
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
            // Another may hold the table: then there is a transaction, and no order in it.
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
            // More packets than a task may write at once.
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

/// One row with all that a session has, and who asks.
async fn assert_clean(client: &mut TdsClient, borrower: &str) {
    let sql = format!(
        "SELECT '{borrower}', @@TRANCOUNT, @@LOCK_TIMEOUT, \
         DB_NAME(), @@LANGUAGE, CAST(SESSION_CONTEXT(N'tenant') AS nvarchar(20)), \
         CAST(transaction_isolation_level AS int), CAST(SESSION_CONTEXT(N'borrower') AS nvarchar(20)) \
         FROM sys.dm_exec_sessions"
    );
    let found = rows(client, &sql).await.unwrap_or_else(|error| panic!("{borrower}: {error:?}"));
    let [row] = &found[..] else { panic!("{borrower}: {found:?}") };
    let texts = [0, 3, 4, 5, 7].map(|column| as_text(&row[column]));
    let expected = [Some(borrower), Some("orders"), Some("us_english"), None, None];
    assert_eq!(texts, expected.map(|text| text.map(str::to_owned)));
    let number = |value: &ColumnValues| match value {
        ColumnValues::Int(number) => *number,
        other => panic!("{borrower}: {other:?}"),
    };
    let numbers = [1, 2, 6].map(|column| number(&row[column]));
    assert_eq!(numbers, [0, -1, 2], "{borrower}: transaction, lock timeout, isolation");
    let orders = rows(client, "SELECT COUNT(*) FROM orders").await.unwrap();
    assert_eq!(number(&orders[0][0]), 0, "{borrower}: no order was committed");
    // The next borrower would see a session that was not reset.
    run(client, &format!("EXEC sp_set_session_context N'borrower', N'{borrower}'")).await;
    let bill = rows(client, "SELECT * FROM #bill").await.unwrap_err();
    assert_eq!(code(&bill), Some(208), "{borrower}");
    assert_eq!(rows(client, "SELECT 1 UNION ALL SELECT 2").await.unwrap().len(), 2, "{borrower}");
}

async fn borrow(pool: &Pool, seed: u64, until: Instant, tally: &Tally) {
    for round in 0.. {
        if Instant::now() >= until {
            return;
        }
        let mut connection = pool.get().await.unwrap();
        assert_clean(&mut connection, &format!("{seed}-{round}")).await;
        tally.borrowed.fetch_add(1, Relaxed);
        let chosen = (seed + round) as usize % MISDEEDS;
        misdeed(&mut connection, chosen).await;
        tally.misdeeds[chosen].fetch_add(1, Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_reaches_the_next_of_many_borrowers() {
    let shop = Shop::open().await;
    let connector = shop.connector("Connect Timeout=60");
    run(&mut connector.connect().await.unwrap(), "CREATE TABLE orders (id int)").await;
    let pool = connector.pool_builder().max_size(CONNECTIONS).build();
    let tally = Arc::new(Tally::default());
    let end = Instant::now() + DURATION;
    let mut borrowers = JoinSet::new();
    for seed in 0..TASKS {
        let (pool, tally) = (pool.clone(), Arc::clone(&tally));
        borrowers.spawn(async move { borrow(&pool, seed, end, &tally).await });
    }
    borrowers.join_all().await;
    until(|| pool.status().available == pool.status().size).await;
    let (counters, borrowed) = (shop.counters(), tally.borrowed.load(Relaxed));
    println!("{tally:?}\n{counters:?}\n{:?}", retired(&connector));
    assert!(borrowed > TASKS, "{borrowed}");
    assert!(tally.misdeeds.iter().all(|count| count.load(Relaxed) > 0), "{tally:?}");
    assert!(counters.logins < borrowed, "sessions were lent again");
    drop(pool);
    until(|| shop.counters().open_connections == 0).await;
}
