//! The checks on Azure Database for PostgreSQL.

use std::time::{Duration, Instant};

use deadpool_postgres::GenericClient;
use entra_pool::{
    credential::Environment,
    postgres::{
        Config, Connector, Error, Pool, Recycling, close_and_wait, deadpool_postgres,
        tokio_postgres::{self, error::SqlState},
    },
    token::Identity,
};
use futures_util::{SinkExt, TryStreamExt};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Checked, ForAnotherAudience, Suite, causes, credentials, ensure, is_missing, median, passed,
    skipped,
};

/// The table that the checks create, for one run.
const TABLE: &str = "entra_pool_live";

/// The configuration and the identity of all checks.
pub struct Server {
    pub config: Config,
    /// The connection string of `config`.
    pub string: String,
    pub identity: Identity,
}

impl Server {
    fn connector(&self, config: Config) -> Connector {
        let tokens = self.identity.tokens(config.token_scope().unwrap());
        Connector::new(config, tokens).unwrap()
    }

    /// Builds a pool with its own connector and at most `size` connections.
    fn pool(&self, size: usize, recycling: Recycling) -> (Pool, Connector) {
        let connector = self.connector(self.config.clone().recycling(recycling));
        (connector.pool_builder().max_size(size).build(), connector)
    }

    /// Runs every check in order: first the checks that all others depend on.
    pub async fn run(&self, suite: &mut Suite, environment: &Environment) {
        println!("# PostgreSQL");
        suite.check("the identity logs in", login(self)).await;
        suite.check("the principal and its permissions", permissions(self)).await;
        suite.azure_check("the roles of Entra are listed", principals(self)).await;
        for (name, credential) in credentials(environment) {
            let identity = credential.map(Identity::new);
            suite.check(&format!("login with: {name}"), login_with(self, identity)).await;
        }
        suite.check("rows are written and read", table(self)).await;
        suite.check("COPY in and out", copy(self)).await;
        suite.check("a value of 1 MB comes back", long_value(self)).await;
        suite.check("no session state reaches the next caller", isolation(self)).await;
        suite.check("20 tasks share 4 connections", shared(self)).await;
        for recycling in [Recycling::Clean, Recycling::Fast] {
            let name = format!("locks of a returned transaction are released ({recycling:?})");
            suite.check(&name, locks(self, recycling)).await;
        }
        suite.check("a transaction commits, rolls back and is dropped", transactions(self)).await;
        suite.check("a dropped query is cancelled", dropped_query(self)).await;
        suite.check("an error of the server leaves the connection usable", error(self)).await;
        suite.check("a statement with a stale plan is prepared again", stale_plan(self)).await;
        suite.check("a new token logs in", rotation(self)).await;
        suite.check("a missing database is explained", missing_database(self)).await;
        suite.check("a missing role is explained", missing_role(self)).await;
        suite.check("a token for another audience is explained", audience(self)).await;
        suite.check("figures", figures(self)).await;
    }
}

async fn text(client: &impl GenericClient, sql: &str) -> Result<String, tokio_postgres::Error> {
    client.query_one(sql, &[]).await?.try_get(0)
}

async fn login(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone());
    let pool = connector.pool();
    let version = text(&pool.get().await?, "SELECT version()").await?;
    let principal = connector.report().token.principal;
    passed(format!("as {}: {version}", principal.as_deref().unwrap_or("an unnamed principal")))
}

async fn permissions(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let allowed = "SELECT has_schema_privilege(current_user, 'public', 'CREATE')::text";
    let client = pool.get().await?;
    ensure(text(&client, allowed).await? == "true", "CREATE in schema public is not permitted")?;
    passed(text(&client, "SELECT current_user || ' in ' || current_database()").await?)
}

async fn principals(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let list = "SELECT count(*)::text FROM pg_catalog.pgaadauth_list_principals(false)";
    match text(&pool.get().await?, list).await {
        Ok(count) => passed(format!("{count} roles")),
        Err(error) => skipped(format!("only an Entra administrator may list them: {error}")),
    }
}

async fn login_with(server: &Server, identity: Option<Identity>) -> Checked {
    let Some(identity) = identity else { return skipped("not configured") };
    let scope = server.config.token_scope()?;
    if let Some(reason) = is_missing(&identity, &scope).await {
        return skipped(reason);
    }
    let connector = Connector::new(server.config.clone(), identity.tokens(scope))?;
    let pool = connector.pool_builder().max_size(1).build();
    match pool.get().await.map_err(Error::from) {
        Ok(_) => passed(connector.report().token.principal.unwrap_or_default()),
        // The identity exists, but the user in the connection string belongs to another one.
        Err(refused @ Error::LoginRefused { .. }) => skipped(causes(&refused)),
        Err(error) => Err(error.into()),
    }
}

async fn table(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let client = pool.get().await?;
    client.batch_execute(&format!("DROP TABLE IF EXISTS {TABLE}")).await?;
    let columns = "id int PRIMARY KEY, item text NOT NULL";
    client.batch_execute(&format!("CREATE TABLE {TABLE} ({columns})")).await?;
    let insert = client.prepare_cached(&format!("INSERT INTO {TABLE} VALUES ($1, $2)")).await?;
    for id in 1..=3i32 {
        client.execute(&insert, &[&id, &format!("Stück {id}")]).await?;
    }
    let select = format!("SELECT item FROM {TABLE} WHERE id >= $1 ORDER BY id");
    let rows = client.query(&select, &[&2i32]).await?;
    let items: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    ensure(items == ["Stück 2", "Stück 3"], format!("{items:?}"))?;
    passed("")
}

async fn copy(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let client = pool.get().await?;
    client.batch_execute("CREATE TEMP TABLE live_copy (id int, item text)").await?;
    let sink = client.copy_in("COPY live_copy FROM STDIN").await?;
    let mut sink = std::pin::pin!(sink);
    let rows = (0..1000).map(|id| format!("{id}\titem {id}\n")).collect::<String>();
    sink.send(bytes::Bytes::from(rows.clone())).await?;
    ensure(sink.finish().await? == 1000, "not all rows were copied")?;
    let out = client.copy_out("COPY (SELECT * FROM live_copy ORDER BY id) TO STDOUT").await?;
    let chunks: Vec<bytes::Bytes> = out.try_collect().await?;
    ensure(chunks.concat() == rows.as_bytes(), "other rows came back")?;
    passed("1000 rows")
}

async fn long_value(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let sent = "ä".repeat(512 * 1024);
    let row = pool.get().await?.query_one("SELECT $1::text", &[&sent]).await?;
    ensure(row.get::<_, &str>(0) == sent, "another value came back")?;
    passed("")
}

async fn isolation(server: &Server) -> Checked {
    let (pool, connector) = server.pool(1, Recycling::Clean);
    let client = pool.get().await?;
    let left = "SET lock_timeout = '4321ms'; SET application_name = 'left'; \
                SELECT pg_advisory_lock(4321); LISTEN live; PREPARE live AS SELECT 1; \
                BEGIN; CREATE TEMP TABLE live (id int)";
    client.batch_execute(left).await?;
    drop(client);
    let next = pool.get().await?;
    let found = "SELECT current_setting('lock_timeout') || current_setting('application_name') \
                 || (SELECT count(*) FROM pg_listening_channels()) \
                 || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                     AND pid = pg_backend_pid())";
    let found = text(&next, found).await?;
    ensure(!found.contains("left") && found.starts_with('0') && found.ends_with("00"), &found)?;
    next.batch_execute("CREATE TEMP TABLE live (id int)").await?;
    passed(format!("{} logins", connector.report().logins))
}

async fn shared(server: &Server) -> Checked {
    let (pool, connector) = server.pool(4, Recycling::Clean);
    let mut tasks = JoinSet::new();
    for task in 0..20i32 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                let client = pool.get().await.map_err(Error::from)?;
                let row = client.query_one("SELECT $1::int", &[&task]).await?;
                ensure(row.get::<_, i32>(0) == task, "another task's row")?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    for ended in tasks.join_all().await {
        ended?;
    }
    ensure(connector.report().logins <= 4, connector.report())?;
    passed("200 queries")
}

async fn locks(server: &Server, recycling: Recycling) -> Checked {
    let (pool, _) = server.pool(1, recycling.clone());
    let (others, _) = server.pool(1, Recycling::Clean);
    let other = others.get().await?;
    let client = pool.get().await?;
    let locked = format!("BEGIN; UPDATE {TABLE} SET item = 'locked' WHERE id = 1");
    client.batch_execute(&locked).await?;
    drop(client);
    let began = Instant::now();
    other.batch_execute(&format!("UPDATE {TABLE} SET item = 'free' WHERE id = 1")).await?;
    let waited = began.elapsed();
    ensure(waited < Duration::from_secs(3), format!("locked for {waited:?} after the return"))?;
    passed(format!("after {} ms", waited.as_millis()))
}

async fn transactions(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let insert = |id: i32| format!("INSERT INTO {TABLE} VALUES ({id}, 'x')");
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute(&insert(10)).await?;
    transaction.commit().await?;
    let mut transaction = client.transaction().await?;
    transaction.batch_execute(&insert(11)).await?;
    let savepoint = transaction.savepoint("live").await?;
    savepoint.batch_execute(&insert(12)).await?;
    savepoint.rollback().await?;
    transaction.commit().await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute(&insert(13)).await?;
    drop(transaction);
    drop(client);
    let ids = format!("SELECT string_agg(id::text, ',' ORDER BY id) FROM {TABLE} WHERE id >= 10");
    let ids = text(&pool.get().await?, &ids).await?;
    ensure(ids == "10,11", &ids)?;
    passed("")
}

async fn dropped_query(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let (others, _) = server.pool(1, Recycling::Clean);
    let other = others.get().await?;
    let client = pool.get().await?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let query = client.batch_execute("SELECT pg_sleep(60)");
    ensure(
        tokio::time::timeout(Duration::from_secs(1), query).await.is_err(),
        "the query completed",
    )?;
    drop(client);
    let began = Instant::now();
    let running = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active'";
    for _ in 0..30 {
        if other.query_one(running, &[&pid]).await?.get::<_, i64>(0) == 0 {
            let next = pool.get().await?;
            ensure(text(&next, "SELECT 'usable'").await? == "usable", "not usable")?;
            return passed(format!("after {} ms", began.elapsed().as_millis()));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err("the query still runs after 3 s".into())
}

async fn error(server: &Server) -> Checked {
    let (pool, connector) = server.pool(1, Recycling::Clean);
    let client = pool.get().await?;
    let failed = client.query_one("SELECT 1 / 0", &[]).await.err().ok_or("1 / 0 has a result")?;
    ensure(failed.code() == Some(&SqlState::DIVISION_BY_ZERO), &failed)?;
    ensure(text(&client, "SELECT 'usable'").await? == "usable", "not usable")?;
    drop(client);
    drop(pool.get().await?);
    ensure(connector.report().logins == 1, connector.report())?;
    passed("")
}

async fn stale_plan(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let select = format!("SELECT * FROM {TABLE} WHERE id = 1");
    let client = pool.get().await?;
    let statement = client.prepare_cached(&select).await?;
    client.query(&statement, &[]).await?;
    client.batch_execute(&format!("ALTER TABLE {TABLE} ADD COLUMN more text")).await?;
    let stale = client.query(&statement, &[]).await.err().ok_or("the plan was not stale")?;
    ensure(stale.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED), &stale)?;
    let statement = client.prepare_cached(&select).await?;
    ensure(client.query(&statement, &[]).await?[0].len() == 3, "another number of columns")?;
    passed("")
}

async fn rotation(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone());
    let connect = async || {
        let pool = connector.pool_builder().max_size(1).build();
        pool.get().await.map(drop).map_err(Error::from)
    };
    connect().await?;
    let old = connector.tokens().token().await?;
    let renewed = connector.tokens().renew(&old).await?;
    connect().await?;
    passed(match renewed {
        Some(_) => "the credential returned another token",
        None => "the credential returned the same token",
    })
}

/// Returns the error of a login that must be refused.
async fn refusal(connector: &Connector) -> Result<Error, Box<dyn std::error::Error + Send + Sync>> {
    let refused = connector.pool_builder().max_size(1).build().get().await.map_err(Error::from);
    refused.err().ok_or_else(|| "the login was accepted".into())
}

async fn missing_database(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let database = text(&pool.get().await?, "SELECT current_database()::text").await?;
    let Some((before, after)) = server.string.rsplit_once(&format!("/{database}")) else {
        return skipped("the connection string is not a URL");
    };
    let missing = format!("{before}/entra_pool_missing{after}");
    let connector = server.connector(Config::parse_with_credential(&missing)?.0);
    let text = causes(&refusal(&connector).await?);
    ensure(text.contains("entra_pool_missing"), &text)?;
    passed(text)
}

async fn missing_role(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone().user("entra_pool_missing"));
    let error = refusal(&connector).await?;
    ensure(matches!(error, Error::LoginRefused { .. }), causes(&error))?;
    passed(causes(&error))
}

async fn audience(server: &Server) -> Checked {
    let identity = Identity::new(ForAnotherAudience(server.identity.clone()));
    let tokens = identity.tokens(server.config.token_scope()?);
    let error = refusal(&Connector::new(server.config.clone(), tokens)?).await?;
    ensure(matches!(error, Error::LoginRefused { .. }), causes(&error))?;
    passed(causes(&error))
}

async fn figures(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone());
    connector.tokens().warm_up().await?;
    let connect = median(5, async || {
        let (client, connection) = connector.connect().await?;
        drop((client, connection));
        Ok::<_, Error>(())
    })
    .await?;
    let pool = connector.pool_builder().max_size(1).build();
    let client = pool.get().await?;
    let round_trip = median(50, async || text(&client, "SELECT 'x'").await).await?;
    drop(client);
    let checkout = median(50, async || {
        let client = pool.get().await.map_err(Error::from)?;
        text(&client, "SELECT 'x'").await.map_err(|error| Error::Pool(Box::new(error.into())))
    })
    .await?;
    pool.get().await?.batch_execute(&format!("DROP TABLE IF EXISTS {TABLE}")).await?;
    close_and_wait(&pool).await;
    passed(format!(
        "median of connect {connect:.1?}, of checkout with a query {checkout:.1?}, \
         of a round trip {round_trip:.1?}"
    ))
}
