//! The login of Azure Database for PostgreSQL, in front of a PostgreSQL engine.
//!
//! The client connects with TLS (by `SSLRequest` or directly) and sends its token as the
//! password. The front checks the token and logs in to the engine as the role with the
//! principal's name. It creates that role with a random password; it never changes a role
//! that it did not create, but logs in to a role whose password is in the options. Then it
//! relays bytes. It also relays cancel requests.
//!
//! A comment on the role marks it as created by a front. After a restart, the front sets a
//! new password on its own roles when they are next used.
//!
//! In the database of its URL, the front creates `pgaadauth_create_principal`,
//! `pgaadauth_create_principal_with_oid` and `pgaadauth_list_principals` with
//! `pg_catalog` as their schema, for members of `azure_pg_admin`. `SECURITY LABEL FOR
//! pgaadauth` needs a module in the engine and is refused there. The front speaks protocol
//! 3.0 to its clients, and connects to the engine without TLS.

mod client;
mod engine;
mod refusals;
mod relay;
mod roles;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Behaviour, Counters, EngineLogin};
use crate::{
    jwt::{Directory, Issuer},
    listener::{Listener, port_methods},
};
use engine::{Dial, Engine};
use roles::Roles;

pub use crate::tenant::POSTGRES_AUDIENCE as AUDIENCE;

/// Options of a [`PostgresFront`].
#[derive(Clone)]
#[non_exhaustive]
pub struct PostgresFrontOptions {
    /// Checks the tokens.
    pub issuer: Arc<Issuer>,
    /// Principals that are granted access, by role; their roles are created when they
    /// first log in. Principals of roles that `pgaadauth_create_principal` created need not
    /// be here.
    pub directory: Arc<Directory>,
    /// Names of principals in the directory whose roles are created as Entra
    /// administrators, with `azure_pg_admin`, `CREATEROLE` and `CREATEDB`. Default: none.
    pub administrators: Vec<String>,
    /// The engine: `postgres://USER:PASSWORD@HOST:PORT/DATABASE` of a superuser, or with
    /// `?host=/FOLDER` of its Unix socket.
    pub engine_url: String,
    /// Engine roles whose passwords are known, by principal. The front does not change
    /// them.
    pub engine_logins: BTreeMap<String, EngineLogin>,
    /// The certificate that clients see.
    pub tls: Arc<rustls::ServerConfig>,
    /// The address to listen on. Default: 127.0.0.1.
    pub bind: IpAddr,
    /// The port; 0, the default, takes a free one.
    pub port: u16,
    /// The audience that tokens must have. Default: the public cloud's.
    pub audience: String,
    /// How long each step of a login may take (TLS, startup, the token, and the login to the
    /// engine). Default: 10 s.
    pub login_timeout: Duration,
    in_process: Option<Dial>,
}

impl PostgresFrontOptions {
    /// Options with the defaults.
    pub fn new(
        issuer: Arc<Issuer>,
        directory: Arc<Directory>,
        engine_url: &str,
        tls: Arc<rustls::ServerConfig>,
    ) -> Self {
        Self {
            issuer,
            directory,
            administrators: Vec::new(),
            engine_url: engine_url.to_owned(),
            engine_logins: BTreeMap::new(),
            tls,
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            audience: AUDIENCE.to_owned(),
            login_timeout: Duration::from_secs(10),
            in_process: None,
        }
    }

    /// Options for an engine in this process, whose roles are the principals in the directory.
    #[cfg(feature = "embedded")]
    pub fn embedded(
        issuer: Arc<Issuer>,
        directory: Arc<Directory>,
        engine: Arc<crate::postgres::Embedded>,
        tls: Arc<rustls::ServerConfig>,
    ) -> Self {
        let dial: Dial = Arc::new(move || Box::new(engine.connect()));
        Self { in_process: Some(dial), ..Self::new(issuer, directory, "", tls) }
    }
}

opaque_debug!(PostgresFrontOptions);

/// A refusal of a login: an `ErrorResponse` of severity FATAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({sqlstate})")]
pub struct LoginError {
    /// The SQLSTATE, such as `57P03`.
    pub sqlstate: String,
    /// The message.
    pub message: String,
}

impl LoginError {
    /// A refusal with this SQLSTATE and message.
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Self {
        Self { sqlstate: sqlstate.to_owned(), message: message.into() }
    }
}

/// A running front. Clones are handles on the same one; it stops, with its connections,
/// when the last of them is dropped.
#[derive(Clone)]
pub struct PostgresFront {
    listener: Arc<Listener>,
    shared: Arc<Shared>,
}

struct Shared {
    issuer: Arc<Issuer>,
    directory: Arc<Directory>,
    audience: String,
    login_timeout: Duration,
    acceptor: TlsAcceptor,
    engine: Engine,
    roles: Roles,
    behaviour: Behaviour<LoginError>,
}

impl PostgresFront {
    /// Starts the front, in the current tokio runtime. It connects to the engine when it
    /// is first needed, or at [`prepare`](Self::prepare).
    ///
    /// # Errors
    ///
    /// The engine's URL is not valid, or the port is in use.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(options: PostgresFrontOptions) -> io::Result<Self> {
        let engine = Engine::new(&options)?;
        let mut tls = rustls::ServerConfig::clone(&options.tls);
        tls.alpn_protocols = vec![client::ALPN.to_vec()];
        let shared = Arc::new(Shared {
            issuer: options.issuer,
            directory: options.directory,
            audience: options.audience,
            login_timeout: options.login_timeout,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            engine,
            roles: Roles::new(options.engine_logins, options.administrators),
            behaviour: Behaviour::new(),
        });
        let served = Arc::clone(&shared);
        let serve = move |stream: TcpStream| {
            let shared = Arc::clone(&served);
            async move { shared.behaviour.serve(client::serve(stream, &shared)).await }
        };
        let listener = Arc::new(Listener::start((options.bind, options.port), serve)?);
        Ok(Self { listener, shared })
    }

    /// Creates the functions `pgaadauth_*` in the engine now, not with the first login.
    ///
    /// # Errors
    ///
    /// The engine is unreachable, or the user of its URL is not a superuser.
    pub async fn prepare(&self) -> Result<(), LoginError> {
        if self.shared.engine.is_in_process() {
            return Ok(());
        }
        self.shared.engine.administer(async |_| Ok(())).await
    }

    port_methods!();

    /// The counters so far.
    pub fn counters(&self) -> Counters {
        self.shared.behaviour.counters()
    }

    /// The faults that a test can request.
    pub fn behaviour(&self) -> &Behaviour<LoginError> {
        &self.shared.behaviour
    }
}

opaque_debug!(PostgresFront);
