//! Tests the stand-in for Azure SQL with a driver that was written for Azure
//! SQL itself.
#![allow(clippy::disallowed_methods)] // Servers use the real clock.

mod answers;
mod faults;
mod protocol;
mod raw;
mod workflow;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use entra_pool_emulator::{
    azure_sql::{AzureSqlOptions, AzureSqlServer, ServerError},
    certificates::Authority,
    database::Database,
    jwt::{Directory, Issuer, Principal, PrincipalKind},
};
use tiberius::{
    AuthMethod, Client, Config, EncryptionLevel, FromSqlOwned, IsolationLevel, Row, ToSql, Uuid,
    numeric::Numeric,
};
use time::{
    Date,
    macros::{date, datetime, time},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

const AUDIENCE: &str = "https://database.windows.net/";

struct Setup {
    authority: Authority,
    issuer: Arc<Issuer>,
    directory: Arc<Directory>,
    shop: Principal,
    server: AzureSqlServer,
}

impl Setup {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut AzureSqlOptions)) -> Self {
        let authority = Authority::new().unwrap();
        let tls = authority.issue(&["localhost"]).unwrap().server_config().unwrap();
        let (issuer, directory) = (Arc::new(Issuer::new()), Arc::new(Directory::default()));
        let shop = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        directory.add(shop.clone());
        let database = Arc::new(Database::new().unwrap());
        let mut options =
            AzureSqlOptions::new(Arc::clone(&issuer), Arc::clone(&directory), database, tls);
        change(&mut options);
        let server = AzureSqlServer::start(options).await.unwrap();
        Self { authority, issuer, directory, shop, server }
    }

    fn token(&self, length: usize) -> String {
        let later = SystemTime::now() + Duration::from_secs(3600);
        self.issuer.sign(&self.shop, AUDIENCE, later, length)
    }

    fn tls_client(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> rustls::ClientConfig {
        raw::strict(&self.authority.path(), &[version])
    }

    fn config(&self, token: &str) -> Config {
        let mut config = Config::new();
        config.host("localhost");
        config.port(self.server.addr().port());
        config.database("orders");
        config.authentication(AuthMethod::aad_token(token));
        config.encryption(EncryptionLevel::Required);
        config.trust_cert_ca(self.authority.path().to_str().unwrap());
        config
    }

    async fn login(&self, config: Config) -> tiberius::Result<Client<Compat<TcpStream>>> {
        let stream = TcpStream::connect(self.server.addr()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client::connect(config, stream.compat()).await
    }

    async fn client(&self) -> Client<Compat<TcpStream>> {
        self.login(self.config(&self.token(1500))).await.unwrap()
    }

    /// A client of TDS 8.0, whose packets' status bits can be set.
    async fn client_with_bits(&self, bits: &Arc<AtomicU8>) -> Client<Compat<StatusBits>> {
        let mut config = self.config(&self.token(1500));
        // NOT_SUPPORTED: the connection already uses TLS.
        config.encryption(EncryptionLevel::NotSupported);
        let stream = raw::connect(self.server.addr(), &self.authority.path()).await;
        Client::connect(config, StatusBits { stream, bits: Arc::clone(bits) }.compat())
            .await
            .unwrap()
    }
}

impl raw::Target for Setup {
    async fn connect(&self) -> Box<dyn raw::Stream> {
        Box::new(raw::connect(self.server.addr(), &self.authority.path()).await)
    }

    fn valid_token(&self) -> String {
        self.token(0)
    }
}

fn number(error: &tiberius::error::Error) -> u32 {
    error.code().unwrap_or_else(|| panic!("{error}"))
}

trait Ask {
    async fn rows(&mut self, sql: &str) -> tiberius::Result<Vec<Row>>;
    async fn one<T: FromSqlOwned>(&mut self, sql: &str) -> Option<T>;
    async fn error(&mut self, sql: &str) -> u32;
}

impl<S: futures::AsyncRead + futures::AsyncWrite + Unpin + Send> Ask for Client<S> {
    async fn rows(&mut self, sql: &str) -> tiberius::Result<Vec<Row>> {
        Ok(self
            .simple_query(sql)
            .await?
            .into_results()
            .await?
            .into_iter()
            .next_back()
            .unwrap_or_default())
    }

    async fn one<T: FromSqlOwned>(&mut self, sql: &str) -> Option<T> {
        let rows = self.rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let row = rows.into_iter().next().unwrap_or_else(|| panic!("{sql}: no row"));
        let value = row.into_iter().next().unwrap_or_else(|| panic!("{sql}: no column"));
        T::from_sql_owned(value).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn error(&mut self, sql: &str) -> u32 {
        number(&self.rows(sql).await.expect_err(sql))
    }
}

/// Sets status bits in the first packet of the next request.
struct StatusBits {
    stream: TlsStream<TcpStream>,
    bits: Arc<AtomicU8>,
}

impl AsyncRead for StatusBits {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for StatusBits {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut packet = bytes.to_vec();
        // The driver writes packet by packet.
        if matches!(packet.first(), Some(1 | 3 | 14)) {
            packet[1] |= self.bits.swap(0, Ordering::Relaxed);
        }
        Pin::new(&mut self.stream).poll_write(context, &packet)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A table `name` of the numbers from 0.
fn numbers(name: &str, count: usize) -> String {
    let rows: Vec<String> = (0..count).map(|number| format!("({number})")).collect();
    format!("CREATE TABLE {name} (i int); INSERT INTO {name} VALUES {}", rows.join(", "))
}

const RESET: u8 = 0x08;
const RESET_SKIP_TRANSACTION: u8 = 0x10;

#[tokio::test]
async fn tokens_of_every_length_log_in() {
    let setup = Setup::new().await;
    for length in [0, 1500, 2200, 8000, 30_000] {
        let mut client = setup.login(setup.config(&setup.token(length))).await.unwrap();
        let user: Option<String> = client.one("SELECT SUSER_SNAME()").await;
        assert_eq!(user.as_deref(), Some("shop-identity"));
    }
    let counters = setup.server.counters();
    assert_eq!((counters.prelogins, counters.logins), (5, 5));
}

#[tokio::test]
async fn logins_are_refused_with_azures_errors() {
    let setup = Setup::new().await;
    let now = SystemTime::now();
    let (later, past) = (now + Duration::from_secs(60), now - Duration::from_secs(60));
    let stranger = Principal::new("stranger", PrincipalKind::UserAssigned);
    let failed = "Login failed for user '<token-identified principal>'.";
    for (token, database, code, text) in [
        (
            setup.issuer.sign(&setup.shop, AUDIENCE, past, 0),
            "orders",
            18456,
            format!("{failed} Token is expired."),
        ),
        (
            setup.issuer.sign(&setup.shop, "https://management.azure.com/", later, 0),
            "orders",
            18456,
            failed.into(),
        ),
        (setup.issuer.sign(&stranger, AUDIENCE, later, 0), "orders", 18456, failed.into()),
        (Issuer::new().sign(&setup.shop, AUDIENCE, later, 0), "orders", 18456, failed.into()),
        ("no token".into(), "orders", 18456, failed.into()),
        (
            setup.token(0),
            "elsewhere",
            4060,
            "Cannot open database \"elsewhere\" requested by the login. The login failed.".into(),
        ),
    ] {
        let mut config = setup.config(&token);
        config.database(database);
        match setup.login(config).await {
            Err(tiberius::error::Error::Server(error)) => {
                assert_eq!((error.code(), error.message()), (code, text.as_str()));
                assert_eq!((error.class(), error.state()), (if code == 4060 { 11 } else { 14 }, 1));
            }
            other => panic!("{other:?}"),
        }
    }
    let mut config = setup.config("");
    config.authentication(AuthMethod::sql_server("sa", "secret"));
    let error = setup.login(config).await.unwrap_err();
    assert!(number(&error) == 18456 && error.to_string().contains("accepts only"), "{error}");
    assert_eq!((setup.server.counters().logins, setup.server.counters().refused_logins), (0, 7));

    setup.directory.remove("shop-identity");
    assert_eq!(number(&setup.login(setup.config(&setup.token(0))).await.unwrap_err()), 18456);
    // A trailing slash of the audience makes no difference.
    setup.directory.add(setup.shop.clone());
    let token = setup.issuer.sign(&setup.shop, AUDIENCE.trim_end_matches('/'), later, 0);
    setup.login(setup.config(&token)).await.unwrap();
}

#[tokio::test]
async fn a_login_without_a_database_uses_master() {
    let setup = Setup::new().await;
    let mut config = setup.config(&setup.token(0));
    config.database("");
    let mut client = setup.login(config).await.unwrap();
    assert_eq!(client.one::<String>("SELECT DB_NAME()").await.as_deref(), Some("master"));
    client.rows("USE orders").await.unwrap();
    assert_eq!(client.one::<String>("SELECT DB_NAME()").await.as_deref(), Some("orders"));
    assert_eq!(client.error("USE nowhere").await, 911);
}

#[tokio::test]
async fn logins_fail_and_are_routed_as_often_as_requested() {
    let setup = Setup::new().await;
    setup
        .server
        .behaviour()
        .fail_logins(2, ServerError::new(40613, 20, "Database is not currently available."));
    setup.server.behaviour().route_logins(1, "elsewhere.database.windows.net", 11001);
    for _ in 0..2 {
        assert_eq!(number(&setup.login(setup.config(&setup.token(0))).await.unwrap_err()), 40613);
    }
    match setup.login(setup.config(&setup.token(0))).await {
        Err(tiberius::error::Error::Routing { host, port }) => {
            assert_eq!((host.as_str(), port), ("elsewhere.database.windows.net", 11001));
        }
        other => panic!("{other:?}"),
    }
    setup.login(setup.config(&setup.token(0))).await.unwrap();
    let counters = setup.server.counters();
    assert_eq!((counters.refused_logins, counters.routed_logins, counters.logins), (2, 1, 1));
}

#[tokio::test]
async fn values_of_every_type_are_read_as_they_were_written() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    client
        .rows(
            "CREATE TABLE dbo.everything (
                id int IDENTITY(1,1) PRIMARY KEY, flag bit, tiny tinyint, small smallint, whole int, big bigint,
                price decimal(10,2), day date, code varchar(10), name nvarchar(50), story nvarchar(max))",
        )
        .await
        .unwrap();
    let story = "κόσμε ".repeat(20_000);
    let insert = "INSERT INTO everything (flag, tiny, small, whole, big, price, day, code, name, story) OUTPUT INSERTED.id
        VALUES (@P1, @P2, @P3, @P4, @P5, @P6, @P7, @P8, @P9, @P10)";
    let row = client
        .query(
            insert,
            &[
                &true,
                &255_u8,
                &-1_i16,
                &i32::MIN,
                &i64::MAX,
                &Numeric::new_with_scale(-1234, 2),
                &date!(2024 - 02 - 29),
                &"cafe",
                &"κόσμε 🦀",
                &story.as_str(),
            ],
        )
        .await
        .unwrap()
        .into_row()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.get::<i32, _>("id"), Some(1));
    client.rows("INSERT INTO everything (flag) VALUES (NULL)").await.unwrap();
    let rows = client.rows("SELECT * FROM everything ORDER BY id").await.unwrap();
    let row = &rows[0];
    assert_eq!(row.get("flag"), Some(true));
    assert_eq!(row.get("tiny"), Some(255_u8));
    assert_eq!(row.get("small"), Some(-1_i16));
    assert_eq!(row.get("whole"), Some(i32::MIN));
    assert_eq!(row.get("big"), Some(i64::MAX));
    assert_eq!(row.get("price"), Some(Numeric::new_with_scale(-1234, 2)));
    assert_eq!(row.get("day"), Some(date!(2024 - 02 - 29)));
    assert_eq!(row.get("code"), Some("cafe"));
    assert_eq!(row.get("name"), Some("κόσμε 🦀"));
    assert_eq!(row.get("story"), Some(story.as_str()));
    let nulls = &rows[1];
    assert_eq!(nulls.get::<i32, _>("id"), Some(2));
    assert_eq!(nulls.get::<bool, _>("flag"), None);
    assert_eq!(nulls.get::<i64, _>("big"), None);
    assert_eq!(nulls.get::<Numeric, _>("price"), None);
    assert_eq!(nulls.get::<Date, _>("day"), None);
    assert_eq!(nulls.get::<&str, _>("story"), None);
}

#[tokio::test]
async fn a_parameter_of_an_unsupported_type_is_refused_by_name() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    let values: [(&dyn ToSql, &str); 8] = [
        (&1.5_f32, "float(24)"),
        (&1.5_f64, "float(53)"),
        (&time!(1:02:03), "time"),
        (&datetime!(2024-02-29 10:11:12), "datetime2"),
        (&datetime!(2024-02-29 10:11:12 UTC), "datetimeoffset"),
        (&Uuid::nil(), "uniqueidentifier"),
        (&&[0_u8, 1, 255][..], "varbinary"),
        (&&[7_u8; 100_000][..], "varbinary(max)"),
    ];
    for (value, name) in values {
        match client.query("SELECT @P1, @P2", &[value, &1]).await {
            Err(tiberius::error::Error::Server(error)) => {
                let text = format!("'a parameter of type {name}");
                assert!(error.code() == 102 && error.message().contains(&text), "{error}");
            }
            other => panic!("{name}: {:?}", other.map(drop)),
        }
    }
    assert_eq!(client.one::<i32>("SELECT 1").await, Some(1), "the session goes on");
}

#[tokio::test]
async fn parameters_have_their_declared_types() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    let row = client
        .query("SELECT @P1 AS a, @P2 AS b, @P3 AS c", &[&7_i64, &"x", &Option::<i32>::None])
        .await
        .unwrap()
        .into_row()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.get("a"), row.get("b"), row.get::<i32, _>("c")),
        (Some(7_i64), Some("x"), None)
    );
    client
        .rows("CREATE TABLE names (n int NOT NULL PRIMARY KEY CHECK (n > 0), name nvarchar(5) NOT NULL)")
        .await
        .unwrap();
    let insert = "INSERT INTO names VALUES (@P1, @P2)";
    assert_eq!(client.execute(insert, &[&1, &"one"]).await.unwrap().rows_affected(), [1]);
    for (n, name, error) in
        [(1, Some("two"), 2627), (2, None, 515), (0, Some("two"), 547), (2, Some("too long"), 2628)]
    {
        let refused = client.execute(insert, &[&n, &name]).await.unwrap_err();
        assert_eq!(number(&refused), error, "{name:?}");
    }
    assert_eq!(client.execute("UPDATE names SET n = n + @P1", &[&1]).await.unwrap().total(), 1);
    assert_eq!(
        client.execute("DELETE FROM names WHERE name = @P1", &[&"oNe"]).await.unwrap().total(),
        1
    );
    // Too many digits for the stand-in: refused where it is used, and the session continues.
    let large = Numeric::new_with_scale(10_i128.pow(30), 0);
    assert_eq!(number(&client.query("SELECT @P1", &[&large]).await.unwrap_err()), 102);
    assert_eq!(client.one::<i32>("SELECT COUNT(*) FROM names").await, Some(0));
}

#[tokio::test]
async fn identity_values_of_new_rows_are_returned() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    client
        .rows("CREATE TABLE orders (id int IDENTITY(1,1) PRIMARY KEY, item nvarchar(20))")
        .await
        .unwrap();
    let row = client
        .query("INSERT INTO orders (item) OUTPUT INSERTED.id VALUES (@P1)", &[&"tea"])
        .await
        .unwrap();
    assert_eq!(row.into_row().await.unwrap().unwrap().get("id"), Some(1));
    let batch =
        "INSERT INTO orders VALUES (N'jam'); SELECT id, @@ROWCOUNT AS n FROM orders WHERE id > 1";
    let rows = client.rows(batch).await.unwrap();
    assert_eq!((rows[0].get("id"), rows[0].get("n")), (Some(2), Some(1)));
}

#[tokio::test]
async fn transactions_commit_and_roll_back_by_request_and_by_statement() {
    let setup = Setup::new().await;
    let (mut client, mut other) = (setup.client().await, setup.client().await);
    client.rows("CREATE TABLE t (n int)").await.unwrap();
    let count = "SELECT COUNT(*) FROM t";

    client.begin_transaction_with_isolation(IsolationLevel::Serializable).await.unwrap();
    client.execute("INSERT INTO t VALUES (@P1)", &[&1]).await.unwrap();
    assert_eq!(client.one::<i32>("SELECT @@TRANCOUNT").await, Some(1));
    assert_eq!(other.one::<i32>(count).await, Some(0), "not committed yet");
    // The driver counts names of its own requests in UTF-16 units, the protocol in bytes.
    client.rows("SAVE TRANSACTION here").await.unwrap();
    client.execute("INSERT INTO t VALUES (@P1)", &[&2]).await.unwrap();
    client.rows("ROLLBACK TRANSACTION here").await.unwrap();
    client.commit_transaction().await.unwrap();
    assert_eq!(other.one::<i32>(count).await, Some(1));
    let level = "SELECT transaction_isolation_level FROM sys.dm_exec_sessions";
    assert_eq!(client.one::<i16>(level).await, Some(4));

    client.begin_transaction().await.unwrap();
    client.rows("DELETE FROM t").await.unwrap();
    client.rollback_transaction().await.unwrap();
    assert_eq!(client.one::<i32>(count).await, Some(1));

    client.rows("BEGIN TRAN; INSERT INTO t VALUES (3)").await.unwrap();
    client.rows("BEGIN TRAN; INSERT INTO t VALUES (4); COMMIT").await.unwrap();
    assert_eq!(other.one::<i32>(count).await, Some(1), "the inner commit commits nothing");
    client.rows("IF @@TRANCOUNT > 0 ROLLBACK TRAN").await.unwrap();
    assert_eq!(client.one::<i32>(count).await, Some(1));
    client.rows("BEGIN TRAN INSERT INTO t VALUES (5) COMMIT TRAN").await.unwrap();
    assert_eq!(other.one::<i32>(count).await, Some(2));

    assert_eq!(client.error("COMMIT").await, 3902);
    assert_eq!(client.error("ROLLBACK").await, 3903);
    assert_eq!(number(&client.commit_transaction().await.unwrap_err()), 3902);
    // A procedure must not change the number of open transactions.
    assert_eq!(number(&client.execute("BEGIN TRAN", &[]).await.unwrap_err()), 266);
    assert_eq!(client.one::<i32>("SELECT @@TRANCOUNT").await, Some(1));
}

#[tokio::test]
async fn an_error_ends_its_statement_or_the_transaction() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    client.rows("CREATE TABLE t (n int PRIMARY KEY)").await.unwrap();
    assert_eq!(client.error("BEGIN TRAN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)").await, 2627);
    client.rows("COMMIT").await.unwrap();
    assert_eq!(client.one::<i32>("SELECT COUNT(*) FROM t").await, Some(2));
    assert_eq!(client.error("SET XACT_ABORT ON; BEGIN TRAN; INSERT INTO t VALUES (3); INSERT INTO t VALUES (1); COMMIT").await, 2627);
    assert_eq!(client.one::<i32>("SELECT @@TRANCOUNT").await, Some(0));
    assert_eq!(client.one::<i32>("SELECT COUNT(*) FROM t").await, Some(2));
}

#[tokio::test]
async fn each_session_has_its_own_temporary_tables() {
    let setup = Setup::new().await;
    let (mut one, mut two) = (setup.client().await, setup.client().await);
    one.rows("CREATE TABLE #t (n int); INSERT INTO #t VALUES (1)").await.unwrap();
    assert_eq!(two.error("SELECT * FROM #t").await, 208);
    two.rows("CREATE TABLE #t (name nvarchar(5)); INSERT INTO #t VALUES (N'x')").await.unwrap();
    assert_eq!(one.one::<i32>("SELECT n FROM #t").await, Some(1));
    assert_eq!(two.one::<String>("SELECT * FROM #t").await.as_deref(), Some("x"));
    // A procedure's temporary tables are dropped when it ends.
    one.execute("CREATE TABLE #own (n int); INSERT INTO #own VALUES (1)", &[]).await.unwrap();
    assert_eq!(one.error("SELECT * FROM #own").await, 208);
}

#[tokio::test]
async fn set_up_scripts_run_twice() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    let script = "
        IF OBJECT_ID(N'dbo.Restaurants', 'U') IS NULL
        BEGIN
            CREATE TABLE dbo.Restaurants (Id int IDENTITY(1,1) NOT NULL CONSTRAINT PK_Restaurants PRIMARY KEY,
                Name nvarchar(100) NOT NULL);
            INSERT INTO dbo.Restaurants (Name) VALUES (N'Chez Ada');
        END;
        SELECT COUNT(*) FROM Restaurants";
    for _ in 0..2 {
        assert_eq!(client.one::<i32>(script).await, Some(1));
    }
    client
        .rows("DROP TABLE IF EXISTS Restaurants; DROP TABLE IF EXISTS Restaurants")
        .await
        .unwrap();
    assert_eq!(client.error("DROP TABLE Restaurants").await, 3701);
}

#[tokio::test]
async fn sessions_write_concurrently() {
    let setup = Arc::new(Setup::new().await);
    setup
        .client()
        .await
        .rows("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
        .await
        .unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let setup = Arc::clone(&setup);
        writers.spawn(async move {
            let mut client = setup.client().await;
            for _ in 0..10 {
                client.begin_transaction().await.unwrap();
                client.rows("SELECT n FROM counter").await.unwrap();
                client.execute("UPDATE counter SET n = n + 1", &[]).await.unwrap();
                client.commit_transaction().await.unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(setup.client().await.one::<i32>("SELECT n FROM counter").await, Some(60));
}

#[tokio::test]
async fn a_session_waits_for_a_lock_until_its_lock_timeout() {
    let setup = Setup::new().await;
    let (mut one, mut two) = (setup.client().await, setup.client().await);
    one.rows("CREATE TABLE t (n int); BEGIN TRAN; INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(two.error("SET LOCK_TIMEOUT 0; INSERT INTO t VALUES (2)").await, 1222);
    one.rows("COMMIT").await.unwrap();
    two.rows("INSERT INTO t VALUES (2)").await.unwrap();
}

#[tokio::test]
async fn a_large_result_is_sent_in_many_packets() {
    let setup = Setup::new().await;
    let mut config = setup.config(&setup.token(0));
    config.packet_size(512);
    let mut client = setup.login(config).await.unwrap();
    client.rows(&numbers("n", 80)).await.unwrap();
    let text =
        "SELECT a.i, CAST(80 * a.i + b.i AS nvarchar(10)) AS name FROM n AS a, n AS b ORDER BY a.i";
    let rows = client.rows(text).await.unwrap();
    assert_eq!(rows.len(), 6400);
    assert_eq!(rows[6399].get("i"), Some(79));
    assert!(rows.iter().any(|row| row.get("name") == Some("6399")));
}

#[tokio::test]
async fn an_unsupported_statement_fails_with_error_102_and_has_no_effect() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    for (text, construct) in [
        ("MERGE t USING s ON 1 = 1 WHEN MATCHED THEN DELETE", "MERGE"),
        ("SELECT 1 FROBNICATE 2", "2"),
        ("PRAGMA user_version", "PRAGMA"),
    ] {
        match client.rows(text).await {
            Err(tiberius::error::Error::Server(error)) => {
                assert_eq!((error.code(), error.class()), (102, 15), "{text}");
                assert!(error.message().contains(construct), "{text}: {}", error.message());
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(client.error("EXEC sp_reset_connection").await, 2812);
    // A whole batch is read before any of it is run.
    assert_eq!(client.error("CREATE TABLE t (n int); SELECT (").await, 102);
    assert_eq!(client.error("SELECT * FROM t").await, 208);
}

#[tokio::test]
async fn a_reset_clears_the_session_but_not_the_isolation_level() {
    let setup = Setup::new().await;
    let bits = Arc::new(AtomicU8::new(0));
    let mut client = setup.client_with_bits(&bits).await;
    client.rows("CREATE TABLE t (n int)").await.unwrap();
    let spoil = "USE master; CREATE TABLE #own (n int); EXEC sp_set_session_context N'tenant', 7; SET LOCK_TIMEOUT 5;
        SET LANGUAGE Deutsch; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SET NOEXEC ON";
    client.rows(spoil).await.unwrap();
    assert!(client.rows("SELECT 1").await.unwrap().is_empty(), "NOEXEC");
    let state = "SELECT DB_NAME() AS db, CAST(SESSION_CONTEXT(N'tenant') AS int) AS tenant, @@LOCK_TIMEOUT AS timeout,
        @@LANGUAGE AS language, transaction_isolation_level AS level FROM sys.dm_exec_sessions";
    bits.store(RESET, Ordering::Relaxed);
    let rows = client.rows(state).await.unwrap();
    assert_eq!(rows.len(), 1, "NOEXEC");
    let row = &rows[0];
    assert_eq!((row.get("db"), row.get::<i32, _>("tenant")), (Some("orders"), None));
    assert_eq!((row.get("timeout"), row.get("language")), (Some(-1), Some("us_english")));
    assert_eq!(row.get("level"), Some(4_i16));
    assert_eq!(client.error("SELECT * FROM #own").await, 208);
    let counters = setup.server.counters();
    assert_eq!((counters.reset_bits, counters.resets), (1, 1));
}

#[tokio::test]
async fn a_reset_rolls_back_and_the_old_descriptor_is_refused() {
    let setup = Setup::new().await;
    let bits = Arc::new(AtomicU8::new(0));
    let mut client = setup.client_with_bits(&bits).await;
    client.rows("CREATE TABLE t (n int)").await.unwrap();
    client.rows("BEGIN TRAN; INSERT INTO t VALUES (1)").await.unwrap();
    bits.store(RESET_SKIP_TRANSACTION, Ordering::Relaxed);
    assert_eq!(client.one::<i32>("SELECT @@TRANCOUNT").await, Some(1), "the transaction is kept");
    bits.store(RESET, Ordering::Relaxed);
    // The driver still sends the transaction's descriptor.
    assert_eq!(client.error("SELECT 1").await, 3989);
    assert_eq!(client.error("SELECT 1").await, 3989);
    let mut other = setup.client_with_bits(&bits).await;
    assert_eq!(other.one::<i32>("SELECT COUNT(*) FROM t").await, Some(0));
    assert_eq!(setup.server.counters().resets, 2);
}

#[tokio::test]
async fn an_attention_stops_a_statement_and_the_session_continues() {
    let setup = Setup::new().await;
    let bits = Arc::new(AtomicU8::new(0));
    setup.client_with_bits(&bits).await.rows(&numbers("n", 900)).await.unwrap();
    for slow in ["WAITFOR DELAY '01:00:00'", "SELECT COUNT(*) FROM n AS a, n AS b, n AS c, n AS d"]
    {
        let mut client = setup.client_with_bits(&bits).await;
        client.rows("BEGIN TRAN").await.unwrap();
        let before = setup.server.counters().requests;
        {
            let asking = client.simple_query(slow);
            tokio::pin!(asking);
            // Waits until the server has the request.
            while setup.server.counters().requests == before {
                assert!(futures::poll!(asking.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
        }
        client.cancel_query().await.unwrap();
        assert_eq!(client.one::<i32>("SELECT @@TRANCOUNT").await, Some(1), "{slow}");
    }
    assert_eq!(setup.server.counters().attentions, 2);
}

#[tokio::test]
async fn a_cancelled_change_has_no_effect() {
    let setup = Setup::new().await;
    let bits = Arc::new(AtomicU8::new(0));
    let (mut one, mut two) =
        (setup.client_with_bits(&bits).await, setup.client_with_bits(&bits).await);
    one.rows(&numbers("t", 900)).await.unwrap();
    // Some 100,000 additions.
    let slow = &format!("UPDATE t SET i = i - 1000{}", " + 0".repeat(150));
    let changed = "SELECT COUNT(*) FROM t WHERE i < 0";
    one.rows("BEGIN TRAN").await.unwrap();
    {
        let asking = one.simple_query(slow);
        tokio::pin!(asking);
        // Waits until the first session has the lock, which it holds for a long time.
        loop {
            assert!(futures::poll!(asking.as_mut()).is_pending());
            // This changes nothing, even if the lock is taken while it runs.
            match two.rows("SET LOCK_TIMEOUT 0; DELETE FROM t WHERE i = -3").await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break assert_eq!(number(&error), 1222),
            }
        }
    }
    one.cancel_query().await.unwrap();
    // The client knows whether SQLite has rolled back.
    one.rows("IF @@TRANCOUNT > 0 ROLLBACK").await.unwrap();
    assert_eq!(one.one::<i32>(changed).await, Some(0));
    one.begin_transaction().await.unwrap();
    one.commit_transaction().await.unwrap();
}

#[tokio::test]
async fn a_dropped_connection_releases_its_locks() {
    let setup = Setup::new().await;
    let (mut one, mut two) = (setup.client().await, setup.client().await);
    one.rows("CREATE TABLE t (n int); BEGIN TRAN; INSERT INTO t VALUES (1)").await.unwrap();
    let before = setup.server.counters().requests;
    {
        let waiting = one.simple_query("WAITFOR DELAY '01:00:00'");
        tokio::pin!(waiting);
        while setup.server.counters().requests == before {
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }
    drop(one);
    two.rows("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(two.one::<i32>("SELECT SUM(n) FROM t").await, Some(2));
}

#[tokio::test]
async fn tls_sessions_of_tds_8_are_resumed() {
    let setup = Setup::new().await;
    for (version, packet_size) in [(&rustls::version::TLS13, 3), (&rustls::version::TLS12, 4096)] {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(setup.tls_client(version)));
        let before = setup.server.counters().tls_resumptions;
        for round in 0..2 {
            let stream = TcpStream::connect(setup.server.addr()).await.unwrap();
            let name = "localhost".try_into().unwrap();
            let mut stream = connector.connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"tds/8.0"[..]));
            // PRELOGIN with VERSION only, byte by byte or at once.
            let prelogin = [18, 1, 0, 20, 0, 0, 1, 0, 0, 0, 6, 0, 6, 255, 0, 0, 0, 0, 0, 0];
            for part in prelogin.chunks(packet_size) {
                stream.write_all(part).await.unwrap();
                stream.flush().await.unwrap();
            }
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[..2], [4, 1]);
            assert_eq!(setup.server.counters().tls_resumptions - before, round);
        }
    }
}

/// A client's TLS handshake in TDS packets; the server's are of type `kind`.
async fn handshake_in_packets(
    stream: &mut TcpStream,
    config: Arc<rustls::ClientConfig>,
    kind: u8,
) -> rustls::ClientConnection {
    let mut tls = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    while tls.is_handshaking() || tls.wants_write() {
        if tls.wants_write() {
            let mut packet = vec![18, 1, 0, 0, 0, 0, 0, 0];
            while tls.wants_write() {
                tls.write_tls(&mut packet).unwrap();
            }
            let length = (packet.len() as u16).to_be_bytes();
            packet[2..4].copy_from_slice(&length);
            // Sent in pieces, which the server must reassemble.
            for part in packet.chunks(7) {
                stream.write_all(part).await.unwrap();
            }
        } else {
            let mut header = [0; 8];
            stream.read_exact(&mut header).await.unwrap();
            assert_eq!(header[0], kind);
            let mut payload = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
            stream.read_exact(&mut payload).await.unwrap();
            let mut payload = payload.as_slice();
            while !payload.is_empty() {
                tls.read_tls(&mut payload).unwrap();
            }
            tls.process_new_packets().unwrap();
        }
    }
    tls
}

#[tokio::test]
async fn a_tls_session_in_packets_is_resumed_and_tickets_are_bare_records() {
    const PRELOGIN: [u8; 26] =
        [18, 1, 0, 26, 0, 0, 1, 0, 0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 255, 0, 0, 0, 0, 0, 0, 1];
    for kind in [0x12, 0x04] {
        let setup = Setup::with(|options| options.endpoint.handshake_packet_type = kind).await;
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let mut config = setup.tls_client(version);
            config.alpn_protocols.clear();
            let config = Arc::new(config);
            let before = setup.server.counters().tls_resumptions;
            for round in 0..2 {
                let mut stream = TcpStream::connect(setup.server.addr()).await.unwrap();
                stream.write_all(&PRELOGIN).await.unwrap();
                let mut header = [0; 8];
                stream.read_exact(&mut header).await.unwrap();
                let mut answer = vec![0; usize::from(header[3]) - 8];
                stream.read_exact(&mut answer).await.unwrap();
                let mut tls = handshake_in_packets(&mut stream, Arc::clone(&config), kind).await;
                if version.version == rustls::ProtocolVersion::TLSv1_3 {
                    let mut bytes = vec![0; 4096];
                    let read = stream.read(&mut bytes).await.unwrap();
                    assert_eq!(bytes[0], 23, "a ticket in a bare record");
                    tls.read_tls(&mut &bytes[..read]).unwrap();
                    tls.process_new_packets().unwrap();
                }
                // The server counts the connection, then closes it, because this is not a login.
                std::io::Write::write_all(&mut tls.writer(), &[1, 1, 0, 8, 0, 0, 0, 0]).unwrap();
                let mut bytes = Vec::new();
                tls.write_tls(&mut bytes).unwrap();
                stream.write_all(&bytes).await.unwrap();
                drop(stream.read_to_end(&mut Vec::new()).await);
                assert_eq!(
                    setup.server.counters().tls_resumptions - before,
                    round,
                    "{kind:#x} {version:?}"
                );
            }
        }
    }
}

/// Keeps the log.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_token_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // For the whole process: other tests also log here, with other database names.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let setup = Setup::with(|options| options.databases = vec!["logged".into()]).await;
    let later = SystemTime::now() + Duration::from_secs(60);
    let good = setup.token(2000);
    let bad = Issuer::new().sign(&setup.shop, AUDIENCE, later, 2000);
    for (token, accepted) in [(&good, true), (&bad, false)] {
        let mut config = setup.config(token);
        config.database("logged");
        assert_eq!(setup.login(config).await.is_ok(), accepted);
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for event in ["login succeeded", "login refused"] {
        let logged = text.lines().any(|line| line.contains(event) && line.contains("\"logged\""));
        assert!(logged, "{event}: {text}");
    }
    for token in [good, bad] {
        for part in token.split('.') {
            assert!(!text.contains(&part[..32.min(part.len())]), "{text}");
        }
    }
}

#[tokio::test]
async fn bytes_that_are_not_tds_close_only_their_own_connection() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        &[18, 1, 0, 3, 0, 0, 0, 0],
        &[18, 1, 0, 9, 0, 0, 0, 0, 255],
        &[18, 1, 0, 10, 0, 0, 0, 0, 0, 0],
        &[16, 1, 0, 8, 0, 0, 0, 0],
        &[22, 3, 1, 0, 1, 0],
    ] {
        let mut stream = TcpStream::connect(setup.server.addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        // The connection ends in any case: with a reset, if the server has not read all bytes.
        drop(stream.read_to_end(&mut Vec::new()).await);
    }
    assert_eq!(client.one::<i32>("SELECT 1").await, Some(1));
}

#[tokio::test]
async fn connections_can_be_cut_and_the_server_can_stop_and_restart() {
    let setup = Setup::new().await;
    let mut client = setup.client().await;
    setup.server.cut_connections().await;
    client.rows("SELECT 1").await.unwrap_err();
    let mut client = setup.client().await;
    assert_eq!(client.one::<i32>("SELECT 1").await, Some(1));
    assert_eq!(setup.server.counters().open_connections, 1);

    setup.server.go_away().await.unwrap();
    client.rows("SELECT 1").await.unwrap_err();
    let refused = TcpStream::connect(setup.server.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    setup.server.come_back().unwrap();
    let mut client = setup.client().await;
    assert_eq!(client.one::<i32>("SELECT 1").await, Some(1));
}

#[tokio::test]
async fn answers_are_delayed_as_requested() {
    let setup = Setup::new().await;
    let delay = Duration::from_millis(60);
    setup.server.behaviour().delay_logins(delay);
    setup.server.behaviour().delay_queries(delay);
    let start = std::time::Instant::now();
    let mut client = setup.client().await;
    assert!(start.elapsed() >= delay);
    let start = std::time::Instant::now();
    client.rows("SELECT 1").await.unwrap();
    assert!(start.elapsed() >= delay);
}
