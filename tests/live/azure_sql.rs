//! The checks on Azure SQL.

use std::time::{Duration, Instant};

use entra_pool::{
    azure_sql::{
        Client, Config, Connector, Encrypt, Error, Pool, Recycling, close_and_wait, is_transient,
        tiberius::{self, IsolationLevel, numeric::Numeric},
    },
    connect::RetireReason,
    credential::Environment,
    token::Identity,
};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Checked, ForAnotherAudience, Suite, causes, credentials, ensure, is_missing, median, passed,
    skipped,
};

/// The tables that the checks create, each for one run.
const TABLE: &str = "entra_pool_live";

async fn number(client: &mut Client, sql: &str) -> Result<i32, tiberius::error::Error> {
    let row = client.simple_query(sql).await?.into_row().await?;
    Ok(row.and_then(|row| row.get(0)).unwrap_or_default())
}

async fn text(client: &mut Client, sql: &str) -> Result<Option<String>, tiberius::error::Error> {
    let row = client.simple_query(sql).await?.into_row().await?;
    Ok(row.and_then(|row| row.get::<&str, _>(0).map(ToOwned::to_owned)))
}

async fn run_sql(client: &mut Client, sql: &str) -> Result<(), tiberius::error::Error> {
    client.simple_query(sql).await?.into_results().await.map(drop)
}

/// The configuration and the identity of all checks.
struct Server {
    config: Config,
    identity: Identity,
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
}

fn retired(connector: &Connector, reason: RetireReason) -> u64 {
    let retired = connector.report().retired;
    retired.iter().filter(|(this, _)| *this == reason).map(|(_, count)| count).sum()
}

/// Runs every check in order: first the checks that all others depend on.
pub async fn run(suite: &mut Suite, config: Config, identity: Identity, environment: &Environment) {
    println!("# Azure SQL");
    let server = Server { config, identity };
    suite.check("a session reset is acknowledged", reset(&server)).await;
    suite.check("the identity logs in", login(&server)).await;
    suite.azure_check("the principal and its permissions", permissions(&server)).await;
    for (name, credential) in credentials(environment) {
        let identity = credential.map(Identity::new);
        suite.check(&format!("login with: {name}"), login_with(&server, identity)).await;
    }
    suite.check("rows are written and read", table(&server)).await;
    suite.check("values come back as they were sent", values(&server)).await;
    suite.check("a value of 1 MB comes back", long_value(&server)).await;
    suite.check("no session state reaches the next caller", isolation(&server)).await;
    suite.check("20 tasks share 4 connections", shared(&server)).await;
    for recycling in [Recycling::Clean, Recycling::Fast] {
        let name = format!("locks of a returned transaction are released ({recycling:?})");
        suite.check(&name, locks(&server, recycling)).await;
    }
    suite.check("a transaction commits, rolls back and is dropped", transactions(&server)).await;
    suite.check("an isolation level ends with its transaction", isolation_level(&server)).await;
    suite.check("a dropped query is cancelled", dropped_query(&server)).await;
    suite.check("Command Timeout cancels a query", command_timeout(&server)).await;
    suite.check("an error of the server leaves the connection usable", error(&server)).await;
    suite.check("a new token logs in", rotation(&server)).await;
    suite.check("Encrypt=Strict", strict(&server)).await;
    suite.azure_check("the gateway's routing is followed", routing(&server)).await;
    suite.check("a missing database is explained", missing_database(&server)).await;
    suite.azure_check("a token for another audience is explained", audience(&server)).await;
    suite.check("figures", figures(&server)).await;
}

async fn reset(server: &Server) -> Checked {
    let (pool, connector) = server.pool(1, Recycling::Clean);
    run_sql(&mut *pool.get().await?, "CREATE TABLE #live (id int)").await?;
    let mut next = pool.get().await?;
    // This fails if the table still exists.
    run_sql(&mut next, "CREATE TABLE #live (id int)").await?;
    let report = connector.report();
    ensure(retired(&connector, RetireReason::ResetNotAcknowledged) == 0, &report)?;
    ensure(report.logins == 1, &report)?;
    passed("")
}

async fn login(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone());
    let mut connection = connector.connect().await?;
    ensure(number(&mut connection, "SELECT 1").await? == 1, "SELECT 1 did not return 1")?;
    let principal = connector.report().token.principal;
    passed(format!("as {}", principal.as_deref().unwrap_or("an unnamed principal")))
}

async fn permissions(server: &Server) -> Checked {
    let mut connection = server.connector(server.config.clone()).connect().await?;
    let who = text(&mut connection, "SELECT USER_NAME() + ' in ' + DB_NAME()").await?;
    let allowed = "SELECT HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE TABLE')";
    ensure(number(&mut connection, allowed).await? == 1, "CREATE TABLE is not permitted")?;
    let kind = "SELECT type_desc FROM sys.database_principals WHERE name = USER_NAME()";
    let kind = text(&mut connection, kind).await?;
    passed(format!("{} ({})", who.unwrap_or_default(), kind.unwrap_or_default()))
}

async fn login_with(server: &Server, identity: Option<Identity>) -> Checked {
    let Some(identity) = identity else { return skipped("not configured") };
    let scope = server.config.token_scope()?;
    if let Some(reason) = is_missing(&identity, &scope).await {
        return skipped(reason);
    }
    let connector = Connector::new(server.config.clone(), identity.tokens(scope))?;
    match connector.connect().await {
        Ok(_) => passed(connector.report().token.principal.unwrap_or_default()),
        // The identity exists, but it has no user in this database.
        Err(Error::LoginRefused(refused)) => skipped(refused),
        Err(error) => Err(error.into()),
    }
}

async fn table(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let mut conn = pool.get().await?;
    run_sql(&mut conn, &format!("DROP TABLE IF EXISTS {TABLE}")).await?;
    let columns = "id int NOT NULL PRIMARY KEY, item nvarchar(50) NOT NULL";
    run_sql(&mut conn, &format!("CREATE TABLE {TABLE} ({columns})")).await?;
    let insert = format!("INSERT INTO {TABLE} (id, item) VALUES (@P1, @P2)");
    for id in 1..=3 {
        conn.execute(insert.as_str(), &[&id, &format!("Stück {id}")]).await?;
    }
    let select = format!("SELECT item FROM {TABLE} WHERE id >= @P1 ORDER BY id");
    let rows = conn.query(select.as_str(), &[&2]).await?.into_first_result().await?;
    let items: Vec<&str> = rows.iter().filter_map(|row| row.get(0)).collect();
    ensure(items == ["Stück 2", "Stück 3"], format!("{items:?}"))?;
    passed("")
}

async fn values(server: &Server) -> Checked {
    let mut conn = server.connector(server.config.clone()).connect().await?;
    let price = Numeric::new_with_scale(123_456, 2);
    let sent = "SELECT @P1, @P2, @P3, @P4";
    let request = async {
        let rows = conn.query(sent, &[&"naïve ✓ 日本", &price, &true, &1.5f64]).await?;
        rows.into_row().await
    };
    let row = match request.await {
        Err(error) if error.to_string().contains("emulator does not support") => {
            return skipped(error);
        }
        row => row?.ok_or("no row")?,
    };
    ensure(row.get::<&str, _>(0) == Some("naïve ✓ 日本"), format!("{row:?}"))?;
    ensure(row.get::<Numeric, _>(1) == Some(price), format!("{row:?}"))?;
    ensure(row.get::<bool, _>(2) == Some(true), format!("{row:?}"))?;
    ensure(row.get::<f64, _>(3) == Some(1.5), format!("{row:?}"))?;
    passed("")
}

async fn long_value(server: &Server) -> Checked {
    let mut conn = server.connector(server.config.clone()).connect().await?;
    let sent = "ä".repeat(512 * 1024);
    let row = conn.query("SELECT @P1", &[&sent.as_str()]).await?.into_row().await?;
    let row = row.ok_or("no row")?;
    let length = row.get::<&str, _>(0).map_or(0, str::len);
    ensure(row.get::<&str, _>(0) == Some(sent.as_str()), format!("{length} bytes came back"))?;
    passed("")
}

async fn isolation(server: &Server) -> Checked {
    let (pool, connector) = server.pool(1, Recycling::Clean);
    let mut conn = pool.get().await?;
    run_sql(&mut conn, "SET LANGUAGE German").await?;
    run_sql(&mut conn, "SET LOCK_TIMEOUT 4321").await?;
    run_sql(&mut conn, "EXEC sp_set_session_context N'tenant', N'42'").await?;
    run_sql(&mut conn, "BEGIN TRANSACTION; CREATE TABLE #live (id int)").await?;
    drop(conn);
    let mut next = pool.get().await?;
    let tenant = "SELECT CAST(SESSION_CONTEXT(N'tenant') AS nvarchar(20))";
    let left = [
        text(&mut next, "SELECT @@LANGUAGE").await?,
        text(&mut next, tenant).await?,
        Some(number(&mut next, "SELECT @@LOCK_TIMEOUT").await?.to_string()),
        Some(number(&mut next, "SELECT @@TRANCOUNT").await?.to_string()),
    ];
    let expected = [Some("us_english"), None, Some("-1"), Some("0")];
    ensure(left.iter().map(Option::as_deref).eq(expected), format!("{left:?}"))?;
    run_sql(&mut next, "CREATE TABLE #live (id int)").await?;
    ensure(connector.report().logins == 1, connector.report())?;
    passed("")
}

async fn shared(server: &Server) -> Checked {
    let (pool, connector) = server.pool(4, Recycling::Clean);
    let mut tasks = JoinSet::new();
    for task in 0..20i32 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                let mut conn = pool.get().await.map_err(|error| error.to_string())?;
                let row = conn.query("SELECT @P1", &[&task]).await.map_err(|e| e.to_string())?;
                let row = row.into_row().await.map_err(|error| error.to_string())?;
                if row.and_then(|row| row.get(0)) != Some(task) {
                    return Err(format!("task {task} got another task's row"));
                }
            }
            Ok(())
        });
    }
    for ended in tasks.join_all().await {
        ended?;
    }
    ensure(connector.report().logins <= 4, connector.report())?;
    passed("200 queries")
}

async fn locks(server: &Server, recycling: Recycling) -> Checked {
    let (pool, _) = server.pool(1, recycling);
    let (others, _) = server.pool(1, Recycling::Clean);
    let mut other = others.get().await?;
    let mut conn = pool.get().await?;
    run_sql(&mut conn, "BEGIN TRANSACTION").await?;
    run_sql(&mut conn, &format!("UPDATE {TABLE} SET item = N'locked' WHERE id = 1")).await?;
    drop(conn);
    let began = Instant::now();
    run_sql(&mut other, &format!("UPDATE {TABLE} SET item = N'free' WHERE id = 1")).await?;
    let waited = began.elapsed();
    ensure(waited < Duration::from_secs(1), format!("locked for {waited:?} after the return"))?;
    passed(format!("after {} ms", waited.as_millis()))
}

async fn transactions(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let insert = |id: i32| format!("INSERT INTO {TABLE} VALUES ({id}, N'x')");
    let mut conn = pool.get().await?;
    let mut transaction = conn.transaction().await?;
    run_sql(&mut transaction, &insert(10)).await?;
    transaction.commit().await?;
    let mut transaction = conn.transaction().await?;
    run_sql(&mut transaction, &insert(11)).await?;
    let mut savepoint = transaction.savepoint().await?;
    run_sql(&mut savepoint, &insert(12)).await?;
    savepoint.rollback().await?;
    transaction.commit().await?;
    let mut transaction = conn.transaction().await?;
    run_sql(&mut transaction, &insert(13)).await?;
    transaction.rollback().await?;
    let mut transaction = conn.transaction().await?;
    run_sql(&mut transaction, &insert(14)).await?;
    drop(transaction);
    drop(conn);
    let mut next = pool.get().await?;
    let count = format!("SELECT COUNT(*) FROM {TABLE} WHERE id >= 10");
    let sum = format!("SELECT SUM(id) FROM {TABLE} WHERE id >= 10");
    let found = (number(&mut next, &count).await?, number(&mut next, &sum).await?);
    ensure(found == (2, 21), format!("{found:?}"))?;
    passed("")
}

async fn isolation_level(server: &Server) -> Checked {
    let (pool, _) = server.pool(1, Recycling::Clean);
    let mut conn = pool.get().await?;
    let transaction = conn.transaction_with(IsolationLevel::Serializable).await?;
    transaction.commit().await?;
    let level = "SELECT CAST(transaction_isolation_level AS int) \
                 FROM sys.dm_exec_sessions WHERE session_id = @@SPID";
    match number(&mut conn, level).await {
        Ok(level) => {
            ensure(level == 2, format!("isolation level {level}"))?;
            passed("")
        }
        Err(error) => skipped(format!("cannot be read here: {error}")),
    }
}

async fn dropped_query(server: &Server) -> Checked {
    let (pool, connector) = server.pool(1, Recycling::Clean);
    let mut conn = pool.get().await?;
    let query = conn.simple_query("WAITFOR DELAY '00:01:00'; SELECT 1");
    ensure(
        tokio::time::timeout(Duration::from_secs(1), query).await.is_err(),
        "the query completed",
    )?;
    drop(conn);
    let began = Instant::now();
    let mut next = pool.get().await?;
    ensure(number(&mut next, "SELECT 1").await? == 1, "SELECT 1 did not return 1")?;
    let waited = began.elapsed();
    ensure(waited < Duration::from_secs(5), format!("the pool was usable after {waited:?}"))?;
    let running = "SELECT COUNT(*) FROM sys.dm_exec_requests WHERE wait_type = 'WAITFOR'";
    for _ in 0..30 {
        match number(&mut next, running).await {
            Ok(0) => {
                return passed(format!(
                    "unsettled: {}",
                    retired(&connector, RetireReason::Unsettled)
                ));
            }
            Ok(_) => sleep(Duration::from_millis(100)).await,
            Err(error) => return passed(format!("the server's list cannot be read: {error}")),
        }
    }
    Err("the query still runs after 3 s".into())
}

async fn command_timeout(server: &Server) -> Checked {
    let limit = Duration::from_secs(1);
    let connector = server.connector(server.config.clone().command_timeout(limit));
    let pool = connector.pool_builder().max_size(1).build();
    let mut conn = pool.get().await?;
    let began = Instant::now();
    let ended = run_sql(&mut conn, "WAITFOR DELAY '00:01:00'").await;
    let waited = began.elapsed();
    ensure(ended.is_err() && waited < 3 * limit, format!("{ended:?} after {waited:?}"))?;
    drop(conn);
    ensure(number(&mut *pool.get().await?, "SELECT 1").await? == 1, "SELECT 1 did not return 1")?;
    passed("")
}

async fn error(server: &Server) -> Checked {
    let (pool, connector) = server.pool(1, Recycling::Clean);
    let mut conn = pool.get().await?;
    let failed = run_sql(&mut conn, "SELECT 1 / 0").await.err().ok_or("1 / 0 has a result")?;
    let code = match &failed {
        tiberius::error::Error::Server(error) => error.code(),
        _ => 0,
    };
    ensure(code == 8134 && !is_transient(&failed), &failed)?;
    ensure(number(&mut conn, "SELECT 1").await? == 1, "SELECT 1 did not return 1")?;
    drop(conn);
    drop(pool.get().await?);
    ensure(connector.report().logins == 1, connector.report())?;
    passed("")
}

async fn rotation(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone());
    drop(connector.connect().await?);
    let old = connector.tokens().token().await?;
    let renewed = connector.tokens().renew(&old).await?;
    drop(connector.connect().await?);
    passed(match renewed {
        Some(_) => "the credential returned another token",
        None => "the credential returned the same token",
    })
}

async fn strict(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone().encrypt(Encrypt::Strict));
    let mut connection = connector.connect().await?;
    ensure(number(&mut connection, "SELECT 1").await? == 1, "SELECT 1 did not return 1")?;
    passed("")
}

async fn routing(server: &Server) -> Checked {
    // For clients in Azure, the gateway routes to the node (connection policy 'Redirect').
    let mut connection = server.connector(server.config.clone()).connect().await?;
    let node = "SELECT CAST(CONNECTIONPROPERTY('local_net_address') AS nvarchar(50))";
    let port = "SELECT CAST(CONNECTIONPROPERTY('local_tcp_port') AS int)";
    let node = text(&mut connection, node).await?.unwrap_or_default();
    passed(format!("connected to {node}:{}", number(&mut connection, port).await?))
}

async fn missing_database(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone().database("entra_pool_missing"));
    let error = connector.connect().await.err().ok_or("the login was accepted")?;
    let text = causes(&error);
    ensure(text.contains("entra_pool_missing"), &text)?;
    passed(text)
}

async fn audience(server: &Server) -> Checked {
    let identity = Identity::new(ForAnotherAudience(server.identity.clone()));
    let tokens = identity.tokens(server.config.token_scope()?);
    let connector = Connector::new(server.config.clone(), tokens)?;
    let error = connector.connect().await.err().ok_or("the login was accepted")?;
    ensure(matches!(error, Error::LoginRefused(_)), causes(&error))?;
    passed(causes(&error))
}

async fn figures(server: &Server) -> Checked {
    let connector = server.connector(server.config.clone());
    connector.tokens().warm_up().await?;
    let connect = median(5, async || connector.connect().await).await?;
    let pool = connector.pool_builder().max_size(1).build();
    let mut conn = pool.get().await?;
    let round_trip = median(50, async || number(&mut conn, "SELECT 1").await).await?;
    drop(conn);
    let checkout = median(50, async || {
        let mut conn = pool.get().await.map_err(|error| error.to_string())?;
        number(&mut conn, "SELECT 1").await.map_err(|error| error.to_string())
    })
    .await?;
    run_sql(&mut *pool.get().await?, &format!("DROP TABLE IF EXISTS {TABLE}")).await?;
    close_and_wait(&pool).await;
    passed(format!(
        "median of connect {connect:.1?}, of checkout with a query {checkout:.1?}, \
         of a round trip {round_trip:.1?}"
    ))
}
