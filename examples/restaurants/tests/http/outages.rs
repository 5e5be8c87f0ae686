//! Outages, and wrong settings.

use entra_pool_emulator::identity::Fault;
use examples_test_support::Application;

use crate::{
    PROGRAM,
    forms::{add_restaurant, page},
    photos, start, world,
};

#[tokio::test]
async fn it_recovers_with_its_database() {
    let world = world().await;
    let application = start(&world).await;
    page(&application.get("/").await, 200);
    world.emulator.postgres().go_away().await.unwrap();
    for answer in [
        application.get("/").await,
        application.get("/restaurants/1").await,
        add_restaurant(&application, "Anker", "Fish").await,
    ] {
        assert!(page(&answer, 503).contains("the database is unavailable"), "{answer:?}");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1, "{answer:?}");
    }
    let ready = application.get("/ready").await;
    assert!(page(&ready, 503).contains("Connection refused"), "{ready:?}");
    assert_eq!(application.get("/health").await.json()["status"], "alive");
    world.emulator.postgres().come_back().unwrap();
    application.recovers("/").await;
    application.recovers("/ready").await;
    page(&add_restaurant(&application, "Anker", "Fish").await, 200);
}

#[tokio::test]
async fn an_identity_endpoint_outage_has_no_effect_while_a_token_is_valid() {
    let world = world().await;
    let application = start(&world).await;
    world.emulator.identity().fail(Fault::Silence);
    world.emulator.postgres().cut_connections().await;
    page(&application.get("/").await, 200);
}

#[tokio::test]
async fn it_fails_at_start_if_it_cannot_connect() {
    let world = world().await;
    let mut environment = world.environment();
    environment.push(("PHOTOS_FOLDER", photos()));
    world.emulator.directory().remove(&world.emulator.user_assigned().name);
    let log = Application::fails(PROGRAM, environment.clone()).await;
    assert!(log.contains("pgaadauth_create_principal"), "{log}");
    assert!(!log.contains("listening"), "{log}");
    world.emulator.postgres().go_away().await.unwrap();
    let log = Application::fails(PROGRAM, environment).await;
    assert!(log.contains("Connection refused"), "{log}");
}

#[tokio::test]
async fn invalid_settings_are_named_at_start() {
    let world = world().await;
    let url = ("AZURE_POSTGRESQL_CONNECTIONSTRING", world.emulator.postgres_url());
    for (settings, named) in [
        (vec![], "AZURE_POSTGRESQL_CONNECTIONSTRING: it is not set"),
        (
            vec![(
                "AZURE_POSTGRESQL_CONNECTIONSTRING",
                "postgres://u:pw-not-to-be-seen@h/db".into(),
            )],
            "password",
        ),
        (
            vec![url.clone()],
            "no storage for photos: set AZURE_STORAGEBLOB_RESOURCEENDPOINT or PHOTOS_FOLDER",
        ),
        (
            vec![
                url.clone(),
                ("AZURE_STORAGEBLOB_RESOURCEENDPOINT", "http://shop.blob.core.windows.net/".into()),
            ],
            "cannot use the environment variable AZURE_STORAGEBLOB_RESOURCEENDPOINT: ",
        ),
        (
            vec![url, ("PHOTOS_FOLDER", "/dev/null/pw-not-to-be-seen".into())],
            "cannot use the environment variable PHOTOS_FOLDER: ",
        ),
    ] {
        let log = Application::fails(PROGRAM, settings).await;
        assert!(log.contains(named), "{log}");
        assert!(!log.contains("pw-not"), "{log}");
    }
}

#[tokio::test]
async fn sigterm_closes_the_pool_and_stops_the_program() {
    let world = world().await;
    let application = start(&world).await;
    application.get("/").await;
    assert_eq!(
        world.emulator.postgres().counters().open_connections,
        2,
        "including the test's own connection"
    );
    application.terminate();
    let (status, log) = application.ended().await;
    assert!(status.success(), "{status}: {log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}
