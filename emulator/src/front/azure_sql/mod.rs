//! Azure SQL's login in front of a SQL Server.
//!
//! Clients connect with TDS 7.4 or 8.0 and send their token in LOGIN7 or by the MSAL workflow.
//! The front checks the token, then logs in to the engine with the user name and password that
//! the configuration has for the principal. Everything else of the client's LOGIN7 goes to the
//! engine: names, database, language, packet size and features. The engine's answer gets the
//! acknowledgement of the token; after that, the front relays bytes, with the packet sizes and
//! the MARS sessions (SMP) that client and engine have negotiated.
//!
//! The front gets the engine's PRELOGIN first, and answers with the engine's version and MARS.
//! Nothing else that the client sends reaches the engine before the token is checked.
//!
//! One statement is translated if it is the only statement of a SQL batch and fits in one packet:
//! `CREATE USER [x] FROM EXTERNAL PROVIDER`, with the brackets, becomes `CREATE USER [x] FOR
//! LOGIN` with the engine login of the principal `x`, or error 50000 if it has none. Every other
//! form goes to the engine, which refuses it.
//!
//! A session continues after its token has expired.

mod engine;
mod relay;
mod response;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::EngineLogin;
use crate::azure_sql::{
    AzureSqlEndpoint, AzureSqlServer, ServerError, Stage,
    gate::{Gate, TOKEN_USER},
    login::{Login, TDS_7_4, field},
    prelogin::Prelogin,
};
use engine::Upstream;
use response::LoginResponse;

/// The number of redirections that SqlClient follows.
const MOST_ROUTES: usize = 10;

/// A front: where clients connect, and the engine with their sessions.
#[derive(Debug, Clone)]
pub struct AzureSqlFront {
    /// Where clients connect, and which of them are granted access.
    pub endpoint: AzureSqlEndpoint,
    /// The engine's host name and port. The engine gets the name as the server name of LOGIN7.
    pub engine: (String, u16),
    /// How the engine's certificate is verified.
    pub engine_trust: EngineTrust,
    /// The engine's SQL login of each principal, by the principal's name. Principals without a
    /// login are refused.
    pub engine_logins: BTreeMap<String, EngineLogin>,
}

/// How the engine's certificate is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineTrust {
    /// It is for the engine's host name, and an authority in this PEM file has signed it.
    CaFile(PathBuf),
    /// Not at all: a server that intercepts the connection gets the engine's password. For
    /// containers on the same machine, which sign their certificates themselves.
    DangerousAny,
}

struct Shared {
    gate: Arc<Gate>,
    engine: (String, u16),
    engine_tls: TlsConnector,
    engine_logins: BTreeMap<String, EngineLogin>,
}

impl AzureSqlFront {
    /// Starts to listen, in the current tokio runtime. Each login connects to the engine.
    ///
    /// # Errors
    ///
    /// The port is in use, or the file with the engine's authority cannot be read.
    pub fn start(self) -> io::Result<AzureSqlServer> {
        let Self { endpoint, engine, engine_trust, engine_logins } = self;
        let (gate, engine_tls) = (Arc::new(Gate::new(endpoint)), engine::tls(&engine_trust)?);
        let shared = Shared { gate: Arc::clone(&gate), engine, engine_tls, engine_logins };
        let shared = Arc::new(shared);
        AzureSqlServer::listen(gate, move |stream| serve(stream, Arc::clone(&shared)))
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let gate = &shared.gate;
    let (host, port) = &shared.engine;
    let engine = async |asked| {
        let upstream = gate.in_time(Upstream::hello(host, *port, asked)).await;
        (upstream.as_ref().map_or(Prelogin::AZURE_SQL, |upstream| upstream.prelogin), upstream)
    };
    let (mut stream, login, upstream) = gate.receive(stream, engine).await?;
    let admitted = gate.judge(&mut stream, &login, || shared.admit(&login)).await?;
    let Some((principal, engine_login)) = admitted else { return Ok(()) };
    gate.behaviour.pass(Stage::Engine, &mut stream).await?;
    let logged_in = match upstream {
        Ok(upstream) => shared.log_in(upstream, &login, engine_login).await,
        Err(error) => Err(error),
    };
    let (upstream, response) = match logged_in {
        Ok(logged_in) => logged_in,
        Err(error) => {
            tracing::warn!(%error, host, port, "cannot log in to the engine");
            // Azure SQL's error while a database is moved or resumed; drivers retry.
            let text = format!(
                "Database '{}' on server '{host}' is not currently available. Please retry the connection later.",
                login.text(field::DATABASE)
            );
            let error = ServerError::new(40613, 20, text);
            return gate.refuse(&mut stream, &login, &[error]).await;
        }
    };
    let accepted = response.accepted;
    tracing::info!(principal, accepted, "the engine answered a login");
    gate.behaviour
        .count(|it| *(if accepted { &mut it.logins } else { &mut it.refused_logins }) += 1);
    let answer = response.for_client(&login, !gate.behaviour.state().ignores_tokens);
    if !accepted {
        return gate.close(&mut stream, &answer, response.spid).await;
    }
    gate.answer_login(&mut stream, &answer, response.spid).await?;
    relay::relay(stream, upstream, &gate.behaviour, &shared.engine_logins, login.packet_size())
        .await
}

impl Shared {
    fn admit(&self, login: &Login) -> Result<(String, &EngineLogin), ServerError> {
        let (principal, _) = self.gate.admit(login)?;
        match self.engine_logins.get(&principal.name) {
            Some(engine_login) => Ok((principal.name, engine_login)),
            None => {
                let name = principal.name;
                let why = format!(" No engine login is configured for principal '{name}'.");
                Err(ServerError::login_failed(TOKEN_USER, &why))
            }
        }
    }

    /// Logs in to the engine, and follows its routing.
    async fn log_in(
        &self,
        mut upstream: Upstream,
        login: &Login,
        engine_login: &EngineLogin,
    ) -> io::Result<(engine::Stream, LoginResponse)> {
        let mut login = login.as_user(&engine_login.user, &engine_login.password);
        login.tds_version = TDS_7_4;
        let wanted = upstream.prelogin;
        for _ in 0..=MOST_ROUTES {
            login.set_text(field::SERVER, &upstream.name);
            let payload = login.write()?;
            let step = upstream.log_in(&self.engine_tls, &payload);
            let (stream, response) = self.gate.in_time(step).await?;
            let Some((host, port)) = &response.route else { return Ok((stream, response)) };
            tracing::debug!(host, port, "the engine routed a login");
            upstream = self.gate.in_time(Upstream::hello(host, *port, wanted)).await?;
        }
        Err(io::Error::other("the engine routed the login too many times"))
    }
}
