//! Settings from the environment. entra-pool reads those of the database.

use std::{
    env::{self, VarError},
    net::SocketAddr,
    num::NonZeroU32,
    str::FromStr,
    time::Duration,
};

use crate::BoxError;

/// The environment variable `name` cannot be used. Its value is not shown, because it may be a
/// secret.
pub fn invalid(name: &str, problem: impl Into<BoxError>) -> BoxError {
    format!("cannot use the environment variable {name}: {}", problem.into()).into()
}

/// The environment variable `name`; `None` if it is not set, or empty.
///
/// # Errors
///
/// It is not a `T`.
pub fn optional<T: FromStr<Err: Into<BoxError>>>(name: &str) -> Result<Option<T>, BoxError> {
    match env::var(name) {
        Ok(value) if !value.is_empty() => match value.parse() {
            Ok(setting) => Ok(Some(setting)),
            Err(error) => Err(invalid(name, error)),
        },
        Ok(_) | Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(invalid(name, "it is not Unicode")),
    }
}

/// The address to listen on, and how long a response may take.
#[derive(Debug, Clone, Copy)]
pub struct Listen {
    pub(crate) address: SocketAddr,
    pub(crate) request_timeout: Duration,
}

impl Listen {
    /// Listens on this address. `REQUEST_TIMEOUT` is the number of seconds until a response must
    /// begin; default 30, twice the time limit of connecting to the database, so that the pool's
    /// own error reaches the client.
    ///
    /// # Errors
    ///
    /// `REQUEST_TIMEOUT` is not a whole number of at least 1.
    pub fn at(address: SocketAddr) -> Result<Self, BoxError> {
        let seconds = optional("REQUEST_TIMEOUT")?.map_or(30, NonZeroU32::get);
        Ok(Self { address, request_timeout: Duration::from_secs(seconds.into()) })
    }
}

/// Listens on `LISTEN`, such as `0.0.0.0:8080`; default 127.0.0.1:8080.
///
/// # Errors
///
/// `LISTEN` is not an address with a port, or [`Listen::at`] fails.
pub fn listen() -> Result<Listen, BoxError> {
    Listen::at(optional("LISTEN")?.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))))
}
