//! The same checks against local servers: the emulator's Azure SQL, and PostgreSQL behind the
//! emulator's front.

use entra_pool::{
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::Identity,
};
use entra_pool_emulator::emulator::Emulator;

use super::Suite;
#[cfg(unix)]
use super::{postgres, support::postgres::PostgresServer};

pub async fn run(suite: &mut Suite) {
    let emulator = Emulator::start().await.unwrap();
    let environment = Environment::from_pairs(emulator.identity().app_service_env());
    let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
    let credential = ManagedIdentity::user_assigned(id).environment(environment.clone());
    let identity = Identity::new(credential.build().unwrap());
    let config = emulator.azure_sql_string().parse().unwrap();
    super::azure_sql::run(suite, config, identity.clone(), &environment).await;
    #[cfg(unix)]
    behind_the_front(suite, &emulator, identity, &environment).await;
}

/// Runs the checks on a PostgreSQL server that accepts the emulator's identities through the front.
#[cfg(unix)]
async fn behind_the_front(
    suite: &mut Suite,
    emulator: &Emulator,
    identity: Identity,
    environment: &Environment,
) {
    use entra_pool_emulator::front::postgres::{PostgresFront, PostgresFrontOptions};

    let engine = PostgresServer::start().await;
    let certificate = engine.authority().issue(&["localhost", "127.0.0.1"]).unwrap();
    let options = PostgresFrontOptions::new(
        emulator.issuer().clone(),
        emulator.directory().clone(),
        &engine.engine_url(),
        certificate.server_config().unwrap(),
    );
    let front = PostgresFront::start(options).unwrap();
    front.prepare().await.unwrap();
    let (user, id) = (&emulator.user_assigned().name, &emulator.user_assigned().object_id);
    let create = format!(
        "SELECT pgaadauth_create_principal_with_oid('{user}', '{id}', 'service', false, false)"
    );
    engine.sql_in("postgres", &create).await;
    engine.sql(&format!("GRANT ALL ON SCHEMA public TO \"{user}\"")).await;
    let string = engine.url_at(front.addr().port(), user, "");
    let config = string.parse().unwrap();
    postgres::Server { config, string, identity }.run(suite, environment).await;
}
