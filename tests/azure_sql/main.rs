//! Azure SQL, against the emulator.
#![cfg(feature = "azure-sql")]

use entra_pool::{
    azure_sql,
    credential::{Environment, ManagedIdentity},
    token::Identity,
};
use entra_pool_emulator::emulator::{Emulator, EmulatorOptions};

#[tokio::test]
async fn first() {
    tracing_subscriber::fmt().with_env_filter("debug").init();
    let emulator = Emulator::start(EmulatorOptions::default()).await.unwrap();
    let environment = Environment::from_pairs(emulator.env());
    let identity =
        Identity::new(ManagedIdentity::system_assigned().environment(environment).build().unwrap());
    let pool = azure_sql::connect_with(&identity, &emulator.azure_sql_string()).unwrap();
    let mut conn = pool.get().await.unwrap();
    let row =
        conn.query("SELECT @P1 + 1", &[&41_i32]).await.unwrap().into_row().await.unwrap().unwrap();
    assert_eq!(row.get::<i32, _>(0), Some(42));
}
