//! The application as a process, driven over HTTP as by a browser: with the emulator, with a
//! real PostgreSQL, and with Azurite.

#![allow(clippy::disallowed_methods)] // Uses real processes.

mod azurite;
mod cross_site;
mod entries;
mod forms;
mod outages;
mod postgres;
#[path = "../../../../tests/support/mod.rs"]
mod support;
mod visit;

use examples_test_support::{Application, World};

const PROGRAM: &str = env!("CARGO_BIN_EXE_restaurants");

async fn world() -> World {
    World::with_postgres(include_str!("../../setup.sql")).await
}

/// The application in App Service, with a folder for photos.
async fn start(world: &World) -> Application {
    let mut environment = world.environment();
    environment.push(("PHOTOS_FOLDER", photos()));
    Application::start(PROGRAM, environment).await.as_browser()
}

/// A folder that all tests share: photos have unique names.
fn photos() -> String {
    concat!(env!("CARGO_TARGET_TMPDIR"), "/photos").to_owned()
}
