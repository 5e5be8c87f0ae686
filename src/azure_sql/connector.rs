use std::{
    fmt, io,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tiberius::{AuthMethod, EncryptionLevel};
use tokio::net::{TcpStream, lookup_host};
use tracing::{Dispatch, instrument::WithSubscriber};

use super::{
    Config, ConfigError, Error, LoginRefused, RetireReason, Stage, Transport, error::LOGIN_FAILED,
    link::Link, transport::OpenError,
};
use crate::{
    Cloud,
    clock::{self, Clock},
    tls,
    token::{Connecting, Renewals, Token, TokenCache, TokenReport},
};

/// The driver's client: tiberius', over our [`Transport`].
pub type Client = tiberius::Client<Transport>;

/// How often a login follows the server elsewhere, as SqlClient does.
const MOST_ROUTINGS: usize = 10;

/// Azure drops idle flows after about 4 minutes.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Dials an Azure SQL server and logs in with a token. No pool; cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    config: Config,
    tokens: TokenCache,
    tls: Arc<ClientConfig>,
    renewals: Renewals,
    counters: Counters,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    logins: AtomicU64,
    refused: AtomicU64,
    renewed: AtomicU64,
    retired: [AtomicU64; RetireReason::ALL.len()],
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
        let tls = Arc::new(tls::client_config(&config.trust)?);
        Ok(Self(Arc::new(Inner {
            config,
            tokens,
            tls,
            renewals: Renewals::default(),
            counters: Counters::default(),
        })))
    }

    /// Connects and logs in.
    ///
    /// A refused login is tried once more if the identity has another token
    /// than the one that was refused.
    ///
    /// # Errors
    ///
    /// [`Error`]; within the configuration's `Connect Timeout` in any case.
    pub async fn connect(&self) -> Result<Connection, Error> {
        let stage = Progress::default();
        let limit = self.0.config.connect_timeout;
        let connecting = Connecting { began: self.clock().monotonic(), limit };
        let connected =
            clock::timeout(&**self.clock(), limit, self.log_in(&stage, connecting)).await;
        let result = connected.unwrap_or_else(|clock::Elapsed| {
            let server = self.0.config.server();
            Err(match stage.get() {
                Stage::Token => Error::Token { server, source: self.0.tokens.timed_out(limit) },
                stage => Error::TimedOut { server, limit, stage },
            })
        });
        match &result {
            Ok(_) => self.0.counters.logins.fetch_add(1, Ordering::Relaxed),
            Err(Error::LoginRefused(_)) => self.0.counters.refused.fetch_add(1, Ordering::Relaxed),
            Err(_) => 0,
        };
        result
    }

    /// Logs in, with another token if the first is refused.
    async fn log_in(&self, stage: &Progress, connecting: Connecting) -> Result<Connection, Error> {
        let Inner { config, tokens, .. } = &*self.0;
        stage.set(Stage::Token);
        let no_token = |source| Error::Token { server: config.server(), source };
        let token = tokens.token().await.map_err(no_token)?;
        let refused = match Box::pin(self.follow(&token, stage)).await {
            Err(Error::LoginRefused(refused)) => refused,
            other => return other,
        };
        stage.set(Stage::Token);
        let another = match self.0.renewals.renew(tokens, &token, connecting).await {
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
        self.0.counters.renewed.fetch_add(1, Ordering::Relaxed);
        Box::pin(self.follow(&another, stage)).await.map_err(|error| match error {
            Error::LoginRefused(refused) => {
                self.0.renewals.pause(tokens);
                Error::LoginRefused(Box::new(LoginRefused { retried: true, ..*refused }))
            }
            other => other,
        })
    }

    /// Logs in at the server, or where it sends us.
    async fn follow(&self, token: &Token, stage: &Progress) -> Result<Connection, Error> {
        let config = &self.0.config;
        let (mut host, mut port) = (config.host.clone(), config.port);
        for _ in 0..=MOST_ROUTINGS {
            match Box::pin(self.log_in_at(&host, port, token, stage)).await {
                Err(Error::Login {
                    source: tiberius::error::Error::Routing { host: to, port: at },
                    server,
                }) => {
                    // It may name an instance, which the port stands for.
                    let to = to.split('\\').next().unwrap_or_default().to_owned();
                    if !may_route(&config.host, &to) {
                        return Err(Error::Routing {
                            server,
                            target: format!("{to},{at}"),
                            problem: "that is outside of the cloud of the server's own name, and a token must not go there",
                        });
                    }
                    tracing::debug!(from = host, to, port = at, "the server routes the login");
                    (host, port) = (to, at);
                }
                other => return other,
            }
        }
        Err(Error::Routing {
            server: config.server(),
            target: format!("{host},{port}"),
            problem: "that is the eleventh time; 10 are followed",
        })
    }

    async fn log_in_at(
        &self,
        host: &str,
        port: u16,
        token: &Token,
        stage: &Progress,
    ) -> Result<Connection, Error> {
        let config = &self.0.config;
        let server = format!("{host},{port}");
        let link = Arc::new(Link::default());
        let transport = self.open(host, port, &server, link.clone(), stage).await?;
        stage.set(Stage::Login);
        let (tls, cipher) = transport.tls_in_words();
        tracing::debug!(server, tls, cipher, "logging in over TLS");

        let mut driver = tiberius::Config::new();
        driver.host(host);
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
        let client =
            Box::pin(quietly(Client::connect(driver, transport))).await.map_err(|source| {
                match source {
                    tiberius::error::Error::Server(error) if error.code() == LOGIN_FAILED => {
                        let refused =
                            LoginRefused::new(config, server.clone(), token, false, error);
                        Error::LoginRefused(Box::new(refused))
                    }
                    source => Error::Login { server: server.clone(), source },
                }
            })?;
        Ok(Connection {
            client,
            link,
            token: token.clone(),
            created: self.clock().monotonic(),
            heard: self.clock().monotonic(),
            jitter: fastrand::f64(),
        })
    }

    /// Dials and shakes hands.
    async fn open(
        &self,
        host: &str,
        port: u16,
        server: &str,
        link: Arc<Link>,
        stage: &Progress,
    ) -> Result<Transport, Error> {
        let server = || server.to_owned();
        let name = match &self.0.config.host_in_certificate {
            // It names the server of the connection string, not where that sends us.
            Some(name) if host.eq_ignore_ascii_case(&self.0.config.host) => name.as_str(),
            _ => host,
        };
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| Error::NotTds {
            server: server(),
            problem: "its name is no host name".into(),
        })?;
        let explain = |error| match error {
            OpenError::Io(source) => Error::NotTds {
                server: server(),
                problem: format!("the connection broke off during PRELOGIN ({source})"),
            },
            OpenError::Protocol(problem) => {
                Error::NotTds { server: server(), problem: problem.into() }
            }
            OpenError::EncryptionDeclined => Error::EncryptionDeclined { server: server() },
            OpenError::Tls(source) => {
                Error::Tls { server: server(), name: name.to_owned(), source }
            }
        };

        stage.set(Stage::Dial);
        let tcp = self
            .dial(host, port)
            .await
            .map_err(|source| Error::Dial { server: server(), source })?;
        stage.set(Stage::Prelogin);
        let agreed = Transport::agree(tcp).await.map_err(explain)?;
        stage.set(Stage::Tls);
        Transport::secure(agreed, self.0.tls.clone(), server_name, link).await.map_err(explain)
    }

    /// Addresses in the order of the resolver, one after the other.
    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
        // One that swallows packets must leave time for the others.
        let places = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let limit = self.0.config.connect_timeout / places;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            let dialled = TcpStream::connect(address);
            match clock::timeout(&**self.clock(), limit, dialled).await {
                Ok(Ok(tcp)) => return tuned(tcp),
                Ok(Err(error)) => last = error,
                Err(clock::Elapsed) => {
                    last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} is silent"));
                }
            }
        }
        Err(last)
    }

    /// How things stand.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        let counters = &self.0.counters;
        ConnectorReport {
            logins: counters.logins.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            renewed: counters.renewed.load(Ordering::Relaxed),
            retired: RetireReason::ALL
                .into_iter()
                .zip(&counters.retired)
                .map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            token: self.0.tokens.report(),
        }
    }

    /// What it connects to.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> &TokenCache {
        &self.0.tokens
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        self.0.tokens.clock()
    }

    pub(super) fn count_retired(&self, reason: RetireReason) {
        self.0.counters.retired[reason as usize].fetch_add(1, Ordering::Relaxed);
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
}

/// How far a connect has come, for the error of one that takes too long.
#[derive(Debug)]
struct Progress(Mutex<Stage>);

impl Default for Progress {
    fn default() -> Self {
        Self(Mutex::new(Stage::Token))
    }
}

impl Progress {
    fn set(&self, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn get(&self) -> Stage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tuned(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    Ok(tcp)
}

/// A login may be routed within its own cloud; where the first host is of none
/// (an emulator, a proxy), only within that host.
fn may_route(from: &str, to: &str) -> bool {
    match Cloud::of_azure_sql_host(from) {
        Some(cloud) => Cloud::of_azure_sql_host(to) == Some(cloud),
        None => from.eq_ignore_ascii_case(to),
    }
}

/// tiberius warns on every connect that credentials go unencrypted, because it
/// does not see the TLS below it. That is not so; our own event tells the truth.
async fn quietly<F: Future>(future: F) -> F::Output {
    // Where nobody subscribes, setting even a mute subscriber would end what
    // `tracing` hands on to the `log` crate, for the whole process.
    if tracing::dispatcher::has_been_set() {
        future.with_subscriber(Dispatch::none()).await
    } else {
        future.await
    }
}

/// A logged-in connection. Dereferences to tiberius' [`Client`].
pub struct Connection {
    client: Client,
    pub(super) link: Arc<Link>,
    pub(super) token: Token,
    /// By the connector's monotonic clock.
    pub(super) created: Duration,
    /// When the server last answered us, by the same clock; borrowers' requests
    /// do not count.
    pub(super) heard: Duration,
    /// From 0 to 1, so that the connections of a pool do not age alike.
    pub(super) jitter: f64,
}

impl Connection {
    /// How many requests have told the server to reset the session first.
    #[must_use]
    pub fn resets_sent(&self) -> u64 {
        self.link.resets_sent()
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("link", &self.link).finish_non_exhaustive()
    }
}

/// How a connector stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectorReport {
    /// Logins that succeeded.
    pub logins: u64,
    /// Connects that ended in a refused login.
    pub refused: u64,
    /// Logins that were tried again with another token.
    pub renewed: u64,
    /// Connections that were not used again, by reason; only those that occurred.
    pub retired: Vec<(RetireReason, u64)>,
    /// How the tokens stand.
    pub token: TokenReport,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_may_be_routed_within_the_cloud_of_the_servers_own_name() {
        let shop = "shop.database.windows.net";
        for (from, to, may) in [
            (shop, "worker7.tr29.westeurope1-a.worker.database.windows.net", true),
            (shop, "SHOP-REPLICA.database.windows.net", true),
            (shop, "x.datawarehouse.fabric.microsoft.com", true),
            (shop, "shop.database.chinacloudapi.cn", false),
            (shop, "evil-database.windows.net", false),
            (shop, "database.windows.net.evil.example", false),
            (shop, "127.0.0.1", false),
            ("shop.database.usgovcloudapi.net", shop, false),
            ("localhost", "LOCALHOST", true),
            ("localhost", "127.0.0.1", false),
            ("localhost", shop, false),
        ] {
            assert_eq!(may_route(from, to), may, "from {from} to {to}");
        }
    }
}
