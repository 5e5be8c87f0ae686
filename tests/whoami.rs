//! Runs `entra-whoami` against the emulator: the manual contains its exact output.
#![cfg(target_os = "linux")]

use std::{fmt::Write, net::TcpStream, path::Path, process::Output, sync::Arc};

use entra_pool_emulator::{
    azure_cli::{AzureCliMode, AzureCliStandIn},
    azure_sql::ServerError,
    certificates::ServerCertificate,
    emulator::Emulator,
    jwt::{Principal, PrincipalKind},
};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::process::Command;

const START: &str = "# What it prints

These reports are from runs against the emulator. Names, addresses, dates and times were replaced.
";

/// The emulator, and the environment variables that configure its identity.
struct World {
    emulator: Emulator,
    environment: Vec<(&'static str, String)>,
    /// Contains the machine's trusted certificates, without the emulator's authority.
    _machine: TempDir,
}

impl World {
    async fn start() -> Self {
        let emulator = Emulator::start().await.unwrap();
        let machine = tempfile::tempdir().unwrap();
        ServerCertificate::self_signed(&["other.example"])
            .unwrap()
            .write_to(machine.path())
            .unwrap();
        let mut environment = emulator.env();
        let roots = machine.path().join("server.crt").display().to_string();
        environment.push(("SSL_CERT_FILE", roots));
        Self { emulator, environment, _machine: machine }
    }

    /// Simulates a developer's machine with the Azure CLI.
    fn use_azure_cli(&mut self, az: &AzureCliStandIn) {
        let path = az.executable().parent().unwrap().display().to_string();
        self.environment = vec![("AZURE_TOKEN_CREDENTIALS", "dev".to_owned()), ("PATH", path)];
    }

    fn targets(&self) -> [String; 2] {
        let sql = format!("{};ConnectRetryCount=0", self.emulator.azure_sql_string());
        [sql, self.emulator.postgres_url()]
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entra-whoami"));
        command.args(arguments).env_clear().envs(self.environment.iter().cloned());
        let output = command.output().await.unwrap();
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            assert!(!text.contains("eyJ") && !text.contains('\x1b'), "{text}");
        }
        output
    }

    /// Returns the report, and whether all steps passed.
    async fn report(&self, arguments: &[&str]) -> (String, bool) {
        let output = self.run(arguments).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        let passed = match output.status.code() {
            Some(0) => true,
            Some(1) => false,
            code => panic!("{code:?}: {stderr}"),
        };
        assert_eq!(stderr, "");
        (String::from_utf8(output.stdout).unwrap(), passed)
    }

    /// Replaces names, times and dates by those of the example.
    fn with_example_names(&self, text: &str, database: usize) -> String {
        let (sql, pg) = (self.emulator.azure_sql().addr(), self.emulator.postgres().addr());
        let host = ["shop.database.windows.net", "shop.postgres.database.azure.com"][database];
        let mut text = text.to_owned();
        for (from, to) in [
            (format!(",{}", sql.port()), ",1433"),
            (format!(":{}", pg.port()), ":5432"),
            ("--server SERVER".to_owned(), "--server shop"),
            ("--server-name SERVER".to_owned(), "--server-name shop"),
            ("127.0.0.1,".to_owned(), &format!("{host},")),
            ("127.0.0.1:".to_owned(), &format!("{host}:")),
            ("127.0.0.1".to_owned(), "192.0.2.7"),
            ("localhost".to_owned(), host),
            ("shpo.invalid,".to_owned(), "shpo.database.windows.net,"),
            ("shpo.invalid:".to_owned(), "shpo.postgres.database.azure.com:"),
            ("rcgen self signed cert".to_owned(), host),
        ] {
            text = text.replace(&from, to);
        }
        let lines = text.lines().map(|line| match line.split_at_checked(15) {
            Some(_) if line.starts_with(['✔', '✘']) => {
                let mut words = line.split_whitespace();
                let (mark, step) = (words.next().unwrap(), words.next().unwrap());
                format!("{mark} {step:<8} {:>8} s", "0.012")
            }
            Some((label @ "    addresses  ", _)) => format!("{label}192.0.2.7"),
            Some((label @ "    expires    ", _)) => format!("{label}2027-03-31"),
            _ => with_expiry(line),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Removes this parameter and the separator after it.
fn without(target: &str, parameter: &str, separator: char) -> String {
    let (before, after) = target.split_once(parameter).unwrap();
    format!("{before}{}", after.split_once(separator).unwrap().1)
}

/// Replaces the time after `expires at`.
fn with_expiry(line: &str) -> String {
    match line.split_once("expires at ") {
        Some((before, after)) => {
            let after = after.split_once('Z').unwrap().1;
            format!("{before}expires at 2027-01-31T12:00:00Z{after}")
        }
        None => line.to_owned(),
    }
}

/// A port whose queue of connections is full: it drops the packets of another connection, as a
/// firewall does.
struct Firewall {
    listener: Socket,
    /// The connection that fills the queue.
    _waiting: TcpStream,
}

impl Firewall {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        Self { listener, _waiting: TcpStream::connect(address).unwrap() }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().as_socket().unwrap().port()
    }
}

/// The page of the manual, which is built from sections.
struct Page<'w> {
    world: &'w World,
    text: String,
}

impl Page<'_> {
    async fn section(&mut self, title: &str, reports: [(&[&str], &[&str]); 2]) {
        write!(self.text, "\n## {title}\n").unwrap();
        for (at, (arguments, expected)) in reports.into_iter().enumerate() {
            let (report, passed) = self.world.report(arguments).await;
            self.add(at, title, &report, passed, expected);
        }
    }

    fn add(&mut self, at: usize, title: &str, report: &str, passed: bool, expected: &[&str]) {
        let all_pass = title == "Every step passes";
        assert_eq!(passed, all_pass, "{title}: {report}");
        assert_eq!(!report.contains('✘'), all_pass, "{title}: {report}");
        for piece in expected {
            assert!(report.contains(piece), "{title}: {piece}? {report}");
        }
        let introduction = if at == 1 { "\nOn PostgreSQL:\n" } else { "" };
        let report = self.world.with_example_names(report, at);
        write!(self.text, "{introduction}\n```text\n{report}\n```\n").unwrap();
    }
}

async fn page() -> String {
    let mut world = World::start().await;
    let directory = world.emulator.directory().clone();
    let [sql, pg] = world.targets();
    let (sql_port, pg_port) =
        (world.emulator.azure_sql().addr().port(), world.emulator.postgres().addr().port());
    let mut page = Page { world: &world, text: START.to_owned() };

    let session = |database| ["✔ query", database, "    user       shop-identity\n"];
    page.section(
        "Every step passes",
        [
            (&[&sql], &session("    database   orders\n")),
            (&[&pg], &session("    database   restaurant\n")),
        ],
    )
    .await;
    let counters = world.emulator.azure_sql().counters();
    assert_eq!((counters.connections, counters.logins, counters.refused_logins), (1, 1, 0));

    let [wrong_sql, wrong_pg] =
        [&sql, &pg].map(|target| target.replacen("localhost", "shpo.invalid", 1));
    let spelling = ["✘ resolve", "check its spelling", "Not tried: tcp, tls, login, query."];
    page.section("A wrong host name", [(&[&wrong_sql], &spelling), (&[&wrong_pg], &spelling)])
        .await;

    let firewall = Firewall::new();
    let dropping = |target: &str, port: u16| {
        let target = target.replacen("localhost", "127.0.0.1", 1);
        target.replacen(&port.to_string(), &firewall.port().to_string(), 1)
    };
    let (silent_sql, silent_pg) = (dropping(&sql, sql_port), dropping(&pg, pg_port));
    writeln!(page.text, "\n## A firewall that drops packets").unwrap();
    // Only the whole connect has the short limit; otherwise the TCP limit could expire first.
    let silent_pg = silent_pg + "&loginTimeout=1&connectTimeout=20";
    let silent_sql = ["--timeout", "1", &silent_sql];
    let runs: [(&[&str], u16); 2] = [(&silent_sql, sql_port), (&[&silent_pg], pg_port)];
    for (at, (arguments, port)) in runs.into_iter().enumerate() {
        let (report, passed) = world.report(arguments).await;
        let report = report.replace(&firewall.port().to_string(), &port.to_string());
        let report = report.replace("timed out after 1s", "timed out after 15s");
        let expected = ["✔ resolve", "✘ tcp", "firewall"];
        page.add(at, "firewall", &report, passed, &expected);
    }

    let [other_sql, other_pg] = [
        format!("{sql};HostNameInCertificate=mirror.example"),
        pg.replacen("localhost", "mirror.example", 1) + "&hostaddr=127.0.0.1",
    ];
    let name = ["✘ tls", "    issuer     CN=entra-pool emulator CA\n", "not valid for name"];
    page.section("A certificate for another name", [(&[&other_sql], &name), (&[&other_pg], &name)])
        .await;

    let issuer = "    issuer     CN=entra-pool emulator CA\n";
    let unknown = ["✘ tls", issuer, "UnknownIssuer", "Not tried: login, query."];
    let distrusting =
        [without(&sql, "TrustServerCertificateCA=", ';'), without(&pg, "sslrootcert=", '&')];
    page.section(
        "A certificate of an unknown authority",
        [(&[&distrusting[0]], &unknown), (&[&distrusting[1]], &unknown)],
    )
    .await;

    let [missing_sql, missing_pg] =
        [sql.replace("orders", "odrers"), pg.replace("restaurant", "restuarant")];
    world.emulator.azure_sql().behaviour().fail_logins(
        1,
        ServerError::new(
            4060,
            11,
            "Cannot open database \"odrers\" requested by the login. The login failed.",
        ),
    );
    page.section(
        "A missing database",
        [
            (&[&missing_sql], &["✘ login", "`az sql db list", "CREATE USER"]),
            (&[&missing_pg], &["✘ login", "does not exist"]),
        ],
    )
    .await;

    directory.remove("shop-identity");
    page.section(
        "A missing user",
        [
            (
                &[&sql],
                &["✘ login", "run in orders: CREATE USER [shop-identity] FROM EXTERNAL PROVIDER;"],
            ),
            (&[&pg], &["✘ login", "select * from pgaadauth_create_principal('shop-identity', "]),
        ],
    )
    .await;

    let firewall = "Cannot open server 'shop' requested by the login. Client with IP address \
                    '203.0.113.7' is not allowed to access the server.";
    let blocked = ServerError::new(40615, 14, firewall);
    world.emulator.azure_sql().behaviour().fail_logins(1, blocked);
    writeln!(page.text, "\n## The server's firewall").unwrap();
    let (report, passed) = world.report(&[&sql]).await;
    let rule = ["✔ tls", "✘ login", "firewall-rule create", "--start-ip-address 203.0.113.7"];
    page.add(0, "firewall", &report, passed, &rule);
    assert!(!report.contains("CREATE USER"), "{report}");

    let mut text = page.text;
    let developer = Principal::new("dev@contoso.com", PrincipalKind::User);
    let az = AzureCliStandIn::new(Arc::clone(world.emulator.issuer()), developer).unwrap();
    az.set_mode(AzureCliMode::LoggedOut).unwrap();
    world.use_azure_cli(&az);
    let mut page = Page { world: &world, text: std::mem::take(&mut text) };
    let log_in = ["✘ token", "run `az login`", "Not tried: resolve, tcp, tls, login, query."];
    page.section("No identity", [(&[&sql], &log_in), (&[&pg], &log_in)]).await;
    page.text
}

/// `ENTRA_POOL_BLESS=1` writes the section to the page.
#[tokio::test(flavor = "multi_thread")]
async fn the_manual_shows_what_each_outcome_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual/whoami.md");
    let manual = std::fs::read_to_string(&path).unwrap().replace('\r', "");
    let (before, old) = manual.split_once(START).expect("the section exists");
    let new = page().await;
    if std::env::var_os("ENTRA_POOL_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{new}")).unwrap();
        return;
    }
    assert_eq!(format!("{START}{old}"), new, "set ENTRA_POOL_BLESS=1 to update the page");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_report_has_the_same_facts() {
    let world = World::start().await;
    let [sql, _] = world.targets();
    let output = world.run(&["--json", &sql]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], true);
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["token", "resolve", "tcp", "tls", "login", "query"]);
    assert_eq!(steps[3]["issuer"], "CN=entra-pool emulator CA");
    assert_eq!(steps[0]["object_id"], world.emulator.user_assigned().object_id);
    assert_eq!(steps[5]["database"], "orders");

    world.emulator.directory().remove("shop-identity");
    let output = world.run(&["--json", &sql]).await;
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["passed"], &report["steps"][4]["passed"]), (&false.into(), &false.into()));
    assert!(report["error"][0].as_str().unwrap().contains("refused the login to orders"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_quotes_the_name_as_each_database_requires() {
    let mut world = World::start().await;
    let developer = Principal::new("o'neil]s shop", PrincipalKind::User);
    let az = AzureCliStandIn::new(Arc::clone(world.emulator.issuer()), developer).unwrap();
    world.use_azure_cli(&az);
    let [sql, pg] = world.targets();
    let pg = pg.replacen("shop-identity@", "", 1);
    for (target, grant) in [
        (sql, "run in orders: CREATE USER [o'neil]]s shop] FROM EXTERNAL PROVIDER;"),
        (pg, "pgaadauth_create_principal('o''neil]s shop', false, false);"),
    ] {
        let (report, _) = world.report(&[&target]).await;
        assert!(report.contains("    identity   Azure CLI\n"), "{report}");
        assert!(report.contains("    principal  o'neil]s shop\n"), "{report}");
        assert!(report.contains(grant), "{grant}? {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_a_name_is_described_by_its_ids() {
    let mut world = World::start().await;
    world.environment.retain(|(name, _)| *name != "AZURE_CLIENT_ID");
    world.emulator.directory().remove("shop-app");
    let app = world.emulator.system_assigned();
    let [sql, pg] = world.targets();
    for (target, grant) in [
        (sql, "CREATE USER [NAME] FROM EXTERNAL PROVIDER;"),
        (
            pg.replacen("shop-identity@", "shop-app@", 1),
            "pgaadauth_create_principal('shop-app', false, false);",
        ),
    ] {
        let (report, _) = world.report(&[&target]).await;
        assert!(report.contains("    principal  not in the token\n"), "{report}");
        assert!(report.contains(&format!("    object ID  {}\n", app.object_id)), "{report}");
        assert!(report.contains(grant), "{grant}? {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_only_the_token_is_requested() {
    let world = World::start().await;
    let (report, passed) = world.report(&[]).await;
    assert!(passed && report.starts_with("✔ token"), "{report}");
    assert_eq!(report.matches('✔').count(), 1, "{report}");
    assert!(report.contains("audience   https://database.windows.net"), "{report}");
    assert!(!report.contains("CREATE USER"), "{report}");
    assert_eq!(world.emulator.azure_sql().counters().connections, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_strict_encryption_a_wrong_certificate_fails_in_the_step_tls() {
    let world = World::start().await;
    let strict = format!("{};Encrypt=Strict", world.targets()[0]);
    let (report, passed) = world.report(&[&strict]).await;
    let (tcp, tls) = (report.find("✔ tcp").unwrap(), report.find("✔ tls").unwrap());
    assert!(passed && (tcp < tls && tls < report.find("subject").unwrap()), "{report}");
    let other = format!("{strict};HostNameInCertificate=other.example");
    let (report, passed) = world.report(&[&other]).await;
    assert!(!passed && report.contains("✔ tcp") && report.contains("✘ tls"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_arguments_exit_with_code_2() {
    let world = World::start().await;
    for (arguments, expected) in [
        (&["localhost"][..], "Entra Scope="),
        (&["Server=shop.database.windows.net;Encrypt=False"], "Encrypt"),
        (&["postgres://shop.postgres.database.azure.com/x?sslmode=disable"], "sslmode"),
        (&["--timeout", "0"], "--timeout"),
        (&["--verbose"], "--verbose"),
    ] {
        let output = world.run(arguments).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected) && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
    let help = String::from_utf8(world.run(&["--help"]).await.stdout).unwrap();
    assert!(help.contains("1  a step failed") && help.contains("--timeout"), "{help}");
    let version = String::from_utf8(world.run(&["--version"]).await.stdout).unwrap();
    assert_eq!(version.trim(), concat!("entra-whoami ", env!("CARGO_PKG_VERSION")));
}
