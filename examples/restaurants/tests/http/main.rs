//! The application as a process, driven over HTTP as a browser does: against the
//! emulator, against a PostgreSQL server of the test's own, and against Azurite.

#![allow(clippy::disallowed_methods)] // Processes live in real time.

mod azurite;
mod cross_site;
mod entries;
mod forms;
mod outages;
mod postgres;
#[path = "../../../../tests/support/mod.rs"]
mod support;
mod visit;

use examples_common::testing::{Application, World};

const PROGRAM: &str = env!("CARGO_BIN_EXE_restaurants");

async fn world() -> World {
    let world = World::new("").await;
    world.postgres_sql(include_str!("../../setup.sql")).await;
    world
}

/// As App Service starts it: the identity is chosen by its client ID.
fn environment(world: &World) -> Vec<(&'static str, String)> {
    let url = format!("{}&connect_timeout=2", world.emulator.postgres_url());
    let mut environment = world.emulator.env();
    environment.push(("AZURE_POSTGRESQL_CONNECTIONSTRING", url));
    environment
}

async fn start(world: &World) -> Application {
    Application::start(PROGRAM, environment(world)).await.as_browser()
}
