//! Errors with PostgreSQL's messages and SQLSTATEs ("PostgreSQL Error Codes").

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

    /// An error 0A000 that names the unsupported construct.
    pub(super) fn unsupported(construct: impl AsRef<str>) -> Self {
        let construct: String = construct.as_ref().chars().take(120).collect();
        Self::new(
            "0A000",
            format!(
                "this stand-in for PostgreSQL, unlike a server behind the front, does not support: {construct}"
            ),
        )
    }

    /// Carries the error through SQLite, which transmits a message only.
    pub(super) fn into_sqlite(self) -> Error {
        Error::UserFunctionError(format!("\u{1}{}\u{1}{}", self.code, self.message).into())
    }

    pub(super) fn with_severity(self, severity: &str) -> ErrorInfo {
        ErrorInfo::new(severity.to_owned(), self.code, self.message)
    }
}

impl From<SqlError> for PgWireError {
    fn from(error: SqlError) -> Self {
        Self::UserError(Box::new(error.with_severity("ERROR")))
    }
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
    let ours = message.strip_prefix('\u{1}').and_then(|message| message.split_once('\u{1}'));
    if let Some((code, message)) = ours {
        return SqlError::new(code, message);
    }
    // "UNIQUE constraint failed: restaurant.name"
    let subject = message.rsplit(": ").next().unwrap_or_default();
    let (table, column) = subject.split_once('.').unwrap_or((subject, ""));
    let (code, message) = match code {
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
            ("23505", format!("duplicate key value violates unique constraint \"{table}_pkey\""))
        }
        ffi::SQLITE_CONSTRAINT_NOTNULL => (
            "23502",
            format!(
                "null value in column \"{column}\" of relation \"{table}\" violates not-null constraint"
            ),
        ),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => {
            ("23503", "insert or update on table violates foreign key constraint".to_owned())
        }
        ffi::SQLITE_CONSTRAINT_CHECK => {
            ("23514", format!("new row violates check constraint \"{subject}\""))
        }
        // Another session writes, and SQLite locks the whole database.
        _ if [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED].contains(&(code & 0xff)) => {
            ("40001", "could not serialize access due to concurrent update".to_owned())
        }
        _ => {
            if let Some((name, _)) = message.split_once(" already exists") {
                let name = name.rsplit(' ').next().unwrap_or_default().trim_matches('"');
                ("42P07", format!("relation \"{name}\" already exists"))
            } else if message.starts_with("misuse of aggregate") {
                ("42803", "aggregate function calls are not allowed here".to_owned())
            } else if message.starts_with("ON CONFLICT clause does not match") {
                let message =
                    "there is no unique constraint matching the ON CONFLICT specification";
                ("42P10", message.to_owned())
            } else {
                ("XX000", message.to_owned())
            }
        }
    };
    SqlError::new(code, message)
}
