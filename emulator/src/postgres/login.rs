//! Startup and login: TLS, the role, the token as a password, the database.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use futures::{Sink, SinkExt};
use pgwire::{
    api::{
        ClientInfo, METADATA_DATABASE, METADATA_USER, PgWireConnectionState, PidSecretKeyGenerator,
        auth::{
            DefaultServerParameterProvider, StartupHandler, finish_authentication,
            protocol_negotiation, save_startup_parameters_to_metadata,
        },
    },
    error::{PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, PgWireFrontendMessage, startup::Authentication},
};

use super::{
    Control, SERVER_VERSION, Shared,
    error::fatal,
    refusals::{no_encryption, no_role, refused, wrong_role},
    session::{Session, SessionHandle},
    settings,
};
use crate::jwt::Principal;

/// Lets principals of the directory in.
pub(super) struct Login(pub(super) Arc<Shared>);

#[async_trait]
impl StartupHandler for Login {
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let outcome = match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                match self.greet(client).await {
                    Ok(()) => {
                        client.set_state(PgWireConnectionState::AuthenticationInProgress);
                        let ask = Authentication::CleartextPassword;
                        client.send(PgWireBackendMessage::Authentication(ask)).await?;
                        return Ok(());
                    }
                    Err(refusal) => Err(refusal),
                }
            }
            PgWireFrontendMessage::PasswordMessageFamily(message) => {
                let password = message.into_password()?;
                self.admit(client, &password.password)
            }
            _ => return Ok(()),
        };
        match outcome {
            Ok(session) => {
                tracing::info!(user = client.metadata().get(METADATA_USER), "a login succeeds");
                self.0.count(|counters| counters.logins += 1);
                client.session_extensions().insert(SessionHandle::new(session));
                let mut parameters = DefaultServerParameterProvider::default();
                parameters.server_version = SERVER_VERSION.to_owned();
                parameters.is_superuser = false;
                finish_authentication(client, &parameters).await
            }
            Err(refusal) => {
                let user = client.metadata().get(METADATA_USER);
                tracing::info!(user, %refusal, "a login is refused");
                self.0.count(|counters| counters.refused_logins += 1);
                Err(refusal)
            }
        }
    }
}

impl Login {
    /// What is decided before the password is asked for.
    async fn greet(&self, client: &(impl ClientInfo + Sync)) -> PgWireResult<()> {
        let Control { delay, refusal } = self.0.control().clone();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some((code, message)) = refusal {
            return Err(fatal(&code, message));
        }
        let user = user(client)?;
        if !client.is_secure() {
            let host = client.socket_addr().ip();
            let database = database(client)?;
            return Err(fatal("28000", no_encryption(host, &user, &database)));
        }
        self.role(&user).map(drop)
    }

    fn role(&self, user: &str) -> PgWireResult<Principal> {
        let principal = self.0.directory.by_name(user);
        principal.ok_or_else(|| fatal("28000", no_role(user)))
    }

    fn admit(&self, client: &mut impl ClientInfo, token: &str) -> PgWireResult<Session> {
        let user = user(client)?;
        let role = self.role(&user)?;
        let verified = self.0.issuer.verify(token, &self.0.audience);
        let verified = verified.map_err(|refusal| fatal("28P01", refused(&refusal, &user)))?;
        if verified.object_id != role.object_id {
            return Err(fatal("28P01", wrong_role(&user)));
        }
        let database = database(client)?;
        if !self.0.database_names.contains(&database) {
            return Err(fatal("3D000", format!("database \"{database}\" does not exist")));
        }
        let (pid, secret) = self.0.keys.generate(client);
        client.set_pid_and_secret_key(pid, secret);
        for (name, value) in client.metadata() {
            if ![METADATA_USER, METADATA_DATABASE].contains(&name.as_str()) {
                let checked = settings::check(name, value);
                checked.map_err(|error| fatal(&error.code, error.message))?;
            }
        }
        let session = Session::open(&self.0, [user, database]);
        session.map_err(|error| fatal(&error.code, error.message))
    }
}

fn user(client: &impl ClientInfo) -> PgWireResult<String> {
    let user = client.metadata().get(METADATA_USER).cloned();
    let missing = || fatal("28000", "no PostgreSQL user name specified in startup packet");
    user.ok_or_else(missing)
}

/// Without a name it is the user's.
fn database(client: &impl ClientInfo) -> PgWireResult<String> {
    match client.metadata().get(METADATA_DATABASE) {
        Some(database) => Ok(database.clone()),
        None => user(client),
    }
}
