//! The expected errors, and whether they are typed: an error that the faults may cause has a
//! kind, any other error has none.

use std::{error::Error as _, io::ErrorKind};

use entra_pool::{
    azure_sql::{self, tiberius},
    postgres::{self, deadpool_postgres, tokio_postgres},
    token::TokenError,
};

use crate::support::credential::{code, said};

/// The failure of an operation.
#[derive(Debug)]
pub struct Failure {
    /// A short description, or `None` if the error is unexpected.
    pub kind: Option<String>,
    /// Whether the crate classifies the error as transient.
    pub transient: bool,
    /// Whether the server refused the login, which needs an administrator.
    pub login_refused: bool,
    /// The complete error text.
    pub said: String,
}

impl Failure {
    /// Creates the failure for a wrong result.
    pub fn wrong(said: impl Into<String>) -> Self {
        Self { kind: None, transient: false, login_refused: false, said: said.into() }
    }

    /// Creates the failure for the application's own time limit.
    pub fn gave_up() -> Self {
        Self {
            kind: Some("query: given up by the application".into()),
            transient: true,
            login_refused: false,
            said: String::new(),
        }
    }
}

/// An error of a checkout from Azure SQL's pool.
impl From<azure_sql::PoolError> for Failure {
    fn from(error: azure_sql::PoolError) -> Self {
        let said = said(&error);
        let error = match error {
            azure_sql::PoolError::Backend(error) => error,
            azure_sql::PoolError::Timeout(limit) => {
                let kind = Some(format!("checkout: the pool's limit, {limit:?}"));
                return Self { kind, transient: true, login_refused: false, said };
            }
            _ => return Self::wrong(said),
        };
        let kind = match &error {
            azure_sql::Error::Token { source, .. } => token(source),
            azure_sql::Error::Dial { .. } => Some("Dial".into()),
            azure_sql::Error::ConnectionLost { stage, .. } => Some(format!("Broken while {stage}")),
            azure_sql::Error::TimedOut { stage, .. } => Some(format!("TimedOut while {stage}")),
            azure_sql::Error::LoginRefused(_) => Some("LoginRefused".into()),
            azure_sql::Error::Login { source, .. } => {
                let kind = match source {
                    azure_sql::LoginError::Server(error) => Some(format!("{}", error.code())),
                    azure_sql::LoginError::Driver(error) => driver(error),
                    _ => None,
                };
                kind.map(|kind| format!("Login, {kind}"))
            }
            _ => None,
        };
        Self {
            kind: kind.map(|kind| format!("checkout: {kind}")),
            transient: error.is_transient(),
            login_refused: matches!(error, azure_sql::Error::LoginRefused(_)),
            said,
        }
    }
}

/// An error of a query.
impl From<tiberius::error::Error> for Failure {
    fn from(error: tiberius::error::Error) -> Self {
        // `Command Timeout` is a limit of the application, like that of `gave_up`: only the
        // application knows whether a retry with the same limit may succeed.
        let timed_out = matches!(&error, tiberius::error::Error::Io { kind, .. } if *kind == ErrorKind::TimedOut);
        Self {
            kind: driver(&error).map(|kind| format!("query: {kind}")),
            transient: timed_out || azure_sql::is_transient(&error),
            login_refused: false,
            said: said(&error),
        }
    }
}

/// An error of a checkout from PostgreSQL's pool.
impl From<deadpool_postgres::PoolError> for Failure {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        let error = postgres::Error::from(error);
        let kind = match &error {
            postgres::Error::Token { source, .. } => token(source),
            postgres::Error::Dial { .. } => Some("Dial".into()),
            postgres::Error::ConnectionLost { stage, .. } => Some(format!("Broken while {stage}")),
            postgres::Error::TimedOut { stage, .. } => Some(format!("TimedOut while {stage}")),
            postgres::Error::LoginRefused { .. } => Some("LoginRefused".into()),
            postgres::Error::Login { source, .. } => {
                session(source).map(|kind| format!("Login, {kind}"))
            }
            postgres::Error::Pool(error) => match &**error {
                deadpool_postgres::PoolError::Timeout(limit) => {
                    Some(format!("the pool's limit, {limit:?}"))
                }
                _ => None,
            },
            _ => None,
        };
        Self {
            kind: kind.map(|kind| format!("checkout: {kind}")),
            transient: error.is_transient(),
            login_refused: matches!(error, postgres::Error::LoginRefused { .. }),
            said: said(&error),
        }
    }
}

/// An error of a query.
impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self {
            kind: session(&error).map(|kind| format!("query: {kind}")),
            transient: postgres::is_transient(&error),
            login_refused: false,
            said: said(&error),
        }
    }
}

fn token(error: &TokenError) -> Option<String> {
    match error {
        TokenError::Credential { source, .. } => {
            Some(format!("no token, the credential: {:?}", source.kind()))
        }
        TokenError::TimedOut { .. } => Some("no token, timed out".into()),
        // No runtime is dropped, and no credential panics.
        _ => None,
    }
}

/// Returns the kind of an I/O error or of an expected server error. Any other error would be a
/// defect.
fn driver(error: &tiberius::error::Error) -> Option<String> {
    match error {
        tiberius::error::Error::Io { kind, .. } => Some(format!("{kind:?}")),
        tiberius::error::Error::Server(error) => {
            // The table is locked; a deadlock; busy, as caused by the script; the session's token
            // has expired.
            let is_expected = [1222, 1205, 40501, 40613, 37396].contains(&error.code());
            is_expected.then(|| format!("error {}", error.code()))
        }
        _ => None,
    }
}

fn session(error: &tokio_postgres::Error) -> Option<String> {
    if let Some(code) = code(error) {
        // The server stops or starts.
        return ["57P01", "57P03"].contains(&code).then(|| format!("SQLSTATE {code}"));
    }
    if error.is_closed() {
        return Some("closed".into());
    }
    let io = error.source()?.downcast_ref::<std::io::Error>()?;
    Some(format!("{:?}", io.kind()))
}
