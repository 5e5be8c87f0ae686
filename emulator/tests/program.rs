//! Runs the program as users and containers do.
#![cfg(unix)]
#![allow(clippy::disallowed_methods)] // Uses real processes and sockets.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use entra_pool_emulator::{
    azure_sql::{AzureSqlOptions, AzureSqlServer},
    certificates::Authority,
    database::Database,
    front::EngineLogin,
    jwt::{Directory, Issuer},
};
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::compat::TokioAsyncWriteCompatExt;

const PROGRAM: &str = env!("CARGO_BIN_EXE_entra-pool-emulator");
const FREE_PORTS: [&str; 4] =
    ["--identity-port=0", "--token-port=0", "--azure-sql-port=0", "--postgres-port=0"];

/// A running program, with its own folder for temporary files.
struct Running {
    child: Child,
    variables: BTreeMap<String, String>,
    temporary: TempDir,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program until it exits by itself.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(arguments).output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    (status.code(), stdout, stderr)
}

impl Running {
    /// Starts the program on free ports.
    fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = command(&FREE_PORTS);
        command.args(arguments).args(["--print", "json"]).env("TMPDIR", temporary.path());
        let mut child = command.spawn().unwrap();
        let variables = read_object(child.stdout.as_mut().unwrap());
        Self { child, variables: serde_json::from_str(&variables).unwrap(), temporary }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Stops the program, and returns its log.
    fn stop(mut self, signal: &str) -> String {
        self.signal(signal);
        assert!(self.child.wait().unwrap().success());
        let left: Vec<_> = fs::read_dir(self.temporary.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }

    /// The program prints its variables, and is ready shortly afterwards.
    fn wait_until_ready(&self) {
        loop {
            let answer = self.get("/health");
            if answer.starts_with("HTTP/1.1 200 OK") {
                return;
            }
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        }
    }

    fn identity(&self) -> &str {
        self.variables["EMULATOR_IDENTITY"].strip_prefix("http://").unwrap()
    }

    /// A token for this resource.
    fn token(&self, resource: &str) -> String {
        let answer = self.get(&format!("/msi/token?api-version=2019-08-01&resource={resource}"));
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let body: Value = serde_json::from_str(body).unwrap();
        body["access_token"].as_str().unwrap().to_owned()
    }

    /// The head and the body of an answer.
    fn get(&self, path: &str) -> String {
        let header = self.variables.get("IDENTITY_HEADER").map_or("", String::as_str);
        let mut stream = TcpStream::connect(self.identity()).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-IDENTITY-HEADER: {header}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The program has already exited, unless the test failed.
        let _ = self.child.kill();
    }
}

/// The output when all services listen: a JSON object on several lines.
fn read_object(stdout: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\n}\n") && stdout.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn it_prints_the_variables_and_stops_on_ctrl_c() {
    let running = Running::start(&[]);
    let variables = &running.variables;
    assert!(variables["IDENTITY_ENDPOINT"].starts_with("http://127.0.0.1:"));
    assert!(variables["EMULATOR_AUTHORITY"].starts_with("https://localhost:"));
    assert!(variables["EMULATOR_POSTGRES"].starts_with("postgres://shop-identity@localhost:"));
    let azure_sql = &variables["EMULATOR_AZURE_SQL"];
    assert!(azure_sql.starts_with("Server=tcp:localhost,"), "{azure_sql}");
    assert!(azure_sql.ends_with("Authentication=Active Directory Default"), "{azure_sql}");
    // For `pool_from_env`.
    assert_eq!(&variables["AZURE_SQL_CONNECTIONSTRING"], azure_sql);
    assert_eq!(variables["AZURE_POSTGRESQL_CONNECTIONSTRING"], variables["EMULATOR_POSTGRES"]);
    assert!(Path::new(&variables["EMULATOR_CA"]).starts_with(running.temporary.path()));
    running.stop("-INT");
}

#[test]
fn it_stops_on_sigterm_and_leaves_no_files() {
    let running = Running::start(&["--credential", "workload-identity"]);
    assert!(Path::new(&running.variables["AZURE_FEDERATED_TOKEN_FILE"]).exists());
    running.stop("-TERM");
}

/// Runs the program with a shell command, with temporary files in `folder`.
fn shell(folder: &TempDir, script: &str) -> Command {
    let mut command = command(&FREE_PORTS);
    command.env("TMPDIR", folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
    command.args(["--", "sh", "-c", script]);
    command
}

#[test]
fn a_command_runs_with_the_variables_and_its_exit_code_is_returned() {
    let temporary = tempfile::tempdir().unwrap();
    let script = "printf %s \"$AZURE_SQL_CONNECTIONSTRING $EMULATOR_IDENTITY\"; test -f \"$EMULATOR_CA\" && exit 7";
    let output = shell(&temporary, script).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let (stdout, log) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(stdout.starts_with("Server=tcp:localhost,"), "only the command prints: {stdout}");
    assert!(stdout.contains(" http://127.0.0.1:"), "{stdout}");
    assert!(log.is_empty(), "{}", String::from_utf8_lossy(&log));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    // The exit code that a shell would return.
    assert_eq!(shell(&temporary, "kill -KILL $$").status().unwrap().code(), Some(128 + 9));
}

#[test]
fn sigterm_is_passed_on_to_the_command_and_ctrl_c_is_not() {
    let temporary = tempfile::tempdir().unwrap();
    let script = "trap 'kill $!; exit 9' TERM; sleep 600 & echo running; while :; do wait; done";
    let mut child = shell(&temporary, script).spawn().unwrap();
    let mut line = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    let id = child.id().to_string();
    for signal in ["-INT", "-TERM"] {
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_shell_can_evaluate_its_output() {
    let mut child = command(&FREE_PORTS).args(["--user-assigned", "it's"]).spawn().unwrap();
    let mut printed = Vec::new();
    let mut byte = [0];
    while !printed.ends_with(b" files.\n") {
        assert_eq!(child.stdout.as_mut().unwrap().read(&mut byte).unwrap(), 1);
        printed.push(byte[0]);
    }
    let script =
        format!("{}\nprintf %s \"$EMULATOR_POSTGRES\"", String::from_utf8(printed).unwrap());
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let url = String::from_utf8(output.stdout).unwrap();
    assert!(url.starts_with("postgres://it%27s@localhost:"), "{url}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn its_health_can_be_checked_without_curl() {
    let running = Running::start(&[]);
    running.wait_until_ready();
    let port = running.identity().rsplit_once(':').unwrap().1.to_owned();
    let ask = ["--health", "--identity-port", &port];
    assert_eq!(run(&ask).0, Some(0));
    let log = running.stop("-TERM");
    assert!(!log.contains("health"), "{log}");
    let (status, _, error) = run(&ask);
    assert_eq!(status, Some(1));
    assert!(error.contains(&format!("not healthy: 127.0.0.1:{port}: ")), "{error}");
}

#[test]
fn requests_are_logged_without_secrets() {
    let running = Running::start(&[]);
    let resource = "resource=https://database.windows.net";
    let answer = running.get(&format!("/msi/token?api-version=2019-08-01&{resource}"));
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let token = body["access_token"].as_str().unwrap().to_owned();
    running.get(&format!("/msi/token?api-version=2017-09-01&{resource}"));
    running.get("/nowhere");
    let header = running.variables["IDENTITY_HEADER"].clone();
    let log = running.stop("-TERM");
    for text in ["token issued", "shop-app", "api-version '2017-09-01'", "/nowhere"] {
        assert!(log.contains(text), "{text}: {log}");
    }
    for secret in [&header, &token, &token[token.len() - 40..].to_owned()] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn the_authority_can_be_kept_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("ca");
    let arguments = ["--ca-dir", kept.to_str().unwrap(), "--identity-header", "always the same"];
    let pem = || {
        let running = Running::start(&arguments);
        assert_eq!(running.variables["IDENTITY_HEADER"], "always the same");
        let path = running.variables["EMULATOR_CA"].clone();
        running.stop("-TERM");
        assert_eq!(Path::new(&path), kept.join("ca.pem"));
        fs::read_to_string(path).unwrap()
    };
    assert_eq!(pem(), pem());
    for name in ["ca.key", "token.key"] {
        let mode = fs::metadata(kept.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn flags_take_precedence_over_the_configuration_file() {
    let folder = tempfile::tempdir().unwrap();
    let size = rcgen::RsaKeySize::_2048;
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
    let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
    fs::write(folder.path().join("ci.pem"), certificate.pem()).unwrap();
    fs::write(folder.path().join("github.json"), r#"{"keys": []}"#).unwrap();
    let file = folder.path().join("emulator.toml");
    let text = r#"
        host-name = ["emulator", "10.0.0.7"]
        identity-port = 1 # The flag wins.
        user-assigned = ["orders-identity"]
        azure-sql-database = ["sales"]
        credential = "client-secret"

        [[application]]
        name = "ci"
        client-id = "11111111-2222-3333-4444-555555555555"
        secrets = ["s3cret"]
        certificates = ["ci.pem"]
        federated = [
            { issuer = "https://github.example", subject = "repo:a", keys = "github.json" },
            { subject = "system:serviceaccount:default:ci" },
        ]

        [[application]]
        name = "orders-identity"
        federated = [{ subject = "system:serviceaccount:default:orders" }]
    "#;
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let running = Running::start(&["--config", file]);
    let variables = &running.variables;
    assert_eq!(variables["AZURE_CLIENT_SECRET"], "s3cret");
    assert_eq!(variables["AZURE_CLIENT_ID"], "11111111-2222-3333-4444-555555555555");
    assert_eq!(variables["SSL_CERT_FILE"], variables["EMULATOR_CA"]);
    assert!(variables["AZURE_AUTHORITY_HOST"].starts_with("https://emulator:"));
    assert!(variables["EMULATOR_IDENTITY"].starts_with("http://emulator:"));
    assert!(variables["EMULATOR_AZURE_SQL"].contains("tcp:emulator,"));
    assert!(variables["EMULATOR_AZURE_SQL"].contains("Database=sales;"));
    assert!(variables["EMULATOR_POSTGRES"].starts_with("postgres://ci@emulator:"));
    assert!(!variables.contains_key("IDENTITY_HEADER"));
    running.stop("-TERM");

    let running = Running::start(&["--config", file, "--credential", "workload-identity"]);
    let token = fs::read_to_string(&running.variables["AZURE_FEDERATED_TOKEN_FILE"]).unwrap();
    let claims: Value = jsonwebtoken::dangerous::insecure_decode(token).unwrap().claims;
    assert_eq!(claims["sub"], "system:serviceaccount:default:ci");
    running.stop("-TERM");
}

#[test]
fn errors_name_the_unusable_setting_and_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let application = |name: &str, text: &str| file(name, &format!("[[application]]\n{text}"));
    let typo = file("typo.toml", "indentity-port = 1");
    let number = file("number.toml", "azure-sql-port = 100000");
    let no_certificate = application("a.toml", "name = 'a'\ncertificates = ['number.toml']");
    let no_keys = application(
        "b.toml",
        "name = 'a'\nfederated = [{subject='s', issuer='i', keys='typo.toml'}]",
    );
    let no_subject = application("f.toml", "name = 'a'\nfederated = [{issuer='i'}]");
    let lone_issuer = application("g.toml", "name = 'a'\nfederated = [{subject='s', issuer='i'}]");
    let no_id = application("c.toml", "name = 'a'\nclient-id = 'mine'");
    let given_id = application("d.toml", "name = 'shop-identity'\nclient-id = 'mine'");
    let no_secret = application("e.toml", "name = 'a'\n");
    let script = file("script.sql", "CREATE TABLE a (b int); FLY;");
    let missing = folder.path().join("missing.toml").to_str().unwrap().to_owned();
    for (arguments, status, texts) in [
        (&["--verbose"][..], 2, &["unexpected argument '--verbose'", "Usage:"][..]),
        (&["--postgres-port", "many"], 2, &["invalid value 'many' for '--postgres-port <PORT>'"]),
        (&["--bind", "localhost"], 2, &["invalid value 'localhost' for '--bind <ADDRESS>'"]),
        (&["--print", "yaml"], 2, &["possible values: sh, powershell, dotenv, json"]),
        (&["--config", &missing], 2, &["cannot read ", "missing.toml"]),
        (&["--config", &typo], 2, &["is not a configuration", "indentity-port"]),
        (&["--config", &number], 2, &["is not a configuration", "100000"]),
        (&["--config", &no_certificate], 2, &["number.toml: not an X.509 certificate in PEM"]),
        (&["--config", &no_keys], 2, &["the keys of 'i' are not a JWKS"]),
        (&["--config", &no_subject], 2, &["is not a configuration", "`subject`"]),
        (&["--config", &lone_issuer], 2, &["application 'a': a federated credential"]),
        (&["--config", &no_id], 2, &["application 'a': client-id must be a GUID"]),
        (&["--config", &given_id], 2, &["'shop-identity': a managed identity's client ID"]),
        (&["--config", &no_secret, "--credential", "client-secret"], 2, &["add secrets ="]),
        (&["--config", &no_secret, "--credential", "workload-identity"], 2, &["add federated ="]),
        (&["--identity-port", &taken], 1, &["cannot listen on 127.0.0.1:", "choose another port"]),
        (&["--azure-sql-port", &taken], 1, &["cannot listen on 127.0.0.1:", "choose another port"]),
        (&["--ca-dir", &typo], 1, &["cannot create ", "typo.toml"]),
        (&["--host-name", "Ä"], 1, &["cannot start the identity endpoints"]),
        (&["--azure-sql-upstream", "sa:p4ss@db"], 2, &["write sqlserver://USER:PASSWORD@HOST"]),
        (&["--azure-sql-upstream", "sqlserver://sa:p4ss@db"], 2, &["?certificate=FILE"]),
        (&["--postgres-upstream", "db:5432"], 1, &["cannot start PostgreSQL"]),
        (&["--postgres-init", &missing], 2, &["cannot read ", "missing.toml"]),
        (&["--postgres-init", &script], 1, &["cannot start PostgreSQL: syntax error", "FLY"]),
        (&["--azure-sql-init", &script], 1, &["cannot start Azure SQL: error 102", "FLY"]),
        (
            &["--postgres-init", &script, "--postgres-upstream", "postgres://u:p4ss@db"],
            2,
            &["script.sql is not run in an upstream"],
        ),
        (
            &["--azure-sql-init", &script, "--azure-sql-upstream", "sqlserver://sa:p4ss@db"],
            2,
            &["script.sql is not run in an upstream"],
        ),
        (&["--", "/no/such/program"], 1, &["cannot run '/no/such/program': "]),
    ] {
        // clap accepts each flag only once: these arguments replace the defaults.
        let name =
            |argument: &&str| argument.split_once('=').map_or("", |(name, _)| name).to_owned();
        let free = FREE_PORTS.iter().filter(|port| !arguments.contains(&name(port).as_str()));
        let arguments: Vec<&str> = free.chain(arguments).copied().collect();
        let (code, _, error) = run(&arguments);
        assert_eq!(code, Some(status), "{arguments:?}: {error}");
        for text in texts {
            assert!(error.contains(text) && !error.contains("p4ss"), "{arguments:?}: {error}");
        }
    }
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("Usage:") && help.contains("8421"));
}

#[test]
fn it_starts_while_an_engine_is_down() {
    // A port that refuses connections: it was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://postgres:p4ssw0rd@127.0.0.1:{port}/postgres");
    let running = Running::start(&["--postgres-upstream", &url]);
    running.wait_until_ready();
    let mut line = Vec::new();
    let mut running = running;
    let stderr = running.child.stderr.as_mut().unwrap();
    let mut byte = [0];
    let wanted = b"the PostgreSQL server behind the front is not ready yet";
    while !line.windows(wanted.len()).any(|window| window == wanted) {
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&line));
        line.push(byte[0]);
    }
    let log = running.stop("-TERM");
    assert!(!log.contains("p4ssw0rd") && !String::from_utf8_lossy(&line).contains("p4ssw0rd"));
}

/// A SQL Server with the SQL login `sa`: the stand-in, which also supports SQL logins.
async fn sql_server() -> (AzureSqlServer, Authority) {
    let authority = Authority::new().unwrap();
    let tls = authority.issue(&["localhost"]).unwrap().server_config().unwrap();
    let (issuer, directory) = (Arc::new(Issuer::new()), Arc::new(Directory::default()));
    let database = Arc::new(Database::new().unwrap());
    let mut options = AzureSqlOptions::new(issuer, directory, database, tls);
    let login = EngineLogin { user: "sa".to_owned(), password: "p4ss/word".to_owned() };
    options.sql_logins = vec![login];
    (AzureSqlServer::start(options).await.unwrap(), authority)
}

type AzureSql = tiberius::Client<tokio_util::compat::Compat<tokio::net::TcpStream>>;

async fn azure_sql(running: &Running, token: &str, database: &str) -> AzureSql {
    let text = &running.variables["EMULATOR_AZURE_SQL"];
    let mut config = tiberius::Config::new();
    config.host("localhost");
    config.port(text.split(['=', ',', ';']).nth(2).unwrap().parse().unwrap());
    config.database(database);
    config.trust_cert_ca(&running.variables["EMULATOR_CA"]);
    config.authentication(tiberius::AuthMethod::aad_token(token));
    let stream = tokio::net::TcpStream::connect(config.get_addr()).await.unwrap();
    tiberius::Client::connect(config, stream.compat_write()).await.unwrap()
}

async fn postgres(running: &Running, token: &str) -> tokio_postgres::Client {
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_file(&running.variables["EMULATOR_CA"]);
    roots.add(ca.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = running.variables["EMULATOR_POSTGRES"].split('?').next().unwrap();
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    config.password(token).ssl_mode(tokio_postgres::config::SslMode::Require);
    let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls);
    let (client, connection) = config.connect(tls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn scripts_create_the_tables_of_the_embedded_engines() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("azure.sql"),
        "-- The table.\nIF OBJECT_ID(N'dbo.Item', N'U') IS NULL BEGIN\n\
         CREATE TABLE dbo.Item (Id int IDENTITY(1,1) PRIMARY KEY, Name nvarchar(9));\n\
         INSERT INTO dbo.Item (Name) VALUES (N'Schöf'); END;\n",
    )
    .unwrap();
    fs::write(
        path("postgres.sql"),
        "-- The table.\nCREATE TABLE item (id serial PRIMARY KEY, price numeric(6, 2));\n\
         INSERT INTO item (price) VALUES (-0.001), (2.345);\n",
    )
    .unwrap();
    // The file's path is relative to it.
    fs::write(path("emulator.toml"), "azure-sql-init = 'azure.sql'").unwrap();
    let (config, script) = (path("emulator.toml"), path("postgres.sql"));
    let [config, script] = [&config, &script].map(|path| path.to_str().unwrap());
    let running = Running::start(&["--config", config, "--postgres-init", script]);
    let token = running.token("https://database.windows.net");
    let mut client = azure_sql(&running, &token, "orders").await;
    let rows = client.simple_query("SELECT Id, Name FROM Item").await.unwrap();
    let row = rows.into_row().await.unwrap().unwrap();
    assert_eq!((row.get(0), row.get(1)), (Some(1), Some("Schöf")));
    // Instead of the sample.
    assert!(client.simple_query("SELECT id FROM product").await.is_err());

    let shop = &running.variables["AZURE_CLIENT_ID"];
    let resource = format!("https://ossrdbms-aad.database.windows.net&client_id={shop}");
    let client = postgres(&running, &running.token(&resource)).await;
    let messages = client.simple_query("SELECT id, price FROM item ORDER BY id").await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some((row.get(0), row.get(1))),
        _ => None,
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows, [(Some("1"), Some("0.00")), (Some("2"), Some("2.35"))]);
    assert!(client.simple_query("SELECT id FROM restaurant").await.is_err());
    running.stop("-TERM");
}

#[tokio::test]
async fn it_logs_in_to_a_sql_server_with_the_urls_login() {
    let (server, _authority) = sql_server().await;
    let port = server.addr().port();
    let url = format!("sqlserver://sa:p4ss%2Fword@127.0.0.1:{port}?TrustServerCertificate=true");
    let running = Running::start(&["--azure-sql-upstream", &url]);
    let text = &running.variables["EMULATOR_AZURE_SQL"];
    assert!(text.contains("Database=master;"), "{text}");
    let token = running.token("https://database.windows.net");
    let mut client = azure_sql(&running, &token, "master").await;
    let row = client.simple_query("SELECT 1 + 1").await.unwrap().into_row().await.unwrap();
    assert_eq!(row.unwrap().get::<i32, _>(0), Some(2));
    assert_eq!(server.counters().logins, 1);
    drop(client);
    let log = running.stop("-TERM");
    assert!(log.contains("the engine answered a login") && log.contains("shop-app"), "{log}");
    assert!(!log.contains("p4ss") && !log.contains(&token), "{log}");
}
