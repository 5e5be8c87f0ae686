//! Responses of identity endpoints and output of `az` from public reports: each row of
//! `cases/identity.json` is replayed, and the outcome is compared with the expected one.
#![cfg(all(unix, feature = "azure-sql"))]
#![allow(clippy::disallowed_methods)] // The emulated database server runs in real time.

#[path = "support/logs.rs"]
mod logs;
#[path = "support/waiting.rs"]
mod waiting;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use entra_pool::{
    azure_sql,
    clock::{Clock, ManualClock},
    credential::{AzureCli, DefaultCredential, Environment, ManagedIdentity, UserAssignedId},
    token::{CredentialErrorKind, Identity, TokenCredential},
};
use entra_pool_emulator::{emulator::Emulator, identity::Fault};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};
use waiting::{ask, until, with_causes};

#[derive(Debug, Deserialize)]
struct Case {
    id: String,
    host: String,
    env: BTreeMap<String, String>,
    status: serde_json::Value,
    headers: BTreeMap<String, String>,
    body: String,
    #[serde(default)]
    context: String,
    now: Option<String>,
}

/// The expected outcome of a row: the source of the token (`endpoint` or `az`) or the error; the
/// pauses in seconds; the number of token requests or of runs of `az`; words in the error, or in
/// the log for a token.
type Expected = (&'static str, &'static str, &'static [u64], usize, &'static [&'static str]);

const EXPECTED: [Expected; 22] = [
    ("I00", "endpoint", &[1, 1, 1], 1, &[]),
    (
        "I01",
        "az",
        &[],
        1,
        &["WARN", "client ID 11111111-2222-3333-4444-555555555555", "Azure CLI", "dev@contoso.com"],
    ),
    ("I03", "az", &[], 1, &["is not IMDS (status 404"]),
    ("I04", "az", &[], 0, &["is not IMDS (status 401"]),
    ("I06", "az", &[], 0, &["is not IMDS (status 503"]),
    ("I07", "az", &[], 0, &["is not IMDS (status 403"]),
    ("I09", "refused", &[], 1, &["AZURE_CLIENT_ID", "Multiple user assigned identities"]),
    ("I10", "config", &[], 0, &["AZURE_CLIENT_ID must be without quotes"]),
    ("I12", "endpoint", &[], 1, &["managed identity (IMDS)"]),
    (
        "I13",
        "refused",
        &[],
        1,
        &["99999999-2222-3333-4444-555555555555", "object (principal) ID", "Identity not found"],
    ),
    ("I14", "endpoint", &[], 1, &[]),
    ("I16", "transient", &[1, 1], 3, &["500", "a wrong scope", "https://database.windows.net"]),
    (
        "I17",
        "refused",
        &[],
        1,
        &["11111111-2222-3333-4444-555555555555", "is not assigned to this app"],
    ),
    ("I19", "endpoint", &[], 1, &[]),
    ("I21", "config", &[], 0, &["IDENTITY_ENDPOINT must be without quotes"]),
    ("I22", "refused", &[], 1, &["the key file", "`himds`"]),
    ("I25", "endpoint", &[], 1, &[]),
    ("I26", "az", &[], 1, &[]),
    (
        "I28",
        "refused",
        &[],
        1,
        &["run `az login --scope https://database.windows.net/.default`", "AADSTS50005"],
    ),
    ("I30", "az", &[12], 1, &[]),
    ("I32", "unavailable", &[], 1, &["is not logged in", "run `az login`"]),
    ("I33", "az", &[], 1, &[]),
];

/// An endpoint that answers each token request with `answer`, and the probe with `probe`, if it
/// is set.
struct Endpoint {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    fn serve(&self, listener: TcpListener, answer: String, probe: Option<String>) {
        let requests = self.requests.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read_buf(&mut request).await {
                        Ok(1..) => {}
                        _ => break,
                    }
                }
                // The probe also connects without a request.
                if request.is_empty() {
                    continue;
                }
                let request = String::from_utf8(request).unwrap();
                let is_probe = !request.contains("resource=");
                let answer = if is_probe { probe.as_ref().unwrap_or(&answer) } else { &answer };
                if !is_probe {
                    requests.lock().unwrap().push(request);
                }
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
    }
}

fn http(status: u64, headers: &BTreeMap<String, String>, body: &str) -> String {
    let mut answer = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
    for (name, value) in headers {
        answer += &format!("{name}: {value}\r\n");
    }
    format!("{answer}content-length: {}\r\n\r\n{body}", body.len())
}

/// Writes an `az` that records its runs, waits for the file `go` if `waits`, and prints the output.
fn az(folder: &Path, waits: bool, status: u64, stdout: &str, stderr: &str) -> PathBuf {
    std::fs::write(folder.join("out"), stdout).unwrap();
    std::fs::write(folder.join("err"), stderr).unwrap();
    let waiting = if waits { "until test -e go; do sleep 0.01; done; " } else { "" };
    let script = format!(
        "#!/bin/sh\ncd '{}' && echo \"$AZURE_CORE_NO_COLOR $AZURE_CORE_ONLY_SHOW_ERRORS $*\" >> \
         runs; {waiting}cat out; cat err >&2; exit {status}\n",
        folder.display()
    );
    let path = folder.join("az");
    let write = "printf '%s' \"$1\" > \"$2\" && chmod +x \"$2\"";
    // Written by another process: a fork of another test would keep the file open.
    let mut child = std::process::Command::new("/bin/sh");
    let child = child.args(["-c", write, "sh", &script]).arg(&path);
    assert!(child.status().unwrap().success());
    path
}

fn clock_at(now: Option<&str>) -> ManualClock {
    let Some(now) = now else { return ManualClock::new() };
    let format = &time::format_description::well_known::Rfc3339;
    let now = time::OffsetDateTime::parse(now, format).unwrap();
    ManualClock::at(now.into())
}

#[tokio::test]
async fn each_reported_response_has_the_expected_outcome() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("cases/identity.json")).unwrap();
    assert_eq!(cases.len(), EXPECTED.len());
    for case in &cases {
        let expected = EXPECTED.iter().find(|(id, ..)| *id == case.id);
        check(case, expected.expect(&case.id)).await;
    }
}

async fn check(case: &Case, (id, outcome, pauses, requests, words): &Expected) {
    let log = logs::capture();
    let folder = tempfile::tempdir().unwrap();
    let clock = clock_at(case.now.as_deref());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let endpoint = Endpoint { address, requests: Arc::default() };

    // A developer is logged in, unless the row is about the CLI.
    let is_cli = case.host == "cli";
    let developer = "e30.eyJleHAiOjQxMDI0NDQ4MDAsInVwbiI6ImRldkBjb250b3NvLmNvbSJ9.c2ln";
    let stdout = format!(r#"{{"accessToken":"{developer}","expires_on":4102444800}}"#);
    let (out, err) = case.body.split_once("stderr: ").unwrap_or((&case.body, ""));
    let out = out.strip_prefix("stdout: ").unwrap_or(out);
    let executable = if is_cli {
        let waits = case.status.as_u64().is_none();
        az(folder.path(), waits, case.status.as_u64().unwrap_or(0), out, err)
    } else {
        az(folder.path(), false, 0, &stdout, "")
    };

    let built = credential(case, &endpoint, &clock, folder.path(), &executable);
    let credential = match built {
        Ok(credential) => credential,
        Err(error) => {
            assert_eq!(*outcome, "config", "{id}: {error}");
            return assert_words(id, &error, words);
        }
    };
    let mut socket = Some(socket);
    let mut listen = || {
        let listener = socket.take().unwrap().listen(16).unwrap();
        let status = case.status.as_u64().unwrap_or(200);
        let is_imds = matches!(*id, "I03");
        let probe = is_imds.then(|| http(400, &BTreeMap::new(), r#"{"error":"x"}"#));
        endpoint.serve(listener, http(status, &case.headers, &case.body), probe);
    };
    let starts_later = *id == "I00";
    if !is_cli && !starts_later {
        listen();
    }
    let moves = async {
        for pause in *pauses {
            let pause = Duration::from_secs(*pause);
            if is_cli {
                until(|| folder.path().join("runs").exists()).await;
                clock.advance(pause);
                std::fs::write(folder.path().join("go"), "").unwrap();
            } else {
                until(|| clock.next_wake() == Some(pause)).await;
                clock.advance(pause);
            }
            if starts_later && clock.monotonic() == Duration::from_secs(3) {
                listen();
            }
        }
    };
    let (result, ()) = tokio::join!(ask(&*credential), moves);
    assert!(clock.monotonic() <= Duration::from_secs(15), "{id}");

    let runs = std::fs::read_to_string(folder.path().join("runs")).unwrap_or_default();
    for run in runs.lines() {
        let arguments = "true true account get-access-token --output json --scope";
        assert_eq!(run, format!("{arguments} https://database.windows.net/.default"), "{id}");
    }
    let received = endpoint.requests.lock().unwrap().clone();
    assert!(received.iter().all(|it| it.contains("resource=https")), "{id}: {received:?}");
    let by_az = is_cli || *outcome == "az";
    assert_eq!(runs.lines().count(), usize::from(by_az), "{id}");
    assert_eq!(if is_cli { runs.lines().count() } else { received.len() }, *requests, "{id}");
    match result {
        Ok(token) => {
            let source = if token.secret() == developer || is_cli { "az" } else { "endpoint" };
            assert_eq!(source, *outcome, "{id}");
            let year_2100 = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
            assert!(token.expires_on() > clock.wall(), "{id}");
            assert!(token.expires_on() <= year_2100, "{id}");
            assert_words(id, &format!("{}\n{}", log.text(), credential.name()), words);
            let warned = log.text().contains("WARN");
            assert_eq!(warned, words.contains(&"WARN"), "{id}: {}", log.text());
        }
        Err(error) => {
            let kind = match error.kind() {
                CredentialErrorKind::Refused => "refused",
                CredentialErrorKind::Transient => "transient",
                CredentialErrorKind::Unavailable => "unavailable",
                kind => panic!("{id}: {kind:?}"),
            };
            assert_eq!(kind, *outcome, "{id}: {}", with_causes(&error));
            assert_words(id, &with_causes(&error), words);
        }
    }
}

/// Builds the credential of the row's environment, with the address of this test's endpoint.
fn credential(
    case: &Case,
    endpoint: &Endpoint,
    clock: &ManualClock,
    folder: &Path,
    az: &Path,
) -> Result<Arc<dyn TokenCredential>, String> {
    let mut variables = case.env.clone();
    for (name, value) in &mut variables {
        if let Some(start) = value.find("://").filter(|_| name.ends_with("_ENDPOINT")) {
            let path = value[start + 3..].find('/').map(|at| value[start + 3 + at..].to_owned());
            let before = &value[..start];
            *value = format!("{before}://{}{}", endpoint.address, path.unwrap_or_default());
        }
    }
    variables.insert("PATH".into(), format!("{}:/usr/bin:/bin", folder.display()));
    if case.host == "imds" {
        let imds = format!("http://{}", endpoint.address);
        variables.insert("AZURE_POD_IDENTITY_AUTHORITY_HOST".into(), imds);
    }
    let environment = Environment::from_pairs(variables);
    if case.host == "cli" {
        let cli = AzureCli::builder().executable(az).environment(environment);
        return Ok(Arc::new(cli.clock(clock.clone()).build().unwrap()));
    }
    if case.context.starts_with("explicit") {
        let id = UserAssignedId::ClientId(case.env["AZURE_CLIENT_ID"].clone());
        let identity = ManagedIdentity::user_assigned(id).environment(environment);
        return Ok(Arc::new(identity.clock(clock.clone()).build().unwrap()));
    }
    let default = DefaultCredential::new().environment(environment).clock(clock.clone());
    default.build().map_err(|error| error.to_string())
}

fn assert_words(id: &str, text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{id}: {word:?} is not in {text:?}");
    }
}

// A container that starts

/// Returns an emulator whose identity endpoint is not listening yet, a manual clock, and an
/// identity that uses both.
async fn starting() -> (Emulator, ManualClock, Identity) {
    let emulator = Emulator::start().await.unwrap();
    emulator.identity().go_away().await.unwrap();
    let clock = ManualClock::new();
    let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
    let environment = Environment::from_pairs(emulator.identity().app_service_env());
    let credential = ManagedIdentity::user_assigned(id).environment(environment);
    let credential = credential.clock(clock.clone()).build().unwrap();
    let identity = Identity::builder(credential).clock(clock.clone()).build();
    (emulator, clock, identity)
}

async fn pass(clock: &ManualClock, seconds: u64) {
    let second = Duration::from_secs(1);
    for _ in 0..seconds {
        until(|| clock.next_wake() == Some(second)).await;
        clock.advance(second);
    }
}

fn connector(emulator: &Emulator, identity: &Identity) -> azure_sql::Connector {
    let config: azure_sql::Config = emulator.azure_sql_string().parse().unwrap();
    let config = config.maintenance(false);
    let tokens = identity.tokens(config.token_scope().unwrap());
    azure_sql::Connector::new(config, tokens).unwrap()
}

#[tokio::test]
async fn a_container_whose_endpoint_listens_after_3_seconds_warms_up() {
    let (emulator, clock, identity) = starting().await;
    let connector = connector(&emulator, &identity);
    let pool = connector.pool();
    let moves = async {
        pass(&clock, 2).await;
        until(|| clock.next_wake() == Some(Duration::from_secs(1))).await;
        emulator.identity().come_back().unwrap();
        clock.advance(Duration::from_secs(1));
    };
    let (warm, ()) = tokio::join!(connector.warm_up(&pool, 2), moves);
    warm.unwrap();
    assert_eq!(pool.status().size, 2);
    assert_eq!(emulator.identity().requests(), 1);
    assert_eq!(clock.monotonic(), Duration::from_secs(3));
}

#[tokio::test]
async fn an_endpoint_that_starts_late_is_retried_as_usual_after_its_start() {
    // App Service's 401 right after a start, and a status of an endpoint that is not ready.
    for status in [401, 503] {
        let (emulator, clock, identity) = starting().await;
        emulator.identity().fail_next(1, Fault::Status(status, String::new()));
        let connector = connector(&emulator, &identity);
        let moves = async {
            pass(&clock, 2).await;
            until(|| clock.next_wake() == Some(Duration::from_secs(1))).await;
            emulator.identity().come_back().unwrap();
            clock.advance(Duration::from_secs(1));
            emulator.identity().wait_for_requests(1).await;
            pass(&clock, 1).await;
        };
        let connected = async {
            tokio::select! {
                connected = connector.connect() => connected.map(drop),
                never = async { moves.await; std::future::pending().await } => never,
            }
        };
        connected.await.unwrap_or_else(|error| panic!("{status}: {error:?}"));
        assert_eq!(emulator.identity().requests(), 2, "{status}");
    }
}

#[tokio::test]
async fn an_endpoint_that_never_listens_causes_a_clear_error_within_the_connect_timeout() {
    let (emulator, clock, identity) = starting().await;
    let connector = connector(&emulator, &identity);
    let pool = connector.pool();
    let (failed, ()) = tokio::join!(connector.warm_up(&pool, 1), pass(&clock, 10));
    let error = with_causes(&failed.unwrap_err());
    let words = ["the App Service identity endpoint is not listening at", "(IDENTITY_ENDPOINT)"];
    assert_words("never", &error, &words);
    assert_words("never", &error, &["cannot connect", "refused"]);
    assert!(!error.contains("continues in the background"), "{error}");
    assert_eq!(clock.monotonic(), Duration::from_secs(10));
}

#[tokio::test]
async fn a_connect_that_times_out_during_the_retries_names_the_last_error() {
    let (emulator, clock, identity) = starting().await;
    let config: azure_sql::Config = emulator.azure_sql_string().parse().unwrap();
    let config = config.connect_timeout(Duration::from_secs(5));
    let tokens = identity.tokens(config.token_scope().unwrap());
    let connector = azure_sql::Connector::new(config, tokens).unwrap();
    let (failed, ()) = tokio::join!(connector.connect(), pass(&clock, 5));
    let error = with_causes(&failed.unwrap_err());
    let words = ["the App Service identity endpoint is not listening at", "(IDENTITY_ENDPOINT)"];
    assert_words("short", &error, &words);
    assert_words("short", &error, &["timed out", "5s", "cannot connect", "refused"]);
    assert_eq!(clock.monotonic(), Duration::from_secs(5));
}

// No fallback

#[tokio::test]
async fn after_an_identity_unknown_to_imds_only_the_default_chain_continues() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("cases/identity.json")).unwrap();
    let case = cases.iter().find(|case| case.id == "I01").unwrap();
    const WORDS: &[&str] = &["is not assigned to this machine", "object (principal) ID"];
    for (name, value, context) in [
        ("AZURE_TOKEN_CREDENTIALS", "prod", ""),
        ("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential", ""),
        ("OTHER", "x", "explicit"),
    ] {
        let mut env = case.env.clone();
        env.insert(name.into(), value.into());
        let (host, headers, body) = (case.host.clone(), case.headers.clone(), case.body.clone());
        let (id, status, now) = (case.id.clone(), case.status.clone(), None);
        let case = Case { id, host, env, status, headers, body, context: context.into(), now };
        check(&case, &("I01", "refused", &[], 1, WORDS)).await;
    }
}

#[tokio::test]
async fn an_endpoint_without_its_header_is_reported_if_there_is_no_imds() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let environment = Environment::from_pairs([
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", format!("http://{}", socket.local_addr().unwrap())),
        ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token".to_owned()),
    ]);
    let credential = DefaultCredential::new().environment(environment).build().unwrap();
    let error = ask(&*credential).await.unwrap_err();
    assert_words("no header", &error.to_string(), &["because IDENTITY_HEADER is not set"]);
}
