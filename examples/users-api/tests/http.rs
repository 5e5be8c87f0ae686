//! The application as a process, driven over HTTP.

use entra_pool_emulator::azure_sql::ServerError;
use examples_test_support::{Answer, Application, World};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_users-api");

async fn world() -> World {
    World::with_azure_sql(include_str!("../setup.sql")).await
}

async fn start(world: &World) -> Application {
    Application::start(PROGRAM, world.environment()).await
}

fn ada() -> Value {
    json!({ "first_name": "Ada", "last_name": "Lovelace" })
}

/// The fields with errors in a problem document of status 422.
#[track_caller]
fn wrong_fields(answer: &Answer) -> Vec<String> {
    answer.problem(422);
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_created_user_is_listed_and_found() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/users").await.json(), json!([]));
    let created = application.post("/users", &ada()).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.header("location"), "/users/1");
    let ada = json!({ "id": 1, "first_name": "Ada", "last_name": "Lovelace" });
    assert_eq!(created.json(), ada);
    let grace = json!({ "first_name": "  Grace ", "last_name": "Hopper" });
    let grace = application.post("/users", &grace).await.json();
    assert_eq!(grace, json!({ "id": 2, "first_name": "Grace", "last_name": "Hopper" }));
    assert_eq!(application.get("/users/1").await.json(), ada);
    assert_eq!(application.get("/users").await.json(), json!([ada, grace]));
    assert_eq!(application.get("/users?limit=1").await.json(), json!([ada]));
    assert_eq!(application.get("/users?after=1&limit=1").await.json(), json!([grace]));
    assert_eq!(application.get("/users?after=2").await.json(), json!([]));
}

#[tokio::test]
async fn names_are_stored_unchanged() {
    let world = world().await;
    let application = start(&world).await;
    for name in ["O'Brien", "'); DROP TABLE Users;--", "<script>alert(1)</script>", "\"书\" 🦀 \\"]
    {
        let user = json!({ "first_name": name, "last_name": name });
        let created = application.post("/users", &user).await;
        assert_eq!(created.status, 201, "{created:?}");
        let found = application.get(created.header("location")).await.json();
        assert_eq!((&found["first_name"], &found["last_name"]), (&json!(name), &json!(name)));
    }
}

#[tokio::test]
async fn invalid_entries_are_refused_with_the_reason() {
    let world = world().await;
    let application = start(&world).await;
    for (first, last, wrong) in [
        ("", "Lovelace", &["first_name"][..]),
        (" ", "\t", &["first_name", "last_name"]),
        ("Ada", &"x".repeat(51), &["last_name"]),
        // Each has two UTF-16 units.
        (&"🦀".repeat(26), "Lovelace", &["first_name"]),
        ("A\0da", "Lovelace", &["first_name"]),
    ] {
        let user = json!({ "first_name": first, "last_name": last });
        let answer = application.post("/users", &user).await;
        assert_eq!(wrong_fields(&answer), wrong, "{user}");
    }
    for user in
        [json!({ "first_name": "Ada" }), json!({ "first_name": 1, "last_name": "x" }), json!([])]
    {
        application.post("/users", &user).await.problem(422);
    }
    let mut with_id = ada();
    with_id["id"] = json!(7);
    assert!(application.post("/users", &with_id).await.problem(422).contains("id"));
    let post = async |content_type: &str, body: &str| {
        application.send(Method::POST, "/users", content_type, body).await
    };
    post("application/json", "{").await.problem(400);
    post("text/plain", &ada().to_string()).await.problem(415);
    let large = json!({ "first_name": "x".repeat(10_000), "last_name": "x" }).to_string();
    post("application/json", &large).await.problem(413);
    assert_eq!(application.get("/users").await.json(), json!([]));

    let longest = json!({ "first_name": "🦀".repeat(25), "last_name": "x".repeat(50) });
    assert_eq!(application.post("/users", &longest).await.status, 201);
}

#[tokio::test]
async fn invalid_addresses_are_refused() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/users/7").await.problem(404), "there is no user 7");
    let id = "the ID of a user is a whole number";
    assert_eq!(application.get("/users/seven").await.problem(400), id);
    assert_eq!(application.get("/users/99999999999").await.problem(400), id);
    let limit = "limit must be a whole number from 1 to 1000";
    for limit_of in ["many", "0", "1001", "", "1.5"] {
        let answer = application.get(&format!("/users?limit={limit_of}")).await;
        assert_eq!(answer.problem(422), limit);
    }
    let answer = application.get("/users?after=x&page=2").await;
    assert_eq!(wrong_fields(&answer), ["after", "page"]);
    let detail = "after must be a whole number; page is not a parameter of this page";
    assert_eq!(answer.problem(422), detail);
    application.get("/user").await.problem(404);
    application.get("/users/%ff").await.problem(400);
    application.get("/docs/nothing").await.problem(404);
    let answer = application.send(Method::DELETE, "/users/1", "", "").await;
    answer.problem(405);
    assert_eq!(answer.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn one_connection_serves_all_requests() {
    let world = world().await;
    let before = world.emulator.azure_sql().counters().logins;
    let application = start(&world).await;
    let user = ada();
    let posts = (0..50).map(|_| application.post("/users", &user));
    let gets = (0..50).map(|_| application.get("/users?limit=1000"));
    let (created, read) = tokio::join!(join_all(posts), join_all(gets));
    assert!(created.iter().all(|answer| answer.status == 201), "{created:?}");
    assert!(read.iter().all(|answer| answer.status == 200), "{read:?}");
    let users = application.get("/users").await.json();
    let ids: Vec<_> = users.as_array().unwrap().iter().map(|user| user["id"].as_i64()).collect();
    assert_eq!(ids, (1..=50).map(Some).collect::<Vec<_>>());
    assert_eq!(world.emulator.azure_sql().counters().logins - before, 1);
}

#[tokio::test]
async fn it_recovers_with_its_database() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.post("/users", &ada()).await.status, 201);
    world.azure_sql_goes_away().await;
    let detail = application.get("/users/1").await.problem(503);
    assert_eq!(detail, "the database is unavailable: try again in a moment");
    application.post("/users", &ada()).await.problem(503);
    world.azure_sql_comes_back().await;
    application.recovers("/users/1").await;
}

#[tokio::test]
async fn the_start_page_links_to_the_documentation() {
    let world = world().await;
    let application = start(&world).await;
    let page = application.get("/").await;
    assert_eq!(page.status, 200);
    for path in ["/docs", "/openapi.json", "/users", "/health", "/ready"] {
        assert!(page.text.contains(&format!("href=\"{path}\"")), "{path}: {page:?}");
        assert_eq!(application.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_transient_query_error_causes_status_503() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/users").await.status, 200);
    let deadlock = ServerError::new(1205, 13, "a victim");
    let denied = ServerError::new(229, 14, "SELECT denied");
    for (error, status) in [(deadlock, 503), (denied, 500)] {
        // On a new connection, the query is the first request.
        world.cut_azure_sql_connections().await;
        world.emulator.azure_sql().behaviour().fail_requests(1, error);
        application.get("/users").await.problem(status);
        assert_eq!(application.get("/users").await.status, 200);
    }
}

#[tokio::test]
async fn the_openapi_document_describes_the_actual_api() {
    let world = world().await;
    let application = start(&world).await;
    let document = application.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.keys().collect::<Vec<_>>(), ["/users", "/users/{id}"]);
    let create = &document["paths"]["/users"]["post"];
    assert!(create["responses"]["422"]["content"]["application/problem+json"].is_object());
    let schema = &document["components"]["schemas"]["NewUser"];
    assert_eq!(schema["required"], json!(["first_name", "last_name"]));
    assert_eq!(schema["properties"]["first_name"]["maxLength"], 50);
    let page = application.get("/docs/").await;
    assert!(page.text.contains("swagger-ui"), "{page:?}");
    let script = application.get("/docs/swagger-ui-bundle.js").await;
    assert_eq!((script.status.as_u16(), script.text.len() > 100_000), (200, true));
    // The API accepts the document's example.
    let example = &schema["properties"]["first_name"]["example"];
    let user = json!({ "first_name": example, "last_name": example });
    assert_eq!(application.post("/users", &user).await.status, 201);
}

#[tokio::test]
async fn sigterm_stops_it_while_a_client_keeps_its_connection_open() {
    let world = world().await;
    let application = start(&world).await;
    application.get("/users").await;
    application.terminate();
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
    assert!(!log.contains("still running"), "{log}");
}
