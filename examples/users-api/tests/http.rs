//! The application as a process, driven over HTTP.

use entra_pool_emulator::azure_sql::ServerError;
use examples_common::testing::{Answer, Application, World};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_users-api");

async fn world() -> World {
    World::new(include_str!("../setup.sql")).await
}

/// With the identity of the environment, as Active Directory Default has it.
async fn start(world: &World) -> Application {
    let mut environment = world.emulator.env();
    let string = world.azure_sql_string("Active Directory Default");
    environment.push(("AZURE_SQL_CONNECTIONSTRING", string));
    Application::start(PROGRAM, environment).await
}

fn ada() -> Value {
    json!({ "first_name": "Ada", "last_name": "Lovelace" })
}

/// The fields that a problem document of status 422 complains of.
#[track_caller]
fn wrong_fields(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.problem(422), "the entry is not valid");
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_user_that_was_created_is_listed_and_found() {
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
async fn names_are_kept_as_they_are_whatever_they_hold() {
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
async fn a_wrong_entry_is_refused_and_says_why() {
    let world = world().await;
    let application = start(&world).await;
    for (first, last, wrong) in [
        ("", "Lovelace", &["first_name"][..]),
        (" ", "\t", &["first_name", "last_name"]),
        ("Ada", &"x".repeat(51), &["last_name"]),
        // Of two UTF-16 units each.
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
async fn a_wrong_address_is_refused() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/users/7").await.problem(404), "there is no user 7");
    application.get("/users/seven").await.problem(400);
    application.get("/users/99999999999").await.problem(400);
    application.get("/users?limit=many").await.problem(400);
    assert_eq!(wrong_fields(&application.get("/users?limit=0").await), ["limit"]);
    assert_eq!(wrong_fields(&application.get("/users?limit=1001").await), ["limit"]);
    application.get("/user").await.problem(404);
    application.get("/users/%ff").await.problem(400);
    application.get("/docs/nothing").await.problem(404);
    let answer = application.send(Method::DELETE, "/users/1", "", "").await;
    answer.problem(405);
    assert_eq!(answer.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn one_connection_serves_all() {
    let world = world().await;
    let application = start(&world).await;
    let before = world.emulator.azure_sql().counters().logins;
    let user = ada();
    let posts = (0..50).map(|_| application.post("/users", &user));
    let gets = (0..50).map(|_| application.get("/users?limit=1000"));
    let (created, read) = tokio::join!(join_all(posts), join_all(gets));
    assert!(created.iter().all(|answer| answer.status == 201), "{created:?}");
    assert!(read.iter().all(|answer| answer.status == 200), "{read:?}");
    let users = application.get("/users").await.json();
    let ids: Vec<_> = users.as_array().unwrap().iter().map(|user| user["id"].as_i64()).collect();
    assert_eq!(ids, (1..=50).map(Some).collect::<Vec<_>>());
    let health = application.get("/health").await.json();
    assert_eq!((&health["pool"]["max_size"], &health["pool"]["size"]), (&json!(1), &json!(1)));
    assert_eq!(world.emulator.azure_sql().counters().logins - before, 1);
}

#[tokio::test]
async fn outages_are_told_and_end_by_themselves() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.post("/users", &ada()).await.status, 201);
    world.azure_sql_goes_away().await;
    let detail = application.get("/users/1").await.problem(503);
    assert_eq!(detail, "the database is not available now");
    application.post("/users", &ada()).await.problem(503);
    world.azure_sql_comes_back().await;
    application.recovers("/users/1").await;

    let world = self::world().await;
    world.emulator.identity().go_away().await.unwrap();
    let application = start(&world).await;
    application.get("/users").await.problem(503);
    assert_eq!(application.get("/health").await.json()["status"], "degraded");
    world.emulator.identity().come_back().unwrap();
    application.recovers("/users").await;
}

#[tokio::test]
async fn a_query_that_fails_in_passing_is_told_so() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/users").await.status, 200);
    let deadlock = ServerError::new(1205, 13, "a victim");
    let denied = ServerError::new(229, 14, "SELECT denied");
    for (error, status) in [(deadlock, 503), (denied, 500)] {
        // On a new connection the query is the first request, and not the pool's look.
        world.emulator.azure_sql().cut_connections().await;
        while world.emulator.azure_sql().counters().open_connections > 0 {
            tokio::task::yield_now().await;
        }
        world.emulator.azure_sql().behaviour().fail_requests(1, error);
        application.get("/users").await.problem(status);
        assert_eq!(application.get("/users").await.status, 200);
    }
}

#[tokio::test]
async fn the_openapi_document_describes_what_there_is() {
    let application = Application::start(PROGRAM, []).await;
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
    // The document's example is one that is taken.
    let example = &schema["properties"]["first_name"]["example"];
    let user = json!({ "first_name": example, "last_name": example });
    assert_eq!(application.post("/users", &user).await.status, 201);
}

#[tokio::test]
async fn sigterm_ends_it_while_a_client_keeps_its_connection() {
    let world = world().await;
    let application = start(&world).await;
    application.get("/users").await;
    application.terminate();
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
    assert!(!log.contains("given up"), "{log}");
}
