//! Many borrowers and few connections: whatever a borrower does, the next one finds a clean
//! session. Each borrower writes its name into the session's context, so that the next borrower
//! detects a session that was not reset.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use entra_pool::{
    azure_sql::{Client, Pool, PooledConnection, Recycling, tiberius},
    connect::RetireReason,
};
use futures_util::TryStreamExt;
use tiberius::error::Error;
use tokio::{task::JoinSet, time::timeout};

use crate::{Shop, failure, pool, recycled, retired, run, until};

const TASKS: u64 = 50;
const CONNECTIONS: usize = 4;

/// In real time, because the test looks for races.
const DURATION: Duration = Duration::from_secs(10);

/// Counts of checkouts and of misuses.
#[derive(Debug, Default)]
struct Tally {
    borrowed: AtomicU64,
    misuses: [AtomicU64; Misuse::ALL.len()],
}

/// How a borrower leaves its connection.
#[derive(Debug, Clone, Copy)]
enum Misuse {
    TemporaryTable,
    Context,
    Options,
    NoExec,
    IsolationLevel,
    Database,
    Transaction,
    TransactionByRequest,
    /// With NOEXEC, the transaction cannot be rolled back.
    TransactionAndNoExec,
    DroppedHalfWritten,
    DroppedBeforeResponse,
    DroppedAmongRows,
    Nothing,
}

impl Misuse {
    const ALL: [Self; 13] = [
        Self::TemporaryTable,
        Self::Context,
        Self::Options,
        Self::NoExec,
        Self::IsolationLevel,
        Self::Database,
        Self::Transaction,
        Self::TransactionByRequest,
        Self::TransactionAndNoExec,
        Self::DroppedHalfWritten,
        Self::DroppedBeforeResponse,
        Self::DroppedAmongRows,
        Self::Nothing,
    ];

    async fn run_on(self, client: &mut Client) {
        const BEGIN: &str = "SET LOCK_TIMEOUT 20; BEGIN TRANSACTION; INSERT INTO orders VALUES (1)";
        // If another borrower has locked the table, the transaction is open without an order.
        let begin = async |client: &mut Client| {
            let begun = async { client.simple_query(BEGIN).await?.into_results().await };
            if let Err(error) = begun.await {
                assert!(matches!(error.code(), Some(1222 | 1205)), "{error:?}");
            }
        };
        let one_moment = Duration::from_millis(1);
        match self {
            Self::TemporaryTable => {
                run(client, "CREATE TABLE #bill (n int); INSERT INTO #bill VALUES (1)").await;
            }
            Self::Context => run(client, "EXEC sp_set_session_context N'tenant', N'mine'").await,
            Self::Options => run(client, "SET LANGUAGE French").await,
            Self::NoExec => run(client, "SET NOEXEC ON").await,
            Self::IsolationLevel => {
                run(client, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await;
            }
            Self::Database => run(client, "USE master").await,
            Self::Transaction => begin(client).await,
            Self::TransactionByRequest => client.begin_transaction().await.unwrap(),
            Self::TransactionAndNoExec => {
                begin(client).await;
                run(client, "SET NOEXEC ON").await;
            }
            Self::DroppedHalfWritten => {
                // More packets than tokio lets a task write at once (128).
                let long = format!("SELECT '{}'", "x".repeat(400_000));
                tokio::select! {
                    biased;
                    answered = client.simple_query(long) => drop(answered),
                    () = std::future::ready(()) => {}
                }
            }
            Self::DroppedBeforeResponse => {
                let waiting = client.simple_query("WAITFOR DELAY '01:00:00'; SELECT 'not yours'");
                assert!(timeout(one_moment, waiting).await.is_err());
            }
            Self::DroppedAmongRows => {
                let long = "x".repeat(4_000);
                let sql = vec![format!("SELECT '{long}'"); 10].join(" UNION ALL ");
                let mut rows = client.simple_query(sql).await.unwrap();
                while !matches!(rows.try_next().await.unwrap(), Some(tiberius::QueryItem::Row(_))) {
                }
            }
            Self::Nothing => {}
        }
    }
}

/// One row with the session's state and its borrower, and one with the number of orders.
fn state_of(borrower: &str) -> String {
    format!(
        "SELECT '{borrower}', @@TRANCOUNT, @@LOCK_TIMEOUT, \
         DB_NAME(), @@LANGUAGE, CAST(SESSION_CONTEXT(N'tenant') AS nvarchar(20)), \
         CAST(transaction_isolation_level AS int), \
         CAST(SESSION_CONTEXT(N'borrower') AS nvarchar(20)) FROM sys.dm_exec_sessions; \
         SELECT COUNT(*) FROM orders; EXEC sp_set_session_context N'borrower', N'{borrower}'"
    )
}

async fn assert_clean(
    client: &mut Client,
    borrower: &str,
    recycling: Recycling,
    by_procedure: bool,
) -> Result<(), Error> {
    let sql = state_of(borrower);
    let rows = if by_procedure {
        client.query(sql, &[]).await?.into_results().await?
    } else {
        client.simple_query(sql).await?.into_results().await?
    };
    let rows: Vec<_> = rows.iter().flatten().collect();
    let [row, orders] = rows[..] else { panic!("{borrower}: {rows:?}") };
    assert_eq!(row.get::<&str, _>(0), Some(borrower), "the result of another request");
    assert_eq!(row.get::<i32, _>(1), Some(0), "{borrower}: @@TRANCOUNT");
    assert_eq!(row.get::<i32, _>(2), Some(-1), "{borrower}: @@LOCK_TIMEOUT");
    assert_eq!(row.get::<&str, _>(3), Some("orders"), "{borrower}: the database");
    assert_eq!(row.get::<&str, _>(4), Some("us_english"), "{borrower}: @@LANGUAGE");
    assert_eq!(row.get::<&str, _>(5), None, "{borrower}: SESSION_CONTEXT");
    // `Fast` does not restore the isolation level.
    let isolation_level = row.get::<i32, _>(6);
    assert!(recycling == Recycling::Fast || isolation_level == Some(2), "{borrower}");
    assert_eq!(row.get::<&str, _>(7), None, "{borrower}: the session was reset");
    assert_eq!(orders.get::<i32, _>(0), Some(0), "{borrower}: no order was committed");
    assert_eq!(failure(client, "SELECT * FROM #bill").await.code(), Some(208), "{borrower}");
    Ok(())
}

async fn borrow(pool: &Pool, recycling: Recycling, seed: u64, until: Instant, tally: &Tally) {
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0.. {
        if Instant::now() >= until {
            return;
        }
        let mut connection: PooledConnection = pool.get().await.unwrap();
        let clean = async {
            // The first request of a session can also be a transaction-manager request.
            if random.u8(..4) == 0 {
                connection.begin_transaction().await?;
                connection.rollback_transaction().await?;
            }
            let borrower = format!("{seed}-{round}");
            assert_clean(&mut connection, &borrower, recycling, random.bool()).await
        };
        match clean.await {
            Ok(()) => {}
            Err(error) => panic!("{error:?}"),
        }
        tally.borrowed.fetch_add(1, Relaxed);
        let chosen = (seed + round) as usize % Misuse::ALL.len();
        Misuse::ALL[chosen].run_on(&mut connection).await;
        tally.misuses[chosen].fetch_add(1, Relaxed);
    }
}

async fn many_borrowers(recycling: Recycling) {
    let shop = Shop::open().await;
    let connector = recycled(&shop.connector(""), recycling);
    run(&mut connector.connect().await.unwrap(), "CREATE TABLE orders (id int)").await;
    let (pool, tally) = (pool(&connector, CONNECTIONS), Arc::new(Tally::default()));
    let end = Instant::now() + DURATION;
    let mut borrowers = JoinSet::new();
    for seed in 0..TASKS {
        let (pool, tally) = (pool.clone(), Arc::clone(&tally));
        borrowers.spawn(async move { borrow(&pool, recycling, seed, end, &tally).await });
    }
    borrowers.join_all().await;
    // Waits for the last cleanings.
    until(|| pool.status().available == pool.status().size).await;

    let (counters, tally) = (shop.counters(), &*tally);
    println!("{recycling:?}: {tally:?}\n{counters:?}\n{:?}", retired(&connector));
    assert_eq!(counters.reset_bits, counters.resets);
    let borrowed = tally.borrowed.load(Relaxed);
    assert!(borrowed > TASKS, "{borrowed}");
    assert!(tally.misuses.iter().all(|count| count.load(Relaxed) > 0), "{tally:?}");
    // A borrower gets either a new connection or a session that was reset.
    assert!(counters.resets >= borrowed - (counters.logins - 1), "{counters:?}");
    assert!(counters.logins < borrowed, "sessions were reused");
    let reasons: Vec<_> = retired(&connector).into_iter().map(|(reason, _)| reason).collect();
    assert!(reasons.contains(&RetireReason::Unsettled), "{reasons:?}");
    let open_transaction = match recycling {
        Recycling::Fast => RetireReason::TransactionOpen,
        _ => RetireReason::Recycling,
    };
    assert!(reasons.contains(&open_transaction), "{reasons:?}");
    drop(pool);
    until(|| shop.counters().open_connections == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_reaches_the_next_borrower_with_clean_recycling() {
    many_borrowers(Recycling::Clean).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_reaches_the_next_borrower_with_fast_recycling() {
    many_borrowers(Recycling::Fast).await;
}
