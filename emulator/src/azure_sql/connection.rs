//! One connection: PRELOGIN, TLS, LOGIN7, then one request after the other.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    runtime::Handle,
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};

use super::{
    Shared,
    behaviour::Acknowledgement,
    error::ServerError,
    fault::{self, Stage},
    gate::Stream,
    login::{FedAuth, Login},
    packets::{self, LONGEST_REQUEST, Message, kind, malformed, read_message, status},
    prelogin::Engine,
    requests::{Body, Request},
    session::{Cancel, Identity, Session},
    tokens::{Answer, Change, Command},
};

/// Serves a client until it or the server ends the connection.
pub(crate) async fn serve(stream: TcpStream, server: &Arc<Shared>) -> io::Result<()> {
    let gate = &server.gate;
    let Some(hello) = gate.hello(stream).await? else { return Ok(()) };
    let mut client = gate.welcome(hello, Engine::AZURE_SQL).await?;
    let login = gate.login(&mut client).await?;
    gate.behaviour.note_server_name(&login.server);
    let instance = login.server.split_once('\\').map(|(_, instance)| instance);
    if server.options.instance.is_some() && server.options.instance.as_deref() != instance {
        tracing::debug!(asked = login.server, "a login is for another instance");
        return client.stream.shutdown().await;
    }
    let spid = server.next_spid();
    let admitted = match gate.before_answer(&mut client).await? {
        Some(failures) => Err(failures),
        None => admit(&login, server).map_err(|error| vec![error]),
    };
    let (user, database, expires_on) = match admitted {
        Ok(admitted) => admitted,
        Err(errors) => return gate.refuse(client, &login, &errors, spid).await,
    };
    let route = gate.behaviour.state().routes.next();
    if let Some(route) = route {
        return gate.route(client, &login, &database, &route, spid).await;
    }
    let answer = gate.accepted(&login, &database).finish(false);
    let mut stream = client.stream;
    tracing::info!(user, database, spid, "a login succeeds");
    let identity = Identity {
        user,
        application: login.application.clone(),
        host: login.host.clone(),
        database,
        spid,
    };
    let cancel = Arc::new(Cancel::default());
    let open: Open = {
        let (cancel, server) = (Arc::clone(&cancel), Arc::clone(server));
        let databases = server.options.databases.clone().into();
        Box::new(move || Session::new(&server.options.database, identity, databases, cancel))
    };
    gate.counters.count(|it| it.logins += 1);
    gate.answer_login(&mut stream, &answer, spid).await?;
    let framing = Framing { packet_size: login.packet_size(), spid };
    requests(stream, open, CancelOnDrop(cancel), framing, expires_on, Arc::clone(server)).await
}

/// Who logs in, to which database, and when their token expires.
fn admit(
    login: &Login,
    server: &Shared,
) -> Result<(String, String, Option<SystemTime>), ServerError> {
    let logins = &server.options.sql_logins;
    let (user, expires_on) = if login.fed_auth == FedAuth::None && !logins.is_empty() {
        if !logins.iter().any(|it| it.user == login.user && it.password == login.password) {
            let text = format!("Login failed for user '{}'.", login.user);
            return Err(ServerError::new(18456, 14, text));
        }
        (login.user.clone(), None)
    } else {
        let (principal, expires_on) = server.gate.admit(login)?;
        (principal.name, Some(expires_on))
    };
    let asked = if login.database.is_empty() { "master" } else { &login.database };
    match server.options.databases.iter().find(|name| name.eq_ignore_ascii_case(asked)) {
        Some(database) => Ok((user, database.clone(), expires_on)),
        None => Err(ServerError::new(
            4060,
            11,
            format!("Cannot open database \"{asked}\" requested by the login. The login failed."),
        )),
    }
}

/// Gives the session for a request. The first one opens it, which takes longer than
/// all of a login; it blocks.
type Open = Box<dyn FnOnce() -> Result<Session, ServerError> + Send>;

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

async fn requests(
    stream: Box<dyn Stream>,
    open: Open,
    cancel: CancelOnDrop,
    framing: Framing,
    token_expires_on: Option<SystemTime>,
    server: Arc<Shared>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (sender, mut messages) = mpsc::channel(1);
    // Reads on while a request runs: an attention or the end may come.
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        while let Ok(Some(message)) = read_message(&mut reader, LONGEST_REQUEST).await {
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
            server.gate.counters.count(|it| it.attentions += 1);
            Answer::attention(&[])
        } else {
            let request = Request::parse(message.kind, &message.payload).map_err(malformed)?;
            // Read before the request is counted: a test that sees the count may end the delay
            // for later requests.
            let delay = server.gate.behaviour.state().query_delay;
            let bits = message.first_status | status::END_OF_MESSAGE;
            server.gate.counters.packet(message.kind, bits);
            if let Some(fault) = fault::next(Stage::Request, &server.gate) {
                fault::happen(fault, gone(&mut messages)).await?;
            }
            let session = match parked.0.take() {
                Some(session) => Some(Box::new(move || Ok(session)) as Open),
                None => opening.take(),
            };
            let Some(session) = session else { return Ok(()) };
            cancel.0.lower();
            let refusal = server.gate.behaviour.state().request_failures.next();
            let refusal = refusal.or_else(|| {
                let expired = token_expires_on.is_some_and(|at| at <= server.gate.behaviour.now());
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
                            server.gate.counters.count(|it| it.attentions += 1);
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
        if let Some(fault) = fault::next(Stage::Answer, &server.gate) {
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
            Body::Calls(_) => Answer::to_procedure(),
            _ => Answer::default(),
        };
        let keep_transaction = first_status & status::RESET_CONNECTION_SKIP_TRANSACTION != 0;
        let resettable = !matches!(request.body, Body::Other(_));
        if resettable && (keep_transaction || first_status & status::RESET_CONNECTION != 0) {
            session.reset(keep_transaction)?;
            server.gate.counters.count(|it| it.resets += 1);
            let acknowledgement = server.gate.behaviour.state().resets;
            match acknowledgement {
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
            unreset.inspect(|_| server.gate.counters.count(|it| it.unreset_borrowers += 1))
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
