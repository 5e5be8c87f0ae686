//! T-SQL to SQLite's SQL. Every expression has its type before it is run, as in SQL Server.
//!
//! What is understood is listed by construction: a statement in which anything is left once the
//! known parts are taken out is an error that names it, and never reaches SQLite.

mod changes;
mod definitions;
mod expressions;
mod functions;
pub(crate) mod names;
mod predicates;
mod preparation;
mod queries;
pub(crate) mod script;
mod sources;

use std::{collections::BTreeMap, fmt};

use sqlparser::{ast, dialect::MsSqlDialect, parser::Parser};

use super::{
    convert::is_convertible,
    error::{ServerError, refuse},
    tokens::{Column, Command},
    types::SqlType,
};
use names::Table;
use sources::From;

type Result<T> = std::result::Result<T, ServerError>;

/// A statement for SQLite.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Translated {
    pub(crate) sql: String,
    /// What `?1`, `?2`, … stand for.
    pub(crate) parameters: Vec<Parameter>,
    /// The result's columns; none if it has no result.
    pub(crate) columns: Vec<Column>,
    pub(crate) writes: Writes,
    pub(crate) command: Command,
    /// How many rows are inserted, if it is an INSERT, and whether the table numbers them.
    pub(crate) inserts: (u64, bool),
}

/// What of the session a statement reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    TransactionCount,
    RowCount,
    ScopeIdentity,
    Spid,
    Version,
    Database,
    User,
    Application,
    Host,
    Isolation,
    Language,
    LockTimeout,
}

/// Where a parameter's value comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Parameter {
    Variable(String),
    System(System),
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

/// What a translation has to know of the session.
pub(crate) trait Catalogue {
    /// The columns of a table, in order; `None` if there is no such table.
    fn columns(&self, table: &Table) -> Option<Vec<TableColumn>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) sql_type: SqlType,
    /// Whether it numbers the rows.
    pub(crate) identity: bool,
}

/// The types of the variables in scope, by lower-case name; `None` for a bare NULL.
pub(crate) type Scope = BTreeMap<String, Option<SqlType>>;

/// An expression in SQLite's SQL.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Typed {
    pub(crate) sql: String,
    /// `None` for a bare NULL.
    pub(crate) sql_type: Option<SqlType>,
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

    /// As CAST makes it, and operators where types differ.
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

/// The type of all of these.
fn common_type(typed: &[&Typed]) -> Result<SqlType> {
    let mut types = typed.iter().filter_map(|typed| typed.sql_type);
    let Some(first) = types.next() else { return Ok(SqlType::Int) };
    types.try_fold(first, |left, right| {
        let none = || ServerError::unsupported(format_args!("{left} with {right}"));
        left.common(right).ok_or_else(none)
    })
}

/// Translates one statement.
pub(crate) struct Translator<'a> {
    scope: &'a Scope,
    catalogue: &'a dyn Catalogue,
    parameters: Vec<Parameter>,
    /// The tables of the query that is being read, after those of the queries around it.
    froms: Vec<From>,
    /// In a CHECK, which must hold in every session.
    in_definition: bool,
}

/// The parser's tree of a statement that is nothing but its known parts.
fn plain(sql: &str) -> Result<ast::Statement> {
    Parser::new(&MsSqlDialect {})
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_statement())
        .map_err(ServerError::syntax)
}

/// Fails unless `rest`, the known parts of which are those of `plain`, has no others.
fn refuse_rest<T: PartialEq + fmt::Display>(rest: &T, plain: &T) -> Result<()> {
    if rest == plain { Ok(()) } else { Err(ServerError::unsupported(rest)) }
}

impl<'a> Translator<'a> {
    pub(crate) fn new(scope: &'a Scope, catalogue: &'a dyn Catalogue) -> Self {
        let (parameters, froms) = (Vec::new(), Vec::new());
        Self { scope, catalogue, parameters, froms, in_definition: false }
    }

    pub(crate) fn statement(mut self, statement: &ast::Statement) -> Result<Translated> {
        match statement {
            ast::Statement::Query(query) => {
                let query = self.query(query, false)?;
                let columns = query.columns();
                let finished = self.finish(query.sql, Writes::Nothing, Command::Select);
                Ok(Translated { columns, ..finished })
            }
            ast::Statement::Insert(insert) => self.insert(insert),
            ast::Statement::Update(update) => self.update(update),
            ast::Statement::Delete(delete) => self.delete(delete),
            ast::Statement::CreateTable(table) => self.create_table(table),
            ast::Statement::CreateIndex(index) => self.create_index(index),
            ast::Statement::Drop { .. } => self.drop(statement),
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
        let finished =
            self.finish(format!("SELECT {}", typed.sql), Writes::Nothing, Command::Other);
        Ok(Translated { columns, ..finished })
    }

    /// `SELECT` of a condition as 0 or 1.
    pub(crate) fn condition(mut self, condition: &ast::Expr) -> Result<Translated> {
        let sql = format!("SELECT CASE WHEN {} THEN 1 ELSE 0 END", self.predicate(condition)?);
        Ok(self.finish(sql, Writes::Nothing, Command::Other))
    }

    fn finish(self, sql: String, writes: Writes, command: Command) -> Translated {
        let (columns, inserts) = (Vec::new(), (0, false));
        Translated { sql, parameters: self.parameters, columns, writes, command, inserts }
    }

    /// The number under which SQLite knows this parameter.
    fn parameter(&mut self, parameter: Parameter) -> Result<String> {
        refuse!("a variable in a table's definition": self.in_definition);
        let known = self.parameters.iter().position(|known| *known == parameter);
        let index = known.unwrap_or(self.parameters.len());
        if known.is_none() {
            self.parameters.push(parameter);
        }
        Ok(format!("?{}", index + 1))
    }

    fn system(&mut self, system: System, sql_type: SqlType) -> Result<Typed> {
        Ok(Typed::new(self.parameter(Parameter::System(system))?, sql_type))
    }

    /// The columns of a table that must be there.
    fn columns_of(&self, table: &Table) -> Result<Vec<TableColumn>> {
        self.catalogue.columns(table).ok_or_else(|| {
            ServerError::new(208, 16, format!("Invalid object name '{}'.", table.name))
        })
    }
}

#[cfg(test)]
mod tests;
