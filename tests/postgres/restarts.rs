//! A server that restarts under load, while its tokens are replaced.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use entra_pool::{
    connect::RetireReason,
    postgres::{self, Error, Pool},
    token::Identity,
};

use crate::{
    connector,
    support::{
        credential::{TestCredential, said},
        front::PostgresService,
    },
};

const TASKS: usize = 32;

/// The work of the tasks and its results.
struct Load {
    pool: Pool,
    over: AtomicBool,
    next_id: AtomicU64,
    acknowledged: Mutex<HashSet<i64>>,
    /// The number of inserts of each task that succeeded.
    successes: [AtomicU64; TASKS],
    /// The errors that are not transient.
    wrong: Mutex<Vec<String>>,
    failures: AtomicU64,
}

impl Load {
    /// Inserts rows until the test is over.
    async fn run(self: Arc<Self>, task: usize) {
        while !self.over.load(SeqCst) {
            let id = i64::try_from(self.next_id.fetch_add(1, SeqCst)).unwrap();
            match self.insert(id).await {
                Ok(()) => {
                    self.acknowledged.lock().unwrap().insert(id);
                    self.successes[task].fetch_add(1, SeqCst);
                }
                Err(None) => {
                    self.failures.fetch_add(1, SeqCst);
                }
                Err(Some(wrong)) => self.wrong.lock().unwrap().push(wrong),
            }
        }
    }

    /// `Err(None)` is a transient error.
    async fn insert(&self, id: i64) -> Result<(), Option<String>> {
        let unless = |transient: bool, error: &dyn std::error::Error| {
            (!transient).then(|| format!("{error:?}"))
        };
        let client = self.pool.get().await.map_err(|error| {
            let error = Error::from(error);
            unless(error.is_transient(), &error)
        })?;
        let inserting = async {
            let insert = client.prepare_cached("INSERT INTO orders VALUES ($1)").await?;
            client.execute(&insert, &[&id]).await
        };
        let inserted = inserting.await;
        inserted.map(|_| ()).map_err(|error| unless(postgres::is_transient(&error), &error))
    }

    /// Waits until every task has succeeded once more.
    async fn all_succeed(&self) {
        let before: Vec<u64> = self.successes.iter().map(|count| count.load(SeqCst)).collect();
        while self
            .successes
            .iter()
            .zip(&before)
            .any(|(count, before)| count.load(SeqCst) == *before)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_survives_three_restarts_and_new_tokens_without_losing_acknowledged_inserts() {
    let server = PostgresService::start().await;
    let credential = TestCredential::new("restarted", 2_000);
    server.create_principal(credential.principal()).await;
    server
        .sql("CREATE TABLE orders (id bigint PRIMARY KEY); GRANT ALL ON orders TO restarted")
        .await;
    let identity = Identity::new(credential.clone());
    let connector = connector(&identity, &server.url("restarted"));
    let load = Arc::new(Load {
        pool: connector.pool_builder().max_size(8).build(),
        over: AtomicBool::new(false),
        next_id: AtomicU64::new(0),
        acknowledged: Mutex::default(),
        successes: std::array::from_fn(|_| AtomicU64::new(0)),
        wrong: Mutex::default(),
        failures: AtomicU64::new(0),
    });
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(load.clone().run(task))).collect();
    load.all_succeed().await;

    for restart in 1..=3 {
        // The token in the cache is refused from here on.
        credential.rotate();
        server.restart().await;
        let since = Instant::now();
        tokio::time::timeout(Duration::from_secs(20), load.all_succeed()).await.unwrap();
        let back = since.elapsed();
        println!("restart {restart}: all {TASKS} tasks work again after {back:?}");
        assert!(back < Duration::from_secs(2), "{back:?}");
    }
    load.over.store(true, SeqCst);
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(20), task).await.expect("no task hangs").unwrap();
    }

    let wrong = std::mem::take(&mut *load.wrong.lock().unwrap());
    assert!(wrong.is_empty(), "{wrong:#?}");
    let report = connector.report();
    println!("{} failures, {report:?}", load.failures.load(SeqCst));
    assert_eq!((report.refused, credential.requests()), (0, 4), "one token for each restart");
    assert!(report.renewed >= 3, "{report:?}");
    let closed = report.retired.iter().find(|(reason, _)| *reason == RetireReason::Closed);
    assert!(closed.is_some(), "{report:?}");
    postgres::close_and_wait(&load.pool).await;

    let (client, connection) = connector.connect().await.map_err(|error| said(&error)).unwrap();
    tokio::spawn(connection);
    let rows = client.query("SELECT id FROM orders", &[]).await.unwrap();
    let there: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let acknowledged = load.acknowledged.lock().unwrap();
    println!("{} inserts acknowledged", acknowledged.len());
    assert_eq!(
        acknowledged.difference(&there).count(),
        0,
        "all acknowledged inserts are in the table"
    );
}
