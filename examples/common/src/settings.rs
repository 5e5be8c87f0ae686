//! Settings, read from the environment once and typed.

use std::{env, net::SocketAddr, num::NonZeroU32, str::FromStr, time::Duration};

use crate::BoxError;

/// Azure SQL's connection string; the name that Service Connector gives it.
pub const AZURE_SQL: &str = "AZURE_SQL_CONNECTIONSTRING";

/// PostgreSQL's, a URL; named likewise.
pub const POSTGRES: &str = "AZURE_POSTGRESQL_CONNECTIONSTRING";

/// A setting that cannot be used. Its value is not shown: it may be a secret.
#[derive(Debug, thiserror::Error)]
#[error("the setting {name} is not usable")]
pub struct InvalidSetting {
    name: &'static str,
    source: BoxError,
}

impl InvalidSetting {
    /// The setting `name` led to this error.
    pub fn new(name: &'static str, problem: impl Into<BoxError>) -> Self {
        Self { name, source: problem.into() }
    }
}

/// The environment's variable `name`; `None` where it is not set, or empty.
///
/// # Errors
///
/// It is no `T`.
pub fn optional<T: FromStr<Err: Into<BoxError>>>(
    name: &'static str,
) -> Result<Option<T>, InvalidSetting> {
    match env::var(name) {
        Ok(value) if !value.is_empty() => {
            value.parse().map(Some).map_err(|error| InvalidSetting::new(name, error))
        }
        Ok(_) | Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(InvalidSetting::new(name, "it is no Unicode")),
    }
}

/// Where to listen, and how long an answer may take.
#[derive(Debug, Clone, Copy)]
pub struct Listen {
    pub(crate) address: SocketAddr,
    pub(crate) request_timeout: Duration,
}

impl Listen {
    /// At this address. `REQUEST_TIMEOUT`, in seconds, is what a request may take until
    /// its answer begins; default 30: twice what a connect may take by default, so that
    /// who waits for a database that is away is told so by the pool.
    ///
    /// # Errors
    ///
    /// It is no number from 1 on.
    pub fn at(address: SocketAddr) -> Result<Self, InvalidSetting> {
        let seconds = optional::<NonZeroU32>("REQUEST_TIMEOUT")?.map_or(30, NonZeroU32::get);
        Ok(Self { address, request_timeout: Duration::from_secs(seconds.into()) })
    }
}

/// At `LISTEN`, as `0.0.0.0:8080`; default 127.0.0.1:8080.
///
/// # Errors
///
/// It is no address with a port; or as [`Listen::at`].
pub fn listen() -> Result<Listen, InvalidSetting> {
    Listen::at(optional("LISTEN")?.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))))
}

/// What an application on Azure SQL is told by the environment.
pub struct AzureSqlSettings {
    /// [`AZURE_SQL`]. Without it, the emulator is used.
    pub connection_string: Option<String>,
    /// As [`listen`] has it.
    pub listen: Listen,
}

impl AzureSqlSettings {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// As [`listen`].
    pub fn from_env() -> Result<Self, InvalidSetting> {
        Ok(Self { connection_string: optional(AZURE_SQL)?, listen: listen()? })
    }
}
