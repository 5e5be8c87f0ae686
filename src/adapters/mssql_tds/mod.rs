//! Azure SQL over Microsoft's driver `mssql-tds`: feature `unstable-mssql-tds`.

mod driver;
mod pool;

use std::{fmt, sync::Arc};

pub use mssql_tds;

pub use self::pool::{Connection, Manager, PooledConnection};

use self::driver::{Driver, refuse_unsupported};
use crate::{
    azure_sql::{self, Config, Error},
    connect::{self, ConnectorReport, Engine},
    telemetry::Database,
    token::TokenCache,
};

/// A deadpool pool of [`Connection`]s.
pub type Pool = deadpool::managed::Pool<Manager, PooledConnection>;

/// Connects to an Azure SQL server by mssql-tds. Cheap to clone; clones share their counters.
#[derive(Clone)]
pub struct Connector(Arc<Engine<Driver>>);

impl Connector {
    /// A connector to where `config` says, with tokens from `tokens`.
    ///
    /// # Errors
    ///
    /// As [`azure_sql::Connector::new`]; and [`Error::Config`], which names it, for a setting that
    /// the driver cannot honour.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        refuse_unsupported(&config)?;
        let azure = azure_sql::Connector::new(config, tokens.clone())?;
        let config = azure.config();
        let server = (config.host.as_str(), config.port);
        let database = Database::new("microsoft.sql_server", [server], config.database.as_deref());
        let limit = config.connect_timeout;
        Ok(Self(Arc::new(Engine::new(Driver { azure }, tokens, database, limit))))
    }

    /// Connects and logs in, as [`azure_sql::Connector::connect`] does.
    ///
    /// # Errors
    ///
    /// [`Error`]; within the configuration's `Connect Timeout` in any case.
    pub async fn connect(&self) -> Result<Connection, Error> {
        self.0.connect(self.0.clock().monotonic()).await
    }

    /// A pool of its connections, as its configuration says. Nothing is connected yet.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool_builder().build()
    }

    /// A builder for a pool of its connections.
    pub fn pool_builder(&self) -> connect::PoolBuilder<Manager, PooledConnection> {
        let Config { connect_timeout, max_size, min_size, .. } = *self.0.driver.azure.config();
        let manager = Manager::new(self.clone());
        let state = manager.state.clone();
        connect::PoolBuilder::new(manager, &state, connect_timeout, max_size, min_size)
    }

    /// Returns the current status.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        self.0.report()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.0.driver.azure).finish()
    }
}
