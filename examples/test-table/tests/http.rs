//! The application as a process, driven over HTTP.

#![allow(clippy::disallowed_methods)] // Uses real processes.

use std::time::Duration;

use entra_pool_emulator::{
    azure_sql::{self, Stage},
    identity::Fault,
};
use examples_test_support::{Application, World};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_test-table");

async fn world() -> World {
    World::with_azure_sql(include_str!("../setup.sql")).await
}

/// The application in App Service. Only the connection string selects the identity.
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
async fn a_page_has_fifty_rows_and_links_to_the_next() {
    let world = world().await;
    let rows: Vec<_> = (3..=51).map(|n| format!("({n}, N'Row {n}')")).collect();
    world.sql(&format!("INSERT INTO TestTable VALUES {}", rows.join(", "))).await;
    let application = start(&world).await;
    let first = application.get("/").await;
    assert_eq!(first.text.matches("<td>").count(), 50, "{first:?}");
    assert!(first.text.contains("href=\"/?from=51\""), "{first:?}");
    let last = application.get("/?from=51").await;
    assert!(last.text.contains("<tbody><tr><td>Row 51</td></tr></tbody>"), "{last:?}");
    assert!(!last.text.contains("Next page") && last.text.contains("First page"), "{last:?}");
    let none = application.get("/?from=52").await;
    assert!(none.text.contains("There are no rows here."), "{none:?}");
    for (query, detail) in [
        ("from=first", "from must be a whole number"),
        ("from=", "from must be a whole number"),
        ("page=2", "page is not a parameter of this page"),
        ("from=x&page=2", "from must be a whole number; page is not a parameter of this page"),
    ] {
        assert_eq!(application.get(&format!("/?{query}")).await.problem(422), detail);
    }
}

#[tokio::test]
async fn all_values_are_shown_as_text() {
    let world = world().await;
    world
        .sql("INSERT INTO TestTable VALUES (3, N'<script>alert(''1'')</script>'), (4, NULL), (5, N'\"&é')")
        .await;
    let page = start(&world).await.get("/").await;
    let escaped = "<td>&lt;script&gt;alert('1')&lt;/script&gt;</td></tr>\
                   <tr><td><em>NULL</em></td></tr><tr><td>&quot;&amp;é</td>";
    assert!(page.text.contains(escaped), "{page:?}");
    assert!(page.header("content-security-policy").starts_with("default-src 'none';"));
}

#[tokio::test]
async fn an_unknown_address_is_a_problem_document() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/nothing").await.problem(404), "there is nothing at this address");
    application.post("/", &serde_json::json!({})).await.problem(405);
}

#[tokio::test]
async fn a_browser_gets_errors_as_pages() {
    let world = world().await;
    let application = start(&world).await.as_browser();
    world.azure_sql_goes_away().await;
    for (path, status, detail) in [
        ("/nothing", 404, "there is nothing at this address"),
        ("/", 503, "the database is unavailable: try again in a moment"),
    ] {
        let page = application.get(path).await;
        assert_eq!(page.status, status);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("retry-after").is_empty(), status != 503, "{page:?}");
        assert!(page.text.contains(&format!(">{detail}</p>")), "{page:?}");
    }
}

#[tokio::test]
async fn the_page_recovers_with_its_database() {
    let world = world().await;
    let application = start(&world).await;
    assert_eq!(application.get("/").await.status, 200);
    world.azure_sql_goes_away().await;
    let detail = application.get("/").await.problem(503);
    assert_eq!(detail, "the database is unavailable: try again in a moment");
    world.azure_sql_comes_back().await;
    application.recovers("/").await;
}

#[tokio::test]
async fn a_request_has_a_timeout() {
    let world = world().await;
    let mut environment = environment(&world);
    environment.push(("REQUEST_TIMEOUT", "1".to_owned()));
    let application = Application::start(PROGRAM, environment).await;
    world.emulator.azure_sql().behaviour().disturb(1, Stage::Request, azure_sql::Fault::Stall);
    assert_eq!(
        application.get("/").await.problem(503),
        "the request took too long: try again in a moment"
    );
    application.recovers("/").await;
}

#[tokio::test]
async fn an_identity_endpoint_outage_has_no_effect_while_a_token_is_valid() {
    let world = world().await;
    let application = start(&world).await;
    world.emulator.identity().fail(Fault::Silence);
    world.cut_azure_sql_connections().await;
    assert_eq!(application.get("/").await.status, 200);
    assert_eq!(world.emulator.azure_sql().counters().logins, 3);
}

#[tokio::test]
async fn it_fails_at_start_if_it_cannot_connect() {
    let world = world().await;
    world.emulator.directory().remove(&world.emulator.user_assigned().name);
    let log = Application::fails(PROGRAM, environment(&world)).await;
    assert!(log.contains("CREATE USER [shop-identity] FROM EXTERNAL PROVIDER"), "{log}");
    assert!(!log.contains("listening"), "{log}");

    world.azure_sql_goes_away().await;
    let log = Application::fails(PROGRAM, environment(&world)).await;
    assert!(log.contains("Connection refused"), "{log}");

    let log = Application::fails(PROGRAM, []).await;
    assert!(log.contains("AZURE_SQL_CONNECTIONSTRING"), "{log}");
}

#[tokio::test]
async fn an_identity_that_loses_access_is_named_only_in_the_log() {
    let world = world().await;
    let mut environment = environment(&world);
    environment[2].1 += ";Connect Timeout=2";
    let application = Application::start(PROGRAM, environment).await;
    world.emulator.directory().remove(&world.emulator.user_assigned().name);
    world.cut_azure_sql_connections().await;
    application.get("/").await.problem(500);
    application.has_logged("CREATE USER [shop-identity] FROM EXTERNAL PROVIDER").await;
}

#[tokio::test]
async fn ready_reports_the_cause_and_health_does_not_use_the_database() {
    let world = world().await;
    let application = start(&world).await;
    let json = async |path| application.get(path).await.json();
    assert_eq!(json("/health").await["status"], "alive");
    assert_eq!(json("/ready").await["status"], "ready");
    world.azure_sql_goes_away().await;
    let requests = world.emulator.azure_sql().counters().requests;
    assert_eq!(json("/health").await["status"], "alive");
    assert_eq!(world.emulator.azure_sql().counters().requests, requests);
    let answer = application.get("/ready").await;
    assert_eq!(answer.problem(503), "the pool cannot get a connection");
    let cause = answer.json()["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains("Connection refused"), "{cause}");
    world.azure_sql_comes_back().await;
    application.recovers("/ready").await;
}

#[tokio::test]
async fn sigterm_waits_for_a_request_and_closes_the_pool() {
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
    assert!(!log.contains("still running"), "{log}");
}

#[tokio::test]
async fn sigterm_does_not_wait_forever_for_a_request() {
    let world = world().await;
    let application = start(&world).await;
    let server = world.emulator.azure_sql();
    server.behaviour().disturb(1, Stage::Request, azure_sql::Fault::Stall);
    // A client that would wait forever.
    let address = application.address().trim_start_matches("http://");
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    while server.counters().faults == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    application.terminate();
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("still running"), "{log}");
    assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)), "there is no answer");
}

#[tokio::test]
async fn invalid_settings_are_named_at_start() {
    for (name, value) in [
        ("LISTEN", "here"),
        ("REQUEST_TIMEOUT", "none"),
        ("LOG_FORMAT", "yaml"),
        ("AZURE_SQL_CONNECTIONSTRING", "Server=s;Password=pw-not-to-be-seen"),
    ] {
        let log = Application::fails(PROGRAM, [(name, value.to_owned())]).await;
        let named = match name {
            "AZURE_SQL_CONNECTIONSTRING" => "Password",
            _ => &format!("cannot use the environment variable {name}: "),
        };
        assert!(log.contains(named), "{log}");
        assert!(!log.contains(value) && !log.contains("pw-not"), "{log}");
    }
}
