//! Errors as PostgreSQL words and numbers them ("PostgreSQL Error Codes").

use pgwire::error::{ErrorInfo, PgWireError};
use rusqlite::{Error, ffi};

/// An error of one statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct SqlError {
    pub(super) code: String,
    pub(super) message: String,
}

impl SqlError {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }

    /// 0A000, naming the construct that this stand-in does not know.
    pub(super) fn unsupported(construct: impl AsRef<str>) -> Self {
        let construct: String = construct.as_ref().chars().take(120).collect();
        Self::new("0A000", format!("this stand-in for PostgreSQL does not support: {construct}"))
    }

    pub(super) fn failed_transaction() -> Self {
        Self::new(
            "25P02",
            "current transaction is aborted, commands ignored until end of transaction block",
        )
    }

    pub(super) fn cancelled() -> Self {
        Self::new("57014", "canceling statement due to user request")
    }

    /// Through SQLite, which knows messages only.
    pub(super) fn into_sqlite(self) -> Error {
        Error::UserFunctionError(format!("\u{1}{}\u{1}{}", self.code, self.message).into())
    }

    fn from_sqlite_message(message: &str) -> Option<Self> {
        let (code, message) = message.strip_prefix('\u{1}')?.split_once('\u{1}')?;
        Some(Self::new(code, message))
    }
}

impl From<SqlError> for PgWireError {
    fn from(error: SqlError) -> Self {
        PgWireError::UserError(Box::new(ErrorInfo::new(
            "ERROR".to_owned(),
            error.code,
            error.message,
        )))
    }
}

/// An error that ends the connection.
pub(super) fn fatal(code: &str, message: impl Into<String>) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new(
        "FATAL".to_owned(),
        code.to_owned(),
        message.into(),
    )))
}

impl From<Error> for SqlError {
    fn from(error: Error) -> Self {
        match &error {
            Error::SqliteFailure(failure, Some(message)) => {
                sqlite_failure(failure.extended_code, message)
            }
            Error::SqliteFailure(failure, None) => {
                sqlite_failure(failure.extended_code, &failure.to_string())
            }
            Error::SqlInputError { error, msg, .. } => sqlite_failure(error.extended_code, msg),
            other => Self::new("XX000", other.to_string()),
        }
    }
}

fn sqlite_failure(code: i32, message: &str) -> SqlError {
    if let Some(error) = SqlError::from_sqlite_message(message) {
        return error;
    }
    // "UNIQUE constraint failed: restaurant.name"
    let subject = message.rsplit(": ").next().unwrap_or_default();
    let (table, column) = subject.split_once('.').unwrap_or((subject, ""));
    match code {
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => SqlError::new(
            "23505",
            format!("duplicate key value violates unique constraint \"{table}_pkey\""),
        ),
        ffi::SQLITE_CONSTRAINT_UNIQUE => SqlError::new(
            "23505",
            format!("duplicate key value violates unique constraint \"{table}_{column}_key\""),
        ),
        ffi::SQLITE_CONSTRAINT_NOTNULL => SqlError::new(
            "23502",
            format!(
                "null value in column \"{column}\" of relation \"{table}\" violates not-null constraint"
            ),
        ),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => {
            SqlError::new("23503", "insert or update or delete violates foreign key constraint")
        }
        ffi::SQLITE_CONSTRAINT_CHECK => {
            SqlError::new("23514", format!("new row violates check constraint \"{subject}\""))
        }
        _ => match code & 0xff {
            ffi::SQLITE_INTERRUPT => SqlError::cancelled(),
            // Another session writes: SQLite locks the database as a whole.
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => {
                SqlError::new("40001", "could not serialize access due to concurrent update")
            }
            _ => by_message(message),
        },
    }
}

fn by_message(message: &str) -> SqlError {
    let after = |prefix: &str| message.strip_prefix(prefix).map(str::trim);
    if let Some(table) = after("no such table: ") {
        let table = table.trim_start_matches("main.").trim_start_matches("temp.");
        return SqlError::new("42P01", format!("relation \"{table}\" does not exist"));
    }
    if let Some(column) = after("no such column: ") {
        let column = column.split(" - ").next().unwrap_or_default();
        let column = column.trim_matches('"');
        return SqlError::new("42703", format!("column \"{column}\" does not exist"));
    }
    if let Some((table, column)) =
        after("table ").and_then(|m| m.split_once(" has no column named "))
    {
        return SqlError::new(
            "42703",
            format!("column \"{column}\" of relation \"{table}\" does not exist"),
        );
    }
    if let Some(table) = after("table ").and_then(|m| m.strip_suffix(" already exists")) {
        let table = table.trim_matches('"');
        return SqlError::new("42P07", format!("relation \"{table}\" already exists"));
    }
    if let Some(function) = after("no such function: ") {
        return SqlError::new("42883", format!("function {function} does not exist"));
    }
    if let Some(function) = after("wrong number of arguments to function ") {
        return SqlError::new("42883", format!("function {function} does not exist"));
    }
    if let Some(column) = after("ambiguous column name: ") {
        return SqlError::new("42702", format!("column reference \"{column}\" is ambiguous"));
    }
    if message.contains(" values for ") || message.contains(" columns but ") {
        return SqlError::new("42601", message);
    }
    if message == "Cannot add a column with non-constant default" {
        return SqlError::unsupported("ADD COLUMN with a DEFAULT that is no constant");
    }
    if let Some(near) = message.strip_suffix(": syntax error") {
        // PostgreSQL's parser understood it, SQLite's does not.
        return SqlError::unsupported(near);
    }
    SqlError::new("XX000", message)
}
