//! The application as a process, driven over HTTP and scraped.

use std::collections::BTreeSet;

use entra_pool_emulator::azure_sql::ServerError;
use examples_test_support::{Application, World};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_observability");

/// The page with the table of metrics.
const PAGE: &str = include_str!("../../../src/telemetry/mod.rs");
const DASHBOARD: &str = include_str!("../grafana.json");
const ALERTS: &str = include_str!("../alerts.yml");

/// Against the emulator of the test, with one connection to each database.
async fn start(world: &World) -> Application {
    let mut environment = world.emulator.env();
    let azure_sql = format!("{};Connect Timeout=5", world.emulator.azure_sql_string());
    environment.push(("AZURE_SQL_CONNECTIONSTRING", azure_sql));
    environment.push(("AZURE_POSTGRESQL_CONNECTIONSTRING", world.emulator.postgres_url()));
    environment.push(("POOL_SIZE", "1".to_owned()));
    Application::start(PROGRAM, environment).await
}

async fn scrape(application: &Application) -> String {
    let answer = application.get("/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4");
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

/// The metrics of the page's table, with what Prometheus' naming puts behind them.
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
async fn a_scrape_tells_of_pools_logins_and_tokens() {
    let world = World::start().await;
    let application = start(&world).await;
    let orders = json!({ "database": "orders", "user": "shop-identity" });
    assert_eq!(application.get("/azure-sql").await.json(), orders);
    let menu = json!({ "database": "restaurant", "user": "shop-identity" });
    assert_eq!(application.get("/postgres").await.json(), menu);
    assert_eq!(application.get("/azure-sql").await.json(), orders);

    // The connection is being cleaned for a moment.
    let idle = ["/orders\"", "db_client_connection_state=\"idle\""];
    let first = loop {
        let scraped = scrape(&application).await;
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

    // What goes wrong next, by what it is counted as.
    let behaviour = world.emulator.azure_sql().behaviour();
    let cut = async || {
        world.emulator.azure_sql().cut_connections().await;
        while world.emulator.azure_sql().counters().open_connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    cut().await;
    behaviour.fail_logins(1, ServerError::new(40613, 14, "Not currently available."));
    application.recovers("/azure-sql").await;
    cut().await;
    behaviour.fail_logins(1, ServerError::new(18456, 14, "Login failed."));
    application.recovers("/azure-sql").await;
    let last = scrape(&application).await;
    assert_eq!(value(&last, "entra_pool_login_retried_total", sql), 1.0);
    assert_eq!(value(&last, "entra_pool_login_renewed_total", sql), 1.0);
    // The server accepted this identity before, so the login is retried within its time.
    world.emulator.directory().remove("shop-identity");
    cut().await;
    application.get("/azure-sql").await.problem(500);

    let last = scrape(&application).await;
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
    let principal = world.emulator.user_assigned();
    for told in [&principal.name, &principal.client_id, &principal.object_id] {
        assert!(!last.contains(told.as_str()), "{told} is in the scrape");
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_alerts_are_of_such_as_are_shown() {
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

    // Wherever it is imported, its data source is to be chosen.
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
}

#[tokio::test]
async fn spans_are_in_the_log_with_what_they_tell() {
    let world = World::start().await;
    let application = start(&world).await;
    application.get("/azure-sql").await;
    application.get("/azure-sql").await;
    for line in [
        "connect{otel.kind=\"client\" db.system.name=\"microsoft.sql_server\" db.namespace=\"orders\"",
        "recycle{otel.kind=\"client\"",
        "request_token{otel.kind=\"client\" entra_pool.token.scope=\"https://database.windows.net/.default\"",
    ] {
        application.has_logged(line).await;
    }
    application.has_logged("close time.busy=").await;
    assert!(!application.log().contains("eyJ"), "a token: {}", application.log());
    application.terminate();
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
}

#[tokio::test]
async fn outages_are_told_and_the_scrape_goes_on() {
    let world = World::start().await;
    let application = start(&world).await;
    world.emulator.identity().go_away().await.unwrap();
    application.get("/postgres").await.problem(503);
    let health = application.get("/health").await.json();
    assert_eq!(health["postgres"]["status"], "degraded", "{health}");
    let away = scrape(&application).await;
    let failed = ["entra_pool_token_outcome=\"failed\"", "ossrdbms"];
    assert!(value(&away, "entra_pool_token_requests_total", &failed) >= 1.0);
    world.emulator.identity().come_back().unwrap();
    application.recovers("/postgres").await;
}
