//! A connection until its login is accepted or refused: PRELOGIN, TLS, LOGIN7 and the token.
//!
//! Both the stand-in and the front use it.

use std::{io, sync::Arc, time::SystemTime};

use rustls::{HandshakeKind, ServerConfig};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    Behaviour, Stage,
    bytes::Malformed,
    error::ServerError,
    login::{FedAuth, Login, field, read_token},
    packets::{DEFAULT_PACKET_SIZE, Stream, expect, kind, write_message},
    prelogin::{HandshakeStream, Prelogin, encryption},
    server::AzureSqlEndpoint,
    tokens::{self, Answer, Change},
};
use crate::jwt::{Principal, Refusal};

/// The application protocol of TDS 8.0's TLS (MS-TDS 3.2.5.2).
pub(crate) const TDS_8: &[u8] = b"tds/8.0";

/// SQL Server's name for a principal in error 18456.
pub(crate) const TOKEN_USER: &str = "<token-identified principal>";

/// The first byte of a TLS record with a handshake in it.
const TLS_HANDSHAKE: u8 = 22;

/// The longest LOGIN7 (MS-TDS 2.2.6.4), and therefore the longest token.
const LONGEST_LOGIN: usize = (128 << 10) - 1;

/// The checks that a login must pass, and the faults that tests have requested.
pub(crate) struct Gate {
    pub(crate) endpoint: AzureSqlEndpoint,
    pub(crate) behaviour: Behaviour,
    tls: TlsAcceptor,
}

impl Gate {
    pub(crate) fn new(endpoint: AzureSqlEndpoint) -> Self {
        let mut tls = ServerConfig::clone(&endpoint.tls);
        // Clients of TDS 7.4 name no application protocol.
        tls.alpn_protocols = vec![TDS_8.to_vec()];
        Self { tls: Arc::new(tls).into(), behaviour: Behaviour::new(), endpoint }
    }

    /// Returns a client's login, with its token. `engine` returns the PRELOGIN to answer with, and
    /// a value for the caller.
    pub(crate) async fn receive<E, F: Future<Output = (Prelogin, E)>>(
        &self,
        mut tcp: TcpStream,
        engine: impl FnOnce(Prelogin) -> F,
    ) -> io::Result<(Box<dyn Stream>, Login, E)> {
        let (behaviour, mut first) = (&self.behaviour, [0]);
        tcp.set_nodelay(true)?;
        behaviour.pass(Stage::Accept, &mut tcp).await?;
        self.in_time(tcp.peek(&mut first)).await?;
        // TDS 8.0: TLS comes before everything else.
        let strict = first == [TLS_HANDSHAKE];
        let mut stream: Box<dyn Stream> = Box::new(tcp);
        if strict {
            stream = self.accept_tls(stream, strict).await?;
        }
        let asked = Prelogin::parse(&self.expect(&mut stream, kind::PRELOGIN).await?)?;
        behaviour.pass(Stage::Prelogin, &mut stream).await?;
        let (engine, value) = engine(asked).await;
        let encryption = match asked.encryption {
            // The connection has TLS already, so the value has no effect.
            asked if strict => asked,
            encryption::ON | encryption::REQUIRED => encryption::ON,
            // Azure SQL requires TLS; a client without it disconnects.
            encryption::OFF | encryption::NOT_SUPPORTED => encryption::REQUIRED,
            _ => return Err(Malformed("ENCRYPTION").into()),
        };
        behaviour.count(|it| it.prelogins += 1);
        let required = behaviour.state().fed_auth_required.unwrap_or(1);
        let fed_auth = asked.fed_auth.map(|_| required);
        let answer = Prelogin { encryption, fed_auth, ..engine }.write(&[]);
        write_message(&mut stream, kind::TABULAR_RESULT, &answer, DEFAULT_PACKET_SIZE, 0).await?;
        if !strict {
            stream = self.accept_tls(stream, strict).await?;
        }
        let payload = self.expect(&mut stream, kind::LOGIN7).await?;
        let mut login = Login::parse(&payload, fed_auth.is_some_and(|value| value != 0))?;
        if login.fed_auth == FedAuth::Workflow {
            let answer = tokens::fed_auth_info(&self.endpoint.sts_url, &self.endpoint.audience);
            write_message(&mut stream, kind::TABULAR_RESULT, &answer, DEFAULT_PACKET_SIZE, 0)
                .await?;
            let payload = self.expect(&mut stream, kind::FED_AUTH_TOKEN).await?;
            login.fed_auth = FedAuth::Token(read_token(&payload)?);
        }
        Ok((stream, login, value))
    }

    async fn accept_tls(
        &self,
        mut stream: Box<dyn Stream>,
        strict: bool,
    ) -> io::Result<Box<dyn Stream>> {
        self.behaviour.pass(Stage::Tls, &mut stream).await?;
        let mut stream = HandshakeStream::new(stream, self.endpoint.handshake_packet_type, true);
        if strict {
            stream.handshake_done();
        }
        let mut stream = self.in_time(self.tls.accept(stream)).await?;
        let (bytes, tls) = stream.get_mut();
        bytes.handshake_done();
        if tls.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.behaviour.count(|it| it.tls_resumptions += 1);
        }
        if strict && tls.alpn_protocol() != Some(TDS_8) {
            return Err(Malformed("TLS handshake: without ALPN tds/8.0").into());
        }
        Ok(Box::new(stream))
    }

    /// Returns what `admit` returns for a login, or `None` after it has answered a login that fails
    /// or is routed elsewhere.
    pub(crate) async fn judge<T>(
        &self,
        stream: &mut Box<dyn Stream>,
        login: &Login,
        admit: impl FnOnce() -> Result<T, ServerError>,
    ) -> io::Result<Option<T>> {
        self.behaviour.pass(Stage::Login, stream).await?;
        let admitted = match self.behaviour.next_login_failures() {
            Some(failures) => Err(failures),
            None => admit().map_err(|error| vec![error]),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(errors) => return self.refuse(stream, login, &errors).await.map(|()| None),
        };
        let route = self.behaviour.state().routes.next();
        let Some((host, port)) = route else { return Ok(Some(admitted)) };
        tracing::info!(host, port, "login routed");
        self.behaviour.count(|it| it.routed_logins += 1);
        let mut answer = self.accepted(login, login.text(field::DATABASE));
        answer.environment(&Change::Routing { host, port });
        self.close(stream, &answer.finish(false), 0).await.map(|()| None)
    }

    /// The principal that logs in, if it is granted access, and when its token expires.
    pub(crate) fn admit(&self, login: &Login) -> Result<(Principal, SystemTime), ServerError> {
        let refused = |why: &str| Err(ServerError::login_failed(TOKEN_USER, why));
        let FedAuth::Token(token) = &login.fed_auth else {
            let why = " Reason: the server accepts only Microsoft Entra tokens.";
            return Err(ServerError::login_failed("", why));
        };
        if token.len() * 2 > LONGEST_LOGIN {
            return refused(" Token is too long.");
        }
        let AzureSqlEndpoint { issuer, directory, audience, .. } = &self.endpoint;
        match issuer.verify_at(token, audience, self.behaviour.now()) {
            Ok(verified) => match directory.by_token(&verified) {
                Some(principal) => Ok((principal, verified.expires_on)),
                None => refused(""),
            },
            Err(Refusal::Expired) => refused(" Token is expired."),
            Err(refusal) => {
                tracing::info!(%refusal, "token refused");
                refused("")
            }
        }
    }

    /// Answers a login with errors, and closes the connection.
    pub(crate) async fn refuse(
        &self,
        stream: &mut Box<dyn Stream>,
        login: &Login,
        errors: &[ServerError],
    ) -> io::Result<()> {
        let numbers: Vec<_> = errors.iter().map(|error| error.number).collect();
        tracing::info!(?numbers, database = login.text(field::DATABASE), "login refused");
        self.behaviour.count(|it| it.refused_logins += 1);
        let mut answer = Answer::default();
        errors.iter().for_each(|error| answer.error(error));
        answer.done_with_error();
        self.close(stream, &answer.finish(true), 0).await
    }

    /// Answers a login, and closes the connection.
    pub(crate) async fn close(
        &self,
        stream: &mut Box<dyn Stream>,
        answer: &[u8],
        spid: u16,
    ) -> io::Result<()> {
        self.answer_login(stream, answer, spid).await?;
        stream.shutdown().await
    }

    /// The answer to a login that succeeds.
    pub(crate) fn accepted(&self, login: &Login, database: &str) -> Answer {
        let (new, old) = (database.to_owned(), "master".to_owned());
        let mut answer = Answer::default();
        answer.environment(&Change::Database { new, old });
        answer.information(5701, &format!("Changed database context to '{database}'."));
        answer.environment(&Change::Collation);
        answer.environment(&Change::Language);
        answer.information(5703, "Changed language setting to us_english.");
        answer.login_ack(login);
        answer.environment(&Change::PacketSize(login.packet_size()));
        if login.fed_auth != FedAuth::None && !self.behaviour.state().ignores_tokens {
            answer.fed_auth_ack();
        }
        answer
    }

    pub(crate) async fn answer_login(
        &self,
        stream: &mut Box<dyn Stream>,
        answer: &[u8],
        spid: u16,
    ) -> io::Result<()> {
        self.behaviour.pass(Stage::LoginAnswer, stream).await?;
        write_message(stream, kind::TABULAR_RESULT, answer, DEFAULT_PACKET_SIZE, spid).await
    }

    async fn expect(&self, stream: &mut Box<dyn Stream>, kind: u8) -> io::Result<Vec<u8>> {
        Ok(self.in_time(expect(stream, kind)).await?.payload)
    }

    /// Limits the time of a step, so that a silent client does not keep its connection open.
    pub(crate) async fn in_time<T>(
        &self,
        step: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        timeout(self.endpoint.login_timeout, step).await?
    }
}
