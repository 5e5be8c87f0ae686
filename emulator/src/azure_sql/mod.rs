//! A stand-in for Azure SQL: TDS 7.4 (and TDS 8.0's "strict") over TLS, with
//! Entra tokens for logins and SQLite for tables.
//!
//! It is for tests of connection pools and small applications without Azure: it
//! checks logins, sessions have state that must not leak, answers have the right
//! types, and errors the right numbers. A construct that is not on the list
//! below fails with error 102, which names it, and never reaches SQLite. A
//! construct on the list behaves as SQL Server's documentation describes.
//!
//! # Supported features
//!
//! **Logins**: LOGIN7 with the FEDAUTH extension. The driver sends the token in
//! LOGIN7 (library SecurityToken) or after FEDAUTHINFO (library MSAL, as with
//! `Authentication=ActiveDirectoryMsi`). [`Issuer::verify`] and
//! [`Directory::by_token`] check the token. All database names of a server refer
//! to the same database.
//!
//! **Requests**: SQL batches; `sp_executesql`, `sp_prepare`, `sp_execute`,
//! `sp_prepexec` and `sp_unprepare`, several of them in one message, with output
//! parameters; transaction-manager requests (begin, commit, rollback, save; a commit or
//! rollback may begin the next transaction); attentions, RESETCONNECTION and
//! RESETCONNECTIONSKIPTRAN. A request must carry the descriptor of the session's
//! transaction, or it fails with error 3989. `sp_prepare` returns no column metadata.
//! `INSERT BULK` is refused.
//!
//! **Types**: `bit`, integers, `decimal`, `date`, `varchar` and `nvarchar`. Every
//! expression is typed by T-SQL's rules before it is run. Decimals have at most 18
//! digits, `varchar` values are ASCII, and a `date` is written `2024-01-02`. Equality
//! of texts ignores case and trailing spaces. Comparing non-ASCII texts, or the order
//! of texts, is not supported.
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
//! Isolation is SQLite's: one session changes tables at a time; another session
//! waits up to 5 s, then fails with error 1222. A change on a snapshot that is
//! too old fails with error 1205.

pub(crate) mod bytes;
mod connection;
mod convert;
mod error;
mod execute;
mod functions;
pub(crate) mod gate;
pub(crate) mod login;
mod options;
pub(crate) mod packets;
pub(crate) mod prelogin;
mod procedures;
mod requests;
pub(crate) mod server;
mod session;
mod statements;
pub(crate) mod tokens;
mod transactions;
mod tsql;
mod types;
mod values;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use rustls::ServerConfig;

pub use crate::front::{Behaviour, Counters, Fault, Stage};
pub use error::ServerError;
pub use server::{AzureSqlEndpoint, AzureSqlServer, STS_URL};

use crate::{
    database::Database,
    front::EngineLogin,
    jwt::{Directory, Issuer},
};
use gate::Gate;
use session::{Identity, Session, Variables};
use tokens::Answer;

/// The options of the stand-in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AzureSqlOptions {
    /// Where clients connect, and which of them are granted access.
    pub endpoint: AzureSqlEndpoint,
    /// The tables.
    pub database: Arc<Database>,
    /// SQL logins. Default: none, so that only tokens log in.
    pub sql_logins: Vec<EngineLogin>,
    /// The databases that a login can name. Default: `orders` and `master`; a login without
    /// a database name gets `master`.
    pub databases: Vec<String>,
}

impl AzureSqlOptions {
    /// The defaults, for an endpoint with default options.
    pub fn new(
        issuer: Arc<Issuer>,
        directory: Arc<Directory>,
        database: Arc<Database>,
        tls: Arc<ServerConfig>,
    ) -> Self {
        Self::at(AzureSqlEndpoint::new(issuer, directory, tls), database)
    }

    /// The defaults, for this endpoint.
    pub fn at(endpoint: AzureSqlEndpoint, database: Arc<Database>) -> Self {
        let databases = vec!["orders".to_owned(), "master".to_owned()];
        Self { endpoint, database, sql_logins: Vec::new(), databases }
    }

    /// Runs a batch of T-SQL, for example one that creates the tables.
    ///
    /// # Errors
    ///
    /// The first error of its statements.
    pub fn run(&self, sql: &str) -> Result<(), ServerError> {
        let identity = Identity { user: "dbo".to_owned(), ..Identity::default() };
        let databases = self.databases.clone().into();
        let mut session = Session::new(&self.database, identity, databases, Arc::default())?;
        let mut answer = Answer::default();
        session.batch(sql, &mut Variables::new(), &mut answer);
        answer.first_error.map_or(Ok(()), Err)
    }
}

/// The state that the stand-in's connections share.
struct Shared {
    gate: Arc<Gate>,
    options: AzureSqlOptions,
    last_spid: AtomicU16,
}

impl Shared {
    /// Numbers up to 50 belong to the system.
    fn next_spid(&self) -> u16 {
        51 + self.last_spid.fetch_add(1, Ordering::Relaxed) % 32_000
    }
}

impl AzureSqlServer {
    /// Starts the stand-in, in the current tokio runtime.
    ///
    /// # Errors
    ///
    /// The port is in use.
    pub async fn start(options: AzureSqlOptions) -> io::Result<Self> {
        let gate = Arc::new(Gate::new(options.endpoint.clone()));
        let shared = Shared { gate: Arc::clone(&gate), options, last_spid: AtomicU16::new(0) };
        let shared = Arc::new(shared);
        Self::listen(gate, move |stream| connection::serve(stream, Arc::clone(&shared)))
    }
}
