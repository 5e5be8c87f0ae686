//! The service as a process, driven over HTTP, scraped, and looked at with a browser.
#![allow(clippy::disallowed_methods)] // Uses real processes.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use entra_pool_emulator::{azure_sql::ServerError, emulator::Emulator};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The page with the table of metrics.
const PAGE: &str = include_str!("../../../src/telemetry/mod.rs");
const DASHBOARD: &str = include_str!("../grafana.json");
const ALERTS: &str = include_str!("../alerts.yml");

/// Starts a program and waits until it prints `announcement`; returns the rest of that line.
async fn started(command: Command, announcement: &'static str) -> (Child, String) {
    started_with_log(command, announcement, Arc::default()).await
}

/// The same, with the program's output in `log`.
async fn started_with_log(
    mut command: Command,
    announcement: &'static str,
    log: Arc<Mutex<String>>,
) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, announced) = mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once(announcement) {
                // Only the first announcement has a receiver.
                let _ = sender.send(rest.to_owned());
            }
            *log.lock().unwrap() += &(line + "\n");
        }
    });
    let waiting = move || announced.recv_timeout(Duration::from_secs(60)).unwrap();
    (child, tokio::task::spawn_blocking(waiting).await.unwrap())
}

/// The running service. It is killed when this is dropped.
struct Service {
    child: Child,
    address: String,
    client: reqwest::Client,
    log: Arc<Mutex<String>>,
}

impl Service {
    /// Starts the service with only this environment, and waits until it listens.
    async fn start(environment: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_observability"));
        command.env_clear().env("LISTEN", "127.0.0.1:0").envs(environment);
        let log = Arc::new(Mutex::new(String::new()));
        let (child, address) = started_with_log(command, "listening on ", log.clone()).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { child, address, client, log }
    }

    /// Starts the service against the test's emulator, with one connection to each database.
    async fn against(emulator: &Emulator) -> Self {
        let mut environment = emulator.env();
        let azure_sql = format!("{};Connect Timeout=5", emulator.azure_sql_string());
        environment.push(("AZURE_SQL_CONNECTIONSTRING", azure_sql));
        environment.push(("AZURE_POSTGRESQL_CONNECTIONSTRING", emulator.postgres_url()));
        environment.push(("POOL_SIZE", "1".to_owned()));
        environment.push(("RUST_LOG", "info,entra_pool::telemetry=debug".to_owned()));
        Self::start(environment).await
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.client.get(format!("{}{path}", self.address)).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> StatusCode {
        let request = self.client.request(method, format!("{}{path}", self.address));
        let request = request.header("content-type", "application/json").body(body.to_string());
        request.send().await.unwrap().status()
    }

    /// Repeats a request for up to 30 s until it succeeds.
    async fn recovers(&self, path: &str) {
        for _ in 0..300 {
            if self.get(path).await.0 == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{path} does not recover: {}", self.log());
    }

    /// Reads samples from the events until a sample matches.
    async fn sample(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let request = self.client.get(format!("{}/events", self.address));
        let mut response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut text = String::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            text += std::str::from_utf8(&chunk).unwrap();
            while let Some((event, rest)) = text.split_once("\n\n") {
                let samples: Vec<Value> = match event.strip_prefix("data: ") {
                    Some(json) => serde_json::from_str(json).unwrap(),
                    None => Vec::new(),
                };
                if let Some(sample) = samples.into_iter().find(&fits) {
                    return sample;
                }
                text = rest.to_owned();
            }
        }
        panic!("the events ended");
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The service may have stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn emulator() -> Emulator {
    Emulator::start().await.unwrap()
}

async fn scrape(service: &Service) -> String {
    let (status, text) = service.get("/metrics").await;
    assert_eq!(status, 200, "{text}");
    text
}

/// The value of the series of this name with all of these labels.
#[track_caller]
fn value(scrape: &str, name: &str, labels: &[&str]) -> f64 {
    let found = scrape.lines().find(|line| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    });
    let line = found.unwrap_or_else(|| panic!("there is no {name} {labels:?}: {scrape}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Every name in a scrape: of metrics and of labels.
fn names(scrape: &str) -> BTreeSet<&str> {
    words(scrape).filter(|word| is_ours(word)).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

fn is_ours(word: &str) -> bool {
    word.starts_with("db_client_") || word.starts_with("entra_pool_")
}

/// The metrics of the page's table, with the suffixes of Prometheus' naming.
fn documented() -> Vec<String> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    rows.filter(|row| row.len() == 4)
        .filter_map(|row| {
            let name = row[0].trim_end_matches('`').replace('.', "_");
            let suffix = match row[1] {
                "counter" => "_total",
                "gauge" => "",
                "gauge, s" | "histogram, s" => "_seconds",
                _ => return None,
            };
            Some(format!("{name}{suffix}"))
        })
        .collect()
}

/// The queries of the dashboard's panels and variables.
fn dashboard_queries() -> Vec<String> {
    fn collect(value: &Value, queries: &mut Vec<String>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| collect(value, queries)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str() {
                        Some(text) if name == "expr" || name == "query" => {
                            queries.push(text.to_owned());
                        }
                        _ => collect(value, queries),
                    }
                }
            }
            _ => {}
        }
    }
    let mut queries = Vec::new();
    collect(&serde_json::from_str(DASHBOARD).unwrap(), &mut queries);
    queries
}

#[tokio::test]
async fn a_scrape_has_pools_logins_and_tokens() {
    let emulator = emulator().await;
    let service = Service::against(&emulator).await;
    let orders = json!({ "database": "orders", "user": "shop-identity" });
    assert_eq!(service.json("/azure-sql").await, orders);
    let menu = json!({ "database": "restaurant", "user": "shop-identity" });
    assert_eq!(service.json("/postgres").await, menu);
    assert_eq!(service.json("/azure-sql").await, orders);

    // The pool cleans the connection for a moment.
    let idle = ["/orders\"", "db_client_connection_state=\"idle\""];
    let first = loop {
        let scraped = scrape(&service).await;
        if value(&scraped, "db_client_connection_count", &idle) > 0.0 {
            break scraped;
        }
    };
    let (sql, postgres) =
        (&["db_system_name=\"microsoft.sql_server\""][..], &["db_system_name=\"postgresql\""][..]);
    for system in [sql, postgres] {
        assert_eq!(value(&first, "db_client_connection_create_time_seconds_count", system), 1.0);
        assert_eq!(value(&first, "entra_pool_login_refused_total", system), 0.0);
    }
    let to_orders = &["/orders\""][..];
    assert_eq!(value(&first, "db_client_connection_wait_time_seconds_count", to_orders), 2.0);
    assert_eq!(value(&first, "db_client_connection_count", &idle), 1.0);
    assert_eq!(value(&first, "db_client_connection_max", to_orders), 1.0);
    assert_eq!(value(&first, "db_client_connection_timeouts_total", to_orders), 0.0);
    let scope = &["entra_pool_token_scope=\"https://database.windows.net/.default\""][..];
    assert_eq!(value(&first, "entra_pool_token_requests_total", scope), 1.0);
    assert!(value(&first, "entra_pool_token_expiry_seconds", scope) > 1.7e9);

    // Failures, by the metric that counts them.
    let behaviour = emulator.azure_sql().behaviour();
    let cut = async || {
        emulator.azure_sql().cut_connections().await;
        while emulator.azure_sql().counters().open_connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    cut().await;
    behaviour.fail_logins(1, ServerError::new(40613, 14, "Not currently available."));
    service.recovers("/azure-sql").await;
    cut().await;
    behaviour.fail_logins(1, ServerError::new(18456, 14, "Login failed."));
    service.recovers("/azure-sql").await;
    let last = scrape(&service).await;
    assert_eq!(value(&last, "entra_pool_login_retried_total", sql), 1.0);
    assert_eq!(value(&last, "entra_pool_login_renewed_total", sql), 1.0);
    // The server accepted this identity before, so the login is retried until the deadline.
    emulator.directory().remove("shop-identity");
    cut().await;
    assert_eq!(service.get("/azure-sql").await.0, 500);

    let last = scrape(&service).await;
    let refused = [sql[0], "error_type=\"login_refused\""];
    assert!(value(&last, "entra_pool_login_retried_total", &refused) >= 1.0);
    assert!(value(&last, "entra_pool_login_renewed_total", sql) > 1.0);
    assert_eq!(value(&last, "entra_pool_login_refused_total", sql), 1.0);
    let closed = [sql[0], "entra_pool_retire_reason=\"closed\""];
    assert_eq!(value(&last, "entra_pool_connection_retired_total", &closed), 3.0);
    assert_eq!(value(&last, "db_client_connection_create_time_seconds_count", &refused), 1.0);

    let there = names(&last);
    for metric in documented() {
        let measured = [metric.clone(), format!("{metric}_bucket")];
        assert!(measured.iter().any(|name| there.contains(&**name)), "{metric}: {last}");
        assert!(last.contains(&format!("# HELP {metric} ")), "{metric} is not described");
    }
    for query in dashboard_queries().iter().map(String::as_str).chain([ALERTS]) {
        for word in words(query).filter(|word| is_ours(word)) {
            assert!(there.contains(word), "{word} is in no scrape: {query}");
        }
    }
    let principal = emulator.user_assigned();
    for private in [&principal.name, &principal.client_id, &principal.object_id] {
        assert!(!last.contains(private.as_str()), "{private} is in the scrape");
    }
}

#[test]
fn the_dashboard_shows_every_metric_including_those_of_the_alerts() {
    let documented = documented();
    assert_eq!(documented.len(), 13);
    let queries = dashboard_queries().join("\n");
    let shown: BTreeSet<_> = words(&queries).collect();
    for metric in documented {
        let names = ["", "_bucket", "_count"].map(|suffix| format!("{metric}{suffix}"));
        assert!(names.iter().any(|name| shown.contains(&**name)), "{metric} is not shown");
    }
    let alerts = words(ALERTS).filter(|word| word.ends_with("_total") || word.ends_with("_bucket"));
    let alerts: Vec<_> = alerts.collect();
    assert!(alerts.len() > 4 && alerts.iter().all(|name| shown.contains(name)), "{alerts:?}");

    // The data source is selected on import.
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_in_the_log_and_tokens_are_not() {
    let emulator = emulator().await;
    let mut service = Service::against(&emulator).await;
    service.get("/azure-sql").await;
    service.get("/azure-sql").await;
    let id = service.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let status = tokio::task::block_in_place(|| service.child.wait()).unwrap();
    // Another thread reads the log.
    while !service.log().contains("recycle{otel.kind=\"client\"") {
        tokio::task::yield_now().await;
    }
    let log = service.log();
    assert!(status.success(), "{status}: {log}");
    for span in [
        "connect{otel.kind=\"client\" db.system.name=\"microsoft.sql_server\" db.namespace=\"orders\"",
        "request_token{otel.kind=\"client\" entra_pool.token.scope=\"https://database.windows.net/.default\"",
        "close time.busy=",
    ] {
        assert!(log.contains(span), "{span}: {log}");
    }
    assert!(!log.contains("eyJ"), "a token: {log}");
}

#[tokio::test]
async fn an_outage_is_reported_in_the_status_and_scrapes_continue() {
    let emulator = emulator().await;
    let service = Service::against(&emulator).await;
    emulator.identity().go_away().await.unwrap();
    assert_eq!(service.get("/postgres").await.0, 503);
    let status = service.json("/status").await;
    let [azure_sql, postgres] = [0, 1].map(|at| &status["pools"][at]);
    assert_eq!(azure_sql["error"], Value::Null, "{status}");
    assert!(postgres["error"].as_str().unwrap().contains("cannot get a token"), "{status}");
    assert!(postgres["token"]["failures"].as_u64() >= Some(1), "{status}");
    let failed = ["entra_pool_token_outcome=\"failed\"", "ossrdbms"];
    assert!(value(&scrape(&service).await, "entra_pool_token_requests_total", &failed) >= 1.0);
    emulator.identity().come_back().unwrap();
    service.recovers("/postgres").await;
    assert_eq!(service.json("/status").await["pools"][1]["error"], Value::Null);
    // Databases that are not emulated cannot be disturbed.
    assert_eq!(status["identity_is_down"], Value::Null);
    for (method, path, body) in [
        (Method::PUT, "/faults/identity", json!({ "down": true })),
        (Method::POST, "/faults/cut", Value::Null),
    ] {
        assert_eq!(service.send(method, path, &body).await, 404, "{path}");
    }
}

#[tokio::test]
async fn without_a_database_the_emulator_provides_load_and_faults() {
    let service = Service::start([]).await;
    let both = |sample: &Value, fits: &dyn Fn(&Value) -> bool| {
        sample["pools"].as_array().unwrap().iter().all(fits)
    };
    let works = |pool: &Value| pool["checkouts"].as_u64() > Some(0) && pool["error"].is_null();
    let sample = service.sample(|sample| both(sample, &works)).await;
    assert_eq!((&sample["load"], &sample["identity_is_down"]), (&20.into(), &false.into()));
    assert!(sample["pools"][0]["token"]["expires_in"].as_u64() <= Some(60), "{sample}");

    assert_eq!(service.send(Method::POST, "/faults/cut", &Value::Null).await, 204);
    let is_closed = |pool: &Value| pool["retired"][0][0] == "the connection was closed";
    service.sample(|sample| both(sample, &is_closed)).await;

    for down in [true, false] {
        let body = json!({ "down": down });
        assert_eq!(service.send(Method::PUT, "/faults/identity", &body).await, 204);
        assert_eq!(service.json("/status").await["identity_is_down"], down);
    }
    assert_eq!(service.send(Method::PUT, "/load", &json!({ "per_second": 0 })).await, 204);
    let rests = |pool: &Value| pool["checkouts"] == 0 && pool["used"] == 0;
    service.sample(|sample| sample["load"] == 0 && both(sample, &rests)).await;
}

/// Another site's page can only send a form, which changes nothing.
#[tokio::test]
async fn only_json_requests_change_the_state() {
    let service = Service::start([]).await;
    for (method, path) in
        [(Method::PUT, "/load"), (Method::PUT, "/faults/identity"), (Method::POST, "/faults/cut")]
    {
        let request = service.client.request(method, format!("{}{path}", service.address));
        let request = request.header("content-type", "text/plain").body("null");
        assert_eq!(request.send().await.unwrap().status(), 415, "{path}");
    }
}

#[tokio::test]
async fn one_connection_string_without_the_other_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_observability"))
        .env_clear()
        .env("AZURE_SQL_CONNECTIONSTRING", "Server=shop.database.windows.net")
        .output()
        .unwrap();
    let log = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("AZURE_POSTGRESQL_CONNECTIONSTRING, or neither"), "{log}");
}

/// Returns the page in Chromium once it contains `piece`. Uses chromedriver over HTTP (W3C
/// WebDriver).
async fn page_in_browser(address: &str, piece: &str) -> String {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0");
    let (mut driver, port) = started(command, "started successfully on port ").await;
    let driver_address = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |method: Method, path: &str, body: Option<Value>| -> Value {
        let request = client.request(method, format!("{driver_address}/session{path}"));
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let response = request.body(body).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&response).unwrap()
    };
    let options = json!({ "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"] });
    let capabilities = json!({ "browserName": "chrome", "goog:chromeOptions": options });
    let wanted = json!({ "capabilities": { "alwaysMatch": capabilities } });
    let session = ask(Method::POST, "", Some(wanted)).await;
    let session = format!("/{}", session["value"]["sessionId"].as_str().unwrap());
    ask(Method::POST, &format!("{session}/url"), Some(json!({ "url": address }))).await;
    let mut page = String::new();
    for _ in 0..100 {
        let source = ask(Method::GET, &format!("{session}/source"), None).await;
        page = source["value"].as_str().unwrap().to_owned();
        if page.contains(piece) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ask(Method::DELETE, &session, None).await;
    driver.kill().unwrap();
    driver.wait().unwrap();
    page
}

/// Each chart is drawn, and its text alternative has the values.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_draws_the_page() {
    let service = Service::start([]).await;
    let works = |pool: &Value| pool["checkouts"].as_u64() > Some(0);
    service.sample(|sample| sample["pools"].as_array().unwrap().iter().all(works)).await;
    let good = "All requests succeed</p>";
    let page = page_in_browser(&service.address, good).await;
    // Including the chart in the template.
    assert_eq!(page.matches("<svg role=\"img\"").count(), 2 * 5 + 1, "{page}");
    for piece in [
        good,
        "aria-label=\"Connections of Azure SQL in the last two minutes. Now: idle ",
        "aria-label=\"Token of PostgreSQL in the last two minutes. Now: expires in ",
        "class=\"area used\" d=\"M",
        "<th scope=\"row\">Logins: refused</th><td>0</td><td>0</td>",
    ] {
        assert!(page.contains(piece), "{piece}? {page}");
    }
}
