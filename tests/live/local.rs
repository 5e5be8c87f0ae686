//! The same checks against what this machine has: the emulator's Azure SQL, and a
//! PostgreSQL server behind the emulator's front.

use entra_pool::{
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::Identity,
};
use entra_pool_emulator::emulator::{Emulator, EmulatorOptions};

use super::Suite;

pub async fn run(suite: &mut Suite) {
    let emulator = Emulator::start(EmulatorOptions::default()).await.unwrap();
    let environment = Environment::from_pairs(emulator.identity().app_service_env());
    let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
    let credential = ManagedIdentity::user_assigned(id).environment(environment.clone());
    let identity = Identity::new(credential.build().unwrap());
    let config = emulator.azure_sql_string().parse().unwrap();
    super::azure_sql::run(suite, config, identity, &environment).await;
}
