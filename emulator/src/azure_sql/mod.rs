//! A stand-in for Azure SQL: TDS 7.4 (and TDS 8.0's "strict") over TLS, with
//! Entra tokens for logins and SQLite for tables.
//!
//! It is no SQL Server. It is what a connection pool and small applications
//! need to be tried against where Azure is out of reach: logins that are
//! checked, sessions with state that must not leak, answers of the right
//! types, errors with the right numbers. Whatever is not on the list below is
//! error 102 and names the construct; it never reaches SQLite. What is on it
//! answers as SQL Server's documentation says.
//!
//! # What it understands
//!
//! **Logins**: LOGIN7 with the FEDAUTH extension: with a token in it (library
//! SecurityToken), or with one that the driver gets after FEDAUTHINFO (library
//! MSAL), as `Authentication=ActiveDirectoryMsi` and its kin do. The token is
//! checked by [`Issuer::verify`] and [`Directory::by_token`]. All databases of a
//! server are one and the same, whatever their names.
//!
//! **Requests**: SQL batches; `sp_executesql`, `sp_prepare`, `sp_execute`,
//! `sp_prepexec` and `sp_unprepare`, several of them in one message, with output
//! parameters; transaction-manager requests (begin, commit, rollback, save; also
//! with the begin of the next transaction); attentions, RESETCONNECTION and
//! RESETCONNECTIONSKIPTRAN. A request must carry the descriptor of the session's
//! transaction, else it is error 3989. `sp_prepare` returns no column metadata.
//! `INSERT BULK` is refused.
//!
//! **Types**: `bit`, integers, `decimal`, `date`, `varchar` and `nvarchar`. Every
//! expression has its type by T-SQL's rules before it is run. Values of decimals have
//! at most 18 digits, those of `varchar` are ASCII, and a `date` is written
//! `2024-01-02`. Texts are equal without regard to case and to spaces at the end;
//! texts outside of ASCII, and the order of texts, are not compared.
//!
//! **Queries**: `SELECT` of columns, constants, `+ - * / %` of integers, `*`,
//! `COUNT(*)`, `COUNT_BIG(*)` and `SUM` of integers, `TOP (n)`, `FROM` with a list
//! of tables, `WHERE` with comparisons, `AND`, `OR`, `NOT` and `IS NULL`, `ORDER BY`
//! columns other than text, `UNION ALL`.
//!
//! **Changes**: `INSERT` of `VALUES`, with `OUTPUT INSERTED.column`; `UPDATE`
//! and `DELETE` with `WHERE`.
//!
//! **Definitions**: `CREATE TABLE` with `NOT NULL`, `PRIMARY KEY` (not of
//! text), `CHECK` and `int IDENTITY(1,1)`; `DROP TABLE`; `#temporary` tables.
//!
//! **Control**: `BEGIN`/`COMMIT`/`ROLLBACK`/`SAVE TRANSACTION`, `IF … ELSE`,
//! `BEGIN … END`, `SET` of options and parameters, `SET TRANSACTION ISOLATION LEVEL`,
//! `WAITFOR DELAY`, `USE`, `sp_set_session_context`.
//!
//! **Functions**: `@@TRANCOUNT`, `@@ROWCOUNT`, `@@SPID`, `@@LANGUAGE`,
//! `@@LOCK_TIMEOUT`, `DB_NAME`, `USER_NAME`, `SUSER_SNAME`, `APP_NAME`, `HOST_NAME`,
//! `CAST`, also of `SESSION_CONTEXT`, `OBJECT_ID` of a table.
//!
//! **System views**: `transaction_isolation_level` of the session's row in
//! `sys.dm_exec_sessions`.
//!
//! **Borrowers**: a request whose SQL begins with a comment `/* borrower NAME */`
//! says who uses the session. Where another has used it before and no reset bit
//! has come in between, the request is not run: it is error 50000, and counted.
//! That is how a test of a pool fails when a session goes on unreset.
//!
//! Isolation is SQLite's: one session changes tables at a time; another waits
//! up to 5 s, then it is error 1222. Where a snapshot is too old to be changed,
//! it is error 1205.

pub(crate) mod behaviour;
mod borders;
pub(crate) mod bytes;
mod connection;
mod convert;
mod defaults;
mod error;
mod execute;
pub(crate) mod fault;
mod functions;
pub(crate) mod gate;
pub(crate) mod login;
mod options;
pub(crate) mod packets;
pub(crate) mod prelogin;
mod procedures;
mod requests;
mod session;
mod statements;
pub(crate) mod tokens;
mod transactions;
mod tsql;
mod types;
mod values;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;

pub use behaviour::{Acknowledgement, Behaviour, Counters};
pub use borders::packet_borders;
pub use defaults::STS_URL;
pub use error::ServerError;
pub use fault::{Fault, Stage};

use crate::{
    database::Database,
    front::EngineLogin,
    jwt::{Directory, Issuer},
    listener::Listener,
};
use behaviour::LiveCounters;
pub(crate) use defaults::{AUDIENCE, LOGIN_TIMEOUT};
use gate::Gate;

/// How an [`AzureSqlServer`] is set up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AzureSqlOptions {
    /// Whose tokens are taken.
    pub issuer: Arc<Issuer>,
    /// Who is let in.
    pub directory: Arc<Directory>,
    /// The tables.
    pub database: Arc<Database>,
    /// TLS with the server's certificate.
    pub tls: Arc<ServerConfig>,
    /// What tokens must be for, and what drivers are told to get a token for;
    /// default `https://database.windows.net/`. A slash at the end makes no
    /// difference for tokens.
    pub audience: String,
    /// Where drivers that get a token themselves are told to get it; default
    /// [`STS_URL`]. Managed identities go to their host's endpoint instead.
    pub sts_url: String,
    /// SQL logins; default none, so that only tokens are taken.
    pub sql_logins: Vec<EngineLogin>,
    /// How long a client may take for each of PRELOGIN, the TLS handshake, LOGIN7 and the token
    /// that follows it; default 60 s. Then the connection is closed.
    pub login_timeout: Duration,
    /// The databases that can be named in a login; default `orders` and
    /// `master`, the latter for logins that name none.
    pub databases: Vec<String>,
    /// The address to listen on; default 127.0.0.1.
    pub bind: IpAddr,
    /// The port; default 0, one that is free.
    pub port: u16,
    /// Answers PRELOGIN with ENCRYPT_NOT_SUP and goes on without TLS.
    pub decline_encryption: bool,
    /// The type of the packets with the server's side of the TLS handshake;
    /// default 0x12 (PRELOGIN). Some servers have 0x04.
    pub handshake_packet_type: u8,
    /// Takes only logins that ask for this instance (`HOST\INSTANCE` as LOGIN7's server
    /// name), and closes on others without a word, as what Fabric routes to does.
    pub instance: Option<String>,
    /// Refuses batches that set an isolation level other than READ UNCOMMITTED, as dedicated SQL
    /// pools of Synapse do. Default: no.
    pub dedicated_pool: bool,
}

impl AzureSqlOptions {
    /// The defaults.
    pub fn new(
        issuer: Arc<Issuer>,
        directory: Arc<Directory>,
        database: Arc<Database>,
        tls: Arc<ServerConfig>,
    ) -> Self {
        Self {
            issuer,
            directory,
            database,
            tls,
            audience: AUDIENCE.to_owned(),
            sts_url: STS_URL.to_owned(),
            sql_logins: Vec::new(),
            login_timeout: LOGIN_TIMEOUT,
            databases: vec!["orders".to_owned(), "master".to_owned()],
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            decline_encryption: false,
            handshake_packet_type: packets::kind::PRELOGIN,
            instance: None,
            dedicated_pool: false,
        }
    }
}

/// What a server's connections share.
struct Shared {
    options: AzureSqlOptions,
    gate: Arc<Gate>,
    last_spid: AtomicU16,
}

impl Shared {
    /// Numbers up to 50 are the system's own.
    fn next_spid(&self) -> u16 {
        51 + self.last_spid.fetch_add(1, Ordering::Relaxed) % 32_000
    }
}

/// A running server. It ends, with all its connections, when this value goes.
pub struct AzureSqlServer {
    gate: Arc<Gate>,
    listener: Listener,
}

impl std::fmt::Debug for AzureSqlServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AzureSqlServer").field("address", &self.addr()).finish_non_exhaustive()
    }
}

impl AzureSqlServer {
    /// Starts to listen.
    pub async fn start(options: AzureSqlOptions) -> io::Result<Self> {
        let gate = Arc::new(Gate {
            issuer: Arc::clone(&options.issuer),
            directory: Arc::clone(&options.directory),
            audience: options.audience.clone(),
            sts_url: options.sts_url.clone(),
            tls: Arc::clone(&options.tls),
            decline_encryption: options.decline_encryption,
            handshake_packet_type: options.handshake_packet_type,
            login_timeout: options.login_timeout,
            behaviour: Arc::new(Behaviour::new()),
            counters: LiveCounters::default(),
        });
        let (addr, own) = ((options.bind, options.port), Arc::clone(&gate));
        let shared = Arc::new(Shared { options, gate: own, last_spid: AtomicU16::new(0) });
        let listener = Listener::start(addr, move |stream| {
            let shared = Arc::clone(&shared);
            async move { shared.gate.count_open(connection::serve(stream, &shared)).await }
        })?;
        Ok(Self { gate, listener })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// What it has counted so far.
    pub fn counters(&self) -> Counters {
        self.gate.counters.read()
    }

    /// What it can be made to do.
    pub fn behaviour(&self) -> &Arc<Behaviour> {
        &self.gate.behaviour
    }

    /// Closes the listening socket, so that new TCP connections are refused,
    /// or opens it again. Connections that are open stay so.
    pub async fn refuse_connections(&self, refuse: bool) -> io::Result<()> {
        self.listener.refuse(refuse).await
    }

    /// Ends the server and all its connections, and waits until they are gone.
    pub async fn stop(self) {
        // The port need not be kept.
        drop(self.listener.go_away().await);
    }
}
