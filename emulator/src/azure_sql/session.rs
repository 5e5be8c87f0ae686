//! A session's state: its transaction, its options, its context.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use rusqlite::{Connection, types::Value};

use super::{
    error::ServerError,
    functions::{self, SessionContext},
    tokens::{Answer, Change},
    tsql::{Catalogue, TableColumn, Writes, names::Table},
};
use crate::database::Database;

/// Who is logged in, and to what.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) application: String,
    pub(crate) host: String,
    pub(crate) database: String,
    pub(crate) spid: u16,
}

/// SET options; `Default` is what a new login has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) no_count: bool,
    pub(crate) no_exec: bool,
    pub(crate) xact_abort: bool,
    pub(crate) row_count: u64,
    pub(crate) lock_timeout: i64,
    pub(crate) language: String,
    pub(crate) date_format: String,
    /// The table whose numbers may be inserted.
    pub(crate) identity_insert: Option<String>,
    pub(crate) isolation: u8,
}

const READ_COMMITTED: u8 = 2;

impl Default for Options {
    fn default() -> Self {
        Self {
            no_count: false,
            no_exec: false,
            xact_abort: false,
            row_count: 0,
            lock_timeout: -1,
            language: "us_english".to_owned(),
            date_format: "mdy".to_owned(),
            identity_insert: None,
            isolation: READ_COMMITTED,
        }
    }
}

/// Stops what runs in a session, from outside.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    flag: AtomicBool,
    lock: Mutex<()>,
    raised: Condvar,
}

impl Cancel {
    pub(crate) fn raise(&self) {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.flag.store(true, Ordering::Release);
        self.raised.notify_all();
    }

    pub(crate) fn lower(&self) {
        self.flag.store(false, Ordering::Release);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Waits for so long, or until it is raised.
    pub(crate) fn wait(&self, duration: Duration) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.raised.wait_timeout_while(lock, duration, |()| !self.is_raised()));
    }
}

/// How long SQL Server would wait for a lock: for ever. Not here.
const LONGEST_LOCK_WAIT: Duration = Duration::from_secs(5);

/// One session, on a thread that may block.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) identity: Identity,
    login_database: String,
    pub(crate) databases: Arc<[String]>,
    pub(crate) options: Options,
    pub(crate) context: SessionContext,
    pub(crate) cancel: Arc<Cancel>,
    /// `@@TRANCOUNT`.
    pub(crate) transaction_count: u32,
    /// 0 outside of transactions.
    pub(crate) descriptor: u64,
    last_descriptor: u64,
    transaction_name: String,
    pub(crate) row_count: i64,
    pub(crate) last_error: i32,
    pub(crate) last_identity: Option<i64>,
    pub(crate) scope_identity: Option<i64>,
}

impl Session {
    pub(crate) fn new(
        database: &Database,
        identity: Identity,
        databases: Arc<[String]>,
        cancel: Arc<Cancel>,
    ) -> Result<Self, ServerError> {
        let mut connection = database.open()?;
        let context = SessionContext::default();
        functions::register(&connection, Arc::clone(&context))?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        let stop = Arc::clone(&cancel);
        connection.progress_handler(1000, Some(move || stop.is_raised()))?;
        Ok(Self {
            connection,
            login_database: identity.database.clone(),
            last_descriptor: u64::from(identity.spid) << 32,
            identity,
            databases,
            options: Options::default(),
            context,
            cancel,
            transaction_count: 0,
            descriptor: 0,
            transaction_name: String::new(),
            row_count: 0,
            last_error: 0,
            last_identity: None,
            scope_identity: None,
        })
    }

    /// RESETCONNECTION (MS-TDS 2.2.3.1.2): as if logged in anew, but for the
    /// isolation level; with `keep_transaction`, but for the transaction too.
    pub(crate) fn reset(&mut self, keep_transaction: bool) -> Result<(), ServerError> {
        if !keep_transaction {
            self.end_transaction("ROLLBACK")?;
        }
        for table in self.temporary_tables()? {
            self.drop_temporary(&table)?;
        }
        self.options = Options { isolation: self.options.isolation, ..Options::default() };
        self.apply_lock_timeout()?;
        self.context.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.identity.database.clone_from(&self.login_database);
        (self.row_count, self.last_error) = (0, 0);
        (self.last_identity, self.scope_identity) = (None, None);
        Ok(())
    }

    pub(crate) fn temporary_tables(&self) -> Result<Vec<String>, ServerError> {
        let mut tables = self.connection.prepare(
            "SELECT name FROM sqlite_temp_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )?;
        let names = tables.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    pub(crate) fn drop_temporary(&self, name: &str) -> Result<(), ServerError> {
        let sql = format!("DROP TABLE temp.{}", super::tsql::names::quoted(name));
        Ok(self.connection.execute_batch(&sql)?)
    }

    pub(crate) fn apply_lock_timeout(&self) -> Result<(), ServerError> {
        let timeout = match u64::try_from(self.options.lock_timeout) {
            Ok(milliseconds) => Duration::from_millis(milliseconds).min(LONGEST_LOCK_WAIT),
            Err(_) => LONGEST_LOCK_WAIT,
        };
        Ok(self.connection.busy_timeout(timeout)?)
    }

    /// Whether SQLite has a transaction open. It begins one later than the
    /// client: see [`Self::before_statement`].
    fn in_sqlite_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Begins SQLite's transaction, if this statement needs one.
    ///
    /// Azure SQL's READ COMMITTED reads what was committed when the statement
    /// began. So do SQLite's statements outside of a transaction, hence reads
    /// under READ COMMITTED do not open one, and the first change takes the
    /// write lock at once, waiting for it. Higher levels read one snapshot.
    pub(crate) fn before_statement(&self, writes: Writes) -> Result<(), ServerError> {
        if self.transaction_count == 0 || self.in_sqlite_transaction() {
            return Ok(());
        }
        match writes {
            Writes::Nothing if self.options.isolation <= READ_COMMITTED => {}
            Writes::Nothing | Writes::Temporary => self.connection.execute_batch("BEGIN")?,
            Writes::Shared => self.connection.execute_batch("BEGIN IMMEDIATE")?,
        }
        Ok(())
    }

    /// SQLite rolls a whole transaction back for some errors; so must we.
    pub(crate) fn after_error(
        &mut self,
        error: &ServerError,
        had_transaction: bool,
    ) -> Option<Change> {
        self.last_error = error.number;
        let lost = had_transaction && !self.in_sqlite_transaction();
        let doomed = error.number == 1205 || self.options.xact_abort;
        if self.transaction_count > 0 && (lost || doomed) {
            self.end_transaction("ROLLBACK").ok()?
        } else {
            None
        }
    }

    pub(crate) fn had_transaction(&self) -> bool {
        self.in_sqlite_transaction()
    }

    pub(crate) fn begin(&mut self, name: &str) -> Option<Change> {
        self.transaction_count += 1;
        if self.transaction_count > 1 {
            return None;
        }
        self.last_descriptor += 1;
        self.descriptor = self.last_descriptor;
        name.clone_into(&mut self.transaction_name);
        Some(Change::Begin(self.descriptor))
    }

    pub(crate) fn commit(&mut self) -> Result<Option<Change>, ServerError> {
        match self.transaction_count {
            0 => Err(ServerError::new(
                3902,
                16,
                "The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION.",
            )),
            1 => {
                let descriptor = self.descriptor;
                self.end_transaction("COMMIT")?;
                Ok(Some(Change::Commit(descriptor)))
            }
            _ => {
                self.transaction_count -= 1;
                Ok(None)
            }
        }
    }

    /// All of it, or back to the savepoint of this name.
    pub(crate) fn rollback(&mut self, name: &str) -> Result<Option<Change>, ServerError> {
        if self.transaction_count == 0 {
            return Err(ServerError::new(
                3903,
                16,
                "The ROLLBACK TRANSACTION request has no corresponding BEGIN TRANSACTION.",
            ));
        }
        if name.is_empty() || name == self.transaction_name {
            return self.end_transaction("ROLLBACK");
        }
        let sql = format!("ROLLBACK TO {}", savepoint(name));
        if !self.in_sqlite_transaction() || self.connection.execute_batch(&sql).is_err() {
            let text = format!(
                "Cannot roll back {name}. No transaction or savepoint of that name was found."
            );
            return Err(ServerError::new(6401, 16, text));
        }
        Ok(None)
    }

    pub(crate) fn save(&mut self, name: &str) -> Result<(), ServerError> {
        if self.transaction_count == 0 {
            return Err(ServerError::new(
                628,
                16,
                "Cannot issue SAVE TRANSACTION when there is no active transaction.",
            ));
        }
        self.before_statement(Writes::Shared)?;
        Ok(self.connection.execute_batch(&format!("SAVEPOINT {}", savepoint(name)))?)
    }

    /// Ends the transaction, if there is one, and says that it was rolled back.
    fn end_transaction(&mut self, how: &str) -> Result<Option<Change>, ServerError> {
        if self.in_sqlite_transaction() {
            self.connection.execute_batch(how)?;
        }
        let descriptor = std::mem::take(&mut self.descriptor);
        self.transaction_name.clear();
        let had_one = std::mem::take(&mut self.transaction_count) > 0;
        Ok(had_one.then_some(Change::Rollback(descriptor)))
    }

    pub(crate) fn set_context(
        &self,
        key: &str,
        value: Value,
        read_only: bool,
    ) -> Result<(), ServerError> {
        let mut context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = context
            .entry(key.to_lowercase())
            .or_insert(functions::ContextValue { value: Value::Null, read_only: false });
        if entry.read_only {
            let text = format!(
                "Cannot set key '{key}' in the session context. The key has been set as read_only for this session."
            );
            return Err(ServerError::new(15664, 16, text));
        }
        *entry = functions::ContextValue { value, read_only };
        Ok(())
    }

    pub(crate) fn use_database(
        &mut self,
        name: &str,
        answer: &mut Answer,
    ) -> Result<(), ServerError> {
        let Some(new) =
            self.databases.iter().find(|known| known.eq_ignore_ascii_case(name)).cloned()
        else {
            let text = format!(
                "Database '{name}' does not exist. Make sure that the name is entered correctly."
            );
            return Err(ServerError::new(911, 16, text));
        };
        let old = std::mem::replace(&mut self.identity.database, new.clone());
        answer.information(5701, &format!("Changed database context to '{new}'."));
        answer.environment(&Change::Database { new, old });
        Ok(())
    }

    /// Sets one option; what has no effect here is taken as well.
    pub(crate) fn set_option(&mut self, option: &str, value: &str) -> Result<(), ServerError> {
        let invalid = || ServerError::unsupported(format_args!("SET {option} {value}"));
        let switch = || match value.to_ascii_uppercase().as_str() {
            "ON" => Ok(true),
            "OFF" => Ok(false),
            _ => Err(invalid()),
        };
        match option {
            "NOCOUNT" => self.options.no_count = switch()?,
            "NOEXEC" => self.options.no_exec = switch()?,
            "XACT_ABORT" => self.options.xact_abort = switch()?,
            "ROWCOUNT" => self.options.row_count = value.parse().map_err(|_| invalid())?,
            "LOCK_TIMEOUT" => {
                self.options.lock_timeout = value.parse().map_err(|_| invalid())?;
                self.apply_lock_timeout()?;
            }
            "LANGUAGE" => value.clone_into(&mut self.options.language),
            "DATEFORMAT" => self.options.date_format = value.to_ascii_lowercase(),
            "ANSI_NULLS"
            | "ANSI_PADDING"
            | "ANSI_WARNINGS"
            | "ANSI_NULL_DFLT_ON"
            | "ANSI_DEFAULTS"
            | "ARITHABORT"
            | "CONCAT_NULL_YIELDS_NULL"
            | "NUMERIC_ROUNDABORT"
            | "QUOTED_IDENTIFIER"
            | "CURSOR_CLOSE_ON_COMMIT" => {
                switch()?;
            }
            "TEXTSIZE" | "DATEFIRST" => drop(value.parse::<i64>().map_err(|_| invalid())?),
            "DEADLOCK_PRIORITY" => {}
            // What would change what a statement does is understood when off.
            "IMPLICIT_TRANSACTIONS" | "FMTONLY" | "PARSEONLY" if !switch()? => {}
            _ => return Err(invalid()),
        }
        Ok(())
    }
}

fn savepoint(name: &str) -> String {
    super::tsql::names::quoted(name)
}

impl Catalogue for Session {
    fn columns(&self, table: &Table) -> Option<Vec<TableColumn>> {
        let catalogue = if table.is_temporary() { "sqlite_temp_master" } else { "sqlite_master" };
        let sql = format!(
            "SELECT name, sql FROM {catalogue} WHERE type = 'table' AND name = ?1 COLLATE NOCASE"
        );
        let (name, definition): (String, String) = self
            .connection
            .query_row(&sql, [&table.name], |row| Ok((row.get(0)?, row.get(1)?)))
            .ok()?;
        let numbered = definition.contains(" PRIMARY KEY AUTOINCREMENT");
        let schema = if table.is_temporary() { "temp" } else { "main" };
        let mut columns = self
            .connection
            .prepare("SELECT name, type, pk FROM pragma_table_info(?1, ?2) ORDER BY cid")
            .ok()?;
        let columns = columns.query_map([name.as_str(), schema], |row| {
            let (name, declared, key): (String, String, i64) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(TableColumn {
                name,
                identity: numbered && key > 0 && declared.eq_ignore_ascii_case("INTEGER"),
            })
        });
        columns.ok()?.collect::<Result<_, _>>().ok()
    }

    fn identity_insert(&self, table: &Table) -> bool {
        self.options
            .identity_insert
            .as_ref()
            .is_some_and(|name| name.eq_ignore_ascii_case(&table.name))
    }
}

/// What variables hold.
pub(crate) type Variables = BTreeMap<String, Variable>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    pub(crate) sql_type: Option<super::types::SqlType>,
    pub(crate) value: Value,
}
