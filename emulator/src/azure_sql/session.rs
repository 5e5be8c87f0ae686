//! A session's state: its transaction, its options, its context.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, types::Value};

use super::{
    error::ServerError,
    functions,
    options::Options,
    procedures::Prepared,
    tokens::{Answer, Change},
    tsql::{TableColumn, names::Table},
    types::SqlType,
};
use crate::database::{Database, ROW_NUMBER};

/// The login that opened the session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) application: String,
    pub(crate) host: String,
    pub(crate) database: String,
    pub(crate) spid: u16,
}

/// Stops the statement that a session runs, from another thread.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    flag: AtomicBool,
    lock: Mutex<()>,
    raised: Condvar,
}

impl Cancel {
    pub(crate) fn raise(&self) {
        let _lock = self.lock.lock();
        self.flag.store(true, Ordering::Release);
        self.raised.notify_all();
    }

    pub(crate) fn lower(&self) {
        self.flag.store(false, Ordering::Release);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Waits for `duration`, or until the flag is raised.
    pub(crate) fn wait(&self, duration: Duration) {
        self.raised.wait_while_for(&mut self.lock.lock(), |()| !self.is_raised(), duration);
    }
}

/// One session. It blocks its thread.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) identity: Identity,
    login_database: String,
    pub(crate) databases: Arc<[String]>,
    pub(crate) options: Options,
    /// The values set with `sp_set_session_context`; keys in lower case.
    pub(crate) context: BTreeMap<String, (Value, SqlType)>,
    pub(crate) cancel: Arc<Cancel>,
    /// `@@TRANCOUNT`.
    pub(crate) transaction_count: u32,
    /// 0 outside of transactions.
    pub(crate) descriptor: u64,
    pub(crate) last_descriptor: u64,
    pub(crate) transaction_name: String,
    pub(crate) row_count: i64,
    /// The statements that the session has prepared, by their handles.
    pub(crate) prepared: BTreeMap<i32, Prepared>,
    pub(crate) last_handle: i32,
}

impl Session {
    pub(crate) fn new(
        database: &Database,
        identity: Identity,
        databases: Arc<[String]>,
        cancel: Arc<Cancel>,
    ) -> Result<Self, ServerError> {
        #[allow(unused_mut)] // rusqlite 0.40 and newer borrow it mutably below.
        let mut connection = database.open()?;
        functions::register(&connection)?;
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
            context: BTreeMap::new(),
            cancel,
            transaction_count: 0,
            descriptor: 0,
            transaction_name: String::new(),
            row_count: 0,
            prepared: BTreeMap::new(),
            last_handle: 0,
        })
    }

    /// RESETCONNECTION (MS-TDS 2.2.3.1.2): the state of a new login, except for the
    /// isolation level and, with `keep_transaction`, the transaction.
    pub(crate) fn reset(&mut self, keep_transaction: bool) -> Result<(), ServerError> {
        if !keep_transaction {
            self.end_transaction("ROLLBACK")?;
        }
        for table in self.temporary_tables()? {
            self.drop_temporary(&table)?;
        }
        self.options = Options { isolation: self.options.isolation, ..Options::default() };
        self.apply_lock_timeout()?;
        self.context.clear();
        self.identity.database.clone_from(&self.login_database);
        self.row_count = 0;
        self.prepared.clear();
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

    /// The columns of a table, in order; `None` if there is no such table.
    pub(crate) fn columns(&self, table: &Table) -> Option<Vec<TableColumn>> {
        let schema = if table.is_temporary() { "temp" } else { "main" };
        let sql = "SELECT name, type FROM pragma_table_info(?1, ?2) ORDER BY cid";
        let mut columns = self.connection.prepare(sql).ok()?;
        let columns = columns.query_map([table.name.as_str(), schema], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        });
        let column = |column: rusqlite::Result<(String, String)>| {
            let (name, declared) = column.ok()?;
            let (sql_type, identity) = (SqlType::parse(&declared)?, declared == ROW_NUMBER);
            Some(TableColumn { name, sql_type, identity })
        };
        let columns: Vec<TableColumn> = columns.ok()?.map(column).collect::<Option<_>>()?;
        (!columns.is_empty()).then_some(columns)
    }

    /// A variable or function of the system, by its name in upper case.
    pub(crate) fn system(&self, name: &str) -> Option<(SqlType, Value)> {
        let int = |number: i64| (SqlType::Int, Value::Integer(number));
        let text = |text: &str| (SqlType::NVarChar(Some(128)), Value::Text(text.to_owned()));
        Some(match name {
            "@@TRANCOUNT" => int(self.transaction_count.into()),
            "@@ROWCOUNT" => int(self.row_count),
            "@@LOCK_TIMEOUT" => int(self.options.lock_timeout),
            "@@SPID" => (SqlType::SmallInt, Value::Integer(self.identity.spid.into())),
            "@@LANGUAGE" => text(&self.options.language),
            "DB_NAME()" => text(&self.identity.database),
            "SUSER_SNAME()" | "USER_NAME()" => text(&self.identity.user),
            "APP_NAME()" => text(&self.identity.application),
            "HOST_NAME()" => text(&self.identity.host),
            _ => return None,
        })
    }
}

/// The variables of a batch, by name in lower case.
pub(crate) type Variables = BTreeMap<String, Variable>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    pub(crate) sql_type: Option<SqlType>,
    pub(crate) value: Value,
}
