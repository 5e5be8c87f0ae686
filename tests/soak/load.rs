//! The work of the tasks: one operation after another, each retried until it succeeds.

use std::{
    array,
    collections::BTreeMap,
    process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use entra_pool::{azure_sql, postgres};
use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    TASKS,
    acknowledged::{Acknowledged, Entry},
    chaos::{Database, Script, Step},
    errors::Failure,
};

/// An operation that takes longer hangs. The time limits of its parts add up to less: 8 s each
/// for waiting for a connection and for connecting, 5 s each for probes and queries.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// The application's own time limit for requests to PostgreSQL.
const QUERY_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// Inserts a row without a transaction.
    Insert,
    /// Inserts a row in a transaction.
    Commit,
    /// Inserts a row in a transaction that is rolled back.
    Rollback,
    /// Checks that an acknowledged row exists.
    Read,
    /// Inserts a row in a transaction that is left open, and changes other session state.
    LeaveOpen,
}

impl Operation {
    fn choose(random: &mut Rng) -> Self {
        // In the emulator, only one session at a time can write: most operations only read.
        *random
            .choice(&[Self::Insert, Self::Commit, Self::Rollback, Self::LeaveOpen])
            .filter(|_| random.u8(..3) == 0)
            .unwrap_or(&Self::Read)
    }

    fn entry(self) -> Entry {
        match self {
            Self::Insert | Self::Commit | Self::Read => Entry::Unknown,
            Self::Rollback | Self::LeaveOpen => Entry::Uncommitted,
        }
    }
}

/// The current operation of a task.
#[derive(Debug, Clone)]
struct Doing {
    operation: Operation,
    part: &'static str,
    began: Instant,
}

/// Half of the tasks use one database and half the other, so that a fault of one database does
/// not stop the other tasks.
fn database_of(task: usize) -> Database {
    if task.is_multiple_of(2) { Database::Azure } else { Database::Postgres }
}

pub fn tasks_of(database: Database) -> impl Iterator<Item = usize> {
    (0..TASKS).filter(move |task| database_of(*task) == database)
}

pub struct Load {
    azure: azure_sql::Pool,
    postgres: postgres::Pool,
    acknowledged: Arc<Acknowledged>,
    script: Arc<Script>,
    over: AtomicBool,
    succeeded: [AtomicU64; TASKS],
    abandoned: AtomicU64,
    /// The number of failed operations by the active step and the kind of error.
    errors: Mutex<BTreeMap<(Option<Step>, String), u64>>,
    failed: AtomicU64,
    /// Descriptions of violated expectations.
    violations: Mutex<Vec<String>>,
    doing: [Mutex<Option<Doing>>; TASKS],
    serial: AtomicU64,
}

impl Load {
    pub fn new(
        (azure, postgres): (azure_sql::Pool, postgres::Pool),
        acknowledged: &Arc<Acknowledged>,
        script: &Arc<Script>,
    ) -> Arc<Self> {
        Arc::new(Self {
            azure,
            postgres,
            acknowledged: Arc::clone(acknowledged),
            script: Arc::clone(script),
            over: AtomicBool::new(false),
            succeeded: array::from_fn(|_| AtomicU64::new(0)),
            abandoned: AtomicU64::new(0),
            errors: Mutex::default(),
            failed: AtomicU64::new(0),
            violations: Mutex::default(),
            doing: array::from_fn(|_| Mutex::default()),
            serial: AtomicU64::new(0),
        })
    }

    /// Starts all tasks.
    pub fn start(self: &Arc<Self>, seed: u64) -> Work {
        let mut random = Rng::with_seed(seed);
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            tasks.spawn(Arc::clone(self).work(task, random.fork()));
        }
        let (watched, end) = mpsc::channel();
        let load = Arc::clone(self);
        let watchdog = thread::spawn(move || load.watch(&end));
        Work { load: Arc::clone(self), tasks, watched, watchdog }
    }

    async fn work(self: Arc<Self>, task: usize, mut random: Rng) {
        while !self.over.load(Relaxed) {
            let operation = Operation::choose(&mut random);
            let patience =
                (random.u8(..8) == 0).then(|| Duration::from_micros(random.u64(..5_000)));
            // After an error, the operation is retried, as `is_transient` promises.
            while !self.over.load(Relaxed) {
                let began = Instant::now();
                let doing = Doing { operation, part: "checkout", began };
                *self.doing[task].lock().unwrap() = Some(doing);
                let outcome = self.try_once(task, operation, patience).await;
                *self.doing[task].lock().unwrap() = None;
                sleep(Duration::from_millis(random.u64(10..100))).await;
                match outcome {
                    Ok(()) => {
                        self.succeeded[task].fetch_add(1, Relaxed);
                        break;
                    }
                    Err(failure) => self.record_failure(task, operation, began, failure),
                }
            }
        }
    }

    /// Runs an operation, or abandons it after `patience`.
    async fn try_once(
        &self,
        task: usize,
        operation: Operation,
        patience: Option<Duration>,
    ) -> Result<(), Failure> {
        let attempt = async {
            match database_of(task) {
                Database::Azure => self.run_on_azure(task, operation).await,
                Database::Postgres => self.run_on_postgres(task, operation).await,
            }
        };
        let Some(patience) = patience else { return attempt.await };
        timeout(patience, attempt).await.unwrap_or_else(|_| {
            self.abandoned.fetch_add(1, Relaxed);
            Ok(())
        })
    }

    async fn run_on_azure(&self, task: usize, operation: Operation) -> Result<(), Failure> {
        let (me, acknowledged) =
            (self.serial.fetch_add(1, Relaxed).to_string(), &self.acknowledged);
        let mut client = self.azure.get().await?;
        self.set_part(task, "query");
        // If a session were not reset, its next caller would read this value.
        let enter = format!(
            "SELECT CAST(SESSION_CONTEXT(N'borrower') AS nvarchar(20)); \
             EXEC sp_set_session_context N'borrower', N'{me}'"
        );
        let entered = client.simple_query(enter).await?.into_first_result().await?;
        if let Some(before) = entered.first().and_then(|row| row.get::<&str, _>(0)) {
            return Err(Failure::wrong(format!("{me} got the session of {before}")));
        }
        if operation == Operation::Read {
            let Some(id) = acknowledged.last_acknowledged(task) else { return Ok(()) };
            let query = "SELECT id, @@TRANCOUNT, CAST(SESSION_CONTEXT(N'borrower') AS nvarchar(20)) FROM acknowledged WHERE id = @P1";
            let rows = client.query(query, &[&id]).await?.into_first_result().await?;
            let [row] = &rows[..] else {
                return Err(Failure::wrong(format!("{} rows of row {id}", rows.len())));
            };
            let found = (row.get::<i64, _>(0), row.get::<i32, _>(1), row.get::<&str, _>(2));
            if found != (Some(id), Some(0), Some(me.as_str())) {
                return Err(Failure::wrong(format!("asked for row {id}: {found:?}")));
            }
            return Ok(());
        }
        let begin = match operation {
            Operation::Commit | Operation::Rollback => "BEGIN TRANSACTION",
            Operation::LeaveOpen => {
                "SET LANGUAGE French; CREATE TABLE #left (n int); BEGIN TRANSACTION"
            }
            Operation::Insert | Operation::Read => "",
        };
        if !begin.is_empty() {
            client.simple_query(begin).await?.into_results().await?;
        }
        let id = acknowledged.write(task, operation.entry());
        let inserted = client.execute("INSERT INTO acknowledged VALUES (@P1)", &[&id]).await?;
        let inserted = inserted.total();
        if inserted != 1 {
            return Err(Failure::wrong(format!("{inserted} rows of one inserted")));
        }
        let end = match operation {
            Operation::Commit => "COMMIT TRANSACTION",
            Operation::Rollback => "ROLLBACK TRANSACTION",
            Operation::Insert | Operation::Read | Operation::LeaveOpen => "",
        };
        if !end.is_empty() {
            client.simple_query(end).await?.into_results().await?;
        }
        if operation.entry() == Entry::Unknown {
            acknowledged.acknowledge(task, id);
        }
        Ok(())
    }

    async fn run_on_postgres(&self, task: usize, operation: Operation) -> Result<(), Failure> {
        let mut client = self.postgres.get().await?;
        self.set_part(task, "query");
        let request = self.run_on_client(&mut client, task, operation);
        timeout(QUERY_LIMIT, request).await.unwrap_or_else(|_| Err(Failure::gave_up()))
    }

    async fn run_on_client(
        &self,
        client: &mut postgres::deadpool_postgres::Client,
        task: usize,
        operation: Operation,
    ) -> Result<(), Failure> {
        const INSERT: &str = "INSERT INTO acknowledged VALUES ($1)";
        let (me, acknowledged) =
            (self.serial.fetch_add(1, Relaxed).to_string(), &self.acknowledged);
        let enter = "SELECT coalesce(current_setting('soak.borrower', true), ''), set_config('soak.borrower', $1, false)";
        let enter = client.prepare_cached(enter).await?;
        let row = client.query_one(&enter, &[&me]).await?;
        let (before, now) = (row.get::<_, &str>(0), row.get::<_, &str>(1));
        if (before, now) != ("", &me) {
            return Err(Failure::wrong(format!("{me} got the session of {before} ({now})")));
        }
        let insert = client.prepare_cached(INSERT).await?;
        let id = match operation {
            Operation::Read => acknowledged.last_acknowledged(task).unwrap_or(-1),
            _ => acknowledged.write(task, operation.entry()),
        };
        let inserted = match operation {
            Operation::Insert => client.execute(&insert, &[&id]).await?,
            Operation::Commit | Operation::Rollback => {
                let transaction = client.transaction().await?;
                let inserted = transaction.execute(&insert, &[&id]).await?;
                match operation {
                    Operation::Commit => transaction.commit().await?,
                    _ => transaction.rollback().await?,
                }
                inserted
            }
            Operation::LeaveOpen => {
                client.batch_execute("BEGIN; CREATE TEMPORARY TABLE left_behind (n int)").await?;
                client.execute(&insert, &[&id]).await?
            }
            Operation::Read => {
                let read =
                    client.prepare_cached("SELECT id FROM acknowledged WHERE id = $1").await?;
                let rows = client.query(&read, &[&id]).await?;
                let found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
                if id >= 0 && found != [id] {
                    return Err(Failure::wrong(format!("asked for row {id}: {found:?}")));
                }
                return Ok(());
            }
        };
        if inserted != 1 {
            return Err(Failure::wrong(format!("{inserted} rows of one inserted")));
        }
        if operation.entry() == Entry::Unknown {
            acknowledged.acknowledge(task, id);
        }
        Ok(())
    }

    fn set_part(&self, task: usize, part: &'static str) {
        if let Some(doing) = &mut *self.doing[task].lock().unwrap() {
            doing.part = part;
        }
    }

    fn record_failure(&self, task: usize, operation: Operation, began: Instant, failure: Failure) {
        let database = database_of(task);
        self.failed.fetch_add(1, Relaxed);
        let steps = self.script.since(began);
        // Only a refused login is not transient. The connector may return its last refusal until
        // a login succeeds, which a later step can delay.
        let repeated = failure.said.contains("returned its last refusal");
        let refused =
            failure.login_refused && (repeated || steps.contains(&Step::RefuseLogins(database)));
        if failure.kind.is_none() || failure.transient == refused {
            let what = match failure.kind {
                None => "an unexpected error",
                Some(_) if failure.transient => "a refused login is classified as transient",
                Some(_) => "a transient error is not classified as transient",
            };
            let mut violations = self.violations.lock().unwrap();
            if violations.len() < 10 {
                violations.push(format!(
                    "{what}: {database:?} {operation:?}, during {steps:?}: {}",
                    failure.said
                ));
            }
        }
        let kind = format!("{database:?} {}", failure.kind.unwrap_or_default());
        let mut errors = self.errors.lock().unwrap();
        if steps.is_empty() {
            *errors.entry((None, kind)).or_default() += 1;
        } else {
            for step in steps {
                *errors.entry((Some(step), kind.clone())).or_default() += 1;
            }
        }
    }

    /// Terminates the process if an operation hangs, because nothing else may be able to report
    /// it.
    fn watch(&self, end: &mpsc::Receiver<()>) {
        while end.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
            for (task, doing) in self.doing.iter().enumerate() {
                let doing = doing.lock().unwrap().clone();
                if let Some(doing) = doing.filter(|doing| doing.began.elapsed() > HANGS_AFTER) {
                    let steps = self.script.since(doing.began);
                    let Doing { operation, part, began } = doing;
                    eprintln!(
                        "task {task} hangs: {:?} {operation:?}, {part}, for {:?}, meanwhile: {steps:?}",
                        database_of(task),
                        began.elapsed()
                    );
                    process::exit(101);
                }
            }
        }
    }

    /// Waits until every task has succeeded once more.
    pub async fn all_succeed(&self) {
        let counts = || self.succeeded.each_ref().map(|count| count.load(Relaxed));
        let before = counts();
        while counts().iter().zip(before).any(|(now, before)| *now == before) {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until an expectation is violated.
    pub async fn wait_for_violation(&self) {
        while self.violations.lock().unwrap().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    /// Returns the number of operations that succeeded (including abandoned ones), that were
    /// abandoned, and that failed.
    pub fn counts(&self) -> [u64; 3] {
        let succeeded = self.succeeded.iter().map(|count| count.load(Relaxed)).sum();
        [succeeded, self.abandoned.load(Relaxed), self.failed.load(Relaxed)]
    }

    /// Prints how many operations failed by step and kind of error. If several steps were active,
    /// an operation is listed under each.
    pub fn print_errors(&self) {
        let errors = self.errors.lock().unwrap();
        let mut last = None;
        for ((step, kind), count) in &*errors {
            if last != Some(step) {
                match step {
                    Some(step) => println!("{step:?}, {} times", self.script.times(*step)),
                    None => println!("between the steps"),
                }
                last = Some(step);
            }
            println!("{count:>8} {kind}");
        }
    }

    pub fn pools(&self) -> (&azure_sql::Pool, &postgres::Pool) {
        (&self.azure, &self.postgres)
    }
}

/// The running tasks and their watchdog.
pub struct Work {
    load: Arc<Load>,
    tasks: JoinSet<()>,
    watched: mpsc::Sender<()>,
    watchdog: thread::JoinHandle<()>,
}

impl Work {
    /// Stops the tasks and waits until each has finished its current attempt.
    pub async fn stop(mut self) {
        self.load.over.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no task panics");
        }
        drop(self.watched);
        self.watchdog.join().unwrap();
    }
}
