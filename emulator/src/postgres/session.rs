//! A session: its SQLite connection, its transaction, and its statements.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use pgwire::{
    api::{ClientInfo, Type},
    error::{PgWireError, PgWireResult},
};
use rusqlite::{Connection, params_from_iter, types::Value};
use sqlparser::ast::Statement;

use super::{
    Embedded,
    command::{self, Command},
    error::SqlError,
    functions,
    queries::{Compiled, compile},
};

/// The state of a session's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Idle,
    /// In the transaction around several statements that the client sent together.
    Implicit,
    Transaction,
    /// The session accepts only the end of the transaction.
    Failed,
}

/// A statement's result: its tag, its rows and the number of inserted rows.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) tag: &'static str,
    pub(super) rows: Vec<Vec<Value>>,
    pub(super) touched: Option<usize>,
}

pub(super) struct Session {
    pub(super) status: Status,
    sqlite: Connection,
    engine: Arc<Embedded>,
    /// The user and the database.
    names: [String; 2],
}

impl Session {
    pub(super) fn open(engine: &Arc<Embedded>, names: [String; 2]) -> Result<Self, SqlError> {
        let sqlite = engine.database.open()?;
        functions::register(&sqlite, engine)?;
        Ok(Self { status: Status::Idle, sqlite, engine: Arc::clone(engine), names })
    }

    /// Compiles a statement, which determines its parameters and columns.
    pub(super) fn prepare(
        &self,
        statement: &Statement,
        given: &[Option<Type>],
    ) -> Result<Compiled, SqlError> {
        let command = command::read(statement)?;
        self.check(command.map(|(command, _)| command))?;
        match command {
            Some((command, tag)) => {
                Ok(Compiled { command: Some(command), tag, ..Compiled::default() })
            }
            None => compile(&self.sqlite, &self.names, statement, given, &self.engine),
        }
    }

    /// Runs a statement.
    pub(super) fn run(
        &mut self,
        compiled: &Compiled,
        parameters: &[Value],
    ) -> Result<Outcome, SqlError> {
        self.check(compiled.command)?;
        let mut outcome = Outcome { tag: compiled.tag, rows: Vec::new(), touched: None };
        match compiled.command {
            Some(Command::Begin) => self.begin(Status::Transaction)?,
            Some(Command::Nothing) => {}
            Some(command) => {
                let commit = command == Command::Commit && self.status != Status::Failed;
                outcome.tag = if commit { "COMMIT" } else { "ROLLBACK" };
                self.end(commit)?;
            }
            None => {
                let mut statement = self.sqlite.prepare_cached(&compiled.sql)?;
                let parameters = params_from_iter(parameters);
                if compiled.columns.is_empty() {
                    let changed = statement.execute(parameters)?;
                    outcome.touched = (compiled.tag == "INSERT 0").then_some(changed);
                    return Ok(outcome);
                }
                let mut rows = statement.query(parameters)?;
                while let Some(row) = rows.next()? {
                    let values: rusqlite::Result<Vec<Value>> =
                        (0..compiled.columns.len()).map(|at| row.get(at)).collect();
                    outcome.rows.push(values?);
                }
            }
        }
        Ok(outcome)
    }

    fn check(&self, command: Option<Command>) -> Result<(), SqlError> {
        let ends = matches!(command, Some(Command::Commit | Command::Rollback));
        if self.status == Status::Failed && !ends {
            let message =
                "current transaction is aborted, commands ignored until end of transaction block";
            return Err(SqlError::new("25P02", message));
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, status: Status) -> Result<(), SqlError> {
        if self.status == Status::Idle {
            self.sqlite.execute_batch("BEGIN")?;
        }
        self.status = status;
        Ok(())
    }

    pub(super) fn end(&mut self, commit: bool) -> Result<(), SqlError> {
        self.status = Status::Idle;
        let mut ended = Ok(());
        if commit && !self.sqlite.is_autocommit() {
            ended = self.sqlite.execute_batch("COMMIT");
        }
        // Some errors make SQLite roll back by itself.
        if !self.sqlite.is_autocommit() {
            self.sqlite.execute_batch("ROLLBACK")?;
        }
        Ok(ended?)
    }

    /// Fails the transaction after an error, or rolls it back if the client did not begin it.
    pub(super) fn fail(&mut self) {
        match self.status {
            Status::Transaction => self.status = Status::Failed,
            Status::Implicit => {
                if let Err(error) = self.end(false) {
                    tracing::debug!(%error, "PostgreSQL: cannot roll back");
                }
            }
            Status::Idle | Status::Failed => {}
        }
    }
}

/// A session, shared with the thread that its statement runs on.
#[derive(Clone)]
pub(super) struct SessionHandle(Arc<Mutex<Session>>);

impl SessionHandle {
    pub(super) fn new(session: Session) -> Self {
        Self(Arc::new(Mutex::new(session)))
    }

    pub(super) fn of(client: &impl ClientInfo) -> PgWireResult<Self> {
        let handle = client.session_extensions().get::<Self>();
        handle.map(|handle| Self::clone(&handle)).ok_or(PgWireError::NotReadyForQuery)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Session> {
        self.0.lock()
    }

    /// Runs `work` on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let handle = self.clone();
        let task = tokio::task::spawn_blocking(move || work(&mut handle.lock()));
        task.await.unwrap_or_else(|error| Err(SqlError::new("XX000", error.to_string())))
    }
}
