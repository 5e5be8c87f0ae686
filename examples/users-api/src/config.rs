use std::num::NonZeroUsize;

use examples_common::settings::{self, AzureSqlSettings, InvalidSetting};

/// What the environment sets.
pub(crate) struct Config {
    /// Database and address.
    pub(crate) azure_sql: AzureSqlSettings,
    /// `POOL_SIZE`, in connections; default 1.
    pub(crate) pool_size: NonZeroUsize,
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, InvalidSetting> {
        Ok(Self {
            azure_sql: AzureSqlSettings::from_env()?,
            pool_size: settings::optional("POOL_SIZE")?.unwrap_or(NonZeroUsize::MIN),
        })
    }
}
