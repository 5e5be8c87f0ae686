//! A stand-in for Azure Database for PostgreSQL: its wire protocol over TLS,
//! logins with Entra tokens, and SQL on SQLite.
//!
//! It understands
//!
//! - logins of principals of a [`Directory`] by token, refused with the texts
//!   and SQLSTATEs of the service;
//! - the simple and the extended protocol, text and binary, cancel requests;
//! - queries, `INSERT … ON CONFLICT … RETURNING`, `UPDATE`, `DELETE`,
//!   `TRUNCATE`, tables (temporary ones too), indexes and views;
//! - transactions and savepoints, with the failed state between an error and
//!   `ROLLBACK`;
//! - integers, floats, `boolean`, `text` and its like, `numeric`, `uuid`,
//!   `bytea`, `date`, `timestamp`, `timestamptz`, `json`; `serial` and identity
//!   columns; `::` casts;
//! - settings, roles, advisory locks, `pg_sleep`, sequences, and everything
//!   that cleans a session: `DISCARD`, `RESET ALL`, `CLOSE ALL`, `UNLISTEN *`,
//!   `SET SESSION AUTHORIZATION DEFAULT`, `pg_advisory_unlock_all()`, and
//!   `SELECT … FROM pg_prepared_statement() WHERE from_sql`.
//!
//! It is not PostgreSQL: it checks no privileges, knows no schema but `public`,
//! no `pg_catalog`, arrays, `COPY`, cursors or notifications, keeps no trailing
//! zeros of a `numeric`, allows one writer at a time, drops connections whose
//! password is longer than 9,990 bytes (a limit of the library), and commits each
//! statement of a simple query by itself. What it does not know is refused with
//! SQLSTATE 0A000, by name.

mod command;
mod decimal;
mod definitions;
mod error;
mod functions;
mod handle;
mod handler;
mod infer;
mod login;
mod names;
mod parameters;
pub(crate) mod refusals;
mod session;
mod settings;
mod time_text;
mod translate;
mod values;
mod waiting;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pgwire::{
    api::{
        ConnectionManager, ErrorHandler, PgWireServerHandlers, RandomPidSecretKeyGenerator,
        auth::StartupHandler,
        cancel::{CancelHandler, DefaultCancelHandler},
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
use waiting::Waiting;

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
            waiting: Waiting::default(),
            sequences: Mutex::default(),
            cancels: Arc::new(ConnectionManager::new()),
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
    waiting: Waiting,
    /// Sequences are no part of a transaction, so they live here.
    sequences: Mutex<BTreeMap<String, i64>>,
    cancels: Arc<ConnectionManager>,
    keys: RandomPidSecretKeyGenerator,
    control: Mutex<Control>,
    counters: watch::Sender<PostgresCounters>,
}

#[derive(Default)]
struct Control {
    delay: Duration,
    refusal: Option<(String, String)>,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn greeting(&self) -> (Duration, Option<(String, String)>) {
        let control = self.control();
        (control.delay, control.refusal.clone())
    }

    fn next_value(&self, sequence: &str) -> i64 {
        let mut sequences = self.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        let value = sequences.entry(sequence.to_owned()).or_default();
        *value += 1;
        *value
    }

    fn logged_in(&self) {
        self.counters.send_modify(|counters| counters.logins += 1);
    }

    fn refused(&self) {
        self.counters.send_modify(|counters| counters.refused_logins += 1);
    }

    fn queried(&self) {
        self.counters.send_modify(|counters| counters.queries += 1);
    }

    fn opened(&self) {
        self.counters.send_modify(|counters| counters.open_connections += 1);
    }

    fn closed(&self) {
        self.counters.send_modify(|counters| counters.open_connections -= 1);
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

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::new(DefaultCancelHandler::new(Arc::clone(&self.0.cancels)))
    }
}
