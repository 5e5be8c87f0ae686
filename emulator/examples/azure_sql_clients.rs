//! Azure SQL for other vendors' drivers: the stand-in, and a front before an engine with SQL
//! logins. Prints variables and runs until its standard input ends.
#![allow(clippy::disallowed_methods)] // Servers use the real clock.

use std::{
    io::{self, Read},
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool_emulator::{
    azure_sql::{AzureSqlEndpoint, AzureSqlOptions, AzureSqlServer},
    database::Database,
    emulator::Emulator,
    front::{
        EngineLogin,
        azure_sql::{AzureSqlFront, EngineTrust},
    },
};

#[tokio::main]
async fn main() -> io::Result<()> {
    let emulator = Emulator::start().await?;
    let tls = emulator.authority().issue(&["localhost"])?.server_config()?;
    let login = EngineLogin { user: "shop_login".into(), password: "only for this run".into() };
    let mut engine = AzureSqlOptions::new(
        Arc::clone(emulator.issuer()),
        Arc::clone(emulator.directory()),
        Arc::new(Database::new()?),
        Arc::clone(&tls),
    );
    engine.sql_logins = vec![login.clone()];
    let engine = AzureSqlServer::start(engine).await?;
    let front = AzureSqlFront {
        endpoint: AzureSqlEndpoint::new(
            Arc::clone(emulator.issuer()),
            Arc::clone(emulator.directory()),
            tls,
        ),
        engine: ("localhost".to_owned(), engine.addr().port()),
        engine_trust: EngineTrust::CaFile(emulator.ca_path()),
        engine_logins: [(emulator.user_assigned().name.clone(), login)].into(),
    }
    .start()?;
    let later = SystemTime::now() + Duration::from_secs(3600);
    let audience = "https://database.windows.net/";
    let token = emulator.issuer().sign(emulator.user_assigned(), audience, later, 2200);
    for (name, value) in emulator.env() {
        println!("export {name}='{value}'");
    }
    println!("export EMULATOR_CA='{}'", emulator.ca_path().display());
    println!("export STAND_IN_PORT={}", emulator.azure_sql().addr().port());
    println!("export FRONT_PORT={}", front.addr().port());
    println!("export TOKEN='{token}'");
    println!("# ready");
    tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await??;
    // Every login at the front reached the engine.
    assert_eq!(front.counters().logins, engine.counters().logins);
    Ok(())
}
