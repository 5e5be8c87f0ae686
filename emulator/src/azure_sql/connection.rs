//! One connection: PRELOGIN, TLS, LOGIN7, then one request after the other.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Shared,
    behaviour::{Acknowledgement, count},
    bytes::Malformed,
    error::ServerError,
    fault::{self, Stage},
    login::{Login, admit, database_name},
    packets::{
        self, DEFAULT_PACKET_SIZE, Message, kind, malformed, read_message, status, write_message,
    },
    prelogin::{HandshakeStream, Prelogin, encryption},
    requests::{Body, Request},
    session::{Cancel, Identity, Session},
    tokens::{Answer, Change, Command},
};

/// What TLS says it carries (MS-TDS 3.2.5.2, TDS 8.0).
pub(crate) const TDS_8: &[u8] = b"tds/8.0";

/// The first byte of a TLS record with a handshake in it.
const TLS_HANDSHAKE: u8 = 22;

/// Serves a client until it or the server ends the connection.
pub(crate) async fn serve(mut stream: TcpStream, server: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    fault::pass(Stage::Accept, &mut stream, &server).await?;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(());
    }
    if first == [TLS_HANDSHAKE] {
        // TDS 8.0: TLS comes before everything else.
        fault::pass(Stage::Tls, &mut stream, &server).await?;
        let mut stream =
            accept_tls(HandshakeStream::bare(stream), server.strict_tls.clone(), &server).await?;
        if stream.get_ref().1.alpn_protocol() != Some(TDS_8) {
            return Err(malformed(Malformed("TLS handshake: without ALPN tds/8.0")));
        }
        let prelogin = prelogin(&mut stream, &server, |_| Ok(encryption::ON)).await?;
        return session(stream, prelogin.1, true, server).await;
    }
    let decline = server.options.decline_encryption;
    let (answered, prelogin) = prelogin(&mut stream, &server, |asked| match asked {
        encryption::ON | encryption::REQUIRED | encryption::OFF | encryption::NOT_SUPPORTED
            if decline =>
        {
            Ok(encryption::NOT_SUPPORTED)
        }
        encryption::ON | encryption::REQUIRED => Ok(encryption::ON),
        // Azure SQL insists; a client that cannot goes away by itself.
        encryption::OFF | encryption::NOT_SUPPORTED => Ok(encryption::REQUIRED),
        _ => Err(Malformed("ENCRYPTION")),
    })
    .await?;
    if answered == encryption::NOT_SUPPORTED {
        return session(stream, prelogin, false, server).await;
    }
    fault::pass(Stage::Tls, &mut stream, &server).await?;
    let stream = HandshakeStream::new(stream, server.options.handshake_packet_type);
    let stream = accept_tls(stream, server.options.tls.clone(), &server).await?;
    session(stream, prelogin, true, server).await
}

async fn prelogin(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &Shared,
    decide: impl FnOnce(u8) -> Result<u8, Malformed>,
) -> io::Result<(u8, Prelogin)> {
    let message = expect(stream, kind::PRELOGIN).await?;
    let mut prelogin = Prelogin::parse(&message.payload).map_err(malformed)?;
    fault::pass(Stage::Prelogin, stream, server).await?;
    let encryption = decide(prelogin.encryption).map_err(malformed)?;
    count(&server.counters.prelogins);
    let fed_auth_required = server.behaviour.fed_auth_required();
    let answer = prelogin.answer(encryption, fed_auth_required);
    // The login echoes it.
    prelogin.fed_auth &= fed_auth_required != 0;
    write_message(stream, kind::TABULAR_RESULT, &answer, 0).await?;
    Ok((encryption, prelogin))
}

async fn accept_tls(
    stream: HandshakeStream,
    config: Arc<ServerConfig>,
    server: &Shared,
) -> io::Result<TlsStream<HandshakeStream>> {
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
        count(&server.counters.tls_resumptions);
    }
    stream.get_mut().0.handshake_done();
    Ok(stream)
}

async fn expect(stream: &mut (impl AsyncRead + Unpin), kind: u8) -> io::Result<Message> {
    match read_message(stream).await? {
        Some(message) if message.kind == kind => Ok(message),
        Some(_) => Err(malformed(Malformed("message: not of the type that comes first"))),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn session<S>(
    mut stream: S,
    prelogin: Prelogin,
    encrypted: bool,
    server: Arc<Shared>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let message = expect(&mut stream, kind::LOGIN7).await?;
    let login = Login::parse(&message.payload, prelogin.fed_auth).map_err(malformed)?;
    if !encrypted {
        count(&server.counters.logins_in_plain_text);
    }
    server.behaviour.note_server_name(&login.server);
    let instance = login.server.split_once('\\').map(|(_, instance)| instance);
    if server.options.instance.is_some() && server.options.instance.as_deref() != instance {
        tracing::debug!(asked = login.server, "a login is for another instance");
        return stream.shutdown().await;
    }
    let delay = server.behaviour.login_delay();
    // None at all takes up to a millisecond: tokio's timers go by that.
    if !delay.is_zero() {
        sleep(delay).await;
    }
    fault::pass(Stage::Login, &mut stream, &server).await?;
    let spid = server.next_spid();
    let admitted = match server.behaviour.next_login_failure() {
        Some(failures) => Err(failures),
        None => admit(&login, &server.options, server.behaviour.now()).map_err(|error| vec![error]),
    };
    let (principal, expires_on) = match admitted {
        Ok(admitted) => admitted,
        Err(errors) => {
            let numbers: Vec<_> = errors.iter().map(|error| error.number).collect();
            tracing::debug!(?numbers, database = login.database, "a login is refused");
            count(&server.counters.logins_refused);
            let mut answer = Answer::default();
            errors.iter().for_each(|error| answer.error(error));
            answer.done_with_error();
            answer_login(&mut stream, &answer.finish(true), spid, &server).await?;
            return stream.shutdown().await;
        }
    };
    let route = server.behaviour.next_route();
    let database = database_name(&login, &server.options.databases).unwrap_or_default();
    let acknowledges = server.behaviour.acknowledges_tokens();
    let answer = welcome(&login, &database, acknowledges, route.as_ref());
    if let Some((host, port)) = route {
        tracing::debug!(principal = principal.name, host, port, "a login is routed");
        count(&server.counters.logins_routed);
        answer_login(&mut stream, &answer, spid, &server).await?;
        // The client closes; what it sends instead is not read.
        return stream.shutdown().await;
    }
    tracing::debug!(principal = principal.name, database, spid, "a login succeeds");
    let identity = Identity {
        user: principal.name,
        application: login.application.clone(),
        host: login.host.clone(),
        database,
        spid,
    };
    let cancel = Arc::new(Cancel::default());
    let open: Open = {
        let (cancel, server) = (Arc::clone(&cancel), Arc::clone(&server));
        let databases = server.options.databases.clone().into();
        Box::new(move || Session::new(&server.options.database, identity, databases, cancel))
    };
    count(&server.counters.logins);
    answer_login(&mut stream, &answer, spid, &server).await?;
    let framing = Framing { packet_size: login.packet_size, spid };
    requests(stream, open, CancelOnDrop(cancel), framing, expires_on, server).await
}

/// Gives the session for a request. The first one opens it, which takes longer than
/// all of a login; it blocks.
type Open = Box<dyn FnOnce() -> Result<Session, ServerError> + Send>;

async fn answer_login(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    answer: &[u8],
    spid: u16,
    server: &Shared,
) -> io::Result<()> {
    let mut packets = packets::packets(kind::TABULAR_RESULT, answer, DEFAULT_PACKET_SIZE, spid);
    if let Some(fault) = fault::next(Stage::LoginAnswer, server) {
        let [first, second] = fault::halves(&packets);
        stream.write_all(&first).await?;
        stream.flush().await?;
        fault::happen(fault, fault::closed(stream)).await?;
        packets = vec![second];
    }
    for packet in packets {
        stream.write_all(&packet).await?;
    }
    stream.flush().await
}

fn welcome(
    login: &Login,
    database: &str,
    acknowledges_token: bool,
    route: Option<&(String, u16)>,
) -> Vec<u8> {
    let mut answer = Answer::default();
    answer.environment(&Change::Database { new: database.to_owned(), old: "master".to_owned() });
    answer.information(5701, &format!("Changed database context to '{database}'."));
    answer.environment(&Change::Collation);
    answer.environment(&Change::Language);
    answer.information(5703, "Changed language setting to us_english.");
    answer.login_ack(login);
    answer.environment(&Change::PacketSize { new: login.packet_size, old: DEFAULT_PACKET_SIZE });
    if acknowledges_token {
        answer.fed_auth_ack();
    }
    if let Some((host, port)) = route {
        answer.environment(&Change::Routing { host: host.clone(), port: *port });
    }
    answer.finish(false)
}

/// A session between requests. It blocks when it is closed, so that is done
/// elsewhere.
struct Parked(Option<Session>);

impl Drop for Parked {
    fn drop(&mut self) {
        if let (Some(session), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(session));
        }
    }
}

/// Stops what runs in the session when nobody waits for it any more.
struct CancelOnDrop(Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// What packets with answers are like.
struct Framing {
    packet_size: usize,
    spid: u16,
}

async fn requests<S>(
    stream: S,
    open: Open,
    cancel: CancelOnDrop,
    framing: Framing,
    token_expires_on: SystemTime,
    server: Arc<Shared>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (sender, mut messages) = mpsc::channel(1);
    // Reads on while a request runs: an attention or the end may come.
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        while let Ok(Some(message)) = read_message(&mut reader).await {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut early = None;
    let mut opening = Some(open);
    let mut parked = Parked(None);
    let mut before = 0;
    loop {
        let next = match early.take() {
            Some(message) => Some(message),
            None => messages.recv().await,
        };
        let Some(message) = next else { return Ok(()) };
        let mut ends = false;
        let answer = if message.kind == kind::ATTENTION {
            // There was nothing left to stop.
            count(&server.counters.attentions);
            Answer::attention(&[])
        } else {
            let request = Request::parse(message.kind, &message.payload).map_err(malformed)?;
            // Read before the request is counted: a test that sees the count may end the delay
            // for later requests.
            let delay = server.behaviour.query_delay();
            count_request(&server, &request, message.first_status);
            if let Some(fault) = fault::next(Stage::Request, &server) {
                fault::happen(fault, gone(&mut messages)).await?;
            }
            let session = match parked.0.take() {
                Some(session) => Some(Box::new(move || Ok(session)) as Open),
                None => opening.take(),
            };
            let Some(session) = session else { return Ok(()) };
            cancel.0.lower();
            let refusal = server.behaviour.next_request_failure().or_else(|| {
                let expired = token_expires_on <= server.behaviour.now();
                let unknown = server.options.dedicated_pool && request.sets_isolation();
                let refused = unknown.then(ServerError::no_isolation);
                expired.then(ServerError::token_expired).or(refused)
            });
            ends = refusal.as_ref().is_some_and(ServerError::ends_session);
            let status = message.first_status;
            let work = work(session, request, status, refusal, delay, Arc::clone(&server));
            tokio::pin!(work);
            let (returned, answer, attention) = loop {
                tokio::select! {
                    biased;
                    done = &mut work => {
                        let (returned, answer) = done?;
                        break (returned, answer, cancel.0.is_raised());
                    }
                    message = messages.recv(), if early.is_none() => match message {
                        Some(Message { kind: kind::ATTENTION, .. }) => {
                            count(&server.counters.attentions);
                            cancel.0.raise();
                        }
                        Some(message) => early = Some(message),
                        None => return Ok(()),
                    },
                }
            };
            let after = returned.descriptor;
            parked.0 = Some(returned);
            let changes = changes(std::mem::replace(&mut before, after), after);
            if attention { Answer::attention(&changes) } else { answer }
        };
        let Framing { packet_size, spid } = framing;
        let mut packets = packets::packets(kind::TABULAR_RESULT, &answer, packet_size, spid);
        if let Some(fault) = fault::next(Stage::Answer, &server) {
            let [first, second] = fault::halves(&packets);
            writer.write_all(&first).await?;
            writer.flush().await?;
            fault::happen(fault, gone(&mut messages)).await?;
            packets = vec![second];
        }
        for packet in packets {
            writer.write_all(&packet).await?;
        }
        writer.flush().await?;
        if ends {
            return writer.shutdown().await;
        }
    }
}

/// The client has closed the connection; what it asks until then is not answered.
async fn gone(messages: &mut mpsc::Receiver<Message>) {
    while messages.recv().await.is_some() {}
}

/// What became of the transaction in a request whose answer is not sent.
fn changes(before: u64, after: u64) -> Vec<Change> {
    if before == after {
        return Vec::new();
    }
    let ended = (before != 0).then_some(Change::Rollback(before));
    let begun = (after != 0).then_some(Change::Begin(after));
    ended.into_iter().chain(begun).collect()
}

fn count_request(server: &Shared, request: &Request, first_status: u8) {
    let counters = &server.counters;
    match request.body {
        Body::Batch(_) => count(&counters.batches),
        Body::Rpc(..) => count(&counters.rpcs),
        Body::Transaction(_) => count(&counters.transaction_requests),
        Body::Other(_) => return,
    }
    count(&counters.requests);
    if first_status & (status::RESET_CONNECTION | status::RESET_CONNECTION_SKIP_TRANSACTION) != 0 {
        count(&counters.reset_bits);
    }
}

/// Runs a request on a thread that may block.
async fn work(
    open: Open,
    request: Request,
    first_status: u8,
    refusal: Option<ServerError>,
    delay: Duration,
    server: Arc<Shared>,
) -> io::Result<(Session, Vec<u8>)> {
    let run = move || {
        let mut session = open()?;
        let mut answer = match request.body {
            Body::Rpc(..) => Answer::to_procedure(),
            _ => Answer::default(),
        };
        let keep_transaction = first_status & status::RESET_CONNECTION_SKIP_TRANSACTION != 0;
        let resettable = !matches!(request.body, Body::Other(_));
        if resettable && (keep_transaction || first_status & status::RESET_CONNECTION != 0) {
            session.reset(keep_transaction)?;
            count(&server.counters.resets);
            match server.behaviour.resets() {
                Acknowledgement::First => answer.environment(&Change::Reset),
                Acknowledgement::Late => {
                    answer.done(Command::Other, None);
                    answer.environment(&Change::Reset);
                }
                Acknowledgement::Never => {}
            }
        }
        if !delay.is_zero() {
            session.cancel.wait(delay);
        }
        let refusal = refusal.or_else(|| {
            let borrower = request.body.borrower()?;
            let unreset = session.borrowed_by(borrower).err();
            unreset.inspect(|_| count(&server.counters.unreset_borrowers))
        });
        let refusal = refusal.or_else(|| {
            (resettable && request.transaction != session.descriptor)
                .then(ServerError::wrong_transaction)
        });
        if let Some(refusal) = refusal {
            session.fail(&refusal, &mut answer);
            return Ok((session, answer.finish(true)));
        }
        let answer = session.answer(request.body, answer);
        Ok((session, answer))
    };
    spawn_blocking(run)
        .await
        .map_err(io::Error::other)?
        .map_err(|error: ServerError| io::Error::other(error))
}
