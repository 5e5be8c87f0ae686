//! PostgreSQL like in Azure: a server for tests, and the front that checks tokens.

use std::{
    ops::Deref,
    sync::{Arc, LazyLock},
};

use entra_pool_emulator::{
    front::postgres::{PostgresFront, PostgresFrontOptions},
    jwt::{Directory, Principal},
};
use tokio::runtime::Runtime;

use super::{credential, postgres::PostgresServer};

/// Fronts outlive the tests that start them, so their tasks need a runtime that is never dropped.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap()
});

/// A server whose principals log in with tokens of [`credential::issuer`]. It dereferences to the
/// server itself, which accepts only passwords.
pub struct PostgresService {
    server: PostgresServer,
    front: PostgresFront,
}

impl Deref for PostgresService {
    type Target = PostgresServer;

    fn deref(&self) -> &PostgresServer {
        &self.server
    }
}

impl PostgresService {
    pub async fn start() -> Self {
        let server = PostgresServer::start().await;
        let certificate = server.authority().issue(&["localhost", "127.0.0.1"]).unwrap();
        let options = PostgresFrontOptions::new(
            credential::issuer(),
            Arc::new(Directory::default()),
            &server.engine_url(),
            certificate.server_config().unwrap(),
        );
        let starting = RUNTIME.spawn(async {
            let front = PostgresFront::start(options).unwrap();
            front.prepare().await.unwrap();
            front
        });
        Self { front: starting.await.unwrap(), server }
    }

    /// Grants a principal access, as an administrator does in Azure.
    pub async fn create_principal(&self, principal: &Principal) {
        let (name, id) = (principal.name.replace('\'', "''"), &principal.object_id);
        self.server
            .sql_in(
                "postgres",
                &format!(
                    "DO $$ BEGIN
                         PERFORM pgaadauth_create_principal_with_oid('{name}', '{id}', 'service', false, false);
                     EXCEPTION WHEN duplicate_object THEN NULL; END $$"
                ),
            )
            .await;
    }

    pub fn front(&self) -> &PostgresFront {
        &self.front
    }

    /// The port where clients log in.
    pub fn port(&self) -> u16 {
        self.front.addr().port()
    }

    /// The port where the server itself accepts passwords.
    pub fn engine_port(&self) -> u16 {
        self.server.port()
    }

    /// A URL for `user`, with the server's certificate authority and the scope.
    pub fn url(&self, user: &str) -> String {
        self.url_with(user, "")
    }

    /// The same with `more` parameters, each with an `&` before it.
    pub fn url_with(&self, user: &str, more: &str) -> String {
        self.url_at(self.port(), user, more)
    }

    /// Stops the server. Connections are refused from then on.
    pub async fn stop(&self) {
        self.server.stop().await;
        self.front.go_away().await.unwrap();
    }

    /// Closes all connections and starts again; returns when logins succeed again.
    pub async fn restart(&self) {
        self.server.restart().await;
        let front = self.front.clone();
        RUNTIME.spawn(async move { front.come_back() }).await.unwrap().unwrap();
    }
}
