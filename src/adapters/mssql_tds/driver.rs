//! One login by mssql-tds, and what its errors mean.

use std::{io, time::Duration};

use mssql_tds::{
    connection::client_context::{ClientContext, TdsAuthenticationMethod},
    connection_provider::tds_connection_provider::TdsConnectionProvider,
    core::{EncryptionOptions, EncryptionSetting},
    error::Error as DriverError,
    message::login_options::ApplicationIntent,
};
use tokio::net::lookup_host;

use super::pool::Connection;
use crate::{
    azure_sql::{
        self, Config, ConfigError, Encrypt, Error, LoginError, LoginRefused, Recycling,
        ServerError, tiberius,
    },
    connect::{self, Attempt, Outlook, Progress, RetryPolicy, Stage},
    tls::Trust,
    token::{Token, TokenError},
};

/// The engine's driver. All but the login itself is as over tiberius.
pub(super) struct Driver {
    pub(super) azure: azure_sql::Connector,
}

impl connect::Driver for Driver {
    type Connection = Connection;
    type Error = Error;
    type Refusal = Box<LoginRefused>;

    fn servers(&self) -> String {
        self.shared().servers()
    }

    fn retry_policy(&self) -> RetryPolicy {
        self.shared().retry_policy()
    }

    async fn log_in(&self, token: &Token, attempt: &Attempt<Error>) -> Result<Connection, Error> {
        let config = self.azure.config();
        let server = config.server();
        attempt.turned_to(&server);
        // The driver resolves the name again, but does not tell apart why it has no address.
        let resolved = lookup_host((config.host.as_str(), config.port)).await;
        drop(resolved.map_err(|source| Error::Resolve { server: server.clone(), source })?);
        attempt.reached(Stage::Driver);
        let address = format!("tcp:{server}");
        let provider = TdsConnectionProvider::new();
        let client = provider.create_client(context(config, &address, token), &address, None);
        let client = client.await.map_err(|error| self.failed(error, server, token, attempt))?;
        Ok(Connection::new(client, self.azure.0.clock().monotonic(), token.expires_on()))
    }

    fn patience(&self) -> Duration {
        self.shared().patience()
    }

    fn refusal(&self, error: &Error) -> Option<Box<LoginRefused>> {
        self.shared().refusal(error)
    }

    fn repeat(&self, refusal: Box<LoginRefused>) -> impl Future<Output = Error> + Send {
        self.shared().repeat(refusal)
    }

    fn outlook(&self, error: &Error, known: bool) -> Outlook {
        self.shared().outlook(error, known)
    }

    fn refused(
        &self,
        refusal: Error,
        token: &Token,
        second_login: &str,
    ) -> impl Future<Output = Error> + Send {
        self.shared().refused(refusal, token, second_login)
    }

    fn no_token(&self, source: TokenError) -> Error {
        self.shared().no_token(source)
    }

    fn timed_out(&self, progress: Progress<Error>, limit: Duration) -> Error {
        self.shared().timed_out(progress, limit)
    }
}

impl Driver {
    fn shared(&self) -> &azure_sql::Driver {
        &self.azure.0.driver
    }

    fn failed(
        &self,
        error: DriverError,
        server: String,
        token: &Token,
        attempt: &Attempt<Error>,
    ) -> Error {
        let sent = &attempt.sent;
        let text = sent.excerpt_of(&error);
        let broken =
            |kind| LoginError::Driver(tiberius::error::Error::Io { kind, message: text.clone() });
        let source = match error {
            DriverError::SqlServerError { diagnostics } => {
                let errors = diagnostics.errors.iter();
                let errors = errors
                    .map(|error| ServerError::new(error.number, error.state, &error.message, sent));
                match ServerError::all(errors) {
                    Some(error) if error.is_refusal() => {
                        return self.shared().login_refused(server, token, error);
                    }
                    Some(error) => LoginError::Server(error),
                    None => LoginError::Driver(tiberius::error::Error::Protocol(text.into())),
                }
            }
            DriverError::TlsError(_)
            | DriverError::TlsHandshakeError { .. }
            | DriverError::CertificateNotFound { .. }
            | DriverError::InvalidCertificateFormat { .. }
            | DriverError::CertificateExpired
            | DriverError::CertificateMismatch
            | DriverError::CertificateFileIoError { .. }
            | DriverError::NoServerCertificate => {
                let config = self.azure.config();
                let name = config.certificate_name(&config.host).into_owned();
                return Error::Tls { server, name, source: rustls::Error::General(text) };
            }
            // All addresses are tried at once, and that has an error of its own.
            DriverError::ConnectionError(_) | DriverError::TimeoutError(_) => {
                return Error::Dial { server, source: io::Error::other(text) };
            }
            DriverError::Io(error) => broken(error.kind()),
            DriverError::ConnectionClosed(_) => broken(io::ErrorKind::ConnectionAborted),
            DriverError::ProtocolError(problem) if problem.starts_with(CUT_OFF) => {
                broken(io::ErrorKind::UnexpectedEof)
            }
            DriverError::ProtocolError(_) => {
                return Error::UnexpectedProtocol { server, problem: text };
            }
            _ => LoginError::Driver(tiberius::error::Error::Protocol(text.into())),
        };
        Error::Login { server, source }
    }
}

/// What the driver says if it cannot read the response to a login, which it does not tell apart:
/// most often the connection broke.
const CUT_OFF: &str = "Failed to receive token during login";

/// What the driver connects with.
fn context(config: &Config, address: &str, token: &Token) -> ClientContext {
    // The engine has one deadline, at which it drops the login.
    const NONE: u32 = 0;
    // The longest that systems accept for a socket: as good as none.
    const LONGEST: Duration = Duration::from_secs(32_767);

    let (host, millis) =
        (&config.host, |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    let mut context = ClientContext::with_data_source(address);
    context.tds_authentication_method = TdsAuthenticationMethod::AccessToken;
    context.access_token = Some(token.secret().to_owned());
    // Retries are the engine's. With a count, the driver would also reconnect a broken session
    // without asking, with the token that it has kept.
    context.connect_retry_count = 0;
    context.login_timeout = Some(NONE);
    let seconds = config.connect_timeout.as_secs().saturating_add(1);
    context.connect_timeout = u32::try_from(seconds).unwrap_or(u32::MAX);
    // Said in any case, so that no variable of the environment decides.
    context.multi_subnet_failover = Some(true);
    let idle = config.keepalive.unwrap_or(LONGEST);
    context.keep_alive_in_ms = millis(idle);
    context.keep_alive_interval_in_ms = millis(connect::keepalive_interval(idle));
    context.application_name.clone_from(&config.application_name);
    if let Some(database) = &config.database {
        context.database.clone_from(database);
    }
    if let Some(size) = config.packet_size.and_then(|size| size.try_into().ok()) {
        context.packet_size = size;
    }
    if let Some(workstation) = &config.workstation_id {
        context.workstation_id.clone_from(workstation);
    }
    if config.read_only {
        context.application_intent = ApplicationIntent::ReadOnly;
    }
    // Left out where they follow from the host: they would also apply where the login is routed.
    let other = |name: std::borrow::Cow<'_, str>| (name != *host).then(|| name.into_owned());
    context.login_server_name = other(config.login_name(host));
    let server_certificate = match &config.trust {
        Trust::Certificate(file) => Some(file.clone()),
        _ => None,
    };
    context.encryption_options = EncryptionOptions {
        mode: match config.encrypt {
            Encrypt::Strict => EncryptionSetting::Strict,
            Encrypt::Mandatory => EncryptionSetting::On,
        },
        trust_server_certificate: false,
        // A pinned certificate is right whatever name it bears.
        host_name_in_cert: match server_certificate {
            None => other(config.certificate_name(host)),
            Some(_) => None,
        },
        server_certificate,
    };
    context
}

/// Refuses what the driver cannot do.
pub(super) fn refuse_unsupported(config: &Config) -> Result<(), ConfigError> {
    let roots = "add its authority to the platform's store (on Linux, SSL_CERT_FILE names another one), or name its certificate with ServerCertificate";
    let (setting, problem) = match config.trust {
        Trust::Platform | Trust::Certificate(_) if config.recycling == Recycling::Clean => {
            return Ok(());
        }
        Trust::Platform | Trust::Certificate(_) => (
            "Config::recycling",
            "must be Clean: mssql-tds does not report a request that was dropped, which only a round trip shows".to_owned(),
        ),
        Trust::Roots(_) => (
            "TrustServerCertificateCA",
            format!("names roots, which mssql-tds cannot be given: {roots}"),
        ),
        Trust::AnyOnLoopback => (
            "dangerous_trust_any_certificate_on_loopback",
            format!("is set, but mssql-tds does not report where it connects to: {roots}"),
        ),
        Trust::AnyAnywhere => (
            "dangerous_trust_any_certificate_anywhere",
            format!("is set, but mssql-tds would still verify the name: {roots}"),
        ),
        Trust::Own(_) => (
            "Config::tls",
            format!("is for rustls, and the TLS of mssql-tds is the platform's: {roots}"),
        ),
    };
    Err(ConfigError::value(setting, problem))
}
