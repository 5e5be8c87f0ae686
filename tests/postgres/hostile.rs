//! The server's texts are sanitized before they are shown in errors and logs.

use entra_pool::{
    postgres::{self, Error},
    token::{Identity, Scope},
};
use entra_pool_emulator::certificates::Authority;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    connector, failure,
    support::{
        credential::TestCredential,
        hostile::{assert_fit, assert_log_fit, shown, texts},
        logs::capture,
    },
    tls::scoped,
};

/// The server's answers on one connection: to the token, and to each message that follows.
type Answers = Vec<Vec<u8>>;

/// A server that accepts any token. It repeats the last of `connections` for all later ones.
async fn server(authority: &Authority, connections: Vec<Answers>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = TlsAcceptor::from(authority.issue(&["127.0.0.1"]).unwrap().server_config().unwrap());
    let last = connections.len() - 1;
    tokio::spawn(async move {
        for connection in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (tls, answers) = (tls.clone(), connections[last.min(connection)].clone());
            tokio::spawn(async move {
                socket.read_exact(&mut [0; 8]).await.unwrap();
                socket.write_all(b"S").await.unwrap();
                let mut stream = tls.accept(socket).await.unwrap();
                let startup = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
                stream.read_exact(&mut vec![0; startup - 4]).await.unwrap();
                // AuthenticationCleartextPassword.
                stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).await.unwrap();
                for answer in answers {
                    if stream.read_u8().await.is_err() {
                        return;
                    }
                    let length = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
                    stream.read_exact(&mut vec![0; length - 4]).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                    stream.flush().await.unwrap();
                }
                // Until the client disconnects.
                let _ = stream.read(&mut [0; 1]).await;
            });
        }
    });
    port
}

/// An ErrorResponse or NoticeResponse with `text` in every text field.
fn response(kind: u8, code: &str, text: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for field in b"SMDHWstcdnFRq" {
        body.push(*field);
        body.extend(text.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    for (field, value) in [(b'C', code), (b'p', "3"), (b'L', "7")] {
        body.push(field);
        body.extend(value.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    body.push(0);
    message(kind, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

async fn refused(
    what: &str,
    credential: &TestCredential,
    secret: &str,
    connections: Vec<Answers>,
) -> Error {
    let authority = Authority::new().unwrap();
    let port = server(&authority, connections).await;
    let identity = Identity::new(credential.clone());
    assert_eq!(identity.tokens(Scope::AZURE_POSTGRESQL).token().await.unwrap().secret(), secret);
    credential.next_token();
    let url = scoped("127.0.0.1", port, &authority.path());
    let pool = postgres::pool_with(&identity, &url).unwrap();
    let error = pool.get().await.err().unwrap();
    let error = Error::from(error);
    for text in shown(&error) {
        // The driver adds these line breaks.
        let text = text.replace("\nDETAIL: ", " ").replace("\nHINT: ", " ");
        assert_fit(what, &text, secret);
    }
    error
}

#[tokio::test]
async fn the_servers_errors_during_a_login_are_sanitized_in_errors_and_logs() {
    // A refused token is replaced: `secret` is the token that is sent first.
    let credential = TestCredential::new("shop", 2_000);
    for at in 0..texts("").len() {
        let captured = capture();
        let (what, text) = texts("").swap_remove(at);
        for code in ["28P01", "3D000", &text] {
            let secret = credential.secret();
            let (_, text) = texts(&secret).swap_remove(at);
            let answer = response(b'E', code, &text);
            let error = refused(what, &credential, &secret, vec![vec![answer]]).await;
            let (Error::LoginRefused { source, .. } | Error::Login { source, .. }) = &error else {
                panic!("{error:?}")
            };
            let said = source.as_db_error().unwrap();
            assert!(said.message().starts_with("no"), "{what}: {said}");
            let length = said.message().chars().count();
            assert!(length <= 401, "{what}: {length} characters");
        }
        // The second login fails for another reason.
        let secret = credential.secret();
        let (_, text) = texts(&secret).swap_remove(at);
        let answers = [response(b'E', "28P01", "no"), response(b'E', "3D000", &text)];
        let connections = answers.map(|answer| vec![answer]).to_vec();
        let error = refused(what, &credential, &secret, connections).await;
        assert!(matches!(error, Error::Login { .. }), "{what}: {error:?}");
        assert_log_fit(what, &captured.text(), &secret);
        let secret = credential.secret();
        let (_, text) = texts(&secret).swap_remove(at);
        // SASL, whose server-final-message may contain an error text, without a known mechanism.
        let mechanism = [&[0, 0, 0, 10], text.replace('\0', "").as_bytes(), b"\0\0"].concat();
        let answer = message(b'R', &mechanism);
        refused(what, &credential, &secret, vec![vec![answer]]).await;
        assert_log_fit(what, &captured.text(), &secret);
    }
}

#[tokio::test]
async fn the_servers_notices_during_a_login_are_sanitized_in_logs() {
    let credential = TestCredential::new("shop", 2_000);
    let secret = credential.secret();
    for (what, text) in texts(&secret) {
        let authority = Authority::new().unwrap();
        let welcome = [
            message(b'R', &[0; 4]),
            response(b'N', "01000", &text),
            message(b'K', &[0; 8]),
            message(b'Z', b"I"),
            response(b'N', "01000", &text),
            response(b'E', "57P01", &text),
        ];
        let port = server(&authority, vec![vec![welcome.concat()]]).await;
        let identity = Identity::new(credential.clone());
        let url = scoped("127.0.0.1", port, &authority.path());
        let captured = capture();
        let pool = postgres::pool_with(&identity, &url).unwrap();
        let client = pool.get().await.unwrap();
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
        let log = captured.text();
        assert!(log.contains("the connection failed"), "{what}: {log}");
        assert!(log.contains("notice"), "{what}: {log}");
        assert_log_fit(what, &log, &secret);
        assert!(log.lines().all(|line| line.len() < 8_000), "{what}");
    }
}

/// Also if the server repeats a token that it refused before.
#[tokio::test]
async fn the_servers_errors_during_the_cleaning_are_sanitized_in_logs() {
    let credential = TestCredential::new("shop", 2_000);
    let welcome = [message(b'R', &[0; 4]), message(b'K', &[0; 8]), message(b'Z', b"I")].concat();
    for at in 0..texts("").len() {
        let authority = Authority::new().unwrap();
        let captured = capture();
        let secret = credential.secret();
        let (what, text) = texts(&secret).swap_remove(at);
        let notice = response(b'N', "01000", &text);
        let failure = [notice, response(b'E', "55000", &text), message(b'Z', b"I")].concat();
        let refusal = vec![response(b'E', "28P01", "no")];
        let connections = vec![refusal, vec![welcome.clone(), failure]];
        let port = server(&authority, connections).await;
        let identity = Identity::new(credential.clone());
        identity.tokens(Scope::AZURE_POSTGRESQL).token().await.unwrap();
        credential.next_token();
        let url = scoped("127.0.0.1", port, &authority.path());
        let pool = postgres::pool_with(&identity, &url).unwrap();
        drop(pool.get().await.unwrap());
        drop(pool.get().await.unwrap());
        let log = captured.text();
        assert!(log.contains("cannot clean a connection for reuse"), "{what}: {log}");
        assert!(log.contains("notice"), "{what}: {log}");
        assert_log_fit(what, &log, &secret);
    }
}

#[tokio::test]
async fn the_names_in_a_certificate_are_sanitized_in_errors() {
    let authority = Authority::new().unwrap();
    let names: Vec<String> = (0..500).map(|number| format!("name-{number}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for names in [&names[..], &["\u{1b}[31mred.example"]] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = TlsAcceptor::from(authority.issue(names).unwrap().server_config().unwrap());
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.read_exact(&mut [0; 8]).await.unwrap();
            socket.write_all(b"S").await.unwrap();
            tls.accept(socket).await.map(drop)
        });
        let identity = Identity::new(TestCredential::new("shop", 0));
        let connector = connector(&identity, &scoped("127.0.0.1", port, &authority.path()));
        let pool = connector.pool();
        let error = failure(pool.get().await);
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
        for text in shown(&error) {
            assert!(text.len() < 4_000 && !text.contains('\u{1b}'), "{} {text:.400}", text.len());
        }
    }
}
