use std::{net::SocketAddr, num::NonZeroUsize};

use examples_common::settings::{self, InvalidSetting};

/// What the environment sets.
pub(crate) struct Config {
    /// `AZURE_SQL_CONNECTIONSTRING`, the name that Service Connector gives it. Without
    /// it, the emulator is used.
    pub(crate) connection_string: Option<String>,
    /// `LISTEN`; default 127.0.0.1:8080.
    pub(crate) listen: SocketAddr,
    /// `POOL_SIZE`, in connections; default 1.
    pub(crate) pool_size: NonZeroUsize,
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, InvalidSetting> {
        Ok(Self {
            connection_string: settings::optional("AZURE_SQL_CONNECTIONSTRING")?,
            listen: settings::listen()?,
            pool_size: settings::optional("POOL_SIZE")?.unwrap_or(NonZeroUsize::MIN),
        })
    }
}
