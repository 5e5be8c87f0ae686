//! The front's connections to its PostgreSQL engine.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use postgres_protocol::{
    authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    message::{
        backend::{Header, Message},
        frontend,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_postgres::{
    Client, NoTls,
    config::{Host, SslMode},
};

use super::{EngineLogin, LoginError, PostgresFrontOptions, client::Failure};
pub(super) use crate::azure_sql::packets::Stream;
use crate::jwt::TENANT_ID;

/// The largest size of an answer to a login, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Connects to an engine in this process, which trusts the front.
pub(super) type Dial = Arc<dyn Fn() -> Box<dyn Stream> + Send + Sync>;

pub(super) struct Engine {
    admin: tokio_postgres::Config,
    address: Address,
    timeout: Duration,
}

enum Address {
    Tcp(String, u16),
    #[cfg(unix)]
    Unix(std::path::PathBuf),
    InProcess(Dial),
}

impl Engine {
    pub(super) fn new(options: &PostgresFrontOptions) -> io::Result<Self> {
        let timeout = options.login_timeout;
        if let Some(dial) = &options.in_process {
            let address = Address::InProcess(Arc::clone(dial));
            return Ok(Self { admin: tokio_postgres::Config::new(), address, timeout });
        }
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        // The parser's own error can quote the URL, which has a password in it.
        let admin: tokio_postgres::Config = options
            .engine_url
            .parse()
            .map_err(|_| invalid("the engine's URL is not valid".to_owned()))?;
        let port = admin.get_ports().first().copied().unwrap_or(5432);
        let address = match admin.get_hosts() {
            [Host::Tcp(host)] => Address::Tcp(host.clone(), port),
            #[cfg(unix)]
            [Host::Unix(folder)] => Address::Unix(folder.join(format!(".s.PGSQL.{port}"))),
            _ => return Err(invalid("the engine's URL must name one host".to_owned())),
        };
        if admin.get_ssl_mode() == SslMode::Require {
            let why = "the front connects to its engine without TLS: leave sslmode=require out";
            return Err(invalid(why.to_owned()));
        }
        Ok(Self { admin, address, timeout })
    }

    /// Whether the engine runs in this process, without separate roles.
    pub(super) fn is_in_process(&self) -> bool {
        matches!(self.address, Address::InProcess(_))
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        match &self.address {
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Address::Unix(path) => loop {
                match tokio::net::UnixStream::connect(path).await {
                    // With TCP the system waits while the backlog is full; here it returns an error.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    connected => return Ok(Box::new(connected?)),
                }
            },
            Address::InProcess(dial) => Ok(dial()),
        }
    }

    /// Creates the functions, and then runs `work`, as the administrator of the URL.
    pub(super) async fn administer<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, LoginError> {
        let session = async {
            let stream = self.dial().await.map_err(unreachable)?;
            let (client, connection) =
                self.admin.connect_raw(stream, NoTls).await.map_err(administration)?;
            let work = async {
                let functions = include_str!("principals.sql").replace("{tenant}", TENANT_ID);
                client.batch_execute(&functions).await?;
                let done = work(&client).await;
                drop(client);
                done
            };
            // The connection ends when the client is dropped.
            let (done, _) = tokio::join!(work, connection);
            done.map_err(administration)
        };
        timeout(self.timeout, session).await.unwrap_or_else(|_| Err(silent(self.timeout)))
    }

    /// Logs in. Returns the connection and the engine's messages from AuthenticationOk to
    /// ReadyForQuery.
    pub(super) async fn log_in(
        &self,
        login: &EngineLogin,
        parameters: &[(String, String)],
    ) -> Result<(Box<dyn Stream>, BytesMut), Failure> {
        let session = async {
            let mut stream = self.dial().await.map_err(unreachable)?;
            let answer = authenticate(&mut stream, login, parameters).await?;
            Ok((stream, answer))
        };
        timeout(self.timeout, session).await.unwrap_or_else(|_| Err(silent(self.timeout).into()))
    }

    /// Forwards a cancel request and waits until the engine closes the connection.
    pub(super) async fn cancel(&self, request: &[u8]) -> io::Result<()> {
        let session = async {
            let mut stream = self.dial().await?;
            stream.write_all(request).await?;
            stream.flush().await?;
            // The engine closes the connection after it has cancelled the query.
            while stream.read(&mut [0; 64]).await? > 0 {}
            Ok(())
        };
        timeout(self.timeout, session).await?
    }
}

fn unreachable(error: io::Error) -> LoginError {
    LoginError::new("57P03", format!("the front's PostgreSQL engine is unreachable: {error}"))
}

fn silent(limit: Duration) -> LoginError {
    LoginError::new(
        "57P03",
        format!("the front's PostgreSQL engine did not answer within {limit:?}"),
    )
}

fn unexpected(error: impl std::fmt::Display) -> LoginError {
    LoginError::new("08P01", format!("unexpected answer of the front's PostgreSQL engine: {error}"))
}

/// An error of the administrator's session. Only a transient SQLSTATE reaches the client:
/// any other would blame the client's login.
fn administration(error: tokio_postgres::Error) -> LoginError {
    use std::error::Error as _;
    if error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>()) {
        return unreachable(io::Error::other(error));
    }
    let code = error.code().map(|code| code.code());
    let transient = code.filter(|code| code.starts_with("57P") || code.starts_with("53"));
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    LoginError::new(
        transient.unwrap_or("58000"),
        format!("the front cannot manage roles in its PostgreSQL engine: {error}{cause}"),
    )
}

async fn authenticate(
    stream: &mut (impl Stream + ?Sized),
    login: &EngineLogin,
    parameters: &[(String, String)],
) -> Result<BytesMut, Failure> {
    let mut out = BytesMut::new();
    let parameters = parameters.iter().map(|(name, value)| match name.as_str() {
        "user" => ("user", login.user.as_str()),
        name => (name, value.as_str()),
    });
    frontend::startup_message(parameters, &mut out).map_err(unexpected)?;
    let mut scram = None;
    let (mut input, mut answer) = (BytesMut::new(), BytesMut::new());
    loop {
        if !out.is_empty() {
            stream.write_all(&out).await.map_err(unreachable)?;
            stream.flush().await.map_err(unreachable)?;
            out.clear();
        }
        let mut message = read_message(stream, &mut input).await?;
        let raw = message.clone();
        match raw[0] {
            b'E' => {
                // The client gets this refusal, unless the engine refused the front's password.
                return Err(Failure::Engine(raw));
            }
            b'R' => {}
            _ => {
                answer.extend_from_slice(&raw);
                if answer.len() > MAX_ANSWER {
                    return Err(unexpected("it is too long").into());
                }
                if raw[0] == b'Z' {
                    answer.extend_from_slice(&input);
                    return Ok(answer);
                }
                continue;
            }
        }
        let password = login.password.as_bytes();
        match Message::parse(&mut message).map_err(unexpected)? {
            Some(Message::AuthenticationOk) => answer.extend_from_slice(&raw),
            Some(Message::AuthenticationSasl(_)) => {
                // Each name ends with a NUL.
                let mut offered = raw[9..].split(|byte| *byte == 0);
                if !offered.any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(unexpected("it does not offer SCRAM-SHA-256").into());
                }
                let client = ScramSha256::new(password, ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, client.message(), &mut out)
                    .map_err(unexpected)?;
                scram = Some(client);
            }
            Some(Message::AuthenticationSaslContinue(body)) => {
                let client = scram.as_mut().ok_or_else(|| unexpected("SCRAM's second step"))?;
                client.update(body.data()).map_err(unexpected)?;
                frontend::sasl_response(client.message(), &mut out).map_err(unexpected)?;
            }
            Some(Message::AuthenticationSaslFinal(body)) => {
                let client = scram.as_mut().ok_or_else(|| unexpected("SCRAM's last step"))?;
                client.finish(body.data()).map_err(unexpected)?;
            }
            _ => return Err(unexpected("it requires another authentication method").into()),
        }
    }
}

/// Reads one message with its header; the bytes after it stay in `input`.
async fn read_message(
    stream: &mut (impl Stream + ?Sized),
    input: &mut BytesMut,
) -> Result<BytesMut, LoginError> {
    loop {
        if let Some(header) = Header::parse(input).map_err(unexpected)? {
            let length = usize::try_from(header.len()).map_err(unexpected)? + 1;
            if length > MAX_ANSWER {
                return Err(unexpected("it is too long"));
            }
            if input.len() >= length {
                return Ok(input.split_to(length));
            }
        }
        if stream.read_buf(input).await.map_err(unreachable)? == 0 {
            return Err(unreachable(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The SQLSTATE of an ErrorResponse: fields that start with a letter and end with NUL.
pub(super) fn sqlstate(response: &[u8]) -> Option<&str> {
    let fields = response.get(5..)?.split(|byte| *byte == 0);
    let code = fields.filter_map(|field| field.strip_prefix(b"C")).next()?;
    std::str::from_utf8(code).ok()
}
