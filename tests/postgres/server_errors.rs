//! Errors of the server: their classification and their messages.

use entra_pool::{
    connect::RetireReason,
    postgres::{Error, deadpool_postgres::PoolError, is_transient},
    token::Identity,
};
use entra_pool_emulator::certificates::Authority;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::{
    backend, connector, credential_for, failure, server,
    support::{
        credential::{TestCredential, code, said},
        postgres::DATABASE,
    },
    tls::scoped,
};

/// An `ErrorResponse`.
fn error(code: &str, message: &str) -> Vec<u8> {
    let body = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [b"E", &length[..], body.as_bytes()].concat()
}

/// A port whose first connections get `answer` to their SSLRequest; later ones reach the server.
async fn overloaded(answer: Vec<u8>, connections: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind = server().await.port();
    tokio::spawn(async move {
        for count in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                if count < connections {
                    socket.read_exact(&mut [0; 8]).await.unwrap();
                    socket.write_all(&answer).await.unwrap();
                    return;
                }
                let mut server = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                let _ = copy_bidirectional(&mut socket, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn an_error_in_response_to_the_request_for_tls_is_retried_like_a_server_error() {
    let full = "sorry, too many clients already";
    let fork = b"Ecould not fork new process for connection: Resource temporarily unavailable\n\0";
    for answer in [error("53300", full), error("57P03", "starting up"), fork.to_vec()] {
        let identity = Identity::new(credential_for("overloaded").await);
        let port = overloaded(answer, 4).await;
        let connector = connector(&identity, &server().await.url_at(port, "overloaded", ""));
        drop(connector.connect().await.unwrap());
        assert_eq!((connector.report().retried, connector.report().renewed), (2, 0));
    }
}

#[tokio::test]
async fn an_error_before_tls_is_shown_and_is_not_a_refused_token() {
    let fork = "could not fork new process for connection: out of\u{1b}[31m memory";
    for (answer, expected, transient) in [
        (error("53300", "sorry, too many clients already"), "53300", true),
        (format!("E{fork}\n\0").into_bytes(), "53300", true),
        (error("28P01", "no"), "28P01", false),
    ] {
        let credential = TestCredential::new("nobody", 2_000);
        let port = overloaded(answer, usize::MAX).await;
        let url = server().await.url_at(port, "nobody", "&connect_timeout=1");
        let connector = connector(&Identity::new(credential.clone()), &url);
        let error = connector.connect().await.err().unwrap();
        let Error::Login { source: cause, .. } = &error else { panic!("{error:?}") };
        assert_eq!((code(cause), error.is_transient()), (Some(expected), transient));
        assert_eq!((connector.report().renewed, credential.requests()), (0, 1));
        let top = format!("the login to 127.0.0.1:{port} as \"nobody\" failed: ");
        assert!(error.to_string().starts_with(&top), "{error}");
        assert!(said(&error).contains("its sender is not verified"), "{}", said(&error));
        assert!(!said(&error).contains('\u{1b}'), "{error:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_too_long_for_a_password_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let authority = Authority::new().unwrap();
    let url = scoped("127.0.0.1", port, &authority.path());
    let mut credential = TestCredential::new("shop", 65_531);
    for length in 65_531.. {
        if credential.secret().len() > 65_530 {
            break;
        }
        credential = TestCredential::new("shop", length);
    }
    let connector = connector(&Identity::new(credential), &url);
    let error = connector.connect().await.err().unwrap();
    assert!(matches!(error, Error::Login { .. }) && !error.is_transient(), "{error:?}");
    for fact in ["127.0.0.1", "\"shop\"", "characters", "at most 65530", "groups"] {
        assert!(said(&error).contains(fact), "{fact} is missing: {error:?}");
    }
    let accepting = tokio::time::timeout(std::time::Duration::ZERO, listener.accept());
    assert!(accepting.await.is_err(), "no connection was opened");
}

#[tokio::test]
async fn a_connection_to_a_read_only_server_is_retired_if_read_write_is_required() {
    for (wanted, reasons) in [("read-write", vec![(RetireReason::ReadOnly, 1)]), ("any", vec![])] {
        let identity = crate::identity_of("failed_over").await;
        let more = format!("&target_session_attrs={wanted}");
        let connector = connector(&identity, &server().await.url_with("failed_over", &more));
        let pool = connector.pool_builder().max_size(1).build();
        let client = pool.get().await.unwrap();
        let first = backend(&client).await;
        client.batch_execute("SET default_transaction_read_only = on").await.unwrap();
        let error = client.batch_execute("CREATE TABLE lost (id int)").await.unwrap_err();
        assert_eq!((code(&error), is_transient(&error)), (Some("25006"), true));
        drop(client);
        let next = backend(&pool.get().await.unwrap()).await;
        assert_eq!(next == first, reasons.is_empty(), "{wanted}");
        assert_eq!(connector.report().retired, reasons, "{wanted}");
    }
}

/// Also for the error that a pool returns.
#[tokio::test]
async fn the_first_line_names_the_login_and_the_reason() {
    let server = server().await;
    let unknown = Identity::new(TestCredential::new("no-role", 2_000));
    let lost = Identity::new(credential_for("no-database").await);
    let nowhere = server.url("no-database").replace(&format!("/{DATABASE}?"), "/nowhere?");
    for (identity, url, role, reason, remedy) in [
        (
            unknown,
            server.url("no-role"),
            "no-role",
            "was refused: the server does not accept",
            "create_principal",
        ),
        (
            lost,
            nowhere,
            "no-database",
            "failed: the database does not exist",
            "flexible-server db list",
        ),
    ] {
        let connector = connector(&identity, &url);
        let top = format!("the login to 127.0.0.1:{} as \"{role}\" {reason}", server.port());
        let error = failure(connector.pool().get().await);
        assert!(error.to_string().starts_with(&top), "{error}");
        let text = format!("{error:?}");
        assert!(text.lines().count() <= 15 && text.contains(remedy), "{text}");
        assert!(!text.contains("DbError") && text.starts_with(&top), "{text}");
        // No layer repeats another one.
        let lines: Vec<_> = text.lines().collect();
        assert!((1..lines.len()).all(|at| !lines[at - 1].contains(lines[at])), "{text}");
        let Err(error) = connector.pool().get().await else { panic!("the login succeeded") };
        assert!(matches!(error, PoolError::Backend(_)) && format!("{error:?}").contains(remedy));
    }
}

#[tokio::test]
async fn the_error_of_a_dropped_connection_names_the_login() {
    let server = server().await;
    let identity = Identity::new(credential_for("cut").await);
    let network =
        entra_pool_emulator::network::Network::to(([127, 0, 0, 1], server.port()).into()).unwrap();
    use entra_pool_emulator::network::{Act, After, Fault, Towards};
    let url = server.url_at(network.addr().port(), "cut", "&connect_timeout=1");
    let connector = connector(&identity, &url);
    let mut logins = 0;
    for bytes in (1_000..4_000).step_by(500) {
        network.disturb(
            9,
            Some(Fault { towards: Towards::Client, after: After::Bytes(bytes), act: Act::Close }),
        );
        let Err(error) = connector.connect().await else { continue };
        if let Error::Login { .. } = error {
            logins += 1;
            assert!(
                error.to_string().contains(" as \"cut\" failed: the connection broke"),
                "{error}"
            );
            let texts = said(&error);
            assert!(texts.matches("error communicating with the server").count() <= 2, "{texts}");
        }
    }
    assert!(logins > 0);
}
