use std::{fmt, sync::Arc};

use super::{
    Config, ConfigError, Connection, ConnectorReport, Encrypt, Error, RetireReason, driver::Driver,
};
use crate::{
    clock::Clock,
    connect::{Engine, Sent},
    telemetry::{Database, Ledger},
    tls,
    token::TokenCache,
};

/// What TLS says it carries where it comes first (MS-TDS 3.2.5.2, TDS 8.0).
const TDS_8: &[u8] = b"tds/8.0";

/// Dials an Azure SQL server and logs in with a token. No pool; cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Engine<Driver>>);

impl Connector {
    /// A connector to where `config` says, with tokens from `tokens`. All its
    /// connections share one TLS configuration and so resume TLS sessions.
    ///
    /// # Errors
    ///
    /// [`Error::TlsConfig`], if the trusted certificates cannot be read;
    /// [`Error::Config`], if the tokens are for another scope, or the
    /// configuration names an identity of its own.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        config.refuse_identity()?;
        if config.scope != *tokens.scope() {
            let (wanted, tokens) = (config.scope, tokens.scope().clone());
            return Err(ConfigError::OtherScope { wanted, tokens }.into());
        }
        let mut tls = tls::client_config(&config.trust)?;
        if config.encrypt == Encrypt::Strict {
            tls.alpn_protocols = vec![TDS_8.to_vec()];
        }
        let server = (config.host.as_str(), config.port);
        let database = Database::new("microsoft.sql_server", [server], config.database.as_deref());
        let ledger = Ledger::new(database, RetireReason::ALL);
        let (limit, clock) = (config.connect_timeout, tokens.clock().clone());
        let driver = Driver { config, tls: Arc::new(tls), clock };
        Ok(Self(Arc::new(Engine::new(driver, tokens, ledger, limit))))
    }

    /// Connects and logs in.
    ///
    /// A refused login is retried once if the identity has another token than the refused
    /// one. Transient errors are retried until `Connect Timeout`, after pauses of 1 s that
    /// double up to 5 s. So are errors that may recover where this server has accepted a
    /// login before; otherwise these are retried twice. `ConnectRetryCount` and
    /// `ConnectRetryInterval` set other numbers.
    ///
    /// # Errors
    ///
    /// [`Error`]; within the configuration's `Connect Timeout` in any case.
    pub async fn connect(&self) -> Result<Connection, Error> {
        self.0.connect().await
    }

    /// Returns the current status.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        self.0.report()
    }

    /// What it connects to.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.driver.config
    }

    /// What [telemetry](crate::telemetry) calls a pool of its connections:
    /// `host:port/database`.
    #[must_use]
    pub fn pool_name(&self) -> &str {
        self.0.ledger.pool_name()
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> &TokenCache {
        &self.0.tokens
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        self.0.clock()
    }

    pub(super) fn sent(&self) -> &Sent {
        &self.0.sent
    }

    pub(super) fn ledger(&self) -> &Ledger<RetireReason> {
        &self.0.ledger
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("config", &self.0.driver.config)
            .field("tokens", &self.0.tokens)
            .finish_non_exhaustive()
    }
}
