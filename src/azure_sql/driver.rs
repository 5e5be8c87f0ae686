//! One login: TCP, PRELOGIN, TLS and LOGIN7, at the server to which the login is routed.

use std::{
    borrow::Cow,
    io,
    sync::{Arc, Once},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rustls::{ClientConfig, pki_types::ServerName};
use tiberius::{AuthMethod, EncryptionLevel};
use tokio::net::lookup_host;
use tracing::{Dispatch, instrument::WithSubscriber};

use super::{
    Client, Config, Connection, Encrypt, Error, LoginError, LoginRefused, ServerError, Stage,
    Transport,
    dial::{self, Socket},
    error::CANNOT_OPEN_DATABASE,
    link::Link,
    returned::Cleaned,
    server_error::redacted,
};
use crate::{
    Cloud,
    clock::Clock,
    connect::{self, Attempt, Outlook, Progress, REPEATED, RetryPolicy},
    token::{Scope, Token, TokenError},
};

/// The maximum number of times that a login is routed, as in SqlClient.
const MAX_ROUTINGS: usize = 10;

/// A function that connects and logs in once, with tiberius or another driver.
pub(crate) type LogIn<C> =
    for<'a> fn(&'a Driver<C>, &'a Token, &'a Attempt<Error>) -> BoxFuture<'a, Result<C, Error>>;

/// The Azure SQL part of connecting. `C` is the result of a login.
pub(crate) struct Driver<C = Connection> {
    pub(crate) config: Config,
    pub(super) log_in: LogIn<C>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) scope: Scope,
    pub(crate) clock: Arc<dyn Clock>,
    /// Completed when it was logged that the server does not acknowledge resets.
    pub(super) warned_of_resets: Once,
    /// Completed if the server refuses the isolation level READ COMMITTED, and that was logged.
    pub(super) has_no_isolation: Once,
}

impl<C: Send + 'static> connect::Driver for Driver<C> {
    type Connection = C;
    type Error = Error;
    type Refusal = Box<LoginRefused>;

    /// Without a limit, because Azure refuses logins for up to a minute when it moves a database.
    fn patience(&self) -> Duration {
        Duration::MAX
    }

    fn servers(&self) -> String {
        self.config.server()
    }

    fn retry_policy(&self) -> RetryPolicy {
        let Config { retry_count: count, retry_interval, .. } = self.config;
        let [first, longest] = [1, 5].map(|s| retry_interval.unwrap_or(Duration::from_secs(s)));
        RetryPolicy { first, longest, count }
    }

    async fn log_in(&self, token: &Token, attempt: &Attempt<Error>) -> Result<C, Error> {
        (self.log_in)(self, token, attempt).await
    }

    fn outlook(&self, error: &Error, known: bool) -> Outlook {
        match error {
            Error::LoginRefused(_) => Outlook::TokenRefused,
            Error::Login { .. } if !error.is_transient() => Outlook::Final,
            Error::Login { .. } => match error.server_error() {
                // The database may be failing over, or its name may be misspelt.
                Some(error) if error.code() != CANNOT_OPEN_DATABASE => Outlook::Transient,
                _ => Outlook::MayRecover,
            },
            Error::ConnectionLost { .. } => Outlook::MayRecover,
            // Before the first login, callers get these errors at once: the name may be wrong.
            Error::Dial { .. } | Error::Resolve { .. } if known => Outlook::MayRecover,
            _ => Outlook::Final,
        }
    }

    async fn refused(&self, refusal: Error, _: &Token, second_login: &str) -> Error {
        match refusal {
            Error::LoginRefused(mut refused) => {
                second_login.clone_into(&mut refused.second_login);
                Error::LoginRefused(refused)
            }
            other => other,
        }
    }

    fn refusal(&self, error: &Error) -> Option<Box<LoginRefused>> {
        match error {
            Error::LoginRefused(refused) => Some(refused.clone()),
            _ => None,
        }
    }

    async fn repeat(&self, mut refusal: Box<LoginRefused>) -> Error {
        refusal.second_login = format!("{} {REPEATED}", refusal.second_login);
        Error::LoginRefused(refusal)
    }

    fn no_token(&self, source: TokenError) -> Error {
        Error::Token { server: self.config.server(), source }
    }

    fn timed_out(&self, progress: Progress<Error>, limit: Duration) -> Error {
        let Progress { server, stage, failed, .. } = progress;
        Error::TimedOut { server, limit, stage, source: failed.map(Box::new) }
    }
}

impl<C> Driver<C> {
    /// Returns the error of a login that the server refused.
    pub(crate) fn login_refused(
        &self,
        server: String,
        token: &Token,
        source: ServerError,
    ) -> Error {
        Error::LoginRefused(Box::new(LoginRefused {
            server,
            database: self.config.database.clone(),
            claims: token.claims(),
            audience: self.scope.resource().to_owned(),
            expires_on: token.expires_on(),
            second_login: String::new(),
            source,
        }))
    }
}

impl Driver {
    /// Logs in at the configured server, or at the server to which the login is routed.
    pub(super) async fn follow(
        &self,
        token: &Token,
        attempt: &Attempt<Error>,
    ) -> Result<Connection, Error> {
        let config = &self.config;
        let (mut name, mut port) = (config.host.clone(), config.port);
        for _ in 0..=MAX_ROUTINGS {
            match Box::pin(self.log_in_at(&name, port, token, attempt)).await {
                Err(Error::Login {
                    source:
                        LoginError::Driver(tiberius::error::Error::Routing { host: to, port: at }),
                    server,
                }) => {
                    let shown = attempt.sent.excerpt(&to);
                    let problem = match () {
                        () if shown != to => Some("the target is not a valid host name"),
                        () if !self.may_route(host_of(&to)) => Some(
                            "the target is outside the cloud of the configured host, so the token must not go there: to allow it, call Config::allow_routing_to",
                        ),
                        () => None,
                    };
                    if let Some(problem) = problem {
                        let target = format!("{},{at}", host_of(&shown));
                        return Err(Error::Routing { server, target, problem });
                    }
                    tracing::debug!(from = name, to, port = at, "the server routes the login");
                    attempt.routed();
                    (name, port) = (to, at);
                }
                other => return other,
            }
        }
        Err(Error::Routing {
            server: config.server(),
            target: format!("{},{port}", host_of(&name)),
            problem: "the login was routed more than 10 times",
        })
    }

    /// Whether a login may be routed to this host: a host of the server's cloud, or a configured
    /// host. A server outside of the clouds (an emulator, a proxy) may only route to its own host.
    fn may_route(&self, to: &str) -> bool {
        let config = &self.config;
        let within_cloud = match Cloud::of_routed_host(&config.host) {
            Some(cloud) => Cloud::of_routed_host(to) == Some(cloud),
            None => config.host.eq_ignore_ascii_case(to),
        };
        // The hosts of Fabric's warehouses (microsoft/mssql-rs issue 25).
        let within_fabric = is_below(&config.host, "fabric.microsoft.com")
            && is_below(to, "pbidedicated.windows.net");
        within_cloud
            || within_fabric
            || config.routing_suffixes.iter().any(|suffix| is_below(to, suffix))
    }

    /// Logs in at one server. `name` is `HOST\INSTANCE` if the login was routed to an instance. The
    /// port already identifies the instance, but servers to which Fabric routes also require the
    /// name (microsoft/mssql-rs issue 25, tediousjs/tedious pull request 1668).
    async fn log_in_at(
        &self,
        name: &str,
        port: u16,
        token: &Token,
        attempt: &Attempt<Error>,
    ) -> Result<Connection, Error> {
        let config = &self.config;
        let host = host_of(name);
        let address = format!("{host},{port}");
        let server = match config.server() {
            first if first == address => first,
            // The user has not configured this name, so errors also name the configured server.
            first => format!("{address} (where {first} routed the login)"),
        };
        attempt.trying(&server);
        let link = Arc::new(Link::new(self.clock.clone()));
        let open = self.open(host, port, &server, link.clone(), attempt);
        let (socket, transport) = open.await?;
        attempt.reached(Stage::Login);
        let (tls, cipher) = transport.tls_description();
        tracing::debug!(server, tls, cipher, "logging in over TLS");

        let mut driver = tiberius::Config::new();
        // tiberius uses the host only for LOGIN7's ServerName: the connection already exists.
        driver.host(config.login_name(name));
        driver.port(port);
        driver.application_name(&config.application_name);
        driver.readonly(config.read_only);
        driver.authentication(AuthMethod::aad_token(token.secret()));
        // The transport encrypts, below tiberius.
        driver.encryption(EncryptionLevel::NotSupported);
        // The engine limits the time of the whole connect.
        driver.handshake_timeout(None);
        driver.command_timeout(config.command_timeout);
        if let Some(database) = &config.database {
            driver.database(database);
        }
        if let Some(size) = config.packet_size {
            driver.packet_size(size);
        }
        if let Some(workstation) = &config.workstation_id {
            driver.client_name(workstation);
        }
        let client =
            Box::pin(quietly(Client::connect(driver, transport))).await.map_err(|source| {
                let server = server.clone();
                let errors = std::mem::take(&mut link.state().login_errors);
                match LoginError::new(source, &errors, &attempt.sent) {
                    LoginError::Server(error) if error.is_refusal() => {
                        self.login_refused(server, token, error)
                    }
                    _ if link.allowance.is_exceeded() => Error::UnexpectedProtocol {
                        server,
                        problem: "its response to the login is too long".into(),
                    },
                    source => Error::Login { server, source },
                }
            })?;
        link.allowance.lift();
        if !link.state().acknowledged_token {
            return Err(Error::UnexpectedProtocol {
                server,
                problem: "it accepted the login without acknowledging the token (FEDAUTH)".into(),
            });
        }
        let now = self.clock.monotonic();
        let cleaned = Cleaned { at: now, requests: link.state().requests };
        Ok(Connection {
            client: Box::new(client),
            socket,
            server: address,
            token_expires_on: token.expires_on(),
            created: now,
            cleaned,
            jitter: fastrand::f64(),
            retired: false,
            link,
        })
    }

    /// Connects over TCP, exchanges PRELOGINs and sets up TLS.
    async fn open(
        &self,
        host: &str,
        port: u16,
        server: &str,
        link: Arc<Link>,
        attempt: &Attempt<Error>,
    ) -> Result<(Socket, Transport), Error> {
        let Self { config, tls, .. } = self;
        let server = || server.to_owned();
        let addresses: Vec<_> = lookup_host((host, port))
            .await
            .map_err(|source| Error::Resolve { server: server(), source })?
            .collect();
        attempt.resolved(&addresses);
        attempt.reached(Stage::Dial);
        let failed = |source| Error::Dial { server: server(), source };
        let so_far = |source| attempt.failed(failed(source));
        let at_once = config.multi_subnet_failover;
        let socket = dial::dial(&*self.clock, addresses, at_once, so_far).await.map_err(failed)?;
        socket.watch_peer(config).map_err(failed)?;
        if !socket.is_allowed_by(&config.trust) {
            return Err(Error::NotLoopback { server: server() });
        }
        let unexpected = |problem| Error::UnexpectedProtocol { server: server(), problem };
        let name = config.certificate_name(host);
        let server_name = ServerName::try_from(name.to_string())
            .map_err(|_| unexpected("its name is not a host name".into()))?;
        let (tcp, tls, encrypt) = (socket.clone(), tls.clone(), config.encrypt);
        let opened = Transport::open(tcp, tls, server_name, encrypt, link, attempt).await;
        let opened = opened.map_err(|error| match error.downcast::<rustls::Error>() {
            Ok(rustls::Error::InvalidMessage(_)) if encrypt == Encrypt::Strict => unexpected(
                "it does not start with TLS, as TDS 8.0 requires: set Encrypt=Mandatory".into(),
            ),
            Ok(source) => Error::Tls {
                server: server(),
                name: name.to_string(),
                source: redacted(source, &attempt.sent),
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                unexpected(error.to_string())
            }
            Err(source) => {
                let stage = attempt.position().0;
                let source = advised(source, encrypt, stage);
                Error::ConnectionLost { server: server(), stage, source }
            }
        })?;
        match opened {
            Some(transport) => Ok((socket, transport)),
            None => Err(Error::EncryptionDeclined { server: server() }),
        }
    }
}

/// Adds advice about `Encrypt` if the connection broke as it does at a server that requires the
/// other version of TDS.
fn advised(error: io::Error, encrypt: Encrypt, stage: Stage) -> io::Error {
    let advice = match (encrypt, stage) {
        (Encrypt::Mandatory, Stage::Negotiate) => {
            "a server that only speaks TDS 8.0 needs Encrypt=Strict"
        }
        (Encrypt::Strict, Stage::Tls) => "Encrypt=Strict needs a server that speaks TDS 8.0",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {advice}"))
}

impl Config {
    pub(crate) fn server(&self) -> String {
        format!("{},{}", self.host, self.port)
    }

    /// Returns the name that the certificate of `host` must have. For the name of a private
    /// endpoint, this is the server's public name.
    pub(crate) fn certificate_name<'a>(&'a self, host: &'a str) -> Cow<'a, str> {
        match &self.host_in_certificate {
            // The setting applies to the configured server, not to a server to which the login is
            // routed.
            Some(name) if host.eq_ignore_ascii_case(&self.host) => name.into(),
            _ if Cloud::of_routed_host(host).is_some() => {
                let host = host.to_ascii_lowercase();
                host.replacen(".privatelink.", ".", 1).into()
            }
            _ => host.into(),
        }
    }

    /// Returns the server's name in LOGIN7, by which Azure's gateway finds the server. Through a
    /// tunnel, this is the name in the certificate instead of the tunnel's address.
    pub(crate) fn login_name<'a>(&'a self, name: &'a str) -> Cow<'a, str> {
        let certified = self.certificate_name(name);
        match Cloud::of_azure_sql_host(&certified) {
            Some(_) if Cloud::of_azure_sql_host(name).is_none() => certified,
            Some(_) if name.to_ascii_lowercase().contains(".privatelink.") => certified,
            _ => name.into(),
        }
    }
}

/// Returns the host of `HOST` or `HOST\INSTANCE`.
fn host_of(name: &str) -> &str {
    name.split_once('\\').map_or(name, |(host, _)| host)
}

/// Whether `host` is `suffix` or below it. Ignores case and a final dot.
fn is_below(host: &str, suffix: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let suffix = suffix.trim_matches('.').to_ascii_lowercase();
    host.strip_suffix(&suffix).is_some_and(|name| name.is_empty() || name.ends_with('.'))
}

/// Suppresses a driver's events. tiberius warns on every connect that credentials are sent
/// unencrypted, because it does not know about the TLS below it. mssql-tds logs each packet,
/// including the packet with the token.
pub(crate) async fn quietly<F: Future>(future: F) -> F::Output {
    // Without a subscriber, `tracing` forwards events to the `log` crate. Setting any subscriber
    // would stop that for the whole process.
    if tracing::dispatcher::has_been_set() {
        future.with_subscriber(Dispatch::none()).await
    } else {
        future.await
    }
}

#[cfg(test)]
mod tests {
    use connect::Driver as _;

    use super::*;

    fn driver(config: Config) -> Driver {
        let tls = Arc::new(crate::tls::client_config(&config.trust).unwrap());
        let scope = config.token_scope().unwrap();
        let clock = Arc::new(crate::clock::ManualClock::new());
        let (warned_of_resets, has_no_isolation) = (Once::new(), Once::new());
        let log_in: LogIn<_> = |driver, token, attempt| Box::pin(driver.follow(token, attempt));
        Driver { config, log_in, tls, scope, clock, warned_of_resets, has_no_isolation }
    }

    #[test]
    fn a_login_may_be_routed_within_the_cloud_of_the_servers_own_name() {
        let shop = "shop.database.windows.net";
        for (from, to, may) in [
            (shop, "worker7.tr29.westeurope1-a.worker.database.windows.net", true),
            (shop, "SHOP-REPLICA.database.windows.net", true),
            (shop, "x.datawarehouse.fabric.microsoft.com", true),
            ("x.datawarehouse.fabric.microsoft.com", "abc.pbidedicated.windows.net", true),
            ("x.database.fabric.microsoft.com", "ABC.pbidedicated.windows.net", true),
            ("x.database.fabric.microsoft.com", shop, true),
            ("x.database.fabric.microsoft.com", "evil-pbidedicated.windows.net", false),
            ("x.database.fabric.microsoft.com", "pbidedicated.windows.net.evil.example", false),
            ("x.evil-fabric.microsoft.com", "abc.pbidedicated.windows.net", false),
            (shop, "abc.pbidedicated.windows.net", false),
            ("shop.database.usgovcloudapi.net", "abc.pbidedicated.windows.net", false),
            ("localhost", "abc.pbidedicated.windows.net", false),
            (shop, "shop.database.chinacloudapi.cn", false),
            (shop, "evil-database.windows.net", false),
            (shop, "database.windows.net.evil.example", false),
            (shop, "127.0.0.1", false),
            ("shop.database.usgovcloudapi.net", shop, false),
            ("localhost", "LOCALHOST", true),
            ("localhost", "127.0.0.1", false),
            ("localhost", shop, false),
        ] {
            let string = format!("Server={from};Entra Scope={}", crate::token::Scope::AZURE_SQL);
            assert_eq!(driver(string.parse().unwrap()).may_route(to), may, "{from} to {to}");
        }
    }

    #[test]
    fn the_name_in_the_certificate_applies_to_the_configured_server_only() {
        let string = "Server=shop.database.windows.net;HostNameInCertificate=sql.example";
        let config: Config = string.parse().unwrap();
        assert_eq!(config.certificate_name("SHOP.database.windows.net"), "sql.example");
        let worker = "worker7.tr29.westeurope1-a.worker.database.windows.net";
        assert_eq!(config.certificate_name(worker), worker);
    }

    #[test]
    fn the_login_sends_the_azure_servers_name_through_a_tunnel_or_private_endpoint() {
        let tunnel = "Server=127.0.0.1,14330;Entra Scope=https://database.windows.net/.default";
        for (string, dialled, certified, named) in [
            ("Server=shop.database.windows.net", "", "shop.database.windows.net", ""),
            (
                "Server=Shop.Privatelink.database.windows.net",
                "",
                "shop.database.windows.net",
                "shop.database.windows.net",
            ),
            (
                "Server=shop.privatelink.database.windows.net;\
                 HostNameInCertificate=*.database.windows.net",
                "",
                "shop.database.windows.net",
                "shop.database.windows.net",
            ),
            (
                &format!("{tunnel};HostNameInCertificate=shop.database.windows.net"),
                "127.0.0.1",
                "shop.database.windows.net",
                "shop.database.windows.net",
            ),
            // A server outside Azure does not need the name.
            (
                &format!("{tunnel};HostNameInCertificate=sql.example"),
                "127.0.0.1",
                "sql.example",
                "127.0.0.1",
            ),
            // A routed login sends the name of the new server, with its instance.
            (
                "Server=shop.database.windows.net",
                r"w.database.windows.net\a",
                r"w.database.windows.net\a",
                r"w.database.windows.net\a",
            ),
        ] {
            let config: Config = string.parse().unwrap();
            let dialled = if dialled.is_empty() { config.host.as_str() } else { dialled };
            let named = if named.is_empty() { dialled } else { named };
            assert_eq!(config.certificate_name(dialled), certified, "{string}");
            assert_eq!(config.login_name(dialled), named, "{string}");
        }
    }

    #[test]
    fn a_login_may_be_routed_to_configured_hosts() {
        let mut config: Config = "Server=shop.database.windows.net".parse().unwrap();
        config.routing_suffixes = vec!["sql.example".into(), "127.0.0.1".into()];
        let driver = driver(config);
        for (to, may) in [
            ("sql.example", true),
            ("A.SQL.Example.", true),
            ("127.0.0.1", true),
            ("mysql.example", false),
            ("sql.example.evil", false),
        ] {
            assert_eq!(driver.may_route(to), may, "{to}");
        }
    }

    #[test]
    fn the_error_decides_whether_a_login_is_retried() {
        let driver = driver("Server=shop.database.windows.net".parse().unwrap());
        let server = || String::from("s,1433");
        let io = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = Error::ConnectionLost { server: server(), stage: Stage::Tls, source: io() };
        let dial = Error::Dial { server: server(), source: io() };
        let declined = Error::EncryptionDeclined { server: server() };
        let login = |error: tiberius::error::Error| Error::Login {
            server: server(),
            source: LoginError::new(error, &[], &connect::SentTokens::default()),
        };
        for (error, known, outlook) in [
            (&broken, false, Outlook::MayRecover),
            (&dial, false, Outlook::Final),
            (&dial, true, Outlook::MayRecover),
            (&declined, true, Outlook::Final),
            (&login(io().into()), false, Outlook::MayRecover),
        ] {
            assert_eq!(driver.outlook(error, known), outlook, "{error}");
        }
    }

    #[test]
    fn the_connection_string_sets_the_retries() {
        let policy = |keywords| {
            let string = format!("Server=shop.database.windows.net;{keywords}");
            let RetryPolicy { first, longest, count } =
                driver(string.parse().unwrap()).retry_policy();
            (first.as_secs(), longest.as_secs(), count)
        };
        assert_eq!(policy(""), (1, 5, None));
        assert_eq!(policy("ConnectRetryCount=3;ConnectRetryInterval=10"), (10, 10, Some(3)));
    }
}
