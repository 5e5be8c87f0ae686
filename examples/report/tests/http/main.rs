//! The application as a process, driven over HTTP, with the emulator and with a real PostgreSQL.

#![allow(clippy::disallowed_methods)] // Uses real processes.

mod azure_sql;
mod console;
mod memory;
mod postgres;
#[path = "../../../../tests/support/mod.rs"]
mod support;

use examples_test_support::{Application, World};

const PROGRAM: &str = env!("CARGO_BIN_EXE_report");

/// The rows of the set-up scripts as CSV.
const SALES: &str = "id,item,amount,sold_on\n\
                     1,Bread,3.50,2026-11-01\n\
                     2,Café crème,4.20,2026-11-02\n\
                     3,\"\"\"Soup\"\", of the day\",,2026-11-02\n";

async fn world() -> World {
    World::with_azure_sql(include_str!("../../setup.sql")).await
}

/// The environment in App Service, with the system-assigned identity. An empty `query` is the
/// default.
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
