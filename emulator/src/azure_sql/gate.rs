//! A connection until its login is judged: PRELOGIN, TLS, LOGIN7 and the token.
//!
//! The stand-in and the front have this in common.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    behaviour::{Behaviour, LiveCounters},
    bytes::Malformed,
    error::ServerError,
    fault::{self, Stage},
    login::{FedAuth, Login, read_token},
    packets::{self, DEFAULT_PACKET_SIZE, kind, malformed, read_message, write_message},
    prelogin::{Engine, HandshakeStream, Prelogin, encryption},
    tokens::{Answer, Change},
};
use crate::jwt::{Directory, Issuer, Principal, Refusal};

/// What TLS says it carries (MS-TDS 3.2.5.2, TDS 8.0).
pub(crate) const TDS_8: &[u8] = b"tds/8.0";

/// The first byte of a TLS record with a handshake in it.
const TLS_HANDSHAKE: u8 = 22;

/// LOGIN7 is shorter (MS-TDS 2.2.6.4), and with it every token.
const LONGEST_LOGIN: usize = (128 << 10) - 1;
/// What is read of a login, so that one that is too long still gets an answer.
const MOST_READ: usize = 1 << 20;

/// What a login is judged by, and what tests have asked for.
pub(crate) struct Gate {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) audience: String,
    pub(crate) sts_url: String,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) decline_encryption: bool,
    pub(crate) handshake_packet_type: u8,
    pub(crate) login_timeout: Duration,
    pub(crate) behaviour: Arc<Behaviour>,
    pub(crate) counters: LiveCounters,
}

/// A connection's bytes, within TLS or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A client whose PRELOGIN is not answered yet.
pub(crate) struct Hello {
    stream: Carrier,
    pub(crate) prelogin: Prelogin,
}

enum Carrier {
    Bare(TcpStream),
    /// TDS 8.0: TLS comes before everything else.
    Strict(Box<dyn Stream>),
}

/// A client that may log in.
pub(crate) struct Client {
    pub(crate) stream: Box<dyn Stream>,
    /// Whether it was told FEDAUTHREQUIRED, which the login echoes.
    fed_auth: bool,
    encrypted: bool,
}

impl Gate {
    /// Counts a connection as open while it is served, which ends when connections are cut.
    pub(crate) async fn count_open(&self, serve: impl Future<Output = io::Result<()>>) {
        struct Open<'a>(&'a Gate);
        impl Drop for Open<'_> {
            fn drop(&mut self) {
                self.0.counters.count(|it| it.open -= 1);
            }
        }
        self.counters.count(|it| {
            it.connections += 1;
            it.open += 1;
        });
        let _open = Open(self);
        let mut cuts = self.behaviour.cuts();
        tokio::select! {
            ended = serve => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ends");
            },
            _ = cuts.changed() => tracing::debug!("a connection is cut"),
        }
    }

    /// Reads PRELOGIN; `None` where the client closes the connection instead.
    pub(crate) async fn hello(&self, mut stream: TcpStream) -> io::Result<Option<Hello>> {
        stream.set_nodelay(true)?;
        fault::pass(Stage::Accept, &mut stream, self).await?;
        let mut first = [0];
        if self.in_time(stream.peek(&mut first)).await? == 0 {
            return Ok(None);
        }
        if first != [TLS_HANDSHAKE] {
            let prelogin = self.prelogin(&mut stream).await?;
            return Ok(Some(Hello { stream: Carrier::Bare(stream), prelogin }));
        }
        fault::pass(Stage::Tls, &mut stream, self).await?;
        let mut tls = ServerConfig::clone(&self.tls);
        tls.alpn_protocols = vec![TDS_8.to_vec()];
        let mut stream = self.accept_tls(HandshakeStream::bare(stream), Arc::new(tls)).await?;
        let prelogin = self.prelogin(&mut stream).await?;
        Ok(Some(Hello { stream: Carrier::Strict(stream), prelogin }))
    }

    async fn prelogin(&self, stream: &mut (impl Stream + ?Sized)) -> io::Result<Prelogin> {
        let payload = self.expect(stream, kind::PRELOGIN).await?;
        let prelogin = Prelogin::parse(&payload).map_err(malformed)?;
        fault::pass(Stage::Prelogin, stream, self).await?;
        Ok(prelogin)
    }

    /// Answers PRELOGIN as `engine` did, and shakes hands.
    pub(crate) async fn welcome(&self, hello: Hello, engine: Engine) -> io::Result<Client> {
        let Hello { stream, prelogin } = hello;
        let asked = match &stream {
            Carrier::Bare(_) => prelogin.encryption,
            Carrier::Strict(_) => encryption::ON,
        };
        let encryption = match asked {
            encryption::ON | encryption::REQUIRED | encryption::OFF | encryption::NOT_SUPPORTED
                if self.decline_encryption && matches!(stream, Carrier::Bare(_)) =>
            {
                encryption::NOT_SUPPORTED
            }
            encryption::ON | encryption::REQUIRED => encryption::ON,
            // Azure SQL insists; a client that cannot goes away by itself.
            encryption::OFF | encryption::NOT_SUPPORTED => encryption::REQUIRED,
            _ => return Err(malformed(Malformed("ENCRYPTION"))),
        };
        self.counters.count(|it| it.prelogins += 1);
        let required = self.behaviour.fed_auth_required();
        let fed_auth = prelogin.fed_auth && required != 0;
        let answer = prelogin.answer(encryption, required, engine);
        let stream = match stream {
            Carrier::Strict(mut stream) => {
                write_message(&mut stream, kind::TABULAR_RESULT, &answer, 0).await?;
                stream
            }
            Carrier::Bare(mut stream) => {
                write_message(&mut stream, kind::TABULAR_RESULT, &answer, 0).await?;
                if encryption == encryption::NOT_SUPPORTED {
                    return Ok(Client { stream: Box::new(stream), fed_auth, encrypted: false });
                }
                fault::pass(Stage::Tls, &mut stream, self).await?;
                let stream = HandshakeStream::server(stream, self.handshake_packet_type);
                self.accept_tls(stream, Arc::clone(&self.tls)).await?
            }
        };
        Ok(Client { stream, fed_auth, encrypted: true })
    }

    async fn accept_tls(
        &self,
        stream: HandshakeStream,
        config: Arc<ServerConfig>,
    ) -> io::Result<Box<dyn Stream>> {
        let strict = !config.alpn_protocols.is_empty();
        let mut stream = self.in_time(TlsAcceptor::from(config).accept(stream)).await?;
        if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.counters.count(|it| it.tls_resumptions += 1);
        }
        if strict && stream.get_ref().1.alpn_protocol() != Some(TDS_8) {
            return Err(malformed(Malformed("TLS handshake: without ALPN tds/8.0")));
        }
        stream.get_mut().0.handshake_done();
        Ok(Box::new(stream))
    }

    /// Reads LOGIN7 and, in the MSAL workflow, the token that comes after it.
    pub(crate) async fn login(&self, client: &mut Client) -> io::Result<Login> {
        let payload = self.expect(&mut client.stream, kind::LOGIN7).await?;
        let mut login = Login::parse(&payload, client.fed_auth).map_err(malformed)?;
        if !client.encrypted {
            self.counters.count(|it| it.logins_in_plain_text += 1);
        }
        if login.fed_auth == FedAuth::Workflow {
            let mut answer = Answer::default();
            answer.fed_auth_info(&self.sts_url, &self.audience);
            let answer = answer.unfinished();
            write_message(&mut client.stream, kind::TABULAR_RESULT, &answer, 0).await?;
            let payload = self.expect(&mut client.stream, kind::FED_AUTH_TOKEN).await?;
            login.fed_auth = FedAuth::Token(read_token(&payload).map_err(malformed)?);
        }
        Ok(login)
    }

    /// What comes between a login and the answer to it: a delay, a fault, or a failure that
    /// was asked for.
    pub(crate) async fn before_answer(
        &self,
        client: &mut Client,
    ) -> io::Result<Option<Vec<ServerError>>> {
        let delay = self.behaviour.state().login_delay;
        // None at all takes up to a millisecond: tokio's timers go by that.
        if !delay.is_zero() {
            sleep(delay).await;
        }
        fault::pass(Stage::Login, &mut client.stream, self).await?;
        Ok(self.behaviour.state().login_failures.next())
    }

    /// Who logs in, if they may, and when their token expires.
    pub(crate) fn admit(&self, login: &Login) -> Result<(Principal, SystemTime), ServerError> {
        let refused = |why: &str| {
            let text = format!("Login failed for user '<token-identified principal>'.{why}");
            Err(ServerError::new(18456, 14, text))
        };
        let FedAuth::Token(token) = &login.fed_auth else {
            return Err(ServerError::new(
                18456,
                14,
                "Login failed for user ''. Reason: the server takes Microsoft Entra tokens only.",
            ));
        };
        if token.len() * 2 > LONGEST_LOGIN {
            return refused(" Token is too long.");
        }
        let verified = match self.issuer.verify_at(token, &self.audience, self.behaviour.now()) {
            Ok(verified) => verified,
            Err(Refusal::Expired) => return refused(" Token is expired."),
            Err(refusal) => {
                tracing::info!(%refusal, "a token is refused");
                return refused("");
            }
        };
        match self.directory.by_token(&verified) {
            Some(principal) => Ok((principal, verified.expires_on)),
            None => refused(""),
        }
    }

    /// Answers a login with errors, and closes the connection.
    pub(crate) async fn refuse(
        &self,
        mut client: Client,
        login: &Login,
        errors: &[ServerError],
        spid: u16,
    ) -> io::Result<()> {
        let numbers: Vec<_> = errors.iter().map(|error| error.number).collect();
        tracing::info!(?numbers, database = login.database, "a login is refused");
        self.counters.count(|it| it.logins_refused += 1);
        let mut answer = Answer::default();
        errors.iter().for_each(|error| answer.error(error));
        answer.done_with_error();
        self.answer_login(&mut client.stream, &answer.finish(true), spid).await?;
        client.stream.shutdown().await
    }

    /// Sends a login elsewhere, and closes the connection.
    pub(crate) async fn route(
        &self,
        mut client: Client,
        login: &Login,
        database: &str,
        (host, port): &(String, u16),
        spid: u16,
    ) -> io::Result<()> {
        tracing::info!(host, port, "a login is routed");
        self.counters.count(|it| it.logins_routed += 1);
        let mut answer = self.accepted(login, database);
        answer.environment(&Change::Routing { host: host.clone(), port: *port });
        self.answer_login(&mut client.stream, &answer.finish(false), spid).await?;
        // The client closes; what it sends instead is not read.
        client.stream.shutdown().await
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
        let (new, old) = (login.packet_size(), DEFAULT_PACKET_SIZE);
        answer.environment(&Change::PacketSize { new, old });
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
        let mut packets = packets::packets(kind::TABULAR_RESULT, answer, DEFAULT_PACKET_SIZE, spid);
        if let Some(fault) = fault::next(Stage::LoginAnswer, self) {
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

    /// The payload of the message that must come now.
    async fn expect(&self, stream: &mut (impl Stream + ?Sized), kind: u8) -> io::Result<Vec<u8>> {
        match self.in_time(read_message(stream, MOST_READ)).await? {
            Some(message) if message.kind == kind => Ok(message.payload),
            Some(_) => Err(malformed(Malformed("message: not of the type that comes first"))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Who says nothing does not keep the connection.
    pub(crate) async fn in_time<T>(
        &self,
        step: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        timeout(self.login_timeout, step).await?
    }
}
