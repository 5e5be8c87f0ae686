//! T-SQL to SQLite's SQL, by walking a list of what is understood. Whatever is
//! not on it is an error that names it, and never reaches SQLite.

mod changes;
mod definitions;
mod expressions;
mod functions;
pub(crate) mod names;
mod preparation;
mod queries;
pub(crate) mod script;
mod sources;

use std::collections::BTreeMap;

use sqlparser::ast;

use super::{error::ServerError, tokens::Command, types::SqlType};
pub(crate) use definitions::declared_type;
use names::Table;

/// A statement for SQLite.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Translated {
    /// One statement, or several of which none has parameters.
    pub(crate) sql: String,
    /// What `?1`, `?2`, … stand for.
    pub(crate) parameters: Vec<Parameter>,
    /// A statement with the same columns whose names and declared types tell
    /// the result's types; it is compiled, never run.
    pub(crate) probe: Option<String>,
    pub(crate) writes: Writes,
    pub(crate) command: Command,
    pub(crate) target: Target,
}

/// Where a parameter's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    TransactionCount,
    TransactionState,
    RowCount,
    Error,
    Identity,
    ScopeIdentity,
    Spid,
    Version,
    Database,
    User,
    Application,
    Host,
    Isolation,
    Language,
    DateFormat,
    LockTimeout,
    Now,
    NowPrecise,
    NowOffset,
}

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

/// What becomes of a query's rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    Client,
    /// `SELECT … INTO`.
    Table(Table),
    /// `SELECT @a = …`.
    Variables(Vec<String>),
}

/// What a translation has to know of the session.
pub(crate) trait Catalogue {
    /// The columns of a table, in order; `None` if there is no such table.
    fn columns(&self, table: &Table) -> Option<Vec<TableColumn>>;
    /// Whether `SET IDENTITY_INSERT` is on for this table.
    fn identity_insert(&self, table: &Table) -> bool;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) identity: bool,
}

/// The types of the variables in scope, by lower-case name.
pub(crate) type Scope = BTreeMap<String, Option<SqlType>>;

/// What is known of an expression's type before it is run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    /// Told by its values.
    Values,
    Known(SqlType),
    /// That of this column.
    Column(String),
    Sum(Box<Shape>),
    Average(Box<Shape>),
}

/// Prefix of a probe's column names, which no column of a table has.
pub(crate) const PROBE: &str = "\u{1}";

impl Shape {
    /// What stands for it in a probe.
    fn probe(&self) -> String {
        match self {
            Self::Values => format!("NULL AS \"{PROBE}values\""),
            Self::Known(sql_type) => format!("NULL AS \"{PROBE}known {sql_type}\""),
            Self::Column(column) => format!("{column} AS \"{PROBE}column\""),
            Self::Sum(shape) => shape.aggregate_probe("sum"),
            Self::Average(shape) => shape.aggregate_probe("average"),
        }
    }

    fn aggregate_probe(&self, name: &str) -> String {
        match self {
            Self::Known(sql_type) => format!("NULL AS \"{PROBE}{name} {sql_type}\""),
            Self::Column(column) => format!("{column} AS \"{PROBE}{name}\""),
            _ => Self::Values.probe(),
        }
    }

    /// The type that a probe's column tells of; `None` where values do.
    pub(crate) fn resolve(name: &str, declared: Option<&str>) -> Option<SqlType> {
        let declared = declared.and_then(SqlType::parse);
        let Some(hint) = name.strip_prefix(PROBE) else { return declared };
        let (hint, known) = hint.split_once(' ').unwrap_or((hint, ""));
        let sql_type = SqlType::parse(known).or(declared);
        match (hint, sql_type?) {
            (
                "sum" | "average",
                SqlType::Bit | SqlType::TinyInt | SqlType::SmallInt | SqlType::Int,
            ) => Some(SqlType::Int),
            ("sum", SqlType::Decimal { scale, .. }) => {
                Some(SqlType::Decimal { precision: 38, scale })
            }
            ("average", SqlType::Decimal { scale, .. }) => {
                Some(SqlType::Decimal { precision: 38, scale: scale.max(6) })
            }
            ("sum" | "average", SqlType::SmallMoney) => Some(SqlType::Money),
            ("sum" | "average", SqlType::Real) => Some(SqlType::Float),
            (_, sql_type) => Some(sql_type),
        }
    }
}

/// An expression in SQLite's SQL.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Typed {
    pub(crate) sql: String,
    pub(crate) shape: Shape,
}

impl Typed {
    fn new(sql: impl Into<String>, sql_type: SqlType) -> Self {
        Self { sql: sql.into(), shape: Shape::Known(sql_type) }
    }

    fn values(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), shape: Shape::Values }
    }
}

/// Translates one statement.
pub(crate) struct Translator<'a> {
    scope: &'a Scope,
    catalogue: &'a dyn Catalogue,
    parameters: Vec<Parameter>,
    /// In a DEFAULT or CHECK: what is stored must work in every session.
    in_definition: bool,
}

/// Fails for the first of these constructs that is there.
macro_rules! refuse {
    ($($construct:literal: $present:expr),* $(,)?) => {
        $(if $present {
            return Err($crate::azure_sql::error::ServerError::unsupported($construct));
        })*
    };
}
use refuse;

impl<'a> Translator<'a> {
    pub(crate) fn new(scope: &'a Scope, catalogue: &'a dyn Catalogue) -> Self {
        Self { scope, catalogue, parameters: Vec::new(), in_definition: false }
    }

    pub(crate) fn statement(self, statement: &ast::Statement) -> Result<Translated, ServerError> {
        match statement {
            ast::Statement::Query(query) => self.select(query),
            ast::Statement::Insert(insert) => self.insert(insert),
            ast::Statement::Update(update) => self.update(update),
            ast::Statement::Delete(delete) => self.delete(delete),
            ast::Statement::Truncate(truncate) => self.truncate(truncate),
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

    /// `SELECT` of one expression, or of a condition as 0 or 1.
    pub(crate) fn scalar(
        mut self,
        expression: &ast::Expr,
        condition: bool,
    ) -> Result<Translated, ServerError> {
        let typed = self.expression(expression)?;
        let sql = match condition {
            true => format!("SELECT CASE WHEN {} THEN 1 ELSE 0 END", typed.sql),
            false => format!("SELECT {}", typed.sql),
        };
        Ok(self.finish(sql, None, Writes::Nothing, Command::Other))
    }

    fn finish(
        self,
        sql: String,
        probe: Option<String>,
        writes: Writes,
        command: Command,
    ) -> Translated {
        Translated {
            sql,
            parameters: self.parameters,
            probe,
            writes,
            command,
            target: Target::Client,
        }
    }

    /// The number under which SQLite knows this parameter.
    fn parameter(&mut self, parameter: Parameter) -> String {
        let index = match self.parameters.iter().position(|known| *known == parameter) {
            Some(index) => index,
            None => {
                self.parameters.push(parameter);
                self.parameters.len() - 1
            }
        };
        format!("?{}", index + 1)
    }

    fn system(&mut self, system: System) -> Result<String, ServerError> {
        if self.in_definition {
            return Err(ServerError::unsupported(format_args!(
                "{system:?} in a table's definition"
            )));
        }
        Ok(self.parameter(Parameter::System(system)))
    }
}

#[cfg(test)]
mod tests;
