//! Azure SQL's login in front of a SQL Server.
//!
//! Clients connect with TDS 7.4 or 8.0 and bring their token in LOGIN7 or by the MSAL workflow.
//! The front checks the token, then logs in to the engine with the user name and password that
//! the options give for the principal. Everything else of the client's LOGIN7 goes to the
//! engine: names, database, language, packet size and features. The engine's answer gets the
//! acknowledgement of the token; after that, the front relays bytes, with the packet sizes and
//! the MARS sessions (SMP) that client and engine have agreed upon.
//!
//! The engine's PRELOGIN is asked for first, so that version and MARS are the engine's. Nothing
//! that the client sends, apart from these two, reaches the engine before the token was checked.
//!
//! One statement is translated, where it is the only one of a SQL batch and fits one packet:
//! `CREATE USER [x] FROM EXTERNAL PROVIDER` becomes `CREATE USER [x] FOR LOGIN` with the engine
//! login of the principal `x`, or error 50000 if it has none. Elsewhere the engine refuses it.
//!
//! A session goes on after its token has expired.

mod engine;
mod relay;
mod response;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ServerConfig};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::EngineLogin;
use crate::{
    azure_sql::{
        AUDIENCE, Behaviour, Counters, LOGIN_TIMEOUT, STS_URL, ServerError,
        behaviour::LiveCounters,
        gate::Gate,
        login::{Login, TDS_7_4},
        packets::kind,
        prelogin::Engine,
    },
    jwt::{Directory, Issuer},
    listener::Listener,
};
use engine::Upstream;
use response::LoginResponse;

/// As many as SqlClient follows.
const MOST_ROUTES: usize = 10;

/// How an [`AzureSqlFront`] is set up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AzureSqlFrontOptions {
    /// Checks the tokens.
    pub issuer: Arc<Issuer>,
    /// The principals that are granted access.
    pub directory: Arc<Directory>,
    /// The engine's host name. The engine gets it as the server name of LOGIN7.
    pub engine_host: String,
    /// The engine's port.
    pub engine_port: u16,
    /// How the engine's certificate is verified.
    pub engine_trust: EngineTrust,
    /// The engine's SQL login of each principal, by the principal's name. Principals without one
    /// are refused.
    pub engine_logins: BTreeMap<String, EngineLogin>,
    /// The certificate that clients see.
    pub tls: Arc<ServerConfig>,
    /// The address to listen on; default 127.0.0.1.
    pub bind: IpAddr,
    /// The port; 0, the default, takes a free one.
    pub port: u16,
    /// The audience that tokens must have, and for which drivers get a token; default: the public
    /// cloud's.
    pub audience: String,
    /// Where drivers that get a token themselves get it; default
    /// [`STS_URL`].
    pub sts_url: String,
    /// How long the client may take for each step of a login, and the engine for its part;
    /// default 60 s.
    pub login_timeout: Duration,
}

/// How the engine's certificate is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineTrust {
    /// It is for the engine's host name, and an authority in this PEM file has signed it.
    CaFile(PathBuf),
    /// Not at all: whoever can reach into the connection gets the engine's password. For
    /// containers on the same machine, which sign their certificates themselves.
    DangerousAny,
}

impl AzureSqlFrontOptions {
    /// The defaults, without engine logins.
    pub fn new(
        issuer: Arc<Issuer>,
        directory: Arc<Directory>,
        engine: (&str, u16, EngineTrust),
        tls: Arc<ServerConfig>,
    ) -> Self {
        let (engine_host, engine_port, engine_trust) = engine;
        Self {
            issuer,
            directory,
            engine_host: engine_host.to_owned(),
            engine_port,
            engine_trust,
            engine_logins: BTreeMap::new(),
            tls,
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            audience: AUDIENCE.to_owned(),
            sts_url: STS_URL.to_owned(),
            login_timeout: LOGIN_TIMEOUT,
        }
    }
}

/// A running front. It ends, with all its connections, when this value is dropped.
pub struct AzureSqlFront {
    gate: Arc<Gate>,
    listener: Listener,
}

impl fmt::Debug for AzureSqlFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureSqlFront").field("address", &self.addr()).finish_non_exhaustive()
    }
}

struct Shared {
    gate: Arc<Gate>,
    engine: (String, u16),
    engine_tls: Arc<ClientConfig>,
    logins: BTreeMap<String, EngineLogin>,
}

impl AzureSqlFront {
    /// Starts to listen. The engine is connected to for each login.
    ///
    /// # Errors
    ///
    /// The port is taken, or the file with the engine's authority cannot be read.
    pub async fn start(options: AzureSqlFrontOptions) -> io::Result<Self> {
        let gate = Arc::new(Gate {
            issuer: options.issuer,
            directory: options.directory,
            audience: options.audience,
            sts_url: options.sts_url,
            tls: options.tls,
            decline_encryption: false,
            handshake_packet_type: kind::PRELOGIN,
            login_timeout: options.login_timeout,
            behaviour: Arc::new(Behaviour::new()),
            counters: LiveCounters::default(),
        });
        let shared = Arc::new(Shared {
            gate: Arc::clone(&gate),
            engine: (options.engine_host, options.engine_port),
            engine_tls: engine::tls(&options.engine_trust)?,
            logins: options.engine_logins,
        });
        let addr = (options.bind, options.port);
        let listener = Listener::start(addr, move |stream| {
            let shared = Arc::clone(&shared);
            async move { shared.gate.count_open(serve(stream, &shared)).await }
        })?;
        Ok(Self { gate, listener })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// What it has counted so far. Requests and reset bits are counted as they are relayed;
    /// [`resets`](Counters::resets) are the engine's and not counted.
    pub fn counters(&self) -> Counters {
        self.gate.counters.read()
    }

    /// What it can be made to do. Requests do not fail here
    /// ([`fail_requests`](Behaviour::fail_requests)), and it is the engine that acknowledges
    /// resets. [`Stage::Answer`](crate::azure_sql::Stage::Answer) is the next part of an answer.
    pub fn behaviour(&self) -> &Arc<Behaviour> {
        &self.gate.behaviour
    }

    /// Closes the listening socket, so that new TCP connections are refused, or opens it again.
    /// Connections that are open stay so.
    pub async fn refuse_connections(&self, refuse: bool) -> io::Result<()> {
        self.listener.refuse(refuse).await
    }

    /// Ends the front and all its connections, and waits until they are gone.
    pub async fn stop(self) {
        // The port need not be kept.
        drop(self.listener.go_away().await);
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let gate = &shared.gate;
    let Some(hello) = gate.hello(stream).await? else { return Ok(()) };
    let (host, port) = &shared.engine;
    let upstream = gate.in_time(Upstream::hello(host, *port, hello.prelogin.engine)).await;
    let engine = upstream.as_ref().map_or(Engine::AZURE_SQL, |upstream| upstream.engine);
    let mut client = gate.welcome(hello, engine).await?;
    let login = gate.login(&mut client).await?;
    let admitted = match gate.before_answer(&mut client).await? {
        Some(failures) => Err(failures),
        None => shared.admit(&login).map_err(|error| vec![error]),
    };
    let (principal, engine_login) = match admitted {
        Ok(admitted) => admitted,
        Err(errors) => return gate.refuse(client, &login, &errors, 0).await,
    };
    let route = gate.behaviour.state().routes.next();
    if let Some(route) = route {
        return gate.route(client, &login, &login.database, &route, 0).await;
    }
    let logged_in = match upstream {
        Ok(upstream) => shared.log_in(upstream, &login, engine_login).await,
        Err(error) => Err(error),
    };
    let (upstream, response) = match logged_in {
        Ok(logged_in) => logged_in,
        Err(error) => {
            tracing::warn!(%error, host, port, "cannot log in to the engine");
            // What Azure SQL says while a database is moved or resumed; drivers try again.
            let text = format!(
                "Database '{}' on server '{host}' is not currently available. Please retry the connection later.",
                login.database
            );
            let errors = [ServerError::new(40613, 20, text)];
            return gate.refuse(client, &login, &errors, 0).await;
        }
    };
    let mut stream = client.stream;
    let answer = response.for_client(&login, !gate.behaviour.state().ignores_tokens);
    if !response.accepted {
        tracing::info!(principal, "the engine refuses a login");
        gate.counters.count(|it| it.logins_refused += 1);
        gate.answer_login(&mut stream, &answer, response.spid).await?;
        return stream.shutdown().await;
    }
    tracing::info!(principal, "a login succeeds");
    gate.counters.count(|it| it.logins += 1);
    gate.answer_login(&mut stream, &answer, response.spid).await?;
    let size = login.packet_size();
    relay::relay(stream, upstream, gate, &shared.logins, size).await
}

impl Shared {
    fn admit(&self, login: &Login) -> Result<(String, &EngineLogin), ServerError> {
        let (principal, _) = self.gate.admit(login)?;
        match self.logins.get(&principal.name) {
            Some(engine_login) => Ok((principal.name, engine_login)),
            None => Err(ServerError::new(
                18456,
                14,
                format!(
                    "Login failed for user '<token-identified principal>'. No engine login is configured for principal '{}'.",
                    principal.name
                ),
            )),
        }
    }

    /// Logs in to the engine, and to where it routes.
    async fn log_in(
        &self,
        mut upstream: Upstream,
        login: &Login,
        engine_login: &EngineLogin,
    ) -> io::Result<(engine::Stream, LoginResponse)> {
        let mut login = login.as_user(&engine_login.user, &engine_login.password);
        login.tds_version = TDS_7_4;
        let wanted = upstream.engine;
        for _ in 0..=MOST_ROUTES {
            login.server.clone_from(&upstream.name);
            let payload = login.write().map_err(io::Error::other)?;
            let step = upstream.log_in(Arc::clone(&self.engine_tls), &payload);
            let (stream, response) = self.gate.in_time(step).await?;
            let Some((host, port)) = &response.route else { return Ok((stream, response)) };
            tracing::debug!(host, port, "the engine routes a login");
            upstream = self.gate.in_time(Upstream::hello(host, *port, wanted)).await?;
        }
        Err(io::Error::other("the engine routes in a circle"))
    }
}
