use std::path::Path;

use examples_test_support::{Application, Browser};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{PROGRAM, SALES, environment, start, world};

#[tokio::test]
async fn a_report_is_csv_json_or_a_table() {
    let world = world().await;
    let application = start(&world, "").await;
    let csv = application.get("/report/csv").await;
    assert_eq!((csv.status.as_u16(), csv.text.as_str()), (200, SALES));
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8; header=present");
    let json = application.get("/report/json").await;
    assert_eq!(json.header("content-type"), "application/json");
    let soup = json!({
        "id": 3, "item": "\"Soup\", of the day", "amount": null, "sold_on": "2026-11-02"
    });
    assert_eq!(json.json()[2], soup);
    assert_eq!(json.json()[0]["amount"], json!(3.5));
    let table = application.get("/report/table").await;
    assert!(table.text.contains("| 2  | Café crème         | 4.20   |"), "{}", table.text);

    let asked = world.emulator.identity().received();
    let asked = asked.last().unwrap();
    for selector in ["client_id", "principal_id", "mi_res_id"] {
        assert_eq!(asked.query_value(selector), None, "{asked:?}");
    }
}

#[tokio::test]
async fn every_type_is_exact() {
    let world = world().await;
    let query = "SELECT CAST(1 AS bit) AS b, CAST(255 AS tinyint) AS i1, \
        CAST(-9223372036854775808 AS bigint) AS i8, CAST(-0.05 AS decimal(38, 2)) AS d, \
        CAST('2026-02-28' AS date) AS day, CAST(NULL AS decimal(9, 3)) AS nothing, 1 AS b, 2";
    let row = start(&world, query).await.get("/report/json").await.json()[0].clone();
    let expected = [
        ("b", json!(true)),
        ("i1", json!(255)),
        ("i8", json!(i64::MIN)),
        ("d", json!(-0.05)),
        ("day", json!("2026-02-28")),
        ("nothing", Value::Null),
        ("b_7", json!(1)),
        ("_8", json!(2)),
    ];
    for (name, value) in expected {
        assert_eq!(row[name], value, "{name}: {row}");
    }
}

#[tokio::test]
async fn a_result_without_rows_has_its_columns() {
    let world = world().await;
    let application = start(&world, "SELECT id, item FROM sales WHERE id < 0").await;
    assert_eq!(application.get("/report/csv").await.text, "id,item\n");
    assert_eq!(application.get("/report/json").await.json(), json!([]));
}

#[tokio::test]
async fn functions_finds_it_on_its_port_and_under_api() {
    let world = world().await;
    let mut environment = environment(&world, "");
    environment.push(("FUNCTIONS_CUSTOMHANDLER_PORT", "0".to_owned()));
    environment.push(("LISTEN", "not used".to_owned()));
    let application = Application::start(PROGRAM, environment).await;
    let host: Value = serde_json::from_str(include_str!("../../functions/host.json")).unwrap();
    assert_eq!(host["customHandler"]["enableProxyingHttpRequest"], true);
    let executable =
        host["customHandler"]["description"]["defaultExecutablePath"].as_str().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions");
    assert!(!folder.join(executable).is_dir(), "a function's folder has the program's name");
    assert!(include_str!("../../README.md").contains(&format!(" functions/{executable}\n")));
    let function = include_str!("../../functions/report/function.json");
    let function: Value = serde_json::from_str(function).unwrap();
    let route = function["bindings"][0]["route"].as_str().unwrap();
    let path = format!("/api/{}", route.replace("{format}", "csv"));
    assert_eq!(application.get(&path).await.text, SALES);
}

#[tokio::test]
async fn an_unknown_address_is_a_problem_document() {
    let world = world().await;
    let application = start(&world, "").await;
    let detail = application.get("/report/pdf").await.problem(404);
    assert_eq!(detail, "there is a report as csv, json and table");
    application.get("/report").await.problem(404);
    application.get("/report/%ff").await.problem(400);
    let answer = application.send(Method::POST, "/report/csv", "text/plain", "x").await;
    answer.problem(405);
}

#[tokio::test]
async fn an_unknown_parameter_is_named() {
    let world = world().await;
    let application = start(&world, "").await;
    for path in ["/report/csv?limit=1", "/api/report/csv?code=KEY&limit=1"] {
        let detail = application.get(path).await.problem(422);
        assert_eq!(detail, "limit is not a parameter of this page", "{path}");
    }
}

#[tokio::test]
async fn the_key_of_functions_is_not_logged() {
    let world = world().await;
    let application = start(&world, "").await;
    assert_eq!(application.get("/api/report/csv?code=KEY-NOT-TO-BE-SEEN").await.status, 200);
    application.has_logged("path=\"/api/report/csv\"").await;
    assert!(!application.log().contains("KEY-NOT"), "{}", application.log());
}

#[tokio::test]
async fn query_errors_appear_only_in_the_log() {
    let world = world().await;
    let application = start(&world, "SELECT nothing FROM nowhere").await;
    application.get("/report/csv").await.problem(500);
    application.has_logged("nowhere").await;
}

#[tokio::test]
async fn it_recovers_with_its_database() {
    let world = world().await;
    let application = start(&world, "").await;
    assert_eq!(application.get("/report/csv").await.text, SALES);
    world.azure_sql_goes_away().await;
    application.get("/report/csv").await.problem(503);
    application.get("/ready").await.problem(503);
    assert_eq!(application.get("/health").await.status, 200);
    world.azure_sql_comes_back().await;
    assert_eq!(application.recovers("/report/csv").await.text, SALES);
}

#[tokio::test]
async fn the_start_page_lists_the_routes() {
    let world = world().await;
    let application = start(&world, "").await;
    let page = application.get("/").await;
    for path in ["/report/table", "/report/csv", "/report/json", "/health", "/ready"] {
        assert!(page.text.contains(&format!("href=\"{path}\"")), "{path}: {page:?}");
        assert_eq!(application.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_browser_opens_the_start_page() {
    let world = world().await;
    let application = start(&world, "").await;
    let browser = Browser::start().await;
    browser.open(application.address()).await;
    assert_eq!(browser.title().await, "report");
    browser.is_accessible().await;
    assert_eq!(browser.logged_errors().await, [""; 0]);
}

#[tokio::test]
async fn sigterm_closes_the_pool_and_stops_the_program() {
    let world = world().await;
    let application = start(&world, "").await;
    application.get("/report/csv").await;
    application.terminate();
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}

#[tokio::test]
async fn it_fails_at_start_if_it_cannot_connect() {
    let world = world().await;
    for database in ["azure-sql", "postgresql"] {
        let database = ("REPORT_DATABASE", database.to_owned());
        let log = Application::fails(PROGRAM, [database.clone()]).await;
        assert!(log.contains("_CONNECTIONSTRING"), "{log}");
        let mut environment = world.environment();
        environment.push(database);
        // No identity.
        environment.retain(|(name, _)| !name.starts_with("IDENTITY_"));
        environment.push(("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential".to_owned()));
        let log = Application::fails(PROGRAM, environment).await;
        assert!(log.contains("cannot get a token for"), "{log}");
    }
    let log = Application::fails(PROGRAM, [("REPORT_DATABASE", "mysql".to_owned())]).await;
    assert!(log.contains("REPORT_DATABASE: use azure-sql or postgresql"), "{log}");
}
