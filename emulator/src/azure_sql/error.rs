//! The server's errors, with SQL Server's numbers, classes and texts.

use std::fmt;

#[cfg(feature = "embedded")]
use rusqlite::ffi;

/// An error as it is sent to clients (MS-TDS 2.2.7.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The error's number.
    pub number: i32,
    /// The class (severity): 11 to 16 for errors that the user can correct, 20 and more
    /// for errors that close the connection.
    pub class: u8,
    /// The state.
    pub state: u8,
    /// The text.
    pub message: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}, class {}: {}", self.number, self.class, self.message)
    }
}

impl std::error::Error for ServerError {}

const TOKEN_EXPIRED: i32 = 37396;

/// Separates the parts of an error that passes through SQLite as text.
const MARK: char = '\u{1}';

impl ServerError {
    /// An error of this number, class and text, in state 1.
    pub fn new(number: i32, class: u8, message: impl Into<String>) -> Self {
        Self { number, class, state: 1, message: message.into() }
    }

    /// The login is refused; `why` follows the text.
    pub(crate) fn login_failed(user: &str, why: &str) -> Self {
        Self::new(18456, 14, format!("Login failed for user '{user}'.{why}"))
    }

    /// The session's token has expired.
    pub(crate) fn token_expired() -> Self {
        Self::new(
            TOKEN_EXPIRED,
            16,
            "Query cannot be executed, access token is expired. Please login with a new access token and execute query again.",
        )
    }

    /// The request does not name the session's transaction.
    pub(crate) fn wrong_transaction() -> Self {
        Self::new(
            3989,
            16,
            "New request is not allowed to start because it should come with valid transaction descriptor.",
        )
    }

    /// The emulator does not support this construct.
    pub(crate) fn unsupported(construct: impl fmt::Display) -> Self {
        Self::new(
            102,
            15,
            format!("Incorrect syntax near '{construct}'. (The emulator does not support it.)"),
        )
    }

    pub(crate) fn syntax(message: impl fmt::Display) -> Self {
        Self::new(102, 15, format!("Incorrect syntax: {message}."))
    }

    /// The statement was cancelled. The error is not sent.
    pub(crate) fn cancelled() -> Self {
        Self::new(3617, 16, "The query has been canceled because of an attention.")
    }

    /// Whether the server closes the connection after this error.
    pub(crate) fn ends_session(&self) -> bool {
        self.class >= 20 || self.number == TOKEN_EXPIRED
    }

    /// Whether the rest of the batch is skipped after this error.
    ///
    /// An error such as a violated constraint ends only its statement.
    pub(crate) fn ends_batch(&self) -> bool {
        !matches!(self.number, 266 | 515 | 547 | 1222 | 2627 | 2628 | 3701 | 3902 | 3903 | 8134)
    }

    #[cfg(feature = "embedded")]
    /// Converts the error to an error of an SQLite function.
    pub(crate) fn through_sqlite(&self) -> rusqlite::Error {
        let text = format!("{MARK}{}{MARK}{}{MARK}{}", self.number, self.class, self.message);
        rusqlite::Error::UserFunctionError(text.into())
    }

    #[cfg(feature = "embedded")]
    fn from_function(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(MARK)?.splitn(3, MARK);
        let (number, class) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self::new(number, class, parts.next()?))
    }

    #[cfg(feature = "embedded")]
    fn from_failure(failure: ffi::Error, text: &str) -> Self {
        let detail = text.rsplit_once(": ").map_or(text, |(_, detail)| detail);
        match failure.extended_code {
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            | ffi::SQLITE_CONSTRAINT_UNIQUE
            | ffi::SQLITE_CONSTRAINT_ROWID => Self::new(
                2627,
                14,
                format!(
                    "Violation of UNIQUE or PRIMARY KEY constraint. Cannot insert duplicate key in {detail}."
                ),
            ),
            ffi::SQLITE_CONSTRAINT_NOTNULL => Self::new(
                515,
                16,
                format!(
                    "Cannot insert the value NULL into column '{detail}'; column does not allow nulls."
                ),
            ),
            ffi::SQLITE_CONSTRAINT_CHECK => Self::new(
                547,
                16,
                format!("The statement conflicted with the CHECK constraint \"{detail}\"."),
            ),
            ffi::SQLITE_BUSY_SNAPSHOT => Self::new(
                1205,
                13,
                "Transaction was deadlocked on lock resources with another process and has been chosen as the deadlock victim. Rerun the transaction.",
            ),
            _ => match failure.code {
                rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked => {
                    Self::new(1222, 16, "Lock request time out period exceeded.")
                }
                rusqlite::ErrorCode::OperationInterrupted => Self::cancelled(),
                _ => Self::from_text(text, detail),
            },
        }
    }

    #[cfg(feature = "embedded")]
    /// Errors that only SQLite's text distinguishes.
    fn from_text(text: &str, detail: &str) -> Self {
        if let Some(error) = Self::from_function(text) {
            return error;
        }
        if text.starts_with("no such table") {
            // The table was dropped after the statement was translated.
            Self::new(208, 16, format!("Invalid object name '{detail}'."))
        } else if text == "integer overflow" {
            super::convert::overflow(super::types::SqlType::BigInt)
        } else if text.ends_with(" already exists") {
            let name =
                text.trim_end_matches(" already exists").rsplit(' ').next().unwrap_or_default();
            Self::new(
                2714,
                16,
                format!(
                    "There is already an object named '{}' in the database.",
                    name.trim_matches(['"', '`'])
                ),
            )
        } else {
            Self::new(8624, 16, format!("SQLite returned an error: {text}"))
        }
    }
}

#[cfg(feature = "embedded")]
impl From<rusqlite::Error> for ServerError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(failure, Some(text)) => {
                Self::from_failure(failure, &text)
            }
            rusqlite::Error::SqliteFailure(failure, None) => {
                Self::from_failure(failure, &failure.to_string())
            }
            rusqlite::Error::SqlInputError { error, msg, .. } => Self::from_failure(error, &msg),
            other => Self::from_text(&other.to_string(), ""),
        }
    }
}
