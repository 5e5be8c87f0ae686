//! The application as a process, driven over HTTP.

#![allow(clippy::disallowed_methods)] // Processes live in real time.

use std::time::Duration;

use entra_pool_emulator::{
    azure_sql::{self, Stage},
    identity::Fault,
};
use examples_common::testing::{Application, World};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_test-table");

async fn world() -> World {
    World::new(include_str!("../setup.sql")).await
}

/// As App Service starts it: the identity is chosen by the connection string alone.
async fn start(world: &World) -> Application {
    Application::start(PROGRAM, environment(world)).await
}

fn environment(world: &World) -> Vec<(&'static str, String)> {
    let client_id = &world.emulator.user_assigned().client_id;
    let authentication = format!("Active Directory MSI;User Id={client_id}");
    let mut environment = world.emulator.identity().app_service_env().to_vec();
    environment.push(("AZURE_SQL_CONNECTIONSTRING", world.azure_sql_string(&authentication)));
    environment
}

#[tokio::test]
async fn the_page_shows_column_2_of_every_row() {
    let world = world().await;
    let application = start(&world).await;
    let page = application.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.text.contains("<tr><td>Hello</td></tr><tr><td>Entra</td></tr>"), "{page:?}");
    let asked = world.emulator.identity().received();
    let client_id = world.emulator.user_assigned().client_id.as_str();
    let asked = asked.last().unwrap();
    assert_eq!(asked.query_value("client_id"), Some(client_id));
}

#[tokio::test]
async fn without_a_database_it_brings_its_own() {
    let application = Application::start(PROGRAM, []).await;
    let page = application.get("/").await;
    assert!(page.text.contains("<td>Hello</td>"), "{page:?}");
    assert!(application.log().contains("the emulator runs in this process"));
}

#[tokio::test]
async fn values_are_shown_as_text_whatever_they_hold() {
    let world = world().await;
    world
        .sql("INSERT INTO TestTable VALUES (3, N'<script>alert(''1'')</script>'), (4, NULL), (5, N'\"&é')")
        .await;
    let page = start(&world).await.get("/").await;
    let escaped = "<td>&lt;script&gt;alert('1')&lt;/script&gt;</td></tr>\
                   <tr><td>NULL</td></tr><tr><td>&quot;&amp;é</td>";
    assert!(page.text.contains(escaped), "{page:?}");
    assert!(page.header("content-security-policy").starts_with("default-src 'none';"));
}

#[tokio::test]
async fn what_is_not_there_is_told_as_a_problem() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/nothing").await.problem(404), "there is nothing of this name");
    application.post("/", &serde_json::json!({})).await.problem(405);
}

#[tokio::test]
async fn a_browser_is_told_on_a_page() {
    let world = world().await;
    let application = start(&world).await.as_browser();
    world.azure_sql_goes_away().await;
    for (path, status, detail) in [
        ("/nothing", 404, "there is nothing of this name"),
        ("/", 503, "the database is not available now"),
    ] {
        let page = application.get(path).await;
        assert_eq!(page.status, status);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("retry-after").is_empty(), status != 503, "{page:?}");
        assert!(page.text.contains(&format!("<p>{detail}</p>")), "{page:?}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/").await.status, 200);
    world.azure_sql_goes_away().await;
    let detail = application.get("/").await.problem(503);
    assert_eq!(detail, "the database is not available now");
    world.azure_sql_comes_back().await;
    application.recovers("/").await;
}

#[tokio::test]
async fn a_request_takes_no_longer_than_it_may() {
    let world = world().await;
    let mut environment = environment(&world);
    environment.push(("REQUEST_TIMEOUT", "1".to_owned()));
    let application = Application::start(PROGRAM, environment).await;
    world.emulator.azure_sql().behaviour().disturb(1, Stage::Request, azure_sql::Fault::Stall);
    assert_eq!(application.get("/").await.problem(503), "this took too long");
    application.recovers("/").await;
}

#[tokio::test]
async fn an_identity_endpoint_that_is_away_is_waited_for() {
    let world = world().await;
    world.emulator.identity().go_away().await.unwrap();
    let application = start(&world).await;
    application.get("/").await.problem(503);
    let health = application.get("/health").await.json();
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["token"]["expires_on"], serde_json::Value::Null);
    world.emulator.identity().come_back().unwrap();
    application.recovers("/").await;

    // With a token at hand nobody notices.
    world.emulator.identity().fail(Fault::Silence);
    world.emulator.azure_sql().cut_connections().await;
    // A connection that was cleaned within a second is lent without a round trip.
    while world.emulator.azure_sql().counters().open_connections > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(application.get("/").await.status, 200);
    assert_eq!(world.emulator.azure_sql().counters().logins, 3);
}

#[tokio::test]
async fn an_identity_that_is_not_let_in_is_told_in_the_log_only() {
    let world = world().await;
    world.emulator.directory().remove(&world.emulator.user_assigned().name);
    let application = start(&world).await;
    application.get("/").await.problem(500);
    application.terminate();
    let (_, log) = application.ended().await;
    assert!(log.contains("CREATE USER [shop-identity] FROM EXTERNAL PROVIDER"), "{log}");
}

#[tokio::test]
async fn health_tells_of_pool_and_token() {
    let world = world().await;
    let application = start(&world).await;
    let health = application.get("/health").await.json();
    assert_eq!((&health["status"], &health["pool"]["size"]), (&"ok".into(), &0.into()));
    application.get("/").await;
    // The connection is being cleaned for a moment.
    let health = loop {
        let health = application.get("/health").await.json();
        if health["pool"]["idle"] == 1 {
            break health;
        }
        assert_eq!(health["pool"]["size"], 1);
    };
    assert_eq!(health["pool"]["size"], 1);
    assert_eq!(health["token"]["requests"], 1);
    assert!(health["token"]["expires_on"].as_str().unwrap().ends_with('Z'), "{health}");
}

#[tokio::test]
async fn sigterm_lets_a_request_end_and_closes_the_pool() {
    let world = world().await;
    let application = start(&world).await;
    let server = world.emulator.azure_sql();
    server.behaviour().delay_queries(Duration::from_secs(1));
    let before = server.counters().requests;
    let terminate = async {
        while server.counters().requests == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        application.terminate();
    };
    let (page, ()) = tokio::join!(application.get("/"), terminate);
    assert_eq!(page.status, 200);
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
    assert!(!log.contains("given up"), "{log}");
}

#[tokio::test]
async fn sigterm_does_not_wait_for_a_request_that_does_not_end() {
    let world = world().await;
    let application = start(&world).await;
    let server = world.emulator.azure_sql();
    server.behaviour().disturb(1, Stage::Request, azure_sql::Fault::Stall);
    // A client that would wait for ever.
    let address = application.address().trim_start_matches("http://");
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    while server.counters().faults == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    application.terminate();
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("is given up"), "{log}");
    assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)), "there is no answer");
}

#[tokio::test]
async fn a_wrong_setting_ends_it_at_once_and_is_named() {
    for (name, value) in [
        ("LISTEN", "here"),
        ("REQUEST_TIMEOUT", "none"),
        ("LOG_FORMAT", "yaml"),
        ("AZURE_SQL_CONNECTIONSTRING", "Server=s;Password=pw-not-to-be-seen"),
    ] {
        let mut command = std::process::Command::new(PROGRAM);
        let output = command.env_clear().env(name, value).output().unwrap();
        let log = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(&format!("the setting {name} is not usable")), "{log}");
        assert!(!log.contains(value), "{log}");
    }
}
