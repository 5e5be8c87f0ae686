use std::net::SocketAddr;

use examples_common::settings::{self, InvalidSetting};

/// What the environment sets.
pub(crate) struct Config {
    /// `AZURE_SQL_CONNECTIONSTRING`, the name that Service Connector gives it. Without
    /// it, the emulator is used.
    pub(crate) connection_string: Option<String>,
    /// `LISTEN`; default 127.0.0.1:8080.
    pub(crate) listen: SocketAddr,
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, InvalidSetting> {
        Ok(Self {
            connection_string: settings::optional("AZURE_SQL_CONNECTIONSTRING")?,
            listen: settings::listen()?,
        })
    }
}
