use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use tokio_postgres::config::{Host as PgHost, LoadBalanceHosts, SslMode, SslNegotiation};

use super::{ConfigError, keywords, pool::Recycling};
use crate::{Cloud, token::Scope};

/// Where to connect to, as whom and how: all but the token.
///
/// Read from a URL or from a libpq string:
///
/// ```
/// use entra_pool::postgres::Config;
///
/// let url: Config = "postgres://shop-identity@shop.postgres.database.azure.com/restaurant".parse()?;
/// let pairs: Config =
///     "host=shop.postgres.database.azure.com user=shop-identity dbname=restaurant".parse()?;
/// assert_eq!(url.to_string(), pairs.to_string());
/// # Ok::<(), entra_pool::postgres::ConfigError>(())
/// ```
///
/// All keywords of [`tokio_postgres::Config`] hold, several hosts,
/// `target_session_attrs`, `application_name` and `options` among them, but
/// for these:
///
/// | keyword | meaning |
/// |---|---|
/// | `user` | The role. Left out: the name in the token (a user-assigned identity's or a person's; for a group or a system-assigned identity, say it). In a URL, an `@` in it is written `%40`. |
/// | `password` | Refused: the token is the password. |
/// | `sslmode` | `verify-full`, which is also meant where it is left out. Anything below is refused, because the token would go to whoever answers. |
/// | `sslrootcert` | A PEM file with the only root certificates to trust. Default: the platform's. |
/// | `connect_timeout` | Seconds for a whole connect: token, dialling, TLS, login and the second try. Default, also in place of 0: 15. |
/// | `keepalives_idle` | Default: 30 s, because Azure drops idle flows after some 4 minutes. |
/// | `entra_scope` | What the token is asked for. Default: by the host's suffix. Needed for any other host. |
/// | `entra_client_id` | The client ID of the user-assigned managed identity, for [`connect`](super::connect). |
///
/// A host that is a Unix socket is refused: there is no TLS on it.
#[derive(Clone)]
pub struct Config {
    /// Everything but hosts, time limit and secret.
    pub(super) session: tokio_postgres::Config,
    pub(super) hosts: Vec<Host>,
    pub(super) scope: Option<Scope>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) client_id: Option<String>,
    pub(super) connect_timeout: Duration,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) recycling: Recycling,
}

/// One of the hosts to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    /// `hostaddr`, which spares the look-up.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
/// What tokio-postgres says where nobody has set it.
const DRIVERS_KEEPALIVES_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

impl Config {
    /// The same of a configuration of tokio-postgres.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if it has a password, no host or a Unix socket, or
    /// turns TLS off.
    pub fn new(pg: &tokio_postgres::Config) -> Result<Self, ConfigError> {
        if pg.get_password().is_some() {
            return Err(ConfigError::password());
        }
        if pg.get_ssl_mode() == SslMode::Disable {
            return Err(ConfigError::ssl_mode("disable"));
        }
        Ok(Self {
            session: session(pg),
            hosts: hosts(pg)?,
            scope: None,
            ca_file: None,
            client_id: None,
            connect_timeout: pg.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT),
            max_lifetime: Some(MAX_LIFETIME),
            recycling: Recycling::default(),
        })
    }

    /// The role to log in as (`user`). Default: the name in the token.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.session.user(user);
        self
    }

    /// What tokens are asked for (`entra_scope`). Default: by the host.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// A PEM file with the only root certificates to trust (`sslrootcert`).
    /// Default: the platform's.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// How long a whole connect may take: token, dialling, TLS, login and the
    /// second try (`connect_timeout`). Default: 15 s.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// When a pooled connection has had its day; up to a tenth earlier, so that
    /// not all go at once. `None`: never. Default: 1 h.
    #[must_use]
    pub fn max_lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.max_lifetime = lifetime.into();
        self
    }

    /// What is done to a connection between two borrowers. Default:
    /// [`Recycling::Clean`].
    #[must_use]
    pub fn recycling(mut self, recycling: Recycling) -> Self {
        self.recycling = recycling;
        self
    }

    /// What tokens for these hosts are asked for: `entra_scope`, else by the
    /// hosts' suffix.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownHost`], if a host is not of Azure and no scope is
    /// set; another, if the hosts belong to different clouds.
    pub fn token_scope(&self) -> Result<Scope, ConfigError> {
        if let Some(scope) = &self.scope {
            return Ok(scope.clone());
        }
        let cloud = |host: &Host| {
            Cloud::of_postgresql_host(&host.name)
                .ok_or_else(|| ConfigError::UnknownHost { host: host.name.clone() })
        };
        // There is one host at least.
        let first = cloud(&self.hosts[0])?;
        for host in &self.hosts {
            if cloud(host)? != first {
                return Err(ConfigError::keyword(
                    "host",
                    "names hosts of different clouds, for which no one token is good",
                ));
            }
        }
        Ok(first.postgresql_scope())
    }
}

/// All settings but hosts, time limit and password.
///
/// Hosts are tried one by one, each with a copy of this, and tokio-postgres
/// cannot take a host away from a configuration.
fn session(pg: &tokio_postgres::Config) -> tokio_postgres::Config {
    let mut session = tokio_postgres::Config::new();
    if let Some(user) = pg.get_user().filter(|user| !user.is_empty()) {
        session.user(user);
    }
    if let Some(dbname) = pg.get_dbname() {
        session.dbname(dbname);
    }
    if let Some(options) = pg.get_options() {
        session.options(options);
    }
    if let Some(name) = pg.get_application_name() {
        session.application_name(name);
    }
    if let Some(timeout) = pg.get_tcp_user_timeout() {
        session.tcp_user_timeout(*timeout);
    }
    session.keepalives(pg.get_keepalives());
    session.keepalives_idle(match pg.get_keepalives_idle() {
        DRIVERS_KEEPALIVES_IDLE => KEEPALIVES_IDLE,
        idle => idle,
    });
    if let Some(interval) = pg.get_keepalives_interval() {
        session.keepalives_interval(interval);
    }
    if let Some(retries) = pg.get_keepalives_retries() {
        session.keepalives_retries(retries);
    }
    session
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(pg.get_ssl_negotiation())
        .target_session_attrs(pg.get_target_session_attrs())
        .channel_binding(pg.get_channel_binding())
        .load_balance_hosts(pg.get_load_balance_hosts());
    session
}

fn hosts(pg: &tokio_postgres::Config) -> Result<Vec<Host>, ConfigError> {
    let (names, addresses, ports) = (pg.get_hosts(), pg.get_hostaddrs(), pg.get_ports());
    if names.is_empty() {
        return Err(match addresses {
            [] => ConfigError::keyword("host", "is missing"),
            _ => ConfigError::keyword(
                "hostaddr",
                "stands without host, whose name the server's certificate must bear",
            ),
        });
    }
    if !addresses.is_empty() && addresses.len() != names.len() {
        return Err(ConfigError::keyword("hostaddr", "must be as many as host"));
    }
    if ports.len() > 1 && ports.len() != names.len() {
        return Err(ConfigError::keyword("port", "must be one, or as many as host"));
    }
    let name = |host: &PgHost| match host {
        PgHost::Tcp(name) if name.is_empty() => Err(ConfigError::keyword("host", "is empty")),
        PgHost::Tcp(name) if name.contains('@') => {
            Err(ConfigError::keyword("user", "has an @, which a URL wants written %40"))
        }
        PgHost::Tcp(name) => Ok(name.clone()),
        #[cfg(unix)]
        PgHost::Unix(_) => Err(ConfigError::keyword(
            "host",
            "is a Unix socket, which has no TLS, and a token is only sent over TLS",
        )),
    };
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    names
        .iter()
        .enumerate()
        .map(|(at, host)| {
            Ok(Host { name: name(host)?, address: addresses.get(at).copied(), port: port(at) })
        })
        .collect()
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (ours, rest) = keywords::take(text)?;
        let pg: tokio_postgres::Config = rest.parse().map_err(ConfigError::Unreadable)?;
        if let Some(mode) = ours.sslmode.filter(|mode| mode != "verify-full") {
            return Err(ConfigError::ssl_mode(&mode));
        }
        let mut config = Self::new(&pg)?;
        config.ca_file = ours.sslrootcert.map(PathBuf::from);
        config.client_id = ours.entra_client_id;
        config.scope = ours.entra_scope.map(Scope::new).transpose()?;
        Ok(config)
    }
}

impl TryFrom<tokio_postgres::Config> for Config {
    type Error = ConfigError;

    fn try_from(pg: tokio_postgres::Config) -> Result<Self, ConfigError> {
        Self::new(&pg)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.session.get_user() {
            write!(f, "{}@", user.replace('@', "%40"))?;
        }
        for (at, host) in self.hosts.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}", host.name, host.port)?;
        }
        write!(f, "/{}", self.session.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `options` may hold what the application thinks secret.
        f.debug_struct("Config")
            .field("url", &self.to_string())
            .field("scope", &self.scope)
            .field("ca_file", &self.ca_file)
            .field("client_id", &self.client_id)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_lifetime", &self.max_lifetime)
            .field("recycling", &self.recycling)
            .finish_non_exhaustive()
    }
}

impl Config {
    pub(super) fn in_random_order(&self) -> bool {
        self.session.get_load_balance_hosts() == LoadBalanceHosts::Random
    }

    pub(super) fn starts_with_tls(&self) -> bool {
        self.session.get_ssl_negotiation() == SslNegotiation::Direct
    }
}
