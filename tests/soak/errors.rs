//! What errors there are, and whether they are typed: a kind for each that the chaos
//! may bring about, none for any other.

use std::{error::Error as _, io::ErrorKind};

use entra_pool::{
    azure_sql::{self, tiberius},
    postgres::{self, deadpool_postgres, tokio_postgres},
    token::TokenError,
};

use crate::support::credential::{code, said};

/// How an operation has failed.
#[derive(Debug)]
pub struct Failure {
    /// What it is, in a few words; `None`, if it is nothing that should occur.
    pub kind: Option<String>,
    /// Whether the crate says that the same may succeed later.
    pub transient: bool,
    /// Whether the server has refused the login, which somebody has to mend.
    pub login_refused: bool,
    /// All that it says.
    pub said: String,
}

impl Failure {
    /// An answer that is not what it should be.
    pub fn wrong(said: impl Into<String>) -> Self {
        Self { kind: None, transient: false, login_refused: false, said: said.into() }
    }

    /// The application's own time limit.
    pub fn gave_up() -> Self {
        Self {
            kind: Some("query: given up by the application".into()),
            transient: true,
            login_refused: false,
            said: String::new(),
        }
    }
}

/// Of a checkout from Azure SQL's pool.
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

/// Of a query.
impl From<tiberius::error::Error> for Failure {
    fn from(error: tiberius::error::Error) -> Self {
        // `Command Timeout` is a limit of the application's, as that of `gave_up` is: whether
        // a try with the same limit may help, the application knows.
        let timed_out = matches!(&error, tiberius::error::Error::Io { kind, .. } if *kind == ErrorKind::TimedOut);
        Self {
            kind: driver(&error).map(|kind| format!("query: {kind}")),
            transient: timed_out || azure_sql::is_transient(&error),
            login_refused: false,
            said: said(&error),
        }
    }
}

/// Of a checkout from PostgreSQL's pool.
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
            postgres::Error::Pool(deadpool_postgres::PoolError::Timeout(limit)) => {
                Some(format!("the pool's limit, {limit:?}"))
            }
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

/// Of a query.
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
        // No runtime goes, no credential panics.
        _ => None,
    }
}

/// Anything but I/O and the server's own errors would be somebody's mistake, and so
/// would most of those.
fn driver(error: &tiberius::error::Error) -> Option<String> {
    match error {
        tiberius::error::Error::Io { kind, .. } => Some(format!("{kind:?}")),
        tiberius::error::Error::Server(error) => {
            // Somebody else has the table; a snapshot is too old; busy, as the script has
            // it; the session's token has expired.
            let occurs = [1222, 1205, 40501, 40613, 37396].contains(&error.code());
            occurs.then(|| format!("error {}", error.code()))
        }
        _ => None,
    }
}

fn session(error: &tokio_postgres::Error) -> Option<String> {
    if let Some(code) = code(error) {
        // The server stops, starts.
        return ["57P01", "57P03"].contains(&code).then(|| format!("SQLSTATE {code}"));
    }
    if error.is_closed() {
        return Some("closed".into());
    }
    let io = error.source()?.downcast_ref::<std::io::Error>()?;
    Some(format!("{:?}", io.kind()))
}
