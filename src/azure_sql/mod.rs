//! Azure SQL, over [tiberius]: Azure SQL Database, Managed Instance, SQL database
//! in Fabric. (Synapse and Fabric's warehouse take the same logins, but have not
//! been tried.)
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = entra_pool::azure_sql::connect(
//!     "Server=tcp:shop.database.windows.net;Database=orders;Authentication=Active Directory Default",
//! )?;
//! let mut conn = pool.get().await?;
//! let rows = conn.query("SELECT Column2 FROM TestTable", &[]).await?.into_first_result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`connect`] does all at once. [`Connector`] dials and logs in, [`Manager`]
//! makes its connections fit for deadpool's pool, of which [`Pool`] is an alias:
//! its builder, time limits, hooks and `status` are deadpool's own.
//!
//! In a program that logs through the `log` crate and has no `tracing` subscriber,
//! tiberius warns on every connect that credentials are sent unencrypted (target
//! `tiberius`). That is not so: the transport below it encrypts, which it does not see.

mod config;
mod connection;
mod connector;
mod dial;
mod driver;
mod error;
mod handshake;
mod link;
mod login_refused;
mod manager;
mod packet;
mod pool;
mod prelogin;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod replay;
mod server_error;
mod severe;
mod transport;

use std::sync::Arc;

pub use deadpool;
pub use tiberius;

pub use config::{Authentication, Config, ConfigBuilder, ConfigError, Encrypt, SyntaxError};
pub use connection::{Client, Connection};
pub use connector::Connector;
pub use error::{Error, is_transient};
pub use login_refused::LoginRefused;
pub use manager::{Manager, Recycling};
pub use pool::{
    Pool, PoolBuilder, PoolError, PooledConnection, builder, close_and_wait, keep_fresh, warm_up,
};
pub use server_error::{LoginError, ServerError};
pub use transport::Transport;

use config::Secret;

pub use crate::connect::{ConnectorReport, RetireReason, Stage};
use crate::{
    Cloud,
    credential::{self, DefaultCredential, ManagedIdentity, UserAssignedId},
    token::{Identity, TokenCredential},
};

/// A pool for a connection string (of ADO.NET, JDBC or a URL: see [`Config`] for
/// its keywords), with the identity that its `Authentication` names, else that of
/// the environment. Nothing is connected or asked for yet.
///
/// # Errors
///
/// [`Error`], if the string, the identity's settings or a CA file are not usable.
pub fn connect(connection_string: &str) -> Result<Pool, Error> {
    connector(connection_string).map(pool)
}

/// The connector that [`connect`] makes its pool on, for use under another pool or
/// none.
///
/// # Errors
///
/// As [`connect`].
pub fn connector(connection_string: &str) -> Result<Connector, Error> {
    let config: Config = connection_string.parse()?;
    let identity = Identity::new(config.credential()?);
    connector_of(&identity, config.without_identity())
}

/// As [`connect`], with an identity that other pools share.
///
/// # Errors
///
/// [`Error`], if the string or a CA file is not usable. A string that names an
/// identity of its own (`Authentication`, `User Id`) is refused.
pub fn connect_with(identity: &Identity, connection_string: &str) -> Result<Pool, Error> {
    connector_with(identity, connection_string).map(pool)
}

/// The connector that [`connect_with`] makes its pool on, for use under another pool
/// or none.
///
/// # Errors
///
/// As [`connect_with`].
pub fn connector_with(identity: &Identity, connection_string: &str) -> Result<Connector, Error> {
    connector_of(identity, connection_string.parse()?)
}

fn connector_of(identity: &Identity, config: Config) -> Result<Connector, Error> {
    let tokens = identity.tokens(config.token_scope().clone());
    Connector::new(config, tokens)
}

fn pool(connector: Connector) -> Pool {
    #[allow(clippy::expect_used)]
    builder(Manager::new(connector))
        .build()
        .expect("deadpool refuses time limits without a runtime only")
}

impl Config {
    /// The credential that [`connect`] would use: that of `Authentication`, else
    /// that of the environment. The scope, which follows from the host, tells the
    /// cloud, and with it whom applications ask.
    ///
    /// # Errors
    ///
    /// As [`credential::from_env`]; also if what a service principal needs is
    /// neither in the string nor in the environment.
    pub fn credential(&self) -> Result<Arc<dyn TokenCredential>, credential::ConfigError> {
        let user_assigned =
            self.client_id.clone().map(|id| (UserAssignedId::ClientId(id), "User Id"));
        let cloud = Cloud::of_scope(self.token_scope()).or(Cloud::of_azure_sql_host(self.host()));
        let default = DefaultCredential::new().cloud(cloud);
        let chosen = match user_assigned.clone() {
            Some((id, by)) => default.clone().user_assigned(id, by),
            None => default.clone(),
        };
        let member = match self.authentication {
            Some(Authentication::Default) | None => return chosen.build(),
            Some(Authentication::ManagedIdentity) => {
                return Ok(Arc::new(match user_assigned {
                    Some((id, by)) => ManagedIdentity::user_assigned(id).id_setting(by).build()?,
                    None => ManagedIdentity::system_assigned().build()?,
                }));
            }
            Some(Authentication::WorkloadIdentity) => return chosen.workload_identity(),
            Some(Authentication::ServicePrincipal) => {
                return default.service_principal(
                    self.tenant.as_deref(),
                    self.client_id.as_deref(),
                    self.client_secret.as_ref().map(Secret::reveal),
                );
            }
            Some(Authentication::Environment) => credential::Member::Environment,
            Some(Authentication::AzureCli) => credential::Member::AzureCli,
            Some(Authentication::AzureDeveloperCli) => credential::Member::AzureDeveloperCli,
            Some(Authentication::AzurePipelines) => credential::Member::AzurePipelines,
        };
        default.only(member)
    }
}
