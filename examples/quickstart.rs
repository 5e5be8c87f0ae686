//! Shows all of entra-pool on one machine, in about 6 seconds, without Azure, a
//! database server or a network. The program starts the emulator instead. All
//! numbers are measured while it runs.
//!
//! ```sh
//! cargo run --example quickstart
//! ```
#![allow(clippy::disallowed_methods)] // Shows real times.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use entra_pool::{
    azure_sql,
    credential::{DefaultCredential, Environment, ManagedIdentity, UserAssignedId},
    postgres,
    token::{Identity, Scope, TokenCache},
};
use entra_pool_emulator::{
    emulator::Emulator,
    identity::Fault,
    jwt::{Principal, PrincipalKind},
};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The lifetime of the first token: short, so that it expires while the program runs.
const TOKEN_LIFETIME: Duration = Duration::from_secs(5);
const TASKS: i32 = 8;

#[tokio::main]
async fn main() -> Result<()> {
    let log = Log(Instant::now());
    let emulator = Emulator::start().await?;
    emulator.identity().configure_tokens(|tokens| {
        tokens.lifetime_seconds = TOKEN_LIFETIME.as_secs().try_into().expect("the lifetime fits");
    });
    log.print("the emulator runs: an identity endpoint, Azure SQL and PostgreSQL, on loopback");

    // One identity for all pools. In Azure, or after `az login`, this would be
    // `Identity::new(credential::from_env()?)`.
    let identity = Identity::new(
        DefaultCredential::new().environment(Environment::from_pairs(emulator.env())).build()?,
    );
    let tokens = identity.tokens(Scope::AZURE_SQL);
    tokens.warm_up().await?;
    log.print(format!("identity source: {}", tokens.report().credential));
    log.print(format!("the cache has {}", tokens.report()));

    let azure = azure_sql::pool_with(&identity, &emulator.azure_sql_string())?;
    let postgres = postgres::pool_with(&identity, &emulator.postgres_url())?;
    let checkouts = Arc::new(Checkouts::default());
    let databases = Databases { azure, postgres, checkouts };
    databases.fill(&log).await?;

    refresh(&databases, &tokens, &emulator, &log).await?;
    outage(&databases, &tokens, &emulator, &log).await?;
    refused(&emulator, &log).await?;

    let endpoint = emulator.identity();
    println!("\n{:<28}{:>12}{:>12}", "", "Azure SQL", "PostgreSQL");
    let row =
        |what, azure: String, postgres: String| println!("{what:<28}{azure:>12}{postgres:>12}");
    let (azure_logins, postgres_logins) =
        (emulator.azure_sql().counters().logins, emulator.postgres().counters().logins);
    row("logins", azure_logins.to_string(), postgres_logins.to_string());
    let [azure, postgres] = &databases.checkouts.0;
    row("checkouts", azure.count().to_string(), postgres.count().to_string());
    row("slowest checkout", azure.slowest(), postgres.slowest());
    let requests = |scope: Scope| endpoint.requests_for(scope.resource()).to_string();
    row("token requests", requests(Scope::AZURE_SQL), requests(Scope::AZURE_POSTGRESQL));
    Ok(())
}

/// Both pools, and the durations of their checkouts.
#[derive(Clone)]
struct Databases {
    azure: azure_sql::Pool,
    postgres: postgres::Pool,
    checkouts: Arc<Checkouts>,
}

impl Databases {
    /// Creates a table in each database. 8 tasks fill and read it.
    async fn fill(&self, log: &Log) -> Result<()> {
        let mut conn = self.checkouts.0[0].time(self.azure.get()).await?;
        conn.execute(
            "CREATE TABLE Orders (Id int IDENTITY(1,1) PRIMARY KEY, Item nvarchar(50) NOT NULL, Task int)",
            &[],
        )
        .await?;
        drop(conn);
        let start = Instant::now();
        let rows =
            from_tasks(self, |databases, task| async move { databases.order(task).await }).await?;
        log.print(format!(
            "Azure SQL: {TASKS} tasks filled and read a table of {rows} rows in {:.0?}",
            start.elapsed()
        ));

        let client = self.checkouts.0[1].time(self.postgres.get()).await?;
        client
            .batch_execute(
                "CREATE TABLE restaurant (id serial PRIMARY KEY, name text NOT NULL, task int)",
            )
            .await?;
        drop(client);
        let start = Instant::now();
        let rows =
            from_tasks(
                self,
                |databases, task| async move { databases.open_restaurant(task).await },
            )
            .await?;
        log.print(format!(
            "PostgreSQL: {TASKS} tasks filled and read a table of {rows} rows in {:.0?}",
            start.elapsed()
        ));
        Ok(())
    }

    /// Writes a row to Azure SQL. Returns the number of rows.
    async fn order(&self, task: i32) -> Result<i64> {
        let mut conn = self.checkouts.0[0].time(self.azure.get()).await?;
        // Without `commit`, the pool rolls back when the connection is returned.
        let mut transaction = conn.transaction().await?;
        transaction
            .execute("INSERT INTO Orders (Item, Task) VALUES (@P1, @P2)", &[&"a book", &task])
            .await?;
        transaction.commit().await?;
        let row = conn.query("SELECT COUNT_BIG(*) FROM Orders", &[]).await?.into_row().await?;
        Ok(row.and_then(|row| row.get(0)).ok_or("the count returned no row")?)
    }

    /// Writes a row to PostgreSQL. Returns the number of rows.
    async fn open_restaurant(&self, task: i32) -> Result<i64> {
        let client = self.checkouts.0[1].time(self.postgres.get()).await?;
        client
            .execute("INSERT INTO restaurant (name, task) VALUES ($1, $2)", &[&"Chez Token", &task])
            .await?;
        Ok(client.query_one("SELECT count(*) FROM restaurant", &[]).await?.get(0))
    }

    /// Writes a row to each database, 20 times a second for this time. Returns the number of rows.
    async fn work_for(&self, time: Duration) -> Result<u32> {
        let (start, mut rows) = (Instant::now(), 0);
        while start.elapsed() < time {
            self.order(0).await?;
            self.open_restaurant(0).await?;
            rows += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(rows)
    }
}

/// The first token expires while the pools work.
async fn refresh(
    databases: &Databases,
    tokens: &TokenCache,
    emulator: &Emulator,
    log: &Log,
) -> Result<()> {
    emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 3_600);
    // A slow endpoint, so that a caller that waits for the refresh would be noticed.
    emulator.identity().set_latency(Duration::from_millis(300));
    let (first, mut longest) = (tokens.token().await?, Duration::ZERO);
    let working = {
        let databases = databases.clone();
        tokio::spawn(async move { databases.work_for(TOKEN_LIFETIME).await })
    };
    while !working.is_finished() {
        let start = Instant::now();
        tokens.token().await?;
        longest = longest.max(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rows = working.await??;
    assert!(tokens.token().await?.expires_on() > first.expires_on(), "the token was refreshed");
    log.print(format!(
        "the token was refreshed in the background, during {rows} writes to each database; the \
         endpoint takes 300 ms, but no caller waited longer than {longest:.1?} for a token"
    ));
    log.print(format!("the cache has {}", tokens.report()));
    Ok(())
}

/// The identity endpoint goes down, and the pools continue.
async fn outage(
    databases: &Databases,
    tokens: &TokenCache,
    emulator: &Emulator,
    log: &Log,
) -> Result<()> {
    emulator.identity().set_latency(Duration::ZERO);
    emulator.identity().fail(Fault::Status(503, String::new()));
    log.print("the identity endpoint is down: it answers each request with 503");
    // Cuts the connections, so that the pool must log in again, and renews the token.
    emulator.azure_sql().cut_connections().await;
    let token = tokens.token().await?;
    let (rows, renewed) =
        tokio::join!(databases.work_for(Duration::from_millis(1_500)), tokens.renew(&token));
    log.print(format!("the pools continue with the old token: {} writes to each database", rows?));
    let error = renewed.err().ok_or("the endpoint is not down")?;
    log.print("meanwhile, the request for another token failed:");
    println!("{:>12}{}", "", with_causes(&error));
    emulator.identity().recover();
    log.print("the endpoint is available again");
    Ok(())
}

/// An identity has a token, but no user in the database.
async fn refused(emulator: &Emulator, log: &Log) -> Result<()> {
    let intern = Principal::new("intern", PrincipalKind::UserAssigned);
    emulator.identity().assign(intern.clone());
    let credential = ManagedIdentity::user_assigned(UserAssignedId::ClientId(intern.client_id))
        .environment(Environment::from_pairs(emulator.env()))
        .build()?;
    let pool = azure_sql::pool_with(&Identity::new(credential), &emulator.azure_sql_string())?;
    match pool.get().await {
        Ok(_) => Err("an unknown identity was granted access".into()),
        Err(azure_sql::PoolError::Backend(error)) => {
            log.print("an identity without a user in the database is refused:");
            println!("           {error}");
            Ok(())
        }
        Err(other) => Err(other.into()),
    }
}

fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error: &&dyn Error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Runs `work` in 8 tasks. Returns the largest of their results.
async fn from_tasks<F>(databases: &Databases, work: impl Fn(Databases, i32) -> F) -> Result<i64>
where
    F: Future<Output = Result<i64>> + Send + 'static,
{
    let tasks: Vec<_> =
        (0..TASKS).map(|task| tokio::spawn(work(databases.clone(), task))).collect();
    let mut most = 0;
    for task in tasks {
        most = most.max(task.await??);
    }
    Ok(most)
}

/// Prints each line with the elapsed time.
struct Log(Instant);

impl Log {
    fn print(&self, line: impl AsRef<str>) {
        println!("{:>8.3} s  {}", self.0.elapsed().as_secs_f64(), line.as_ref());
    }
}

/// The checkouts of Azure SQL and of PostgreSQL.
#[derive(Default)]
struct Checkouts([Times; 2]);

#[derive(Default)]
struct Times {
    count: AtomicU64,
    slowest_micros: AtomicU64,
}

impl Times {
    async fn time<T>(&self, checkout: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let connection = checkout.await;
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.slowest_micros.fetch_max(micros, Ordering::Relaxed);
        connection
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn slowest(&self) -> String {
        format!("{:.1?}", Duration::from_micros(self.slowest_micros.load(Ordering::Relaxed)))
    }
}
