//! A session: its SQLite connection, its transaction, and what it runs.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::SystemTime};

use pgwire::api::Type;
use rusqlite::{Connection, params_from_iter, types::Value};
use sqlparser::ast::{Expr, SelectItem, Statement, visit_relations};

use super::{
    command::Command,
    error::SqlError,
    functions::{self, Reach, Variables},
    infer::{self, Columns, last_name},
    names::item_name,
    parameters,
    translate::{Translated, translate},
    values::type_by_name,
    waiting::Interrupt,
};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Idle,
    Transaction,
    /// Only `ROLLBACK` helps.
    Failed,
}

/// A statement that is understood and can be run.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) parameters: Vec<Type>,
    pub(super) columns: Vec<(String, Type)>,
}

#[derive(Debug, Clone)]
pub(super) enum Plan {
    Sqlite(Translated),
    Session(Command),
}

/// What a statement gave: its tag, rows and the number of rows touched.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) tag: &'static str,
    pub(super) rows: Vec<Vec<Value>>,
    pub(super) touched: Option<usize>,
}

impl Outcome {
    pub(super) fn done(tag: &'static str) -> Self {
        Self { tag, rows: Vec::new(), touched: None }
    }
}

pub(super) struct Session {
    pub(super) sqlite: Connection,
    pub(super) reach: Reach,
    pub(super) status: Status,
}

impl Session {
    pub(super) fn open(reach: Reach) -> Result<Self, SqlError> {
        let sqlite = reach.shared.database.open()?;
        sqlite.pragma_update(None, "foreign_keys", true)?;
        // LIKE tells cases apart; ILIKE is translated.
        sqlite.pragma_update(None, "case_sensitive_like", true)?;
        // "name" is a column, never a string.
        let strict = rusqlite::config::DbConfig::SQLITE_DBCONFIG_DQS_DML;
        sqlite.set_db_config(strict, false)?;
        functions::register(&sqlite, &reach)?;
        Ok(Self { sqlite, reach, status: Status::Idle })
    }

    /// To be called before a statement is prepared or run.
    pub(super) fn start(&mut self, interrupt: Arc<Interrupt>) {
        let mut variables = self.variables();
        variables.interrupt = interrupt;
        if self.status == Status::Idle {
            variables.now = SystemTime::now();
        }
    }

    pub(super) fn variables(&self) -> std::sync::MutexGuard<'_, Variables> {
        self.reach.variables()
    }

    /// Reads a statement: parameters and columns are known from then on.
    pub(super) fn prepare(
        &mut self,
        statement: &Statement,
        given: &[Option<Type>],
    ) -> Result<Prepared, SqlError> {
        if let Some(command) = Command::read(statement)? {
            self.check(&command)?;
            return Ok(Prepared {
                columns: command.columns(),
                plan: Plan::Session(command),
                parameters: Vec::new(),
            });
        }
        if self.status == Status::Failed {
            return Err(SqlError::failed_transaction());
        }
        let known = self.columns_of(statement)?;
        let parameters = parameters::parameters(statement, &known, given);
        let translated = translate(statement.clone(), &known)?;
        let columns = match translated.sql.as_slice() {
            [sql] => self.describe(statement, sql, &known, &parameters)?,
            _ => Vec::new(),
        };
        Ok(Prepared { plan: Plan::Sqlite(translated), parameters, columns })
    }

    /// Runs a statement.
    pub(super) fn run(
        &mut self,
        prepared: &Prepared,
        parameters: &[Value],
    ) -> Result<Outcome, SqlError> {
        match &prepared.plan {
            Plan::Session(command) => {
                self.check(command)?;
                self.command(command)
            }
            Plan::Sqlite(_) if self.status == Status::Failed => Err(SqlError::failed_transaction()),
            Plan::Sqlite(translated) => self.sqlite(translated, parameters),
        }
    }

    /// After an error, only the end of the transaction is accepted.
    pub(super) fn fail(&mut self) {
        if self.status == Status::Transaction {
            self.status = Status::Failed;
        }
    }

    fn check(&self, command: &Command) -> Result<(), SqlError> {
        if self.status == Status::Failed && !command.ends_transaction() {
            return Err(SqlError::failed_transaction());
        }
        Ok(())
    }

    fn sqlite(&self, translated: &Translated, parameters: &[Value]) -> Result<Outcome, SqlError> {
        let mut outcome = Outcome::done(translated.tag);
        for sql in &translated.sql {
            let mut statement = self.sqlite.prepare_cached(sql)?;
            let width = statement.column_count();
            if width == 0 {
                let changed = statement.execute(params_from_iter(parameters))?;
                let counts = matches!(translated.tag, "INSERT 0" | "UPDATE" | "DELETE");
                outcome.touched = counts.then_some(changed);
                continue;
            }
            let mut rows = statement.query(params_from_iter(parameters))?;
            while let Some(row) = rows.next()? {
                let values: rusqlite::Result<Vec<Value>> =
                    (0..width).map(|at| row.get(at)).collect();
                outcome.rows.push(values?);
            }
        }
        Ok(outcome)
    }

    /// The columns of the tables that a statement names.
    fn columns_of(&self, statement: &Statement) -> Result<Columns, SqlError> {
        let mut names = Vec::new();
        let _ = visit_relations(statement, |name| {
            names.push(last_name(name));
            ControlFlow::<()>::Continue(())
        });
        let mut columns = Columns { types: BTreeMap::new(), tables: BTreeMap::new() };
        for table in names {
            let sql = "SELECT name, type FROM pragma_table_info(?1)";
            let mut query = self.sqlite.prepare_cached(sql)?;
            let rows = query.query_map([&table], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?;
            let mut found = Vec::new();
            for row in rows {
                let (name, declared) = row?;
                let ty = type_by_name(&declared).unwrap_or(Type::TEXT);
                let known = columns.types.entry(name.clone());
                known.or_insert_with(|| ty.clone());
                found.push((name, ty));
            }
            if !found.is_empty() {
                columns.tables.insert(table, found);
            }
        }
        infer::name_selected(statement, &mut columns);
        Ok(columns)
    }

    /// Names and types of what `sql` gives back; `statement` is what it was
    /// translated from.
    fn describe(
        &self,
        statement: &Statement,
        sql: &str,
        known: &Columns,
        parameters: &[Type],
    ) -> Result<Vec<(String, Type)>, SqlError> {
        let prepared = self.sqlite.prepare_cached(sql)?;
        let columns = prepared.columns();
        let items = infer::returned(statement).unwrap_or_default();
        let expressions = expressions(items, columns.len());
        let described = columns.zip(expressions).map(|(column, item)| {
            let name = item.and_then(item_name);
            let name = name.unwrap_or_else(|| column.name().to_owned());
            let declared = column.decl_type().and_then(type_by_name);
            let inferred = || infer::type_of(item_expr(item?)?, known, parameters);
            let by_name = || known.types.get(&name).filter(|_| item.is_none()).cloned();
            let ty = declared.or_else(inferred).or_else(by_name);
            (name, ty.unwrap_or(Type::TEXT))
        });
        Ok(described.collect())
    }
}

/// The items of a select list, one for each of `count` columns: a `*` stands
/// for as many as the others leave, and has no item.
fn expressions(items: &[SelectItem], count: usize) -> Vec<Option<&SelectItem>> {
    let is_plain = |item: &&SelectItem| item_expr(item).is_some();
    let front: Vec<_> = items.iter().take_while(is_plain).collect();
    let back: Vec<_> = items.iter().rev().take_while(is_plain).collect();
    (0..count)
        .map(|at| match front.get(at) {
            Some(item) => Some(*item),
            None => back.get(count - 1 - at).copied(),
        })
        .collect()
}

fn item_expr(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let pid = self.variables().pid;
        self.reach.shared.waiting.unlock_all(pid);
    }
}
