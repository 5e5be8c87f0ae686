//! The application as a process, driven over HTTP: against the emulator, and against a
//! PostgreSQL server of the test's own.

#![allow(clippy::disallowed_methods)] // Processes live in real time.

mod azure_sql;
mod console;
mod memory;
mod postgres;
#[path = "../../../../tests/support/mod.rs"]
mod support;

use examples_common::testing::{Application, World};

const PROGRAM: &str = env!("CARGO_BIN_EXE_report");

/// What the set-up scripts put in, as CSV.
const SALES: &str = "id,item,amount,sold_on\n\
                     1,Bread,3.50,2026-11-01\n\
                     2,Café crème,4.20,2026-11-02\n\
                     3,\"\"\"Soup\"\", of the day\",,2026-11-02\n";

async fn world() -> World {
    World::new(include_str!("../../setup.sql")).await
}

/// As App Service starts it, with the system-assigned identity; `query` is asked, or
/// the default.
fn environment(world: &World, query: &str) -> Vec<(&'static str, String)> {
    let mut environment = world.emulator.identity().app_service_env().to_vec();
    let string = world.azure_sql_string("Active Directory MSI");
    environment.push(("AZURE_SQL_CONNECTIONSTRING", string));
    environment.push(("REPORT_QUERY", query.to_owned()));
    environment
}

async fn start(world: &World, query: &str) -> Application {
    Application::start(PROGRAM, environment(world, query)).await
}
