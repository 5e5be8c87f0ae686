//! What is away, and comes back.

use std::time::Duration;

use entra_pool_emulator::identity::Fault;
use tokio::time::{sleep, timeout};

use crate::{
    PROGRAM,
    forms::{add_restaurant, page},
    start, world,
};

#[tokio::test]
async fn a_database_that_is_away_is_waited_for() {
    let world = world().await;
    let application = start(&world).await;
    page(&application.get("/").await, 200);
    world.emulator.postgres().go_away().await.unwrap();
    for answer in [
        application.get("/").await,
        application.get("/restaurants/1").await,
        add_restaurant(&application, "Anker", "Fish").await,
    ] {
        assert!(page(&answer, 503).contains("not available now"), "{answer:?}");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1, "{answer:?}");
    }
    world.emulator.postgres().come_back().unwrap();
    application.recovers("/").await;
    page(&add_restaurant(&application, "Anker", "Fish").await, 200);
}

#[tokio::test]
async fn an_identity_endpoint_that_is_away_is_waited_for() {
    let world = world().await;
    world.emulator.identity().go_away().await.unwrap();
    let application = start(&world).await;
    page(&application.get("/").await, 503);
    // The endpoint is asked for 10 s, because a container's may only be starting.
    let degraded = async {
        while application.get("/health").await.json()["status"] != "degraded" {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), degraded).await.expect("the health shows it");
    world.emulator.identity().come_back().unwrap();
    application.recovers("/").await;

    // With a token at hand nobody notices.
    world.emulator.identity().fail(Fault::Silence);
    world.emulator.postgres().cut_connections().await;
    page(&application.get("/").await, 200);
}

#[tokio::test]
async fn an_identity_that_is_not_let_in_is_told_in_the_log_only() {
    let world = world().await;
    world.emulator.directory().remove(&world.emulator.user_assigned().name);
    let application = start(&world).await;
    page(&application.get("/").await, 500);
    application.has_logged("pgaadauth_create_principal").await;
}

#[tokio::test]
async fn a_wrong_setting_ends_it_at_once_and_is_named() {
    for (name, value) in [
        ("AZURE_POSTGRESQL_CONNECTIONSTRING", "postgres://u:pw-not-to-be-seen@h/db"),
        ("AZURE_STORAGEBLOB_RESOURCEENDPOINT", "http://pw-not-to-be-seen.blob.core.windows.net/"),
        ("PHOTOS_FOLDER", "/dev/null/pw-not-to-be-seen"),
    ] {
        let mut command = std::process::Command::new(PROGRAM);
        let output = command.env_clear().env(name, value).output().unwrap();
        let log = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(&format!("the setting {name} is not usable")), "{log}");
    }
}

#[tokio::test]
async fn health_tells_of_pool_and_token_and_sigterm_closes_the_pool() {
    let world = world().await;
    let application = start(&world).await;
    application.get("/").await;
    let health = application.get("/health").await.json();
    assert_eq!((&health["status"], &health["pool"]["size"]), (&"ok".into(), &1.into()));
    assert!(health["token"]["expires_on"].as_str().unwrap().ends_with('Z'), "{health}");
    assert_eq!(
        world.emulator.postgres().control().counters().open_connections,
        2,
        "with the test's own"
    );
    application.terminate();
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}
