//! A stand-in for Azure Database for PostgreSQL: its wire protocol over TLS,
//! logins with Entra tokens, and SQL on SQLite.
//!
//! It serves the quickstart, the examples and tests of logins and pools. It understands
//!
//! - logins of principals of a [`Directory`] by token, refused with the texts
//!   and SQLSTATEs of the service;
//! - the simple and the extended protocol, with parameters in binary; statements that
//!   are sent as one are one transaction;
//! - `SELECT` with inner and left joins, `GROUP BY` and `ORDER BY` columns;
//!   `INSERT … VALUES` with `ON CONFLICT … DO NOTHING` and `RETURNING`; `CREATE TABLE` and
//!   `CREATE INDEX`;
//! - `smallint`, `integer`, `bigint`, `double precision`, `text`, `varchar(n)`,
//!   `numeric(p, s)`, `date`; `serial` and identity columns; constraints of single columns;
//!   `AND`, `OR`, `NOT`, comparisons, casts, `count` and `avg`;
//! - transactions, with the failed state between an error and `ROLLBACK`; the settings that
//!   drivers make, and what cleans a session.
//!
//! Everything else is refused with an error that names it: SQLSTATE 0A000, for a function
//! 42883, and for a syntax that its parser does not know 42601. It never answers differently
//! from PostgreSQL; `tests/postgres/stand_in.rs` of this repository compares both. What
//! differs is named here: privileges are not checked, text is ordered as in the `C` locale,
//! transactions are serializable and one of them writes at a time, a cancel request has no
//! effect, and a password may not be longer than 9,990 bytes (a limit of the library).

mod allowed;
mod command;
mod definitions;
mod error;
mod expressions;
mod functions;
mod handler;
mod login;
mod numeric;
mod queries;
pub(crate) mod refusals;
mod session;
mod settings;
mod values;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pgwire::{
    api::{
        ErrorHandler, PgWireServerHandlers, RandomPidSecretKeyGenerator,
        auth::StartupHandler,
        query::{ExtendedQueryHandler, SimpleQueryHandler},
    },
    tokio::process_socket,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsAcceptor;

use crate::{
    database::Database,
    jwt::{Directory, Issuer},
    listener::Listener,
};
use handler::Queries;
use login::Login;

pub use crate::tenant::POSTGRES_AUDIENCE as AUDIENCE;

const SERVER_VERSION: &str = "16.6";
const VERSION: &str = "PostgreSQL 16.6 (stand-in of entra-pool's emulator, on SQLite)";

/// What a [`PostgresServer`] starts with.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Checks the tokens.
    pub issuer: Arc<Issuer>,
    /// The roles, by name.
    pub directory: Arc<Directory>,
    /// Where the data is; of this server alone, for declared types are its own.
    pub database: Arc<Database>,
    /// The server's certificate.
    pub tls: Arc<rustls::ServerConfig>,
    /// The address to listen on; default 127.0.0.1.
    pub bind: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// The names under which the database is known.
    pub database_names: Vec<String>,
    /// The audience that tokens must have.
    pub audience: String,
    /// Whether TLS is declined, as a server without a certificate does.
    pub decline_tls: bool,
}

impl PostgresOptions {
    /// A free port, the databases `postgres` and `restaurant`, the public
    /// cloud's audience.
    pub fn new(
        issuer: Arc<Issuer>,
        directory: Arc<Directory>,
        database: Arc<Database>,
        tls: Arc<rustls::ServerConfig>,
    ) -> Self {
        Self {
            issuer,
            directory,
            database,
            tls,
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            database_names: vec!["postgres".to_owned(), "restaurant".to_owned()],
            audience: AUDIENCE.to_owned(),
            decline_tls: false,
        }
    }
}

/// What a server counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PostgresCounters {
    /// Logins that succeeded.
    pub logins: u64,
    /// Logins that were refused, for whatever reason.
    pub refused_logins: u64,
    /// Simple queries and executions of prepared statements, from their start.
    pub queries: u64,
    /// Sessions open now.
    pub open_connections: u64,
}

/// A running server. Clones are handles on the same one; it stops when the last
/// of them is dropped.
#[derive(Clone)]
pub struct PostgresServer {
    listener: Arc<Listener>,
    shared: Arc<Shared>,
}

impl PostgresServer {
    /// Starts the server, in the current tokio runtime.
    ///
    /// # Errors
    ///
    /// The port is taken.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(options: PostgresOptions) -> io::Result<Self> {
        let acceptor = (!options.decline_tls).then(|| TlsAcceptor::from(options.tls));
        let shared = Arc::new(Shared {
            issuer: options.issuer,
            directory: options.directory,
            database: options.database,
            database_names: options.database_names,
            audience: options.audience,
            sequences: Mutex::default(),
            keys: RandomPidSecretKeyGenerator::default(),
            control: Mutex::default(),
            counters: watch::Sender::new(PostgresCounters::default()),
        });
        let served = Arc::clone(&shared);
        let serve = move |stream: TcpStream| {
            let (acceptor, handlers) = (acceptor.clone(), Handlers(Arc::clone(&served)));
            async move {
                if let Err(error) = process_socket(stream, acceptor, handlers).await {
                    tracing::debug!(%error, "PostgreSQL: connection ended");
                }
            }
        };
        let listener = Arc::new(Listener::start((options.bind, options.port), serve)?);
        Ok(Self { listener, shared })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// What was counted so far.
    pub fn counters(&self) -> PostgresCounters {
        *self.shared.counters.borrow()
    }

    /// Completes when the counters are as `wanted`, without polling.
    pub async fn wait_until(&self, wanted: impl FnMut(&PostgresCounters) -> bool) {
        let mut counters = self.shared.counters.subscribe();
        // The sender lives in `self`: it cannot be gone while this waits.
        let _ = counters.wait_for(wanted).await;
    }

    /// Closes every connection, without a word, and goes on listening.
    pub async fn cut_connections(&self) {
        self.listener.cut().await;
    }

    /// Closes the listener and every connection: connections are refused from
    /// when this returns.
    ///
    /// # Errors
    ///
    /// The port could not be kept.
    pub async fn go_away(&self) -> io::Result<()> {
        self.listener.go_away().await
    }

    /// Listens again, on the same port.
    ///
    /// # Errors
    ///
    /// The port was taken.
    pub fn come_back(&self) -> io::Result<()> {
        self.listener.come_back()
    }

    /// Refuses every login with this SQLSTATE and message, whatever the token:
    /// `57P03` (starting up), `53300` (too many connections), ….
    pub fn refuse_logins(&self, sqlstate: &str, message: &str) {
        self.shared.control().refusal = Some((sqlstate.to_owned(), message.to_owned()));
    }

    /// Lets logins in again.
    pub fn accept_logins(&self) {
        self.shared.control().refusal = None;
    }

    /// Waits this long before a login is looked at.
    pub fn delay_logins(&self, delay: Duration) {
        self.shared.control().delay = delay;
    }
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresServer")
            .field("addr", &self.addr())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

/// What all sessions share.
pub(crate) struct Shared {
    issuer: Arc<Issuer>,
    directory: Arc<Directory>,
    database: Arc<Database>,
    database_names: Vec<String>,
    audience: String,
    /// The last number that each sequence gave. They are no part of a transaction.
    sequences: Mutex<Vec<i64>>,
    keys: RandomPidSecretKeyGenerator,
    control: Mutex<Control>,
    counters: watch::Sender<PostgresCounters>,
}

#[derive(Clone, Default)]
struct Control {
    delay: Duration,
    refusal: Option<(String, String)>,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sequences(&self) -> MutexGuard<'_, Vec<i64>> {
        self.sequences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_sequence(&self) -> i64 {
        let mut sequences = self.sequences();
        sequences.push(0);
        sequences.len() as i64 - 1
    }

    fn next_value(&self, sequence: i64) -> i64 {
        let mut sequences = self.sequences();
        let last = usize::try_from(sequence).ok().and_then(|at| sequences.get_mut(at));
        let Some(last) = last else { return 0 };
        *last += 1;
        *last
    }

    fn count(&self, change: impl FnOnce(&mut PostgresCounters)) {
        self.counters.send_modify(change);
    }
}

struct Handlers(Arc<Shared>);

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::new(Queries(Arc::clone(&self.0)))
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::new(Queries(Arc::clone(&self.0)))
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::new(Login(Arc::clone(&self.0)))
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        Arc::new(Queries(Arc::clone(&self.0)))
    }
}
