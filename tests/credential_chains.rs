//! The default chain: behaviour of IMDS × `User Id` × `AZURE_TOKEN_CREDENTIALS` × the Azure CLI.
//! Checks which credentials are tried, which one is pinned, and the messages.
#![allow(clippy::disallowed_methods)] // Timeouts of failing tests and of the kernel use real time.

#[path = "support/logs.rs"]
mod logs;
#[path = "support/waiting.rs"]
mod waiting;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use entra_pool::{
    azure_sql,
    clock::{Clock, ManualClock, Sleep},
    credential::{Chain, DefaultCredential, Environment, ManagedIdentity, UserAssignedId},
    postgres,
    token::{CredentialErrorKind, Token, TokenCredential},
};
use entra_pool_emulator::{
    azure_cli::{AzureCliMode, AzureCliStandIn},
    identity::{Fault, IdentityEndpoint, IdentityOptions},
    jwt::{Issuer, Principal, PrincipalKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use waiting::{ask, until, with_causes};

use CredentialErrorKind::{Transient, Unavailable};

const RESOURCE: &str = "https://database.windows.net";
const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";

/// The behaviour of IMDS; the number of its requests if the managed identity is tried; the
/// milliseconds by which the clock advances meanwhile.
const IMDS: [(&str, u64, u64); 7] = [
    ("slow", 3, 1_200),
    ("404 JSON", 5, 7_000),
    ("404 HTML", 1, 0),
    ("410", 10, 70_000),
    ("503", 5, 7_000),
    ("refused", 0, 0),
    ("silent", 2, 3_000),
];
const USER_ID: [&str; 2] = ["given", "not"];
const SELECTION: [&str; 3] = ["unset", "prod", "dev"];
const AZ: [&str; 2] = ["in", "out"];

/// `*` matches any value; commas separate alternatives. `asked`: IMDS or the Azure CLI. `result`:
/// the owner of the token, who is pinned (the `system`-assigned identity, the `user`-assigned
/// identity that `User Id` names, the `developer`), or the kind of the error; `config` is an error
/// before any request. `said`: words of the log for a pinned credential, or of the error.
const TABLE: &str = "
IMDS               | User Id | AZURE_TOKEN_.. | az  | asked   | result      | said
slow               | not     | unset, prod    | *   | imds    | system      | INFO + managed identity (IMDS) + service principal: AZURE_CLIENT_SECRET
slow               | given   | unset, prod    | *   | imds    | user        | INFO + managed identity (IMDS, client ID
404 JSON           | *       | unset, prod    | *   | imds    | transient   | IMDS returned 404
410                | *       | unset, prod    | *   | imds    | transient   | IMDS returned 410
503                | *       | unset, prod    | *   | imds    | transient   | IMDS returned 503

404 HTML           | not     | unset          | in  | imds az | developer   | INFO + Azure CLI + is not IMDS (status 404
refused            | not     | unset          | in  | imds az | developer   | INFO + Azure CLI + cannot be reached
silent             | not     | unset          | in  | imds az | developer   | INFO + Azure CLI + did not respond within 3s + WARN + AZURE_TOKEN_CREDENTIALS=prod
404 HTML           | not     | unset          | out | imds az | unavailable | is not IMDS (status 404 + run `az login`
refused            | not     | unset          | out | imds az | unavailable | cannot be reached + run `az login`
silent             | not     | unset          | out | imds az | unavailable | did not respond within 3s + run `az login`

404 HTML           | given   | unset          | *   | imds    | unavailable | is not IMDS (status 404 + Azure CLI: not used + remove User Id
refused            | given   | unset          | *   | imds    | unavailable | cannot be reached + Azure CLI: not used + remove User Id
silent             | given   | unset          | *   | imds    | unavailable | did not respond within 3s + Azure CLI: not used + remove User Id
404 HTML           | *       | prod           | *   | imds    | unavailable | is not IMDS (status 404
refused            | *       | prod           | *   | imds    | unavailable | cannot be reached
silent             | *       | prod           | *   | imds    | unavailable | did not respond within 3s

*                  | not     | dev            | in  | az      | developer   | INFO + Azure CLI
*                  | not     | dev            | out | az      | unavailable | is not logged in + run `az login`
*                  | given   | dev            | *   | nobody  | config      | AZURE_TOKEN_CREDENTIALS allows only the account of `az login` + User Id names client ID + remove User Id
";

struct World {
    issuer: Arc<Issuer>,
    az: AzureCliStandIn,
    system: Principal,
    user: Principal,
    developer: Principal,
}

/// An IMDS and a manual clock.
struct Machine {
    endpoint: IdentityEndpoint,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        let issuer = Arc::new(Issuer::new());
        let developer = Principal::new("dev@contoso.com", PrincipalKind::User);
        Self {
            az: AzureCliStandIn::new(issuer.clone(), developer.clone()).unwrap(),
            issuer,
            system: Principal::new("shop-app", PrincipalKind::SystemAssigned),
            user: Principal::new("shop-identity", PrincipalKind::UserAssigned),
            developer,
        }
    }

    fn machine(&self) -> Machine {
        let options = IdentityOptions {
            system_assigned: Some(self.system.clone()),
            user_assigned: vec![self.user.clone()],
            ..IdentityOptions::default()
        };
        let endpoint = IdentityEndpoint::start(self.issuer.clone(), options).unwrap();
        Machine { endpoint, clock: ManualClock::new() }
    }

    fn environment(&self, imds: String, selection: &str) -> Environment {
        let path = self.az.executable().parent().unwrap().display().to_string();
        let selection = if selection == "unset" { "" } else { selection };
        Environment::from_pairs([
            ("AZURE_POD_IDENTITY_AUTHORITY_HOST", imds),
            ("PATH", path),
            ("AZURE_TOKEN_CREDENTIALS", selection.to_owned()),
        ])
    }

    /// Returns the principal that the verified claims name.
    fn owner(&self, token: &Token) -> &'static str {
        let owner = self.issuer.verify(token.secret(), RESOURCE).unwrap().object_id;
        let known =
            [("system", &self.system), ("user", &self.user), ("developer", &self.developer)];
        known.into_iter().find(|(_, principal)| principal.object_id == owner).unwrap().0
    }
}

impl Machine {
    async fn behave(&self, imds: &str) {
        let json = r#"{"error":"not_now","error_description":"IMDS is being updated"}"#;
        match imds {
            "slow" => self.endpoint.hold(),
            "404 JSON" => self.endpoint.fail(Fault::Status(404, json.to_owned())),
            "404 HTML" => self.endpoint.fail(Fault::Status(404, "<html>".to_owned())),
            "410" => self.endpoint.fail(Fault::Status(410, json.to_owned())),
            "503" => self.endpoint.fail(Fault::Status(503, json.to_owned())),
            "refused" => self.endpoint.go_away().await.unwrap(),
            "silent" => self.endpoint.fail(Fault::Silence),
            _ => panic!("{imds}"),
        }
    }

    /// Advances the clock while the managed identity is tried.
    async fn pass(&self, imds: &str) {
        // For each step, the number of requests to wait for, and the seconds to advance.
        let steps: &[(u64, u64)] = match imds {
            "slow" => {
                self.step(1, 1_000).await;
                self.endpoint.wait_for_requests(2).await;
                self.clock.advance(Duration::from_millis(200));
                self.endpoint.release();
                &[]
            }
            "404 JSON" | "503" => &[(2, 1), (3, 2), (4, 4)],
            "410" => &[(2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 16), (8, 16), (9, 7)],
            "silent" => &[(1, 1), (2, 2)],
            _ => &[],
        };
        for (requests, seconds) in steps {
            self.step(*requests, seconds * 1_000).await;
        }
    }

    async fn step(&self, requests: u64, milliseconds: u64) {
        let pause = Duration::from_millis(milliseconds);
        self.endpoint.wait_for_requests(requests).await;
        until(|| self.clock.next_wake() == Some(pause)).await;
        self.clock.advance(pause);
    }
}

/// Returns the outcome of `asking`, while `moves` advances the clock or answers requests. If
/// `asking` ends early, the remaining moves are dropped.
async fn with_moves<T>(asking: impl Future<Output = T>, moves: impl Future<Output = ()>) -> T {
    tokio::pin!(asking);
    tokio::select! {
        outcome = &mut asking => outcome,
        () = moves => {
            let limit = Duration::from_secs(60);
            tokio::time::timeout(limit, asking).await.expect("the outcome needs no more moves")
        }
    }
}

/// Returns the log lines of the chain at `info` and above.
fn chain_log(log: &logs::Capture) -> Vec<String> {
    let of_chain = |line: &&str| line.contains("entra_pool::credential::chain");
    log.text().lines().filter(of_chain).map(str::to_owned).collect()
}

struct Row {
    what: String,
    imds: (&'static str, u64, u64),
    is_given: bool,
    selection: &'static str,
    az: &'static str,
    asked: String,
    result: String,
    said: String,
}

/// Returns the rows of the table with `*` and commas expanded.
fn rows() -> Vec<Row> {
    let has = |cell: &str, value: &str| cell == "*" || cell.split(", ").any(|one| one == value);
    let mut rows = Vec::new();
    for line in TABLE.lines().skip(2).filter(|line| !line.is_empty()) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [imds, user_id, selection, az, asked, result, said] = cells[..] else {
            panic!("{line}")
        };
        for state in IMDS.into_iter().filter(|(name, ..)| has(imds, name)) {
            for given in USER_ID.into_iter().filter(|given| has(user_id, given)) {
                for selection in SELECTION.into_iter().filter(|one| has(selection, one)) {
                    for az in AZ.into_iter().filter(|one| has(az, one)) {
                        rows.push(Row {
                            what: format!("{} | {given} | {selection} | {az}", state.0),
                            imds: state,
                            is_given: given == "given",
                            selection,
                            az,
                            asked: asked.to_owned(),
                            result: result.to_owned(),
                            said: said.to_owned(),
                        });
                    }
                }
            }
        }
    }
    rows
}

#[test]
fn the_table_has_each_case_once() {
    let mut cases: Vec<_> = rows().into_iter().map(|row| row.what).collect();
    cases.sort();
    cases.dedup();
    assert_eq!((cases.len(), rows().len()), (84, 84));
}

#[tokio::test]
async fn the_table_determines_the_identity_and_it_never_changes() {
    let world = World::new();
    for row in rows() {
        check(&world, &row).await;
    }
}

async fn check(world: &World, row: &Row) {
    let (what, (imds, requests, milliseconds)) = (&row.what, row.imds);
    let log = logs::capture();
    let machine = world.machine();
    machine.behave(imds).await;
    let mode = if row.az == "in" { AzureCliMode::LoggedIn } else { AzureCliMode::LoggedOut };
    world.az.set_mode(mode).unwrap();
    let runs_of_az = || world.az.invocations().unwrap().len();
    let before = runs_of_az();

    let environment = world.environment(machine.endpoint.imds_endpoint(), row.selection);
    let clock = machine.clock.clone();
    let built = if row.is_given {
        let id = UserAssignedId::ClientId(world.user.client_id.clone());
        DefaultCredential::new()
            .environment(environment)
            .clock(clock)
            .user_assigned(id, "User Id")
            .build()
    } else {
        DefaultCredential::new().environment(environment).clock(clock).build()
    };
    let chain = match built {
        Ok(chain) => chain,
        Err(error) => {
            assert_eq!(row.result, "config", "{what}: {error}");
            assert_words(what, &error.to_string(), &row.said);
            assert_eq!((runs_of_az(), machine.endpoint.requests()), (before, 0), "{what}");
            return;
        }
    };

    let asks = |who: &str| row.asked.split(' ').any(|asked| asked == who);
    let moves = async {
        if asks("imds") {
            machine.pass(imds).await;
        }
    };
    let outcome = with_moves(ask(&chain), moves).await;
    let (requests, elapsed) = if asks("imds") { (requests, milliseconds) } else { (0, 0) };
    assert_eq!(machine.endpoint.requests(), requests, "{what}");
    assert_eq!(machine.clock.monotonic(), Duration::from_millis(elapsed), "{what}");
    assert_eq!(runs_of_az() - before, usize::from(asks("az")), "{what}");
    let logged = chain_log(&log);
    match outcome {
        Ok(token) => {
            let owner = world.owner(&token);
            assert_eq!(owner, row.result, "{what}");
            assert!(!row.is_given || owner == "user", "{what}: another identity");
            assert_words(what, &logged.join("\n"), &row.said);
            let warnings = logged.iter().filter(|line| line.contains("WARN")).count();
            assert_eq!(warnings, usize::from(row.said.contains("WARN")), "{what}: {logged:?}");
            assert_pinned(world, row, &machine, &chain, owner).await;
            assert_eq!(chain_log(&log), logged, "{what}: it is logged once");
        }
        Err(error) => {
            let kind = match error.kind() {
                Transient => "transient",
                Unavailable => "unavailable",
                kind => panic!("{what}: {kind:?}: {error}"),
            };
            assert_eq!(kind, row.result, "{what}: {error}");
            assert_words(what, &with_causes(&error), &row.said);
            assert!(logged.is_empty(), "{what}: {logged:?}");
        }
    }
    logs::assert_no_token(&log.text());
}

/// The credential stays pinned, even if it fails or another one becomes available.
async fn assert_pinned(
    world: &World,
    row: &Row,
    machine: &Machine,
    chain: &Arc<dyn TokenCredential>,
    owner: &str,
) {
    let what = &row.what;
    let name = chain.name();
    if owner == "developer" {
        machine.endpoint.recover();
        if row.imds.0 == "refused" {
            machine.endpoint.come_back().unwrap();
        }
        let requests = machine.endpoint.requests();
        assert_eq!(world.owner(&ask(chain).await.unwrap()), owner, "{what}");
        world.az.set_mode(AzureCliMode::LoggedOut).unwrap();
        assert_eq!(ask(chain).await.unwrap_err().kind(), Unavailable, "{what}");
        assert_eq!(machine.endpoint.requests(), requests, "{what}");
    } else {
        let runs = world.az.invocations().unwrap().len();
        assert_eq!(world.owner(&ask(chain).await.unwrap()), owner, "{what}");
        machine.endpoint.go_away().await.unwrap();
        assert_eq!(ask(chain).await.unwrap_err().kind(), Transient, "{what}");
        assert_eq!(world.az.invocations().unwrap().len(), runs, "{what}");
    }
    assert_eq!(chain.name(), name, "{what}");
}

fn assert_words(what: &str, text: &str, words: &str) {
    for word in words.split(" + ") {
        assert!(text.contains(word), "{what}: {word:?} is not in {text:?}");
    }
}

// The probe

/// Builds a chain of a managed identity with a probe and an Azure CLI with a developer's login.
fn chain(world: &World, imds: String, clock: &(impl Clock + Clone)) -> Chain {
    let builder = ManagedIdentity::system_assigned().imds_endpoint(imds).clock(clock.clone());
    let cli = entra_pool::credential::AzureCli::builder().executable(world.az.executable());
    let members: Vec<Arc<dyn TokenCredential>> = vec![
        Arc::new(builder.probe(true).build().unwrap()),
        Arc::new(cli.clock(clock.clone()).build().unwrap()),
    ];
    Chain::new(members)
}

/// Answers the probe; the first connection carries no request.
async fn answer_probe(listener: &TcpListener, answer: &str) {
    let _ = listener.accept().await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let _ = stream.read(&mut [0; 4096]).await.unwrap();
    stream.write_all(answer.as_bytes()).await.unwrap();
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// The endpoint answers the probe as IMDS does, but is closed before the token request.
#[tokio::test]
async fn an_imds_that_has_answered_the_probe_is_not_skipped_when_it_is_unavailable() {
    let world = World::new();
    let body = r#"{"error":"x"}"#;
    for (head, body) in [
        ("400 Bad Request", body),
        ("403 Forbidden", body),
        ("404 Not Found", body),
        ("429 Too Many Requests", body),
        ("500 Internal Server Error", body),
        ("200 OK", "{}"),
        ("410 Gone", ""),
        ("410 Gone", "<html>"),
        ("503 Service Unavailable\r\nserver: IMDS/150.870.65.1391", "busy"),
        ("400 Bad Request", r#"{"error":"inval"#),
    ] {
        let (listener, url) = listen().await;
        let chain = chain(&world, url, &ManualClock::new());
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let once = async {
            answer_probe(&listener, &answer).await;
            drop(listener);
        };
        let outcome = with_moves(ask(&chain), once).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), Transient, "{head}: {}", with_causes(&error));
        assert_words(head, &with_causes(&error), "cannot be reached + has responded before");
    }
    assert!(world.az.invocations().unwrap().is_empty());
}

#[tokio::test]
async fn a_response_that_is_not_from_imds_is_skipped_immediately() {
    let world = World::new();
    for (status, body) in [
        (401, "No MMDS token provided. Use `X-metadata-token` header"),
        (403, "connecting to 169.254.169.254:80: connectex: unreachable network"),
        (404, ""),
        (404, "<html>"),
        (400, "[]"),
        (503, "upstream connect error or disconnect/reset before headers"),
        (200, "<html>"),
        (302, ""),
    ] {
        let log = logs::capture();
        let machine = world.machine();
        machine.endpoint.fail(Fault::Status(status, body.to_owned()));
        let chain = chain(&world, machine.endpoint.imds_endpoint(), &machine.clock);
        let token = ask(&chain).await.unwrap();
        assert_eq!(world.owner(&token), "developer", "{status} {body}");
        assert_eq!(machine.endpoint.requests(), 1, "{status} {body}");
        let logged = chain_log(&log).join("\n");
        assert_words(body, &logged, &format!("INFO + is not IMDS (status {status}"));
        assert!(!logged.contains("WARN"), "{logged}");
    }
}

/// Azure/azure-sdk-for-js#27608.
#[tokio::test]
async fn an_imds_without_identities_is_skipped_although_it_answers_the_probe() {
    let world = World::new();
    let machine = world.machine();
    machine.endpoint.fail_after(1, Fault::Status(404, String::new()));
    let chain = chain(&world, machine.endpoint.imds_endpoint(), &machine.clock);
    let token = with_moves(ask(&chain), machine.pass("404 JSON")).await;
    assert_eq!(world.owner(&token.unwrap()), "developer");
}

/// A proxy, a sign-in portal or another service may answer where a machine has no IMDS.
#[tokio::test]
async fn a_response_after_the_probe_that_is_not_from_imds_is_skipped_immediately() {
    let world = World::new();
    for status in [200, 302, 400, 401, 403, 404, 429, 500, 502, 503] {
        for body in ["<html>", "upstream connect error", ""] {
            if status == 200 && body != "<html>" {
                continue;
            }
            let machine = world.machine();
            machine.endpoint.fail_after(1, Fault::Status(status, body.to_owned()));
            let chain = chain(&world, machine.endpoint.imds_endpoint(), &machine.clock);
            let token = with_moves(ask(&chain), async {}).await.unwrap();
            assert_eq!(world.owner(&token), "developer", "{status} {body}");
            assert_eq!(machine.endpoint.requests(), 2, "{status} {body}");
        }
    }
}

/// An error of IMDS after the probe is final: this is a machine in Azure, and a developer's login
/// would be the wrong identity. Any failure after the first token is also final.
#[tokio::test]
async fn an_imds_that_has_answered_the_probe_is_not_skipped_after_its_own_error() {
    let world = World::new();
    for (status, kind, imds) in [
        (403, CredentialErrorKind::Refused, ""),
        (404, Transient, "404 JSON"),
        (429, Transient, "404 JSON"),
        (500, Transient, "404 JSON"),
        (503, Transient, "404 JSON"),
    ] {
        let machine = world.machine();
        let body = r#"{"error":"some_error"}"#.to_owned();
        machine.endpoint.fail_after(1, Fault::Status(status, body));
        let chain = chain(&world, machine.endpoint.imds_endpoint(), &machine.clock);
        let error = with_moves(ask(&chain), machine.pass(imds)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
    }
    for status in [403, 404, 503] {
        let machine = world.machine();
        let chain = chain(&world, machine.endpoint.imds_endpoint(), &machine.clock);
        assert_eq!(world.owner(&ask(&chain).await.unwrap()), "system");
        machine.endpoint.fail(Fault::Status(status, "<html>".to_owned()));
        let error = with_moves(ask(&chain), async {}).await.unwrap_err();
        assert_eq!(error.kind(), Transient, "{status}: {error}");
        assert_words("later", &error.to_string(), "is not IMDS + has responded before");
    }
    assert!(world.az.invocations().unwrap().is_empty());
}

/// A clock that counts the calls of `sleep`.
#[derive(Debug, Clone, Default)]
struct Counting(ManualClock, Arc<AtomicUsize>);

impl Clock for Counting {
    fn wall(&self) -> SystemTime {
        self.0.wall()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.1.fetch_add(1, Relaxed);
        self.0.sleep(duration)
    }
}

#[tokio::test]
async fn a_dropped_connection_is_retried_for_3_seconds() {
    let world = World::new();
    let log = logs::capture();
    let clock = Counting::default();
    let (listener, url) = listen().await;
    let chain = chain(&world, url, &clock);
    let breaking = async {
        // One timer for the connection, then two for each request: its limit and the pause.
        let _ = listener.accept().await.unwrap();
        for pause in [3, 5, 7] {
            drop(listener.accept().await.unwrap());
            until(|| clock.1.load(Relaxed) == pause).await;
            clock.0.advance(Duration::from_secs(1));
        }
    };
    let token = with_moves(ask(&chain), breaking).await;
    assert_eq!(world.owner(&token.unwrap()), "developer");
    assert_eq!(clock.monotonic(), Duration::from_secs(3));
    assert_words(
        "broken",
        &chain_log(&log).join("\n"),
        "INFO + WARN + AZURE_TOKEN_CREDENTIALS=prod",
    );
}

/// A full queue of connections drops the packets of another connection.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn if_packets_are_dropped_the_probe_takes_a_second() {
    let world = World::new();
    let log = logs::capture();
    let clock = ManualClock::new();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    for _ in 0..8 {
        let connect = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(100), connect).await {
            Ok(stream) => queue.push(stream.unwrap()),
            Err(_) => break,
        }
    }
    assert!(queue.len() < 8, "the queue is never full");
    let chain = chain(&world, format!("http://{address}"), &clock);
    let second = async {
        until(|| clock.next_wake() == Some(Duration::from_secs(1))).await;
        clock.advance(Duration::from_secs(1));
    };
    let token = with_moves(ask(&chain), second).await;
    assert_eq!(world.owner(&token.unwrap()), "developer");
    assert_eq!(clock.monotonic(), Duration::from_secs(1));
    let logged = chain_log(&log).join("\n");
    assert_words("dropped", &logged, "INFO + no connection within 1s");
    assert!(!logged.contains("WARN"), "{logged}");
}

// Connection strings

/// A connection string's credential reads the variables of the process, so the test runs itself
/// again with them.
#[tokio::test]
async fn an_identity_in_a_connection_string_is_used_or_rejected() {
    const MARK: &str = "ENTRA_POOL_TEST_IDENTITY";
    const OTHER: &str = "99999999-2222-3333-4444-555555555555";
    let refused = [
        ("dev", OTHER, "the account of `az login` and the account of `azd auth login`"),
        ("AzureCliCredential", OTHER, "the account of `az login`"),
        ("AzureDeveloperCliCredential", OTHER, "the account of `azd auth login`"),
        (
            "EnvironmentCredential",
            OTHER,
            "client ID 99999999-2222-3333-4444-555555555555 (AZURE_CLIENT_ID)",
        ),
        ("EnvironmentCredential", CLIENT_ID, ""),
        ("WorkloadIdentityCredential", OTHER, ""),
        ("ManagedIdentityCredential", OTHER, ""),
        ("", OTHER, ""),
    ];
    let Ok(case) = std::env::var(MARK) else {
        for (case, (selection, application, _)) in refused.iter().enumerate() {
            let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
            child.args(["an_identity_in_a_connection_string", "--nocapture"]).env_clear();
            child.env(MARK, case.to_string()).env("AZURE_TOKEN_CREDENTIALS", selection);
            child.env("AZURE_TENANT_ID", "contoso.onmicrosoft.com");
            child.env("AZURE_CLIENT_ID", application).env("AZURE_CLIENT_SECRET", "s3cret");
            child.env("AZURE_FEDERATED_TOKEN_FILE", "/nowhere/token");
            let output = child.output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("1 passed"), "{selection}: {said}");
        }
        return;
    };
    let (_, _, allowed) = refused[case.parse::<usize>().unwrap()];
    let sql = format!("Server=shop.database.windows.net;User Id={CLIENT_ID}");
    let url =
        format!("postgres://app@shop.postgres.database.azure.com/menu?entra_client_id={CLIENT_ID}");
    let sql = azure_sql::Config::parse_with_credential(&sql);
    let sql = sql.map(|(_, credential)| credential).map_err(|error| match error {
        azure_sql::Error::Identity(error) => error,
        error => panic!("{error:?}"),
    });
    let postgres = postgres::Config::parse_with_credential(&url);
    let postgres = postgres.map(|(_, credential)| credential).map_err(|error| match error {
        postgres::Error::Identity(error) => error,
        error => panic!("{error:?}"),
    });
    for (credential, setting) in [(sql, "User Id"), (postgres, "entra_client_id")] {
        if allowed.is_empty() {
            let name = credential.unwrap().name();
            assert!(name.contains(CLIENT_ID), "{name}");
            continue;
        }
        let error = credential.unwrap_err().to_string();
        let expected = format!(
            "AZURE_TOKEN_CREDENTIALS allows only {allowed}, but {setting} names client ID \
             {CLIENT_ID}: remove {setting}, or change AZURE_TOKEN_CREDENTIALS"
        );
        assert_eq!(error, expected);
    }
}
