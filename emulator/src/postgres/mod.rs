//! A small PostgreSQL engine on SQLite, in this process. A
//! [`PostgresFront`](crate::front::postgres::PostgresFront) checks the tokens and relays to it.
//!
//! It serves the quickstart, the examples, and tests of logins and pools. It supports
//!
//! - the simple and the extended protocol, with parameters in binary; statements that are
//!   sent together are one transaction;
//! - `SELECT` with inner and left joins, `GROUP BY` one column and `ORDER BY` columns;
//!   `INSERT … VALUES` with `ON CONFLICT … DO NOTHING` and `RETURNING`; `CREATE TABLE` and
//!   `CREATE INDEX`;
//! - `smallint`, `integer`, `bigint`, `double precision`, `text`, `varchar(n)`,
//!   `numeric(p, s)`, `date`; `serial` and identity columns; constraints of single columns;
//!   `AND`, `OR`, comparisons, casts, `count` and `avg`;
//! - transactions, with the failed state between an error and `ROLLBACK`; the settings that
//!   drivers change, and the statements that reset a session.
//!
//! It refuses everything else with an error that names the construct: SQLSTATE 0A000, 42883
//! for a function, and 42601 for syntax that its parser does not support. Its answers never
//! differ from PostgreSQL's; `tests/postgres/stand_in.rs` of this repository compares both.
//! The known differences: it does not check privileges, it orders text as the `C` locale does,
//! transactions are serializable and one of them writes at a time, and a cancel request has no
//! effect.

mod allowed;
mod command;
mod definitions;
mod error;
mod expressions;
mod functions;
mod handler;
mod numeric;
mod queries;
mod session;
mod values;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{Sink, StreamExt};
use parking_lot::Mutex;
use pgwire::{
    api::{
        ClientInfo, DefaultClient, NoopHandler, PgWireConnectionState, PidSecretKeyGenerator,
        RandomPidSecretKeyGenerator,
        auth::{
            DefaultServerParameterProvider, StartupHandler, finish_authentication,
            protocol_negotiation, save_startup_parameters_to_metadata,
        },
    },
    error::{PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, PgWireFrontendMessage},
    tokio::server::{PgWireMessageServerCodec, process_error, process_message},
};
use tokio::io::DuplexStream;
use tokio_util::codec::Framed;

use crate::database::Database;
use error::SqlError;
use handler::{Queries, run_all};
use session::{Session, SessionHandle};

const SERVER_VERSION: &str = "16.6";
const VERSION: &str = "PostgreSQL 16.6 (stand-in of entra-pool's emulator, on SQLite)";

/// The size of the buffer between the front and the engine, in bytes.
const BUFFER: usize = 64 * 1024;

/// The embedded engine.
#[derive(Debug)]
pub struct Embedded {
    database: Arc<Database>,
    names: Vec<String>,
    /// The last number of each sequence. A rollback does not change it.
    sequences: Mutex<Vec<i64>>,
    keys: RandomPidSecretKeyGenerator,
}

impl Embedded {
    /// An engine for these tables. Other engines cannot read them, because each engine declares
    /// types in its own way. Each of the database `names` refers to the same tables.
    pub fn new(database: Arc<Database>, names: Vec<String>) -> Arc<Self> {
        let (sequences, keys) = (Mutex::default(), RandomPidSecretKeyGenerator::default());
        Arc::new(Self { database, names, sequences, keys })
    }

    /// Runs SQL statements as one transaction, for example those that create the tables.
    ///
    /// # Errors
    ///
    /// The first statement that fails.
    pub fn run(self: &Arc<Self>, sql: &str) -> io::Result<()> {
        let session = Session::open(self, <[String; 2]>::default());
        let run = session.and_then(|mut session| run_all(&mut session, sql, &mut Vec::new()));
        run.map_err(io::Error::other)
    }

    /// Connects without a password; the engine closes when the stream is dropped.
    pub(crate) fn connect(self: &Arc<Self>) -> DuplexStream {
        let (client, stream) = tokio::io::duplex(BUFFER);
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = serve(stream, engine).await {
                tracing::debug!(%error, "PostgreSQL: a session failed");
            }
        });
        client
    }

    fn new_sequence(&self) -> usize {
        let mut sequences = self.sequences.lock();
        sequences.push(0);
        sequences.len() - 1
    }

    fn next_value(&self, sequence: i64) -> Option<i64> {
        let mut sequences = self.sequences.lock();
        let last = sequences.get_mut(usize::try_from(sequence).ok()?)?;
        *last += 1;
        Some(*last)
    }
}

async fn serve(stream: DuplexStream, engine: Arc<Embedded>) -> io::Result<()> {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let codec = PgWireMessageServerCodec::new(DefaultClient::new(nowhere, true));
    let mut socket = Framed::new(stream, codec);
    socket.set_state(PgWireConnectionState::AwaitingStartup);
    let (login, queries, none) =
        (Arc::new(Login(engine)), Arc::new(Queries), Arc::new(NoopHandler));
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, PgWireFrontendMessage::Terminate(_)) {
            break;
        }
        let extended = message.is_extended_query();
        let (login, simple, prepared) = (login.clone(), queries.clone(), queries.clone());
        let (copy, cancel) = (none.clone(), none.clone());
        let processed =
            process_message(message, &mut socket, login, simple, prepared, copy, cancel).await;
        if let Err(error) = processed {
            // Any error, whatever the message, fails the transaction. Before the login there is no
            // transaction.
            if let Ok(session) = SessionHandle::of(&socket) {
                session.lock().fail();
            }
            process_error(&mut socket, error, extended).await?;
        }
    }
    Ok(())
}

struct Login(Arc<Embedded>);

#[async_trait]
impl StartupHandler for Login {
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let PgWireFrontendMessage::Startup(startup) = message else { return Ok(()) };
        protocol_negotiation(client, &startup).await?;
        save_startup_parameters_to_metadata(client, &startup);
        let (mut user, mut database) = (String::new(), None);
        for (name, value) in startup.parameters {
            match name.as_str() {
                "user" => user = value,
                "database" => database = Some(value),
                _ => command::check_setting(&name, &value).map_err(fatal)?,
            }
        }
        let database = database.unwrap_or_else(|| user.clone());
        if !self.0.names.contains(&database) {
            let message = format!("database \"{database}\" does not exist");
            return Err(fatal(SqlError::new("3D000", message)));
        }
        let session = Session::open(&self.0, [user, database]).map_err(fatal)?;
        client.session_extensions().insert(SessionHandle::new(session));
        let (pid, secret) = self.0.keys.generate(client);
        client.set_pid_and_secret_key(pid, secret);
        let mut parameters = DefaultServerParameterProvider::default();
        parameters.server_version = SERVER_VERSION.to_owned();
        parameters.is_superuser = false;
        finish_authentication(client, &parameters).await
    }
}

/// An error that closes the connection.
fn fatal(error: SqlError) -> PgWireError {
    PgWireError::UserError(Box::new(error.with_severity("FATAL")))
}
