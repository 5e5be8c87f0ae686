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

    /// Through SQLite, which knows messages only.
    pub(super) fn into_sqlite(self) -> Error {
        Error::UserFunctionError(format!("\u{1}{}\u{1}{}", self.code, self.message).into())
    }

    fn from_sqlite_message(message: &str) -> Option<Self> {
        let (code, message) = message.strip_prefix('\u{1}')?.split_once('\u{1}')?;
        Some(Self::new(code, message))
    }
}

impl From<SqlError> for ErrorInfo {
    fn from(error: SqlError) -> Self {
        Self::new("ERROR".to_owned(), error.code, error.message)
    }
}

impl From<SqlError> for PgWireError {
    fn from(error: SqlError) -> Self {
        Self::UserError(Box::new(error.into()))
    }
}

/// An error that ends the connection.
pub(super) fn fatal(code: &str, message: impl Into<String>) -> PgWireError {
    let error = ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message.into());
    PgWireError::UserError(Box::new(error))
}

impl From<Error> for SqlError {
    fn from(error: Error) -> Self {
        match error {
            Error::SqliteFailure(failure, message) => {
                sqlite_failure(failure.extended_code, &message.unwrap_or_default())
            }
            Error::SqlInputError { error, msg, .. } => sqlite_failure(error.extended_code, &msg),
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
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY => SqlError::new(
            "23505",
            format!("duplicate key value violates unique constraint \"{table}_pkey\""),
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
            // Another session writes: SQLite locks the database as a whole.
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => {
                SqlError::new("40001", "could not serialize access due to concurrent update")
            }
            _ => by_message(message),
        },
    }
}

fn by_message(message: &str) -> SqlError {
    if let Some((name, _)) = message.split_once(" already exists") {
        let name = name.trim_start_matches("table ").trim_start_matches("index ");
        let name = name.trim_matches('"');
        return SqlError::new("42P07", format!("relation \"{name}\" already exists"));
    }
    if message.starts_with("misuse of aggregate") {
        return SqlError::new("42803", "aggregate function calls are not allowed here");
    }
    if message.starts_with("ON CONFLICT clause does not match") {
        let message = "there is no unique constraint matching the ON CONFLICT specification";
        return SqlError::new("42P10", message);
    }
    SqlError::new("XX000", message)
}
