use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls::{ClientConfig, client::danger::ServerCertVerifier};

use super::{Config, Encrypt, Recycling};
use crate::{
    TlsConfigError, clock,
    connect::{KEEPALIVE, TCP_USER_TIMEOUT, setters, socket_time},
    tls::{self, OwnConfig, Trust},
    token::Scope,
};

impl Config {
    /// Creates a configuration for the server `host`: a host name or an address, without a port.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host_name(&host.into()),
            port: 1433,
            database: None,
            encrypt: Encrypt::default(),
            trust: Trust::default(),
            host_in_certificate: None,
            application_name: "entra-pool".to_owned(),
            workstation_id: None,
            read_only: false,
            packet_size: None,
            multi_subnet_failover: false,
            connect_timeout: Duration::from_secs(15),
            command_timeout: Some(Duration::from_secs(30)),
            retry_count: None,
            retry_interval: None,
            max_size: None,
            min_size: 0,
            max_lifetime: Some(Duration::from_secs(3600)),
            idle_timeout: None,
            keepalive: Some(KEEPALIVE),
            tcp_user_timeout: Some(TCP_USER_TIMEOUT),
            recycling: Recycling::default(),
            maintenance: true,
            routing_suffixes: Vec::new(),
            scope: None,
        }
    }

    setters! {
        /// The server's port. Default: 1433.
        port(port: u16) => port = port;

        /// The database (`Database`). Without it, a login uses `master`.
        database(name: impl Into<String>) => database = Some(name.into());

        /// How connections are encrypted (`Encrypt`). Default: [`Encrypt::Mandatory`].
        encrypt(encrypt: Encrypt) => encrypt = encrypt;

        /// A PEM file with the only root certificates to trust (`TrustServerCertificateCA`).
        /// Default: the platform's roots.
        ca_file(path: impl Into<PathBuf>) => trust = Trust::Roots(path.into());

        /// A PEM or DER file with the only certificate to accept from the server, regardless of its
        /// names (`ServerCertificate`).
        server_certificate(path: impl Into<PathBuf>) => trust = Trust::Certificate(path.into());

        /// The name that the server's certificate must have (`HostNameInCertificate`). Default: the
        /// server's host.
        host_in_certificate(name: impl Into<String>) => host_in_certificate = Some(name.into());

        /// The `program_name` in `sys.dm_exec_sessions`, at most 128 characters (`Application
        /// Name`). Default: `entra-pool`.
        application_name(name: impl Into<String>) => application_name = name.into();

        /// Whether sessions are read-only, so that a secondary replica may serve them
        /// (`ApplicationIntent`). Default: `false`.
        read_only(read_only: bool) => read_only = read_only;

        /// The time limit of a whole connect: token, login and retries (`Connect Timeout`).
        /// Default: 15 s.
        connect_timeout(limit: Duration) => connect_timeout = limit;

        /// How long to wait for the response to a request, or for the rest of it (`Command
        /// Timeout`). Zero or `None`: no limit. Default: 30 s.
        command_timeout(limit: impl Into<Option<Duration>>)
            => command_timeout = clock::limit(limit);

        /// How often a failed login may be retried, at most 255 times (`ConnectRetryCount`).
        /// Default: as [`Connector::connect`](crate::azure_sql::Connector::connect) describes.
        retry_count(count: u32) => retry_count = Some(count);

        /// The pause before each of these retries, from 1 s to 60 s (`ConnectRetryInterval`).
        /// Default: 1 s, doubling up to 5 s.
        retry_interval(pause: Duration) => retry_interval = Some(pause);

        /// The maximum number of connections in a pool, up to 32,767 (`Max Pool Size`). Default: 2
        /// per CPU, at least the minimum size.
        max_size(size: usize) => max_size = Some(size);

        /// The number of connections that a pool keeps open after its first connect (`Min Pool
        /// Size`). Default: 0.
        min_size(size: usize) => min_size = size;

        /// The maximum age of a pooled connection (`Connection Lifetime`). Connections are retired
        /// up to a third earlier, so that they are not all replaced at once. Zero or `None`: no
        /// limit. Default: 1 h.
        max_lifetime(lifetime: impl Into<Option<Duration>>)
            => max_lifetime = clock::limit(lifetime);

        /// The scope of the requested tokens (`Entra Scope`). Default: derived from the host, which
        /// must belong to an Azure cloud.
        scope(scope: Scope) => scope = Some(scope);

        /// How long a pooled connection may be idle, measured from the server's last response. Zero
        /// or `None`: no limit. Default: no limit.
        idle_timeout(limit: impl Into<Option<Duration>>) => idle_timeout = clock::limit(limit);

        /// The idle time after which TCP keepalives are sent, at intervals of a third of this time.
        /// After three keepalives without a response, the connection is closed. Times below 1 s or
        /// above 9 h are replaced by these limits. Zero or `None`: no keepalives. Default: 30 s,
        /// because Azure drops idle connections after as little as 4 minutes.
        keepalive(idle: impl Into<Option<Duration>>) => keepalive = socket_time(idle);

        /// How long sent data may remain unacknowledged before the connection is closed, on Linux.
        /// Times below 1 s or above 9 h are replaced by these limits. Zero or `None`: the system's
        /// limit, usually about 15 minutes. Default: 30 s.
        tcp_user_timeout(limit: impl Into<Option<Duration>>)
            => tcp_user_timeout = socket_time(limit);

        /// How a connection is cleaned between two borrowers. Default: [`Recycling::Clean`].
        recycling(recycling: Recycling) => recycling = recycling;

        /// Whether a background task maintains the pool. The pool's first connect starts the task.
        /// Twice a second, it closes idle connections that broke, are too old or have a token that
        /// expires soon, and refreshes the token if that is due. At most every 30 s, it opens
        /// connections up to [`min_size`](Self::min_size). Default: `true`.
        maintenance(maintenance: bool) => maintenance = maintenance;

        /// A custom TLS configuration: roots, client certificates and cipher suites. It replaces
        /// the other settings of trust, so you are responsible for the verification of
        /// certificates. With [`Encrypt::Strict`], its ALPN protocols are replaced.
        tls(config: Arc<ClientConfig>) => trust = Trust::Own(OwnConfig(config));
    }

    /// Returns the verifier of the server's certificate, for a diagnostic that does its own TLS
    /// handshake, or that wraps the verifier to record certificates and passes it to
    /// [`tls`](Self::tls).
    ///
    /// # Errors
    ///
    /// [`TlsConfigError`], if the trusted certificates cannot be read, or if [`tls`](Self::tls) has
    /// set a configuration, because rustls does not return its verifier.
    pub fn certificate_verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, TlsConfigError> {
        tls::verifier(&self.trust)
    }

    /// Accepts any certificate of a server on this machine, and refuses to connect to other
    /// machines. Replaces the other settings of trust.
    pub fn dangerous_trust_any_certificate_on_loopback(mut self) -> Self {
        self.trust = Trust::AnyOnLoopback;
        self
    }

    /// Accepts any certificate from any server. A machine between the client and the server can get
    /// the token and log in with it.
    pub fn dangerous_trust_any_certificate_anywhere(mut self) -> Self {
        self.trust = Trust::AnyAnywhere;
        self
    }

    /// Allows a login to be routed to the host `suffix` and to hosts below it (`Allow Routing To`).
    /// By default, a login is only routed within the server's own cloud, because the token is sent
    /// to the new host. A suffix is a host name of at least two labels, an address, or `localhost`.
    pub fn allow_routing_to(mut self, suffix: impl Into<String>) -> Self {
        self.routing_suffixes.extend(routing_suffixes(&suffix.into()));
        self
    }
}

/// Replaces SqlClient's names for this machine.
pub(super) fn host_name(host: &str) -> String {
    if matches!(host, "." | "(local)") { "localhost".to_owned() } else { host.to_owned() }
}

/// Parses suffixes, which are separated by commas.
pub(super) fn routing_suffixes(text: &str) -> Vec<String> {
    text.split(',').map(|suffix| suffix.trim().trim_matches('.').to_ascii_lowercase()).collect()
}
