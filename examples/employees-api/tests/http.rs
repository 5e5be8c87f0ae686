//! The application as a process, driven over HTTP.

use examples_test_support::{Application, Browser, World};
use reqwest::Method;
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_employees-api");

async fn world() -> World {
    World::with_azure_sql(include_str!("../setup.sql")).await
}

/// Starts the application as in App Service.
async fn start(world: &World) -> Application {
    let mut environment = world.environment();
    environment.push(("LOG_FORMAT", "json".to_owned()));
    Application::start(PROGRAM, environment).await
}

fn ada() -> Value {
    json!({ "ID": 1, "Name": "Ada Lovelace", "Position": "Analyst", "Salary": 82000.0 })
}

#[tokio::test]
async fn employees_are_listed_found_and_added() {
    let world = world().await;
    let application = start(&world).await;
    let grace =
        json!({ "ID": 2, "Name": "Grace Hopper", "Position": "Rear Admiral", "Salary": 97500.5 });
    assert_eq!(application.get("/employees").await.json(), json!([ada(), grace]));
    assert_eq!(application.get("/employees/1").await.json(), ada());
    let mut linus = json!({ "Name": " Linus ", "Position": "Maintainer", "Salary": 9999999999.99 });
    let created = application.post("/employees", &linus).await;
    assert_eq!((created.status.as_u16(), created.header("location")), (201, "/employees/3"));
    (linus["ID"], linus["Name"]) = (3.into(), "Linus".into());
    assert_eq!(created.json(), linus);
    assert_eq!(application.get("/employees/3").await.json(), linus);
    assert_eq!(application.get("/employees").await.json(), json!([ada(), grace, linus]));
}

#[tokio::test]
async fn invalid_entries_are_refused_with_the_reason() {
    let world = world().await;
    let application = start(&world).await;
    let employee =
        |name: &str, salary: Value| json!({ "Name": name, "Position": "p", "Salary": salary });
    for name in ["", " ", &"x".repeat(101)] {
        let answer = application.post("/employees", &employee(name, json!(1))).await;
        answer.problem(422);
        assert_eq!(answer.json()["errors"][0]["field"], "Name");
    }
    for salary in [json!(-1), json!(0.001), json!(1e10), json!("1"), json!(null)] {
        let answer = application.post("/employees", &employee("x", salary)).await;
        assert!(answer.problem(422).contains("Salary"), "{answer:?}");
    }
    for body in [json!({ "Name": "x" }), json!(7)] {
        application.post("/employees", &body).await.problem(422);
    }
    let post = async |content_type: &str, body: &str| {
        application.send(Method::POST, "/employees", content_type, body).await
    };
    post("application/json", "not JSON").await.problem(400);
    post("text/plain", "Ada").await.problem(415);
    let large = employee(&"x".repeat(10_000), json!(1)).to_string();
    post("application/json", &large).await.problem(413);
    assert_eq!(application.get("/employees").await.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn texts_are_stored_unchanged() {
    let world = world().await;
    let application = start(&world).await;
    for text in ["O'Brien", "'); DROP TABLE Employees;--", "<script>\"&amp;", "书🦀\\"] {
        let employee = json!({ "Name": text, "Position": text, "Salary": 0 });
        let created = application.post("/employees", &employee).await;
        let found = application.get(created.header("location")).await.json();
        assert_eq!((&found["Name"], &found["Position"]), (&json!(text), &json!(text)));
    }
}

#[tokio::test]
async fn invalid_addresses_are_refused() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/employees/7").await.problem(404), "there is no employee 7");
    let detail = application.get("/employees/ada").await.problem(400);
    assert_eq!(detail, "the ID of an employee is a whole number");
    let detail = application.get("/employees?limit=1").await.problem(422);
    assert_eq!(detail, "limit is not a parameter of this page");
    application.get("/employee").await.problem(404);
    application.send(Method::DELETE, "/employees/1", "", "").await.problem(405);
}

#[tokio::test]
async fn the_start_page_lists_the_routes() {
    let world = world().await;
    let application = start(&world).await;
    let page = application.get("/").await;
    assert_eq!(page.status, 200);
    for path in ["/employees", "/health", "/ready"] {
        assert!(page.text.contains(&format!("href=\"{path}\"")), "{path}: {page:?}");
        assert_eq!(application.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_browser_opens_the_start_page() {
    let world = world().await;
    let application = start(&world).await;
    let browser = Browser::start().await;
    browser.open(application.address()).await;
    assert_eq!(browser.title().await, "employees-api");
    browser.is_accessible().await;
    assert_eq!(browser.logged_errors().await, [""; 0]);
}

#[tokio::test]
async fn the_unauthenticated_path_reveals_only_that_the_process_runs() {
    let world = world().await;
    let application = start(&world).await;
    world.azure_sql_goes_away().await;
    let answer = application.get("/health").await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "{\"status\":\"alive\"}"));
}

#[tokio::test]
async fn it_recovers_with_its_database() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/employees").await.status, 200);
    world.azure_sql_goes_away().await;
    application.get("/employees/1").await.problem(503);
    application.get("/ready").await.problem(503);
    world.azure_sql_comes_back().await;
    application.recovers("/employees/1").await;
}

#[tokio::test]
async fn the_log_is_one_json_object_per_line_with_causes_and_without_tokens() {
    let world = world().await;
    let mut environment = world.environment();
    environment.push(("LOG_FORMAT", "json".to_owned()));
    let application = Application::start(PROGRAM, environment.clone()).await;
    world.azure_sql_goes_away().await;
    application.get("/employees/1").await.problem(503);
    application.terminate();
    let (status, stopped) = application.ended().await;
    assert!(status.success(), "{status}: {stopped}");
    world.azure_sql_comes_back().await;
    let user = &world.emulator.user_assigned().name;
    world.emulator.directory().remove(user);
    let failed = Application::fails(PROGRAM, environment).await;

    let lines = |log: &str| -> Vec<Value> {
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    };
    let (first, second) = (lines(&stopped), lines(&failed));
    assert_eq!(first.last().unwrap()["fields"]["message"], "stopped");
    let unavailable =
        first.iter().find(|line| line["fields"]["message"] == "the database is unavailable");
    let unavailable = unavailable.expect(&stopped);
    assert_eq!(unavailable["span"]["path"], "/employees/1", "{unavailable}");
    let cause = unavailable["fields"]["error"].as_str().expect(&stopped);
    assert!(cause.contains("Connection refused"), "{unavailable}");
    let last = second.last().unwrap();
    assert_eq!(last["level"], "ERROR", "{last}");
    assert_eq!(last["fields"]["message"], "stopped with an error", "{last}");
    let advice = format!("CREATE USER [{user}] FROM EXTERNAL PROVIDER");
    assert!(last["fields"]["error"].as_str().expect(&failed).contains(&advice), "{last}");
    // Tokens are JWTs, which begin with these characters.
    assert!(!stopped.contains("eyJ") && !failed.contains("eyJ"), "{stopped}{failed}");
}
