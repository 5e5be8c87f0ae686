//! One connection of the stand-in: a login, then one request after the other.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{io::AsyncWriteExt, net::TcpStream, runtime::Handle, sync::mpsc, task::spawn_blocking};

use super::{
    AzureSqlOptions, Behaviour, Shared, Stage,
    error::ServerError,
    login::{FedAuth, Login, field},
    packets::{
        LONGEST_REQUEST, Message, Stream, count_packet, kind, read_message, status, write_message,
    },
    prelogin::Prelogin,
    requests::{Body, Request},
    session::{Cancel, Identity, Session},
    tokens::{Answer, Change},
};

/// Serves a client until it or the server closes the connection.
pub(crate) async fn serve(stream: TcpStream, server: Arc<Shared>) -> io::Result<()> {
    let gate = &server.gate;
    let azure_sql = |_| std::future::ready((Prelogin::AZURE_SQL, ()));
    let (mut stream, login, ()) = gate.receive(stream, azure_sql).await?;
    login.text(field::SERVER).clone_into(&mut gate.behaviour.state().server_name);
    let admitted = gate.judge(&mut stream, &login, || admit(&login, &server)).await?;
    let Some((user, database, token_expires_on)) = admitted else { return Ok(()) };
    let spid = server.next_spid();
    tracing::info!(user, database, spid, "login succeeded");
    gate.behaviour.count(|it| it.logins += 1);
    let answer = gate.accepted(&login, &database).finish(false);
    gate.answer_login(&mut stream, &answer, spid).await?;
    let identity = Identity {
        user,
        application: login.text(field::APPLICATION).to_owned(),
        host: login.text(field::HOST).to_owned(),
        database,
        spid,
    };
    let cancel = Arc::<Cancel>::default();
    let open = {
        let (server, cancel) = (Arc::clone(&server), Arc::clone(&cancel));
        let databases = server.options.databases.clone().into();
        move || Session::new(&server.options.database, identity, databases, cancel)
    };
    let parked = Parked { session: Some(blocking(open).await?), cancel };
    let packet_size = login.packet_size();
    Requests { parked, next: None, token_expires_on, packet_size, spid, server }.serve(stream).await
}

/// Checks a login: returns the user, the database, and the expiry of the token.
fn admit(
    login: &Login,
    server: &Shared,
) -> Result<(String, String, Option<SystemTime>), ServerError> {
    let (user, password) = (login.text(field::USER), login.text(field::PASSWORD));
    let AzureSqlOptions { sql_logins, databases, .. } = &server.options;
    let (user, expires_on) = if login.fed_auth == FedAuth::None && !sql_logins.is_empty() {
        if !sql_logins.iter().any(|it| it.user == user && it.password == password) {
            return Err(ServerError::login_failed(user, ""));
        }
        (user.to_owned(), None)
    } else {
        let (principal, expires_on) = server.gate.admit(login)?;
        (principal.name, Some(expires_on))
    };
    let asked = Some(login.text(field::DATABASE)).filter(|it| !it.is_empty()).unwrap_or("master");
    match databases.iter().find(|name| name.eq_ignore_ascii_case(asked)) {
        Some(database) => Ok((user, database.clone(), expires_on)),
        None => Err(ServerError::new(
            4060,
            11,
            format!("Cannot open database \"{asked}\" requested by the login. The login failed."),
        )),
    }
}

/// The session between two requests; `None` while a request runs.
struct Parked {
    session: Option<Session>,
    cancel: Arc<Cancel>,
}

/// Stops the running request. Closing a session blocks, so that happens on another thread.
impl Drop for Parked {
    fn drop(&mut self) {
        self.cancel.raise();
        if let (Some(session), Ok(runtime)) = (self.session.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(session));
        }
    }
}

/// A session's requests.
struct Requests {
    parked: Parked,
    /// A request that arrived while another was running. It waits, as in a real server's socket.
    next: Option<Message>,
    token_expires_on: Option<SystemTime>,
    packet_size: usize,
    spid: u16,
    server: Arc<Shared>,
}

impl Requests {
    async fn serve(mut self, stream: Box<dyn Stream>) -> io::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (sender, mut messages) = mpsc::channel(1);
        // Continues to read while a request runs: the client may cancel it or disconnect. Not in
        // another task, so that the socket is closed once this future is dropped.
        let reading = async move {
            while let Ok(Some(message)) = read_message(&mut reader, LONGEST_REQUEST).await {
                if sender.send(message).await.is_err() {
                    break;
                }
            }
            drop(sender);
            std::future::pending::<Infallible>().await
        };
        let answering = async {
            loop {
                let waiting = self.next.take();
                let next = if waiting.is_some() { waiting } else { messages.recv().await };
                let Some(message) = next else { return Ok(()) };
                let answer = self.answer(message, &mut messages).await?;
                let Some((answer, ends)) = answer else { return Ok(()) };
                self.server.gate.behaviour.pass_until(Stage::Answer, gone(&mut messages)).await?;
                let (size, spid) = (self.packet_size, self.spid);
                write_message(&mut writer, kind::TABULAR_RESULT, &answer, size, spid).await?;
                if ends {
                    return writer.shutdown().await;
                }
            }
        };
        tokio::select! {
            result = answering => result,
            never = reading => match never {},
        }
    }

    /// The answer to a message, and whether it closes the connection. `None` if the client closes
    /// the connection first.
    async fn answer(
        &mut self,
        message: Message,
        messages: &mut mpsc::Receiver<Message>,
    ) -> io::Result<Option<(Vec<u8>, bool)>> {
        let behaviour = &self.server.gate.behaviour;
        // Read before the request is counted: a test that sees the count may end the delay for
        // later requests.
        let delay = behaviour.state().query_delay;
        count_packet(behaviour, message.kind, message.first_status | status::END_OF_MESSAGE);
        if message.kind == kind::ATTENTION {
            // The request was complete already.
            return Ok(Some((Answer::attention(&[]), false)));
        }
        let request = Request::parse(message.kind, &message.payload)?;
        behaviour.pass_until(Stage::Request, gone(messages)).await?;
        let Some(mut session) = self.parked.session.take() else { return Ok(None) };
        self.parked.cancel.lower();
        let failure = behaviour.next_request_failure();
        let expired = self.token_expires_on.is_some_and(|at| at <= behaviour.now());
        let refusal = failure.or_else(|| expired.then(ServerError::token_expired));
        let ends = refusal.as_ref().is_some_and(ServerError::ends_session);
        let (before, server) = (session.descriptor, Arc::clone(&self.server));
        let work = blocking(move || {
            let behaviour = &server.gate.behaviour;
            let answer =
                run(&mut session, request, message.first_status, refusal, delay, behaviour)?;
            Ok((session, answer))
        });
        tokio::pin!(work);
        let (session, answer) = loop {
            tokio::select! {
                biased;
                done = &mut work => break done?,
                message = messages.recv(), if self.next.is_none() => match message {
                    Some(Message { kind: kind::ATTENTION, .. }) => {
                        count_packet(behaviour, kind::ATTENTION, 0);
                        self.parked.cancel.raise();
                    }
                    Some(message) => self.next = Some(message),
                    None => return Ok(None),
                },
            }
        };
        let after = session.descriptor;
        self.parked.session = Some(session);
        if self.parked.cancel.is_raised() {
            return Ok(Some((Answer::attention(&changes(before, after)), ends)));
        }
        Ok(Some((answer, ends)))
    }
}

/// Completes when the client has closed the connection. Discards its requests until then.
async fn gone(messages: &mut mpsc::Receiver<Message>) {
    while messages.recv().await.is_some() {}
}

/// The changes of the transaction in a request whose answer is not sent.
fn changes(before: u64, after: u64) -> Vec<Change> {
    if before == after {
        return Vec::new();
    }
    let ended = (before != 0).then_some(Change::Rollback(before));
    let begun = (after != 0).then_some(Change::Begin(after));
    ended.into_iter().chain(begun).collect()
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?.map_err(io::Error::other)
}

/// Runs a request, or fails it with `refusal`.
fn run(
    session: &mut Session,
    request: Request,
    first_status: u8,
    refusal: Option<ServerError>,
    delay: Duration,
    behaviour: &Behaviour,
) -> Result<Vec<u8>, ServerError> {
    let mut answer = match request.body {
        Body::Calls(_) => Answer::to_procedure(),
        _ => Answer::default(),
    };
    let keep_transaction = first_status & status::RESET_CONNECTION_SKIP_TRANSACTION != 0;
    let is_request = !matches!(request.body, Body::Other(_));
    if is_request && (keep_transaction || first_status & status::RESET_CONNECTION != 0) {
        session.reset(keep_transaction)?;
        behaviour.count(|it| it.resets += 1);
        if !behaviour.state().ignores_resets {
            answer.environment(&Change::Reset);
        }
    }
    if !delay.is_zero() {
        session.cancel.wait(delay);
    }
    let wrong_transaction = is_request && request.transaction != session.descriptor;
    match refusal.or_else(|| wrong_transaction.then(ServerError::wrong_transaction)) {
        Some(refusal) => {
            session.fail(&refusal, &mut answer);
            Ok(answer.finish(true))
        }
        None => Ok(session.answer(request.body, answer)),
    }
}
