//! Translates T-SQL to SQLite's SQL. As in SQL Server, every expression is typed before it runs.
//!
//! The translation is an allow-list: a statement must equal the text of its supported parts.
//! Any other statement fails with an error that names it, and never reaches SQLite.

mod changes;
mod definitions;
mod expressions;
pub(crate) mod names;
mod predicates;
mod queries;
pub(crate) mod script;
mod sources;

use std::fmt::Display;

use rusqlite::types::Value;
use sqlparser::ast;

use super::{
    convert::{is_convertible, not_a_value},
    error::ServerError,
    session::{Session, Variables},
    tokens::{Column, Command},
    types::SqlType,
};
use crate::database::list;
use names::Table;
use sources::Source;

/// Fails for the first of these constructs that is present.
macro_rules! refuse {
    ($($construct:literal: $present:expr),* $(,)?) => {
        $(if $present {
            return Err($crate::azure_sql::error::ServerError::unsupported($construct));
        })*
    };
}
use refuse;

type Result<T> = std::result::Result<T, ServerError>;

/// A statement for SQLite.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Translated {
    pub(crate) sql: String,
    /// The values of `?1`, `?2`, ….
    pub(crate) parameters: Vec<Value>,
    /// The result's columns; empty if it has no result.
    pub(crate) columns: Vec<Column>,
    pub(crate) writes: Writes,
    pub(crate) command: Command,
}

/// What a statement changes; it decides about locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    Nothing,
    Temporary,
    Shared,
}

impl Writes {
    fn to(table: &Table) -> Self {
        if table.is_temporary() { Self::Temporary } else { Self::Shared }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) sql_type: SqlType,
    /// Whether it numbers the rows.
    pub(crate) identity: bool,
}

/// An expression in SQLite's SQL.
#[derive(Debug, Clone, PartialEq)]
struct Typed {
    sql: String,
    /// `None` for a bare NULL.
    sql_type: Option<SqlType>,
}

impl Typed {
    fn new(sql: impl Into<String>, sql_type: SqlType) -> Self {
        Self { sql: sql.into(), sql_type: Some(sql_type) }
    }

    fn null() -> Self {
        Self { sql: "NULL".to_owned(), sql_type: None }
    }

    /// A bare NULL is an `int`.
    fn known_type(&self) -> SqlType {
        self.sql_type.unwrap_or(SqlType::Int)
    }

    /// Converts the expression as CAST does, and operators for operands of different types.
    fn cast(self, to: SqlType) -> Result<Self> {
        let sql = match self.sql_type {
            None => self.sql,
            Some(from) if from == to => self.sql,
            Some(from) if !is_convertible(from, to) => {
                return Err(ServerError::unsupported(format_args!("CAST from {from} to {to}")));
            }
            Some(from) => format!("tsql_cast({}, '{from}', '{to}')", self.sql),
        };
        Ok(Self::new(sql, to))
    }
}

/// The type that all of these are converted to.
fn common_type<'t>(typed: impl IntoIterator<Item = &'t Typed>) -> Result<SqlType> {
    let mut types = typed.into_iter().filter_map(|typed| typed.sql_type);
    let Some(first) = types.next() else { return Ok(SqlType::Int) };
    types.try_fold(first, |left, right| {
        let none = || ServerError::unsupported(format_args!("{left} with {right}"));
        left.common(right).ok_or_else(none)
    })
}

/// Translates one statement, which is run before the session or a variable changes.
pub(crate) struct Translator<'a> {
    session: &'a Session,
    variables: &'a Variables,
    parameters: Vec<Value>,
    /// The tables of the statement.
    sources: Vec<Source>,
    /// In a CHECK, which must hold in every session.
    in_definition: bool,
}

/// Fails unless `tree` as text equals `known`, the text of its supported parts.
fn only(tree: &impl Display, known: &str) -> Result<()> {
    if tree.to_string() == known { Ok(()) } else { Err(ServerError::unsupported(tree)) }
}

impl<'a> Translator<'a> {
    pub(crate) fn new(session: &'a Session, variables: &'a Variables) -> Self {
        let (parameters, sources) = (Vec::new(), Vec::new());
        Self { session, variables, parameters, sources, in_definition: false }
    }

    pub(crate) fn statement(self, statement: &ast::Statement) -> Result<Translated> {
        match statement {
            ast::Statement::Query(query) => self.query(query),
            ast::Statement::Insert(insert) => self.insert(insert),
            ast::Statement::Update(update) => self.update(update),
            ast::Statement::Delete(delete) => self.delete(delete),
            ast::Statement::CreateTable(table) => self.create_table(table),
            ast::Statement::Drop { .. } => self.drop_table(statement),
            other => {
                let text = other.to_string();
                let words: Vec<&str> = text.split_whitespace().take(2).collect();
                Err(ServerError::unsupported(words.join(" ")))
            }
        }
    }

    /// `SELECT` of one expression.
    pub(crate) fn scalar(mut self, expression: &ast::Expr) -> Result<Translated> {
        let typed = self.expression(expression)?;
        let columns = vec![Column { name: String::new(), sql_type: typed.known_type() }];
        let sql = format!("SELECT {}", typed.sql);
        Ok(Translated { columns, ..self.finish(sql, Writes::Nothing, Command::Other) })
    }

    /// `SELECT` of a condition as 0 or 1.
    pub(crate) fn condition(mut self, condition: &ast::Expr) -> Result<Translated> {
        let sql = format!("SELECT CASE WHEN {} THEN 1 ELSE 0 END", self.predicate(condition)?);
        Ok(self.finish(sql, Writes::Nothing, Command::Other))
    }

    fn finish(self, sql: String, writes: Writes, command: Command) -> Translated {
        Translated { sql, parameters: self.parameters, columns: Vec::new(), writes, command }
    }

    /// A value that SQLite gets as a parameter.
    fn parameter(&mut self, value: &Value, sql_type: SqlType) -> Result<Typed> {
        refuse!("a variable in a table's definition": self.in_definition);
        if let Value::Blob(_) = value {
            return Err(not_a_value());
        }
        self.parameters.push(value.clone());
        Ok(Typed::new(format!("?{}", self.parameters.len()), sql_type))
    }

    /// The columns of a table, which must exist.
    fn columns_of(&self, table: &Table) -> Result<Vec<TableColumn>> {
        self.session.columns(table).ok_or_else(|| {
            ServerError::new(208, 16, format!("Invalid object name '{}'.", table.name))
        })
    }
}

#[cfg(test)]
mod tests;
