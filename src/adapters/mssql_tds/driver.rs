//! Logs in with mssql-tds, and classifies its errors.

use std::{io, time::Duration};

use mssql_tds::{
    connection::client_context::{ClientContext, TdsAuthenticationMethod},
    connection_provider::tds_connection_provider::TdsConnectionProvider,
    core::EncryptionSetting,
    error::Error as DriverError,
    message::login_options::ApplicationIntent,
};
use tokio::net::lookup_host;

use super::pool::Connection;
use crate::{
    azure_sql::{
        Config, ConfigError, Driver, Encrypt, Error, LoginError, Recycling, ServerError, quietly,
        tiberius,
    },
    connect::{Attempt, Stage, keepalive_interval},
    tls::Trust,
    token::Token,
};

/// Logs in once, at the server to which the login is routed.
pub(super) async fn log_in(
    driver: &Driver<Connection>,
    token: &Token,
    attempt: &Attempt<Error>,
) -> Result<Connection, Error> {
    let server = driver.config.server();
    attempt.trying(&server);
    // The driver resolves the name again, but does not report why a name has no address.
    let resolved = lookup_host((driver.config.host.as_str(), driver.config.port)).await.map(drop);
    resolved.map_err(|source| Error::Resolve { server: server.clone(), source })?;
    attempt.reached(Stage::Driver);
    // The driver parses a protocol before an IPv6 address as a part of the address.
    let protocol = if driver.config.host.contains(':') { "" } else { "tcp:" };
    let address = format!("{protocol}{server}");
    let context = context(&driver.config, &address, token);
    let provider = TdsConnectionProvider::new();
    let client = quietly(provider.create_client(context, &address, None)).await;
    let client = client.map_err(|error| failed(driver, error, server, token, attempt))?;
    Ok(Connection::new(client, driver.clock.monotonic(), token.expires_on()))
}

fn failed(
    driver: &Driver<Connection>,
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
                    return driver.login_refused(server, token, error);
                }
                Some(error) => LoginError::Server(error),
                None => broken(io::ErrorKind::InvalidData),
            }
        }
        DriverError::TlsHandshakeError { source, .. } if is_broken(&source) => {
            let source = io::Error::other(text);
            return Error::ConnectionLost { server, stage: Stage::Tls, source };
        }
        DriverError::TlsError(_)
        | DriverError::TlsHandshakeError { .. }
        | DriverError::CertificateNotFound { .. }
        | DriverError::InvalidCertificateFormat { .. }
        | DriverError::CertificateExpired
        | DriverError::CertificateMismatch
        | DriverError::CertificateFileIoError { .. }
        | DriverError::NoServerCertificate => {
            let config = &driver.config;
            let name = config.certificate_name(&config.host).into_owned();
            return Error::Tls { server, name, source: rustls::Error::General(text) };
        }
        // The driver tries all addresses at once, and returns these errors if all of them fail.
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

/// The start of the driver's message if it cannot read the response to a login. The driver does not
/// distinguish causes. Usually, the connection broke.
const CUT_OFF: &str = "Failed to receive token during login";

/// Whether a TLS handshake failed because the connection broke. OpenSSL reports the end of the
/// connection only as text.
fn is_broken(error: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};

    let kinds = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| kinds.contains(&error.kind()))
        || error.to_string().to_ascii_lowercase().contains("unexpected eof")
}

/// Returns the driver's settings for a login.
fn context(config: &Config, address: &str, token: &Token) -> ClientContext {
    // The longest time that systems accept for a socket: effectively unlimited.
    const LONGEST: Duration = Duration::from_secs(32_767);

    let (host, millis) =
        (&config.host, |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    let mut context = ClientContext::with_data_source(address);
    context.tds_authentication_method = TdsAuthenticationMethod::AccessToken;
    context.access_token = Some(token.secret().to_owned());
    // The engine retries. With a count, the driver would also reconnect a broken session, with its
    // stored token.
    context.connect_retry_count = 0;
    // The engine has one deadline, at which it drops the login.
    context.login_timeout = Some(0);
    let seconds = config.connect_timeout.as_secs().saturating_add(1);
    context.connect_timeout = u32::try_from(seconds).unwrap_or(u32::MAX);
    // Always set, so that no environment variable decides.
    context.multi_subnet_failover = Some(true);
    let idle = config.keepalive.unwrap_or(LONGEST);
    context.keep_alive_in_ms = millis(idle);
    context.keep_alive_interval_in_ms = millis(keepalive_interval(idle));
    context.application_name.clone_from(&config.application_name);
    context.database = config.database.clone().unwrap_or_default();
    if let Some(size) = config.packet_size.and_then(|size| size.try_into().ok()) {
        context.packet_size = size;
    }
    if let Some(workstation) = &config.workstation_id {
        context.workstation_id.clone_from(workstation);
    }
    if config.read_only {
        context.application_intent = ApplicationIntent::ReadOnly;
    }
    // Names that are derived from the host are omitted, because they would also apply to a server
    // to which the login is routed.
    let other = |name: std::borrow::Cow<'_, str>| (name != *host).then(|| name.into_owned());
    context.login_server_name = other(config.login_name(host));
    let encryption = &mut context.encryption_options;
    encryption.trust_server_certificate = false;
    encryption.mode = match config.encrypt {
        Encrypt::Strict => EncryptionSetting::Strict,
        Encrypt::Mandatory => EncryptionSetting::On,
    };
    match &config.trust {
        // The certificate is accepted regardless of its names.
        Trust::Certificate(file) => encryption.server_certificate = Some(file.clone()),
        _ => encryption.host_name_in_cert = other(config.certificate_name(host)),
    }
    context
}

/// Refuses settings that the driver does not support.
pub(super) fn refuse_unsupported(config: &Config) -> Result<(), ConfigError> {
    if config.recycling != Recycling::Clean {
        let problem = "must be Clean: mssql-tds does not report a request that was dropped, so only a round trip detects it";
        return Err(ConfigError::value("Config::recycling", problem));
    }
    let default = Config::new("");
    if config.command_timeout != default.command_timeout {
        let problem = "is not supported by mssql-tds: remove it, and pass ExecuteOptions::timeout_secs to each request";
        return Err(ConfigError::value("Command Timeout", problem));
    }
    if config.tcp_user_timeout != default.tcp_user_timeout {
        return Err(ConfigError::value(
            "Config::tcp_user_timeout",
            "is not supported by mssql-tds",
        ));
    }
    let setting = match config.trust {
        Trust::Platform | Trust::Certificate(_) => return Ok(()),
        Trust::Roots(_) => "TrustServerCertificateCA",
        Trust::AnyOnLoopback => "dangerous_trust_any_certificate_on_loopback",
        Trust::AnyAnywhere => "dangerous_trust_any_certificate_anywhere",
        Trust::Own(_) => "Config::tls",
    };
    let problem = "is not supported by mssql-tds, which trusts the platform's roots: add the server's authority to them (on Linux, SSL_CERT_FILE names another file), or pin the server's certificate with ServerCertificate";
    Err(ConfigError::value(setting, problem))
}
