use std::{fmt, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tiberius::{AuthMethod, EncryptionLevel};
use tokio::net::lookup_host;
use tracing::{Dispatch, instrument::WithSubscriber};

use super::{
    Client, Config, ConfigError, Connection, ConnectorReport, Encrypt, Error, LoginError,
    LoginRefused, RetireReason, Stage, Transport,
    dial::{self, Socket},
    error::LOGIN_FAILED,
    link::Link,
    progress::Progress,
    retry::Retries,
    server_error::fit,
    transport::OpenError,
};
use crate::{
    Cloud,
    clock::{self, Clock},
    excerpt::excerpt,
    telemetry::{Database, Ledger},
    tls,
    token::{Connecting, Renewals, Token, TokenCache},
};

/// How often a login follows the server elsewhere, as SqlClient does.
const MOST_ROUTINGS: usize = 10;

/// What TLS says it carries where it comes first (MS-TDS 3.2.5.2, TDS 8.0).
const TDS_8: &[u8] = b"tds/8.0";

/// Dials an Azure SQL server and logs in with a token. No pool; cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    config: Config,
    tokens: TokenCache,
    tls: Arc<ClientConfig>,
    renewals: Renewals,
    ledger: Ledger<RetireReason>,
}

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
        Ok(Self(Arc::new(Inner {
            config,
            tokens,
            tls: Arc::new(tls),
            renewals: Renewals::default(),
            ledger: Ledger::new(database, RetireReason::ALL),
        })))
    }

    /// Connects and logs in.
    ///
    /// A refused login is tried once more if the identity has another token
    /// than the one that was refused. What fails with a transient error is tried
    /// again, after pauses of 1 s that double up to 5 s: an error of the server as long
    /// as there is time; a broken connection, a database that cannot be opened, and a
    /// server that cannot be reached but has let us in before, twice
    /// (`ConnectRetryCount` and `ConnectRetryInterval` say otherwise).
    ///
    /// # Errors
    ///
    /// [`Error`]; within the configuration's `Connect Timeout` in any case.
    pub async fn connect(&self) -> Result<Connection, Error> {
        // Moved about, it is large.
        let connecting = Box::pin(self.connect_in_time());
        self.0.ledger.connect(&**self.clock(), connecting).await
    }

    async fn connect_in_time(&self) -> Result<Connection, Error> {
        let Inner { config, tokens, .. } = &*self.0;
        let progress = Progress::new(config.server());
        let limit = config.connect_timeout;
        let connecting = Connecting { began: self.clock().monotonic(), limit };
        let connected =
            clock::timeout(&**self.clock(), limit, self.keep_trying(&progress, connecting)).await;
        connected.unwrap_or_else(|clock::Elapsed| {
            Err(match progress.take() {
                (Stage::Token, server, None) => {
                    Error::Token { server, source: tokens.timed_out(limit) }
                }
                (stage, server, failed) => {
                    Error::TimedOut { server, limit, stage, source: failed.map(Box::new) }
                }
            })
        })
    }

    /// Logs in, again and again where that can help.
    async fn keep_trying(
        &self,
        progress: &Progress,
        connecting: Connecting,
    ) -> Result<Connection, Error> {
        let Inner { config, ledger, .. } = &*self.0;
        let mut retries = Retries::of(config);
        loop {
            let error = match self.log_in(progress, connecting).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let spent = self.clock().monotonic().saturating_sub(connecting.began);
            let left = connecting.limit.saturating_sub(spent);
            // A server that has answered before is waited for, one that never has may
            // be none.
            let known = ledger.has_logged_in() || progress.is_elsewhere(&config.server());
            let Some(pause) = retries.after(&error, known, left, fastrand::f64()) else {
                return Err(error);
            };
            ledger.retried(&error, pause);
            progress.failed(error);
            self.clock().sleep(pause).await;
        }
    }

    /// Logs in, with another token if the first is refused.
    async fn log_in(
        &self,
        progress: &Progress,
        connecting: Connecting,
    ) -> Result<Connection, Error> {
        let Inner { config, tokens, .. } = &*self.0;
        progress.reached(Stage::Token);
        let no_token = |source| Error::Token { server: config.server(), source };
        let token = tokens.token().await.map_err(no_token)?;
        let refused = match Box::pin(self.follow(&token, progress)).await {
            Err(Error::LoginRefused(refused)) => refused,
            other => return other,
        };
        progress.reached(Stage::Token);
        // One that has ended on the way was refused for that.
        let another = match tokens.successor_of(&token).await.map_err(no_token)? {
            Some(successor) => Ok(Some(successor)),
            None => self.0.renewals.renew(tokens, &token, connecting).await,
        };
        let another = match another {
            Ok(Some(another)) => another,
            Ok(None) => return Err(Error::LoginRefused(refused)),
            Err(error) => {
                // The refusal is what the caller must know; this only explains
                // why it was not tried again.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no other token in place of the refused one"
                );
                return Err(Error::LoginRefused(refused));
            }
        };
        self.0.ledger.renewed();
        // What must be known if there is no time left for the other try.
        progress.failed(Error::LoginRefused(refused));
        let followed = Box::pin(self.follow(&another, progress)).await;
        // The server has seen both tokens.
        followed.map_err(|error| match error.without(token.secret()) {
            Error::LoginRefused(refused) => {
                self.0.renewals.pause(tokens);
                Error::LoginRefused(Box::new(LoginRefused { retried: true, ..*refused }))
            }
            other => other,
        })
    }

    /// Logs in at the server, or where it sends us.
    async fn follow(&self, token: &Token, progress: &Progress) -> Result<Connection, Error> {
        let config = &self.0.config;
        let (mut name, mut port) = (config.host.clone(), config.port);
        for _ in 0..=MOST_ROUTINGS {
            match Box::pin(self.log_in_at(&name, port, token, progress)).await {
                Err(Error::Login {
                    source:
                        LoginError::Driver(tiberius::error::Error::Routing { host: to, port: at }),
                    server,
                }) => {
                    let shown = excerpt(&to, Some(token.secret()));
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
                    (name, port) = (to, at);
                }
                other => return other,
            }
        }
        Err(Error::Routing {
            server: config.server(),
            target: format!("{},{port}", host_of(&name)),
            problem: "that is the eleventh time; 10 are followed",
        })
    }

    /// A login may be routed within its own cloud, and where the configuration
    /// says; where the first host is of no cloud (an emulator, a proxy), only
    /// within that host.
    fn may_route(&self, to: &str) -> bool {
        let config = &self.0.config;
        let within_cloud = match Cloud::of_azure_sql_host(&config.host) {
            Some(cloud) => Cloud::of_azure_sql_host(to) == Some(cloud),
            None => config.host.eq_ignore_ascii_case(to),
        };
        // Where Fabric's warehouses are (microsoft/mssql-rs issue 25).
        let within_fabric = is_below(&config.host, "fabric.microsoft.com")
            && is_below(to, "pbidedicated.windows.net");
        within_cloud
            || within_fabric
            || config.routing_suffixes.iter().any(|suffix| is_below(to, suffix))
    }

    /// `name` may be `HOST\INSTANCE`, where the login was routed. The port stands for the
    /// instance, but what listens there may want to hear it, too: so does what Fabric
    /// routes to (microsoft/mssql-rs issue 25, tediousjs/tedious pull request 1668).
    async fn log_in_at(
        &self,
        name: &str,
        port: u16,
        token: &Token,
        progress: &Progress,
    ) -> Result<Connection, Error> {
        let config = &self.0.config;
        let host = host_of(name);
        let address = format!("{host},{port}");
        let server = match config.server() {
            first if first == address => first,
            // A name that the user has never seen.
            first => format!("{address} (where {first} routed the login)"),
        };
        progress.turned_to(&server);
        let link = Arc::new(Link::new(self.clock().clone()));
        let socket = self.dial(host, port, &server, progress).await?;
        let transport = self.open(host, &server, socket.clone(), link.clone(), progress).await?;
        progress.reached(Stage::Login);
        let (tls, cipher) = transport.tls_in_words();
        tracing::debug!(server, tls, cipher, "logging in over TLS");

        let mut driver = tiberius::Config::new();
        // For LOGIN7's ServerName alone: it is connected already.
        driver.host(name);
        driver.port(port);
        driver.application_name(&config.application_name);
        driver.readonly(config.read_only);
        driver.authentication(AuthMethod::aad_token(token.secret()));
        // The transport encrypts, below tiberius.
        driver.encryption(EncryptionLevel::NotSupported);
        // `connect` has one limit for all of it.
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
                match LoginError::new(source, token.secret()) {
                    LoginError::Server(error) if error.code() == LOGIN_FAILED => {
                        let refused = LoginRefused::new(config, server, token, false, error);
                        Error::LoginRefused(Box::new(refused))
                    }
                    _ if link.allowance.is_exceeded() => Error::NotTds {
                        server,
                        problem: "its response to the login is too long".into(),
                    },
                    source => Error::Login { server, source },
                }
            })?;
        link.allowance.lift();
        Ok(Connection {
            client: Box::new(client),
            link,
            socket,
            server: address,
            token_expires_on: token.expires_on(),
            created: self.clock().monotonic(),
            jitter: fastrand::f64(),
            counted: None,
            retired: false,
        })
    }

    async fn dial(
        &self,
        host: &str,
        port: u16,
        server: &str,
        progress: &Progress,
    ) -> Result<Socket, Error> {
        let config = &self.0.config;
        let server = || server.to_owned();
        progress.reached(Stage::Resolve);
        let addresses = lookup_host((host, port))
            .await
            .map_err(|source| Error::Resolve { server: server(), source })?
            .collect();
        progress.reached(Stage::Dial);
        let failed = |source| Error::Dial { server: server(), source };
        let so_far = |source| progress.failed(failed(source));
        let at_once = config.multi_subnet_failover;
        let socket =
            dial::dial(&**self.clock(), addresses, at_once, so_far).await.map_err(failed)?;
        if !socket.is_allowed_by(&config.trust) {
            return Err(Error::NotLoopback { server: server() });
        }
        Ok(socket)
    }

    /// PRELOGIN and TLS.
    async fn open(
        &self,
        host: &str,
        server: &str,
        socket: Socket,
        link: Arc<Link>,
        progress: &Progress,
    ) -> Result<Transport, Error> {
        let Inner { config, tls, .. } = &*self.0;
        let server = || server.to_owned();
        let name = config.certificate_name(host);
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| Error::NotTds {
            server: server(),
            problem: "its name is no host name".into(),
        })?;
        let opened = match config.encrypt {
            Encrypt::Mandatory => {
                Transport::open(socket, tls.clone(), server_name, link, progress).await
            }
            Encrypt::Strict => {
                Transport::open_strictly(socket, tls.clone(), server_name, link, progress).await
            }
        };
        opened.map_err(|error| match error {
            OpenError::Io(source) => {
                Error::Broken { server: server(), stage: progress.stage(), source }
            }
            OpenError::Protocol(problem) => {
                Error::NotTds { server: server(), problem: problem.into() }
            }
            OpenError::EncryptionDeclined => Error::EncryptionDeclined { server: server() },
            OpenError::Tls(source) => {
                Error::Tls { server: server(), name: name.to_owned(), source: fit(source) }
            }
        })
    }

    /// How things stand.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        ConnectorReport::new(self.0.ledger.counts(), self.0.tokens.report())
    }

    /// What it connects to.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
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
        self.0.tokens.clock()
    }

    pub(super) fn ledger(&self) -> &Ledger<RetireReason> {
        &self.0.ledger
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("config", &self.0.config)
            .field("tokens", &self.0.tokens)
            .finish_non_exhaustive()
    }
}

impl Config {
    fn server(&self) -> String {
        format!("{},{}", self.host, self.port)
    }

    /// The name that the certificate of `host` must bear.
    fn certificate_name<'a>(&'a self, host: &'a str) -> &'a str {
        match &self.host_in_certificate {
            // It names the server of the connection string, not where that sends us.
            Some(name) if host.eq_ignore_ascii_case(&self.host) => name,
            _ => host,
        }
    }
}

/// Of `HOST\INSTANCE`, or of a host.
fn host_of(name: &str) -> &str {
    name.split_once('\\').map_or(name, |(host, _)| host)
}

/// At a label's border, without case or a dot at the end.
fn is_below(host: &str, suffix: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let suffix = suffix.trim_matches('.').to_ascii_lowercase();
    host.strip_suffix(&suffix).is_some_and(|name| name.is_empty() || name.ends_with('.'))
}

/// tiberius warns on every connect that credentials go unencrypted, because it
/// does not see the TLS below it. That is not so; our own event tells the truth.
pub(super) async fn quietly<F: Future>(future: F) -> F::Output {
    // Where nobody subscribes, setting even a mute subscriber would end what
    // `tracing` hands on to the `log` crate, for the whole process.
    if tracing::dispatcher::has_been_set() {
        future.with_subscriber(Dispatch::none()).await
    } else {
        future.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(config: Config) -> Connector {
        let nobody = crate::credential::ManagedIdentity::system_assigned().build().unwrap();
        let tokens = crate::token::Identity::new(nobody).tokens(config.scope.clone());
        Connector::new(config, tokens).unwrap()
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
            assert_eq!(connector(string.parse().unwrap()).may_route(to), may, "{from} to {to}");
        }
    }

    #[test]
    fn a_name_for_the_certificate_is_of_no_other_server() {
        let string = "Server=shop.database.windows.net;HostNameInCertificate=sql.example";
        let config: Config = string.parse().unwrap();
        assert_eq!(config.certificate_name("SHOP.database.windows.net"), "sql.example");
        let worker = "worker7.tr29.westeurope1-a.worker.database.windows.net";
        assert_eq!(config.certificate_name(worker), worker);
    }

    #[test]
    fn a_login_may_be_routed_where_the_configuration_says() {
        let mut config: Config = "Server=shop.database.windows.net".parse().unwrap();
        config.routing_suffixes = vec!["sql.example".into(), "127.0.0.1".into()];
        let connector = connector(config);
        for (to, may) in [
            ("sql.example", true),
            ("A.SQL.Example.", true),
            ("127.0.0.1", true),
            ("mysql.example", false),
            ("sql.example.evil", false),
        ] {
            assert_eq!(connector.may_route(to), may, "{to}");
        }
    }
}
