//! The client's side of a login: TLS, startup, token.

use std::{io, net::IpAddr};

use bytes::{BufMut, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    LoginError, Shared,
    engine::{Stream, sqlstate},
    refusals::{no_encryption, refused, wrong_role},
    relay::relay,
};
use crate::front::Stage;

/// The protocol's name for direct TLS.
pub(super) const ALPN: &[u8] = b"postgresql";

/// PostgreSQL's limits for the startup packet and for the password message.
const MAX_STARTUP: usize = 10_000;
const MAX_TOKEN: usize = 65_535;

/// "Message Formats" of PostgreSQL's documentation.
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const PROTOCOL_3_0: u32 = 3 << 16;
const TLS_HANDSHAKE: u8 = 0x16;
const CLEARTEXT_PASSWORD: &[u8] = b"R\0\0\0\x08\0\0\0\x03";

/// Why a login fails.
pub(super) enum Failure {
    /// The front refuses it.
    Front(LoginError),
    /// The engine refuses it, with this ErrorResponse.
    Engine(BytesMut),
    /// The connection to the client failed or was closed.
    Client(io::Error),
}

impl From<LoginError> for Failure {
    fn from(error: LoginError) -> Self {
        Self::Front(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Client(error)
    }
}

/// A packet without a type byte: a request before the login, or the login's start.
struct Packet {
    code: u32,
    /// The whole packet, with the length and the code.
    raw: Vec<u8>,
}

/// Serves a connection until it closes.
pub(super) async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let peer = stream.peer_addr()?.ip();
    stream.set_nodelay(true)?;
    shared.behaviour.pass(Stage::Accept, &mut stream).await?;
    // Plain requests: one of each kind at most.
    for _ in 0..3 {
        let mut first = [0];
        if timeout(shared.login_timeout, stream.peek(&mut first)).await?? == 0 {
            return Ok(());
        }
        if first[0] == TLS_HANDSHAKE {
            return serve_tls(stream, true, peer, shared).await;
        }
        let packet = match timeout(shared.login_timeout, read_packet(&mut stream)).await? {
            Ok(packet) => packet,
            Err(failure) => return refuse(stream, failure, shared).await,
        };
        match packet.code {
            SSL_REQUEST => {
                shared.behaviour.pass(Stage::Tls, &mut stream).await?;
                stream.write_all(b"S").await?;
                return serve_tls(stream, false, peer, shared).await;
            }
            GSS_REQUEST => stream.write_all(b"N").await?,
            _ => return serve_packet(stream, packet, Some(peer), shared).await,
        }
    }
    Ok(())
}

async fn serve_tls(
    mut stream: TcpStream,
    direct: bool,
    peer: IpAddr,
    shared: &Shared,
) -> io::Result<()> {
    if direct {
        shared.behaviour.pass(Stage::Tls, &mut stream).await?;
    }
    let mut stream = timeout(shared.login_timeout, shared.acceptor.accept(stream)).await??;
    // Without ALPN, a client of another protocol could send its bytes here.
    if direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        tracing::debug!(%peer, "PostgreSQL front: direct TLS without ALPN");
        return Ok(());
    }
    match timeout(shared.login_timeout, read_packet(&mut stream)).await? {
        Ok(packet) => serve_packet(stream, packet, None, shared).await,
        Err(failure) => refuse(stream, failure, shared).await,
    }
}

/// Serves a cancel request or a login. `unencrypted` is the client's address if it does not
/// use TLS.
async fn serve_packet(
    mut client: impl Stream,
    packet: Packet,
    unencrypted: Option<IpAddr>,
    shared: &Shared,
) -> io::Result<()> {
    if packet.code == CANCEL_REQUEST {
        shared.engine.cancel(&packet.raw).await?;
        return client.shutdown().await;
    }
    match log_in(&mut client, packet, unencrypted, shared).await {
        Ok(engine) => {
            shared.behaviour.count(|counters| counters.logins += 1);
            relay(client, engine).await
        }
        Err(failure) => refuse(client, failure, shared).await,
    }
}

async fn log_in(
    client: &mut impl Stream,
    packet: Packet,
    unencrypted: Option<IpAddr>,
    shared: &Shared,
) -> Result<Box<dyn Stream>, Failure> {
    if packet.code != PROTOCOL_3_0 {
        let (major, minor) = (packet.code >> 16, packet.code & 0xffff);
        let message = format!("unsupported frontend protocol {major}.{minor}: use 3.0");
        return Err(LoginError::new("0A000", message).into());
    }
    let parameters = parameters(&packet.raw[8..])?;
    let parameter = |wanted: &str| {
        parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    };
    let missing =
        || LoginError::new("28000", "no PostgreSQL user name specified in startup packet");
    let user = parameter("user").filter(|user| !user.is_empty()).ok_or_else(missing)?;
    if let Some(peer) = unencrypted {
        let database = parameter("database").unwrap_or_else(|| user.clone());
        return Err(LoginError::new("28000", no_encryption(peer, &user, &database)).into());
    }
    if let Some((name, _)) = parameters.iter().find(|(name, _)| name.starts_with("_pq_.")) {
        let message = format!("unsupported protocol option: {name}");
        return Err(LoginError::new("0A000", message).into());
    }
    client.write_all(CLEARTEXT_PASSWORD).await?;
    client.flush().await?;
    let token =
        timeout(shared.login_timeout, read_token(client)).await.map_err(io::Error::from)??;

    shared.behaviour.pass(Stage::Login, client).await?;
    if let Some(error) = shared.behaviour.next_login_failures().and_then(|mut errors| errors.pop())
    {
        return Err(error.into());
    }
    let verified = shared
        .issuer
        .verify_at(&token, &shared.audience, shared.behaviour.now())
        .map_err(|refusal| LoginError::new("28P01", refused(&refusal, &user)))?;
    let principal = shared.directory.by_name(&user);
    if principal.as_ref().is_some_and(|principal| principal.object_id != verified.object_id) {
        return Err(LoginError::new("28P01", wrong_role(&user)).into());
    }

    shared.behaviour.pass(Stage::Engine, client).await?;
    let account = async |refused: Option<&str>| {
        let (engine, principal) = (&shared.engine, principal.as_ref());
        shared.roles.account(engine, &user, &verified, principal, refused).await
    };
    let mut login = account(None).await?;
    let mut outcome = shared.engine.log_in(&login, &parameters).await;
    let refused = |refusal: &BytesMut| sqlstate(refusal) == Some("28P01");
    if matches!(&outcome, Err(Failure::Engine(refusal)) if refused(refusal))
        && shared.roles.is_own(&user).await
    {
        // The role was dropped, or another front has set its password.
        login = account(Some(&login.password)).await?;
        outcome = shared.engine.log_in(&login, &parameters).await;
    }
    let (engine, answer) = outcome?;
    shared.behaviour.pass(Stage::LoginAnswer, client).await?;
    client.write_all(&answer).await?;
    client.flush().await?;
    tracing::info!(user, "login succeeded");
    Ok(engine)
}

async fn refuse(mut client: impl Stream, failure: Failure, shared: &Shared) -> io::Result<()> {
    let response = match failure {
        Failure::Client(error) => return Err(error),
        Failure::Engine(response) => {
            tracing::info!("the engine refused a login");
            response
        }
        Failure::Front(error) => {
            tracing::info!(%error, "login refused");
            fatal(&error)
        }
    };
    shared.behaviour.count(|counters| counters.refused_logins += 1);
    let farewell = async {
        client.write_all(&response).await?;
        client.shutdown().await?;
        // Unread bytes would reset the connection, and the client would lose the refusal.
        let mut rest = (&mut client).take(1 << 20);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    timeout(shared.login_timeout, farewell).await?.map(drop)
}

/// An ErrorResponse of severity FATAL.
fn fatal(LoginError { sqlstate, message }: &LoginError) -> BytesMut {
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0");
    let mut response = BytesMut::new();
    response.put_u8(b'E');
    // A name in the message comes from a packet of 10,000 bytes at most.
    response.put_u32(fields.len() as u32 + 4);
    response.put_slice(fields.as_bytes());
    response
}

async fn read_packet(client: &mut (impl AsyncRead + Unpin)) -> Result<Packet, Failure> {
    let length = client.read_u32().await?;
    let code = client.read_u32().await?;
    let wanted = usize::try_from(length).ok().filter(|length| (8..=MAX_STARTUP).contains(length));
    let invalid = || LoginError::new("08P01", "invalid length of startup packet");
    let mut raw = vec![0; wanted.ok_or_else(invalid)?];
    raw[..4].copy_from_slice(&length.to_be_bytes());
    raw[4..8].copy_from_slice(&code.to_be_bytes());
    client.read_exact(&mut raw[8..]).await?;
    Ok(Packet { code, raw })
}

/// Names and values, which end with a NUL each, and one more NUL at the end.
fn parameters(body: &[u8]) -> Result<Vec<(String, String)>, LoginError> {
    let invalid = || {
        LoginError::new("08P01", "invalid startup packet layout: expected terminator as last byte")
    };
    let body = body.strip_suffix(&[0]).ok_or_else(invalid)?;
    let text = std::str::from_utf8(body).map_err(|_| invalid())?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let words: Vec<&str> = text.strip_suffix('\0').ok_or_else(invalid)?.split('\0').collect();
    let (pairs, []) = words.as_chunks::<2>() else { return Err(invalid()) };
    Ok(pairs.iter().map(|[name, value]| ((*name).to_owned(), (*value).to_owned())).collect())
}

async fn read_token(client: &mut impl Stream) -> Result<String, Failure> {
    let kind = client.read_u8().await?;
    if kind != b'p' {
        return Err(LoginError::new(
            "08P01",
            format!("expected password response, got message type {kind}"),
        )
        .into());
    }
    let length = usize::try_from(client.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_TOKEN + 5 {
        let message = format!("the access token is longer than {MAX_TOKEN} bytes");
        return Err(LoginError::new("28P01", message).into());
    }
    let invalid = || LoginError::new("08P01", "invalid password packet");
    let mut token = vec![0; length.checked_sub(4).ok_or_else(invalid)?];
    client.read_exact(&mut token).await?;
    if token.pop() != Some(0) {
        return Err(invalid().into());
    }
    Ok(String::from_utf8(token).map_err(|_| invalid())?)
}
