//! The service as a process, driven over HTTP, scraped, and looked at with a browser.

#![allow(clippy::disallowed_methods)] // Uses real processes.

use std::{cell::Cell, collections::BTreeSet, time::Duration};

use entra_pool_emulator::{azure_sql::ServerError, emulator::Emulator};
use examples_test_support::{Application, Browser};
use reqwest::Method;
use serde_json::{Value, json};

/// The page with the table of metrics.
const PAGE: &str = include_str!("../../../src/telemetry/mod.rs");
const DASHBOARD: &str = include_str!("../grafana.json");
const ALERTS: &str = include_str!("../alerts.yml");

async fn start(environment: impl IntoIterator<Item = (&'static str, String)>) -> Application {
    Application::start(env!("CARGO_BIN_EXE_observability"), environment).await
}

/// The environment of the service with the test's emulator, and with one connection to each
/// database.
fn environment(emulator: &Emulator) -> Vec<(&'static str, String)> {
    let mut environment = emulator.env();
    let azure_sql = format!("{};Connect Timeout=5", emulator.azure_sql_string());
    environment.push(("AZURE_SQL_CONNECTIONSTRING", azure_sql));
    environment.push(("AZURE_POSTGRESQL_CONNECTIONSTRING", emulator.postgres_url()));
    environment.push(("POOL_SIZE", "1".to_owned()));
    environment.push(("RUST_LOG", "info,entra_pool::telemetry=debug".to_owned()));
    environment
}

/// Starts the service against the test's emulator.
async fn start_against(emulator: &Emulator) -> Application {
    start(environment(emulator)).await
}

async fn json(service: &Application, path: &str) -> Value {
    let answer = service.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// Sends JSON, and returns the status of the response.
async fn send(service: &Application, method: Method, path: &str, body: &Value) -> u16 {
    service.send(method, path, "application/json", body.to_string()).await.status.as_u16()
}

/// Reads samples from the events until a sample matches.
async fn sample_of(service: &Application, fits: impl Fn(&Value) -> bool) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut response = client.get(format!("{}/events", service.address())).send().await.unwrap();
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

async fn emulator() -> Emulator {
    Emulator::start().await.unwrap()
}

async fn scrape(service: &Application) -> String {
    let answer = service.get("/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text
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
    let service = start_against(&emulator).await;
    let orders = json!({ "database": "orders", "user": "shop-identity" });
    assert_eq!(json(&service, "/azure-sql").await, orders);
    let menu = json!({ "database": "restaurant", "user": "shop-identity" });
    assert_eq!(json(&service, "/postgres").await, menu);
    assert_eq!(json(&service, "/azure-sql").await, orders);

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
    assert_eq!(service.get("/azure-sql").await.status, 500);

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

#[tokio::test]
async fn spans_are_in_the_log_and_tokens_are_not() {
    let emulator = emulator().await;
    let service = start_against(&emulator).await;
    service.get("/azure-sql").await;
    service.get("/azure-sql").await;
    service.terminate();
    let (status, log) = service.ended().await;
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
    // Long enough for the first connections, and short, because this test waits for the expiry.
    emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = 4);
    let service = start_against(&emulator).await;
    emulator.identity().go_away().await.unwrap();
    // PostgreSQL checks a token only at the login, and the first token remains usable for a while.
    let status = loop {
        emulator.postgres().cut_connections().await;
        service.get("/postgres").await;
        let status = json(&service, "/status").await;
        let error = status["pools"][1]["error"].as_str().unwrap_or_default();
        if error.contains("cannot get a token") {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(service.get("/postgres").await.status, 503);
    let [azure_sql, postgres] = [0, 1].map(|at| &status["pools"][at]);
    assert_eq!(azure_sql["error"], Value::Null, "{status}");
    assert!(postgres["token"]["failures"].as_u64() >= Some(1), "{status}");
    let failed = ["entra_pool_token_outcome=\"failed\"", "ossrdbms"];
    assert!(value(&scrape(&service).await, "entra_pool_token_requests_total", &failed) >= 1.0);
    emulator.identity().come_back().unwrap();
    service.recovers("/postgres").await;
    assert_eq!(json(&service, "/status").await["pools"][1]["error"], Value::Null);
    // Databases that are not emulated cannot be disturbed.
    assert_eq!(status["identity_is_down"], Value::Null);
    for (method, path, body) in [
        (Method::PUT, "/faults/identity", json!({ "down": true })),
        (Method::POST, "/faults/cut", Value::Null),
    ] {
        assert_eq!(send(&service, method, path, &body).await, 404, "{path}");
    }
}

/// The charts need every request, so `/status` must leave the counts to the next sample.
#[tokio::test]
async fn the_status_does_not_change_the_samples() {
    let emulator = emulator().await;
    let service = start_against(&emulator).await;
    for _ in 0..3 {
        assert_eq!(service.get("/azure-sql").await.status, 200);
        json(&service, "/status").await;
    }
    let (samples, checkouts) = (Cell::new(0), Cell::new(0));
    sample_of(&service, |sample| {
        samples.set(samples.get() + 1);
        let counted = sample["pools"][0]["checkouts"].as_u64().unwrap();
        checkouts.set(checkouts.get() + counted);
        checkouts.get() == 3 || samples.get() == 10
    })
    .await;
    assert_eq!(checkouts.get(), 3);
}

#[tokio::test]
async fn ready_reports_the_cause_and_health_does_not_use_the_databases() {
    let emulator = emulator().await;
    // A connect fails at once, without retries, while the server is unavailable.
    let environment = environment(&emulator)
        .into_iter()
        .map(|(name, value)| (name, value.replace("Connect Timeout=5", "ConnectRetryCount=0")));
    let service = start(environment).await;
    assert_eq!(json(&service, "/health").await["status"], "alive");
    assert_eq!(json(&service, "/ready").await["status"], "ready");
    emulator.azure_sql().go_away().await.unwrap();
    assert_eq!(json(&service, "/health").await["status"], "alive");
    let answer = service.get("/ready").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let cause = answer.json()["cause"].as_str().unwrap().to_owned();
    assert!(cause.starts_with("Azure SQL: ") && cause.contains("Connection refused"), "{cause}");
    assert!(!cause.contains("PostgreSQL"), "{cause}");
    emulator.azure_sql().come_back().unwrap();
    service.recovers("/ready").await;
    // Health checks are not requests.
    assert_eq!(json(&service, "/status").await["pools"][0]["failures"], 0);
}

#[tokio::test]
async fn a_wrong_database_name_is_reported_at_start() {
    let emulator = emulator().await;
    for (database, wrong) in
        [("Database=orders;", "Database=nowhere;"), ("/restaurant?", "/nowhere?")]
    {
        let mut environment = environment(&emulator);
        for (_, value) in &mut environment {
            *value = value.replace(database, wrong);
        }
        let log = Application::fails(env!("CARGO_BIN_EXE_observability"), environment).await;
        assert!(log.contains("stopped with an error"), "{log}");
        assert!(log.contains("the database does not exist"), "{log}");
        assert!(!log.contains("creating a new object") && !log.contains("listening"), "{log}");
    }
}

#[tokio::test]
async fn without_a_database_the_emulator_provides_load_and_faults() {
    let service = start([]).await;
    let both = |sample: &Value, fits: &dyn Fn(&Value) -> bool| {
        sample["pools"].as_array().unwrap().iter().all(fits)
    };
    let works = |pool: &Value| pool["checkouts"].as_u64() > Some(0) && pool["error"].is_null();
    let sample = sample_of(&service, |sample| both(sample, &works)).await;
    assert_eq!((&sample["load"], &sample["identity_is_down"]), (&20.into(), &false.into()));
    assert!(sample["pools"][0]["token"]["expires_in"].as_u64() <= Some(60), "{sample}");

    assert_eq!(send(&service, Method::POST, "/faults/cut", &Value::Null).await, 204);
    let is_closed = |pool: &Value| pool["retired"][0][0] == "the connection was closed";
    sample_of(&service, |sample| both(sample, &is_closed)).await;

    for down in [true, false] {
        let body = json!({ "down": down });
        assert_eq!(send(&service, Method::PUT, "/faults/identity", &body).await, 204);
        assert_eq!(json(&service, "/status").await["identity_is_down"], down);
    }
    assert_eq!(send(&service, Method::PUT, "/load", &json!({ "per_second": 0 })).await, 204);
    let rests = |pool: &Value| pool["checkouts"] == 0 && pool["used"] == 0;
    sample_of(&service, |sample| sample["load"] == 0 && both(sample, &rests)).await;
}

/// Another site's page can only send a form, which changes nothing.
#[tokio::test]
async fn only_json_requests_change_the_state() {
    let service = start([]).await;
    for (method, path) in
        [(Method::PUT, "/load"), (Method::PUT, "/faults/identity"), (Method::POST, "/faults/cut")]
    {
        let answer = service.send(method, path, "text/plain", "null").await;
        assert_eq!(answer.status, 415, "{path}");
    }
}

#[tokio::test]
async fn one_connection_string_without_the_other_is_refused() {
    let only = ("AZURE_SQL_CONNECTIONSTRING", "Server=shop.database.windows.net".to_owned());
    let log = Application::fails(env!("CARGO_BIN_EXE_observability"), [only]).await;
    assert!(log.contains("AZURE_POSTGRESQL_CONNECTIONSTRING, or neither"), "{log}");
}

/// Each chart is drawn, and its text alternative has the values.
#[tokio::test]
async fn a_browser_draws_the_page() {
    let service = start([]).await;
    let works = |pool: &Value| pool["checkouts"].as_u64() > Some(0);
    sample_of(&service, |sample| sample["pools"].as_array().unwrap().iter().all(works)).await;
    let browser = Browser::start().await;
    browser.open(service.address()).await;
    browser.text("#pools svg[aria-label^='Connections of Azure SQL']").await;
    assert_eq!(browser.text("#state").await, "All requests succeed");
    let page = browser.run("return document.documentElement.outerHTML").await;
    let page = page.as_str().unwrap();
    // Including the chart in the template.
    assert_eq!(page.matches("<svg role=\"img\"").count(), 2 * 5 + 1, "{page}");
    for piece in [
        "aria-label=\"Connections of Azure SQL in the last two minutes. Now: idle ",
        "aria-label=\"Token of PostgreSQL in the last two minutes. Now: expires in ",
        "class=\"area used\" d=\"M",
        "<th scope=\"row\">Logins: refused</th><td>0</td><td>0</td>",
    ] {
        assert!(page.contains(piece), "{piece}? {page}");
    }
    browser.is_accessible().await;
    browser.click("summary").await;
    browser.is_accessible().await;
    browser.click("#cut").await;
    assert_eq!(browser.logged_errors().await, [""; 0]);
}
