use std::{path::PathBuf, time::Duration};

use super::{Authentication, Config, Encrypt, keywords::Setting, secret::Secret};
use crate::{tls::Trust, token::Scope};

/// Makes a [`Config`] setting by setting; what is left out has the default of
/// [`Config`]'s table.
///
/// ```
/// use std::time::Duration;
/// use entra_pool::azure_sql::{Authentication, Config};
///
/// let config = Config::builder("shop.database.windows.net")
///     .database("orders")
///     .authentication(Authentication::ManagedIdentity)
///     .client_id("11111111-2222-3333-4444-555555555555")
///     .connect_timeout(Duration::from_secs(60))
///     .max_pool_size(16)
///     .build()?;
/// # Ok::<(), entra_pool::azure_sql::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConfigBuilder {
    /// Under which names a string has set them.
    pub(super) written: Vec<(Setting, String)>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) database: Option<String>,
    pub(super) authentication: Option<Authentication>,
    pub(super) client_id: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) client_secret: Option<Secret>,
    pub(super) encrypt: Option<Encrypt>,
    /// What a string says, which is not enough.
    pub(super) trust_server_certificate: bool,
    pub(super) any_certificate: Option<Trust>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) server_certificate: Option<PathBuf>,
    pub(super) host_in_certificate: Option<String>,
    pub(super) application_name: Option<String>,
    pub(super) workstation_id: Option<String>,
    pub(super) read_only: bool,
    pub(super) packet_size: Option<u32>,
    pub(super) multi_subnet_failover: bool,
    pub(super) connect_timeout: Option<Duration>,
    /// Zero for none, here and below.
    pub(super) command_timeout: Option<Duration>,
    pub(super) retry_count: Option<u32>,
    pub(super) retry_interval: Option<Duration>,
    pub(super) max_pool_size: Option<usize>,
    pub(super) min_pool_size: Option<usize>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) routing_suffixes: Vec<String>,
    pub(super) scope: Option<Scope>,
}

impl Config {
    /// A configuration for the server `host`: a host name or an address, no
    /// more.
    pub fn builder(host: impl Into<String>) -> ConfigBuilder {
        ConfigBuilder { host: host.into(), ..ConfigBuilder::default() }
    }
}

impl ConfigBuilder {
    /// The server's port. Default: 1433.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The database (`Database`). Without it a login goes to `master`.
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.database = Some(name.into());
        self
    }

    /// Which identity [`connect`](crate::azure_sql::connect) is to take
    /// (`Authentication`). Default: that of the environment.
    pub fn authentication(mut self, authentication: Authentication) -> Self {
        self.authentication = Some(authentication);
        self
    }

    /// The client ID of a user-assigned managed identity, a workload identity or
    /// a service principal (`User Id`).
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// The service principal's tenant (`Entra Tenant`). Default:
    /// `AZURE_TENANT_ID`.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The service principal's secret (`Password`). Default:
    /// `AZURE_CLIENT_SECRET`. Zeroised on drop, and never shown.
    pub fn client_secret(mut self, secret: impl Into<String>) -> Self {
        self.client_secret = Some(Secret::new(secret.into()));
        self
    }

    /// How connections are encrypted (`Encrypt`). Default:
    /// [`Encrypt::Mandatory`].
    pub fn encrypt(mut self, encrypt: Encrypt) -> Self {
        self.encrypt = Some(encrypt);
        self
    }

    /// A PEM file with the only root certificates to trust
    /// (`TrustServerCertificateCA`). Default: the platform's.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// A file, PEM or DER, with the only certificate that the server may show,
    /// whatever name it bears (`ServerCertificate`).
    pub fn server_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.server_certificate = Some(path.into());
        self
    }

    /// The name that the server's certificate must bear
    /// (`HostNameInCertificate`). Default: the server's host.
    pub fn host_in_certificate(mut self, name: impl Into<String>) -> Self {
        self.host_in_certificate = Some(name.into());
        self
    }

    /// As [`Config::dangerous_trust_any_certificate_on_loopback`].
    pub fn dangerous_trust_any_certificate_on_loopback(mut self) -> Self {
        self.any_certificate = Some(Trust::AnyOnLoopback);
        self
    }

    /// As [`Config::dangerous_trust_any_certificate_anywhere`].
    pub fn dangerous_trust_any_certificate_anywhere(mut self) -> Self {
        self.any_certificate = Some(Trust::AnyAnywhere);
        self
    }

    /// What is shown as `program_name` in `sys.dm_exec_sessions`, of 128
    /// characters at most (`Application Name`). Default: `entra-pool`.
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = Some(name.into());
        self
    }

    /// What is shown as `host_name` in `sys.dm_exec_sessions`, of 128 characters
    /// at most (`Workstation ID`). Default: this machine's name.
    pub fn workstation_id(mut self, name: impl Into<String>) -> Self {
        self.workstation_id = Some(name.into());
        self
    }

    /// Whether sessions only read, so that a secondary replica may serve them
    /// (`ApplicationIntent`). Default: no.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// The size of TDS packets to ask for, in bytes from 512 to 32,767 (`Packet
    /// Size`). Default: 4,096.
    pub fn packet_size(mut self, bytes: u32) -> Self {
        self.packet_size = Some(bytes);
        self
    }

    /// Whether all addresses of the server are tried at once
    /// (`MultiSubnetFailover`). Default: one after the other, soon.
    pub fn multi_subnet_failover(mut self, at_once: bool) -> Self {
        self.multi_subnet_failover = at_once;
        self
    }

    /// The time for all of a connect, from the token to the login, with all its tries
    /// (`Connect Timeout`). Default: 15 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = Some(limit);
        self
    }

    /// The time for the server to answer a request, or to go on answering
    /// (`Command Timeout`). Zero or `None`: no limit. Default: 30 s.
    pub fn command_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.command_timeout = Some(limit.into().unwrap_or_default());
        self
    }

    /// How often, at most 255 times, a login that failed with a transient error
    /// is tried again (`ConnectRetryCount`). Default: as [`Config`] describes.
    pub fn retry_count(mut self, count: u32) -> Self {
        self.retry_count = Some(count);
        self
    }

    /// The pause before such a try, from 1 s to 60 s (`ConnectRetryInterval`).
    /// Default: 1 s, doubling up to 5 s.
    pub fn retry_interval(mut self, pause: Duration) -> Self {
        self.retry_interval = Some(pause);
        self
    }

    /// The most connections in a pool, up to 32,767 (`Max Pool Size`). Default:
    /// deadpool's, 2 for each CPU.
    pub fn max_pool_size(mut self, size: usize) -> Self {
        self.max_pool_size = Some(size);
        self
    }

    /// The connections that a pool is to have from the start (`Min Pool Size`).
    /// Default: none.
    pub fn min_pool_size(mut self, size: usize) -> Self {
        self.min_pool_size = Some(size);
        self
    }

    /// When a pooled connection has had its day; up to a tenth earlier, so that
    /// not all go at once (`Connection Lifetime`). Zero or `None`: never.
    /// Default: 1 h.
    pub fn max_lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.max_lifetime = Some(lifetime.into().unwrap_or_default());
        self
    }

    /// One more end of host names that a login may be routed to; see
    /// [`Config::allow_routing_to`].
    pub fn allow_routing_to(mut self, suffix: impl Into<String>) -> Self {
        self.routing_suffixes.push(suffix.into());
        self
    }

    /// What tokens are asked for with (`Entra Scope`). Default: it follows from
    /// the host, if that is of an Azure cloud.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }
}
