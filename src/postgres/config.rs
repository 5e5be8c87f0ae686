use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use rustls::{ClientConfig, client::danger::ServerCertVerifier, pki_types::ServerName};
use tokio_postgres::config::{Host as PgHost, SslMode};

use super::{
    ConfigError, Error, Recycling,
    keywords::{self, Settings},
    variables::Named,
};
use crate::{
    Cloud, TlsConfigError, clock, cloud,
    connect::{
        KEEPALIVE, KEEPALIVE_RETRIES, TCP_USER_TIMEOUT, keepalive_interval, setters, socket_time,
    },
    credential::{DefaultCredential, Environment, UserAssignedId},
    pasted::is_one_of,
    tls::{self, OwnConfig, Trust},
    token::{Scope, TokenCredential, with_causes},
};

/// The servers, the role and the settings of connections: everything except the token.
///
/// Parse it from a URL, from a libpq string, or from the form of Npgsql or pgjdbc:
///
/// ```
/// use entra_pool::postgres::Config;
///
/// let url: Config = "postgres://shop.postgres.database.azure.com/restaurant".parse()?;
/// for other in [
///     "host=shop.postgres.database.azure.com dbname=restaurant",
///     "Host=shop.postgres.database.azure.com;Database=restaurant",
///     "jdbc:postgresql://shop.postgres.database.azure.com/restaurant",
/// ] {
///     assert_eq!(other.parse::<Config>()?.to_string(), url.to_string());
/// }
/// # Ok::<(), entra_pool::postgres::ConfigError>(())
/// ```
///
/// Or create it with [`new`](Self::new) from a [`tokio_postgres::Config`], which has a method for
/// each of its keywords, or with [`from_env`](Self::from_env) from `PGHOST` and related variables.
///
/// The first name of a keyword is libpq's or this crate's; the others are those of Npgsql, pgjdbc,
/// pgx and asyncpg. Every form accepts every name. Names are not case-sensitive, and spaces and `_`
/// in them are ignored. A keyword without a value counts as absent, but `ssl…=` and `entra_…=` are
/// refused. White space, a byte-order mark and semicolons around the string are ignored. These are
/// errors: an unknown keyword, two keywords for one setting, and a placeholder that a template left
/// in a value (`{your_database}`, `<server>`, `${SERVER}`).
///
#[doc = include_str!("settings.md")]
///
/// A Unix socket as host is refused, because it does not support TLS. tokio-postgres verifies the
/// certificate and its name whenever it uses TLS, so the only level is `verify-full`.
///
/// # Other keywords
///
/// These keywords of other drivers have no effect here. The values in the second column are
/// ignored; a debug event names the ignored keywords of a string. Every other value is refused with
/// the reason and the alternative in the third column, because ignoring it would make the
/// connection less safe, select another server or identity, or change the program's behaviour.
///
#[doc = include_str!("keywords.md")]
#[derive(Clone)]
#[must_use]
pub struct Config {
    /// All settings except the hosts, the time limit and the password.
    pub(crate) session: tokio_postgres::Config,
    pub(crate) hosts: Vec<Host>,
    pub(super) scope: Option<Scope>,
    cli_timeout: Option<Duration>,
    pub(crate) trust: Trust,
    pub(super) max_size: Option<usize>,
    pub(super) min_size: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) recycling: Recycling,
    pub(super) maintenance: bool,
}

/// A host of the connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// `hostaddr`, which replaces the DNS lookup.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// The default of tokio-postgres.
const DRIVERS_KEEPALIVES_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

impl Config {
    /// Creates a configuration from a [`tokio_postgres::Config`], which has typed settings:
    ///
    /// ```
    /// use entra_pool::postgres::{Config, tokio_postgres};
    ///
    /// let mut session = tokio_postgres::Config::new();
    /// session.host("shop.postgres.database.azure.com").dbname("restaurant");
    /// let config = Config::new(&session)?.user("shop-identity").max_lifetime(None);
    /// # Ok::<(), entra_pool::postgres::ConfigError>(())
    /// ```
    ///
    /// Its `sslmode` is raised to `verify-full`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if `pg` has a password, no host or a Unix socket, or disables TLS.
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
            cli_timeout: None,
            trust: Trust::Platform,
            max_size: None,
            min_size: 0,
            connect_timeout: pg.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT),
            max_lifetime: Some(MAX_LIFETIME),
            idle_timeout: None,
            recycling: Recycling::default(),
            maintenance: true,
        })
    }

    /// Creates a configuration from libpq's variables `PGHOST`, `PGPORT`, `PGUSER` and
    /// `PGDATABASE`. Only this function reads them, and it does not read other variables of libpq:
    /// a `PGPASSWORD` that is set for `psql` is harmless.
    ///
    /// ```no_run
    /// # fn run(identity: entra_pool::token::Identity) -> Result<(), Box<dyn std::error::Error>> {
    /// use entra_pool::postgres::{self, Config, Connector};
    ///
    /// let config = Config::from_env()?;
    /// let tokens = identity.tokens(config.token_scope()?);
    /// let pool = Connector::new(config, tokens)?.pool();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if `PGHOST` is not set or a value is invalid.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::of_variables(&Environment::from_process())
    }

    /// Like [`from_env`](Self::from_env), with the variables of `environment`.
    ///
    /// # Errors
    ///
    /// The errors of [`from_env`](Self::from_env).
    #[cfg(any(test, feature = "test-util"))]
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        Self::of_variables(environment)
    }

    fn of_variables(environment: &Environment) -> Result<Self, ConfigError> {
        let mut pg = tokio_postgres::Config::new();
        let Some(hosts) = environment.get("PGHOST") else {
            return Err(ConfigError::value("PGHOST", "is not set"));
        };
        for host in hosts.split(',') {
            pg.host(host);
        }
        for port in environment.get("PGPORT").iter().flat_map(|ports| ports.split(',')) {
            let port = port.parse().map_err(|_| ConfigError::value("PGPORT", "is not a port"))?;
            pg.port(port);
        }
        if let Some(user) = environment.get("PGUSER") {
            pg.user(user);
        }
        if let Some(database) = environment.get("PGDATABASE") {
            pg.dbname(database);
        }
        Self::new(&pg)
    }

    /// Sets the role of the login (`user`). Default: the name in the token.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.session.user(user);
        self
    }

    setters! {
        /// Sets the scope of the tokens (`entra_scope`). Default: derived from the host.
        scope(scope: Scope) => scope = Some(scope);

        /// Sets a PEM file with the only root certificates to trust (`sslrootcert`). Default: the
        /// platform's roots.
        ca_file(path: impl Into<PathBuf>) => trust = Trust::Roots(path.into());

        /// Sets a custom TLS configuration, with its own roots, client certificates and cipher
        /// suites. It replaces `sslrootcert`, so you are responsible for verifying the server.
        /// `sslnegotiation=direct` replaces its ALPN protocols.
        tls(config: Arc<ClientConfig>) => trust = Trust::Own(OwnConfig(config));

        /// Sets the maximum number of connections in a pool (`pool_max_conns`). Default:
        /// deadpool's, 2 per CPU.
        max_size(size: usize) => max_size = Some(size);

        /// Sets the number of connections that a pool keeps open once it has connected
        /// (`pool_min_conns`). Default: 0.
        min_size(size: usize) => min_size = size;

        /// Sets the timeout for a whole connect, from the token to the login, including retries
        /// (`connect_timeout`). Default: 15 s.
        connect_timeout(limit: Duration) => connect_timeout = limit;

        /// Sets the maximum age of a pooled connection (`pool_max_conn_lifetime`). Each connection
        /// is retired at a random time up to a third earlier, so that they are not all replaced at
        /// once. Zero or `None`: no limit. Default: 1 h.
        max_lifetime(lifetime: impl Into<Option<Duration>>)
            => max_lifetime = clock::limit(lifetime);

        /// Sets how long a pooled connection may be idle (`pool_max_conn_idle_time`). Zero or
        /// `None`: no limit. Default: `None`.
        ///
        /// The time counts from the last checkout, because deadpool does not record the return.
        idle_timeout(limit: impl Into<Option<Duration>>) => idle_timeout = clock::limit(limit);

        /// Sets how a connection is cleaned between two borrowers. Default: [`Recycling::Clean`].
        recycling(recycling: Recycling) => recycling = recycling;

        /// Sets whether a task in the background, which the first connect starts, maintains a pool.
        /// Twice a second, the task closes idle connections that are broken, too old or idle for
        /// too long, opens connections up to [`min_size`](Self::min_size) at most every 30 s, and refreshes the token
        /// when that is due. Default: `true`.
        maintenance(maintenance: bool) => maintenance = maintenance;
    }

    /// Sets after how much silence TCP sends the first keepalive (`keepalives_idle`). Further
    /// keepalives follow at intervals of a third of this time; after three without an answer, the
    /// connection is closed. Times are limited to 1 s to 9 h. Zero or `None`: no keepalives.
    /// Default: 30 s, because Azure drops idle connections after as little as 4 minutes.
    pub fn keepalive(mut self, idle: impl Into<Option<Duration>>) -> Self {
        let idle = socket_time(idle);
        self.session.keepalives(idle.is_some());
        if let Some(idle) = idle {
            self.session.keepalives_idle(idle).keepalives_interval(keepalive_interval(idle));
        }
        self
    }

    /// Sets how long sent data may remain unacknowledged before the connection is closed
    /// (`tcp_user_timeout`), on Linux. Times are limited to 1 s to 9 h. Zero or `None`: as long as
    /// the system allows, usually about 15 minutes. Default: 30 s.
    pub fn tcp_user_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.session.tcp_user_timeout(socket_time(limit).unwrap_or_default());
        self
    }

    /// Returns the verifier of the server's certificate, for a diagnostic that performs a TLS
    /// handshake itself, or that wraps the verifier to record the certificate: pass a configuration
    /// with the wrapper to [`tls`](Self::tls).
    ///
    /// # Errors
    ///
    /// [`TlsConfigError`], if the trusted certificates cannot be read, or if [`tls`](Self::tls) has
    /// set a configuration, because rustls does not return its verifier.
    pub fn certificate_verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, TlsConfigError> {
        tls::verifier(&self.trust)
    }

    /// Refuses values that the setters and those of tokio-postgres accept, but that cannot work.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (user, min, max) = (self.session.get_user(), self.min_size, self.max_size);
        ConfigError::refuse(&[
            (self.connect_timeout.is_zero(), "connect_timeout", "is 0: set a longer time"),
            (user == Some(""), "user", "is empty: leave it out to use the name in the token"),
            (max == Some(0), "pool_max_conns", "is 0: a pool needs at least one connection"),
            (max.is_some_and(|max| min > max), "pool_min_conns", "is more than pool_max_conns"),
        ])
    }

    /// Parses a string and returns the configuration and the credential described by the
    /// environment ([`credential::from_env`](crate::credential::from_env)). `entra_client_id`
    /// limits the credential to one identity.
    ///
    /// # Errors
    ///
    /// The errors of [`str::parse`]; [`Error::Identity`], if the environment does not describe the
    /// identity.
    pub fn parse_with_credential(text: &str) -> Result<(Self, Arc<dyn TokenCredential>), Error> {
        let (config, client_id) = parse(text)?;
        let named = client_id.map(|id| (id, keywords::CLIENT_ID));
        Ok((config.clone(), config.credential(named).build()?))
    }

    /// Returns a builder for the credential of the environment. A client ID limits it to one
    /// identity.
    pub(super) fn credential(&self, client_id: Option<Named>) -> DefaultCredential {
        let cloud = self.token_scope().ok().as_ref().and_then(Cloud::of_scope);
        let default = DefaultCredential::new().cloud(cloud).cli_timeout(self.cli_timeout);
        match client_id {
            Some((id, setting)) => default.user_assigned(UserAssignedId::ClientId(id), setting),
            None => default,
        }
    }

    /// Returns the scope of tokens for these hosts: `entra_scope`, otherwise derived from the
    /// hosts' suffix.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownHost`], if a host does not belong to Azure and no scope is set;
    /// another error, if the hosts belong to different clouds.
    pub fn token_scope(&self) -> Result<Scope, ConfigError> {
        if let Some(scope) = &self.scope {
            return Ok(scope.clone());
        }
        let scope = |host: &Host| {
            cloud::postgresql_scope(&host.name)
                .ok_or_else(|| ConfigError::UnknownHost { host: host.name.clone() })
        };
        // There is at least one host.
        let first = scope(&self.hosts[0])?;
        for host in &self.hosts {
            if scope(host)? != first {
                return Err(ConfigError::value(
                    "host",
                    "has hosts of different clouds, which need different tokens",
                ));
            }
        }
        Ok(first)
    }
}

/// Returns all settings except hosts, time limit and password.
///
/// Hosts are tried one by one, each with a copy of these settings, because tokio-postgres cannot
/// remove a host from a configuration.
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
    session.tcp_user_timeout(pg.get_tcp_user_timeout().copied().unwrap_or(TCP_USER_TIMEOUT));
    session.keepalives(pg.get_keepalives());
    let idle = match pg.get_keepalives_idle() {
        DRIVERS_KEEPALIVES_IDLE => KEEPALIVE,
        idle => socket_time(idle).unwrap_or(KEEPALIVE),
    };
    session
        .keepalives_idle(idle)
        .keepalives_interval(pg.get_keepalives_interval().unwrap_or(keepalive_interval(idle)))
        .keepalives_retries(pg.get_keepalives_retries().unwrap_or(KEEPALIVE_RETRIES))
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(pg.get_ssl_negotiation())
        .target_session_attrs(pg.get_target_session_attrs())
        .channel_binding(pg.get_channel_binding())
        .load_balance_hosts(pg.get_load_balance_hosts());
    session
}

fn hosts(pg: &tokio_postgres::Config) -> Result<Vec<Host>, ConfigError> {
    let (names, addresses, ports) = (pg.get_hosts(), pg.get_hostaddrs(), pg.get_ports());
    let count = names.len();
    let no_name = "needs host as well: the server's certificate must have that name";
    ConfigError::refuse(&[
        (count == 0 && addresses.is_empty(), "host", "must be set to the server's name"),
        (count == 0, "hostaddr", no_name),
        (![0, count].contains(&addresses.len()), "hostaddr", "must be as many as host"),
        (![0, 1, count].contains(&ports.len()), "port", "must be one, or as many as host"),
    ])?;
    let name = |host: &PgHost| match host {
        PgHost::Tcp(name) if ServerName::try_from(name.as_str()).is_ok() => Ok(name.clone()),
        PgHost::Tcp(_) => Err(ConfigError::value(
            "host",
            "must be a host name only: write the port as port=5432, or in a URL as HOST:5432",
        )),
        #[cfg(unix)]
        PgHost::Unix(_) => {
            Err(ConfigError::value("host", "is a Unix socket, but a token is only sent over TLS"))
        }
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
        match parse(text)? {
            (config, None) => Ok(config),
            (_, Some(_)) => Err(ConfigError::ConflictingIdentity { keyword: keywords::CLIENT_ID }),
        }
    }
}

/// Parses the configuration and the client ID.
fn parse(text: &str) -> Result<(Config, Option<String>), ConfigError> {
    of_settings(&Settings::parse(text)?)
}

pub(super) fn of_settings(settings: &Settings) -> Result<(Config, Option<String>), ConfigError> {
    for mode in ["sslmode", "ssl"].into_iter().filter_map(|keyword| settings.get(keyword)) {
        let verified =
            ["require", "verify-ca", "VerifyCA", "verify-full", "VerifyFull", "true", "1"];
        if !is_one_of(&verified, mode) {
            return Err(ConfigError::ssl_mode(mode));
        }
    }
    let of_driver = settings.of_driver().parse();
    let pg = of_driver.map_err(|error| ConfigError::syntax(with_causes(&error)))?;
    let mut config = Config::new(&pg)?;
    if let Some(file) = settings.get("sslrootcert") {
        config.trust = Trust::Roots(file.into());
    }
    config.scope = settings.get("entra_scope").map(Scope::new).transpose()?;
    // pgjdbc's connectTimeout limits the socket's connect only.
    let whole = settings.number("loginTimeout")?.filter(|seconds| *seconds > 0);
    if let Some(whole) = whole {
        if let Some(dialling) = pg.get_connect_timeout() {
            config.session.connect_timeout(*dialling);
        }
        config.connect_timeout = Duration::from_secs(whole as u64);
    }
    config.cli_timeout = match settings.number("entra_cli_timeout")? {
        Some(0) => return Err(ConfigError::value("entra_cli_timeout", "must be 1 or more")),
        seconds => seconds.map(|seconds| Duration::from_secs(seconds as u64)),
    };
    config.max_size = settings.number("pool_max_conns")?;
    config.min_size = settings.number("pool_min_conns")?.unwrap_or_default();
    if let Some(lifetime) = settings.duration("pool_max_conn_lifetime")? {
        config = config.max_lifetime(lifetime);
    }
    config = config.idle_timeout(settings.duration("pool_max_conn_idle_time")?);
    if let Some(count) = settings.number("keepalives_retries")? {
        config.session.keepalives_retries(u32::try_from(count.clamp(1, 127)).unwrap_or_default());
    }
    match settings.number("tcp_user_timeout")? {
        None => {}
        // The value is probably in seconds, as in tokio-postgres and earlier versions of this
        // crate.
        Some(1..1000) => {
            let problem = "is in milliseconds, as in libpq: write 30000 for 30 s";
            return Err(ConfigError::value("tcp_user_timeout", problem));
        }
        Some(millis) => config = config.tcp_user_timeout(Duration::from_millis(millis as u64)),
    }
    config.check()?;
    Ok((config, settings.get(keywords::CLIENT_ID).map(str::to_owned)))
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.session.get_user() {
            write!(f, "{}@", user.replace('@', "%40"))?;
        }
        write!(f, "{}/{}", self.servers(), self.session.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `options` may contain secrets of the application.
        f.debug_struct("Config")
            .field("url", &self.to_string())
            .field("scope", &self.scope)
            .field("trust", &self.trust)
            .field("max_size", &self.max_size)
            .field("min_size", &self.min_size)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_lifetime", &self.max_lifetime)
            .field("idle_timeout", &self.idle_timeout)
            .field("recycling", &self.recycling)
            .field("maintenance", &self.maintenance)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// Returns the name that the server's certificate must have. For the address of a private
    /// endpoint, that is the server's public name.
    pub(super) fn certificate_name(&self) -> String {
        match cloud::postgresql_scope(&self.name) {
            Some(_) => self.name.to_ascii_lowercase().replacen(".privatelink.", ".", 1),
            None => self.name.clone(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

impl Config {
    /// Returns all hosts, for messages.
    pub(crate) fn servers(&self) -> String {
        let servers: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        servers.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_limits_the_time_of_az() {
        let limit = |text: &str| parse(text).unwrap().0.cli_timeout;
        let host = "host=a.postgres.database.azure.com";
        assert_eq!(limit(host), None);
        assert_eq!(limit(&format!("{host} entra_cli_timeout=60")), Some(Duration::from_secs(60)));
    }

    #[test]
    fn pgjdbcs_two_timeouts_limit_each_dial_and_the_whole_connect() {
        let url = "jdbc:postgresql://a.postgres.database.azure.com/d?";
        for (query, whole, dialling) in [
            ("", 15, None),
            ("connectTimeout=5", 5, None),
            ("loginTimeout=20", 20, None),
            ("connectTimeout=5&loginTimeout=20", 20, Some(5)),
            ("loginTimeout=20&connectTimeout=0", 20, None),
            ("connectTimeout=5&loginTimeout=0", 5, None),
        ] {
            let config: Config = format!("{url}{query}").parse().unwrap();
            let dials = config.session.get_connect_timeout().map(Duration::as_secs);
            assert_eq!((config.connect_timeout.as_secs(), dials), (whole, dialling), "{query}");
        }
        let error = format!("{url}loginTimeout=soon").parse::<Config>().unwrap_err();
        assert!(error.to_string().contains("loginTimeout is not a number"), "{error}");
    }
}
