//! The token goes to a verified server or nowhere.

use std::time::Duration;

use entra_pool::{
    clock::ManualClock,
    postgres::{self, Error, Stage},
    token::{Identity, Scope},
};
use entra_pool_emulator::certificates::Authority;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    connector, failure, let_in, server,
    support::{
        credential::{TestCredential, said},
        nobody_listens,
        postgres::DATABASE,
    },
};

/// A server on loopback that answers the request for TLS with `answer`, and
/// tells all that it was sent.
async fn fake_server(answer: &'static [u8]) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        socket.read_exact(&mut request).await.unwrap();
        socket.write_all(answer).await.unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
        [request.as_slice(), &rest].concat()
    });
    (port, received)
}

/// SSLRequest (PostgreSQL documentation, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

fn scoped(host: &str, port: u16, ca: &std::path::Path) -> String {
    format!(
        "postgres://shop@{host}:{port}/db?sslrootcert={}&entra_scope={}",
        ca.display(),
        Scope::AZURE_POSTGRESQL
    )
}

#[tokio::test]
async fn a_server_that_has_no_tls_gets_not_a_byte_of_the_login() {
    let authority = Authority::new().unwrap();
    // 'N': no TLS. 'H': not PostgreSQL at all, but HTTP. 'E': an old server's error.
    for answer in [b"N".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n", b"E"] {
        let (port, received) = fake_server(answer).await;
        let identity = Identity::new(TestCredential::new("shop", 2_000));
        let url = scoped("127.0.0.1", port, &authority.path());
        let pool = postgres::connect_with(&identity, &url).unwrap();
        let error = failure(pool.get().await);
        assert!(matches!(error, Error::EncryptionDeclined { .. }), "{error:?}");
        assert!(!error.is_transient());
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(error.to_string().contains("no token was sent"), "{error}");
        assert_eq!(received.await.unwrap(), SSL_REQUEST);
    }
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_token() {
    let server = server().await;
    let credential = let_in("stranger").await;
    let stranger = Authority::new().unwrap();
    let url = scoped("127.0.0.1", server.port(), &stranger.path());
    let identity = Identity::new(credential);
    let error = failure(postgres::connect_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(said(&error).contains("invalid peer certificate"), "{}", said(&error));
    assert!(said(&error).contains("sslrootcert"), "{}", said(&error));
}

#[tokio::test]
async fn a_server_of_another_name_gets_no_token() {
    let server = server().await;
    let identity = Identity::new(let_in("misnamed").await);
    let url = scoped("db.example", server.port(), &server.ca_file());
    let url = format!("{url}&hostaddr=127.0.0.1");
    let error = failure(postgres::connect_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(said(&error).contains("NotValidForName"), "{}", said(&error));
    let url = url.replace("db.example", "localhost");
    let url = url.replace("shop@", "misnamed@").replace("/db?", &format!("/{DATABASE}?"));
    drop(postgres::connect_with(&identity, &url).unwrap().get().await.unwrap());
}

#[tokio::test]
async fn nobody_there_is_told_by_name() {
    let (port, _held) = nobody_listens();
    let authority = Authority::new().unwrap();
    let identity = Identity::new(TestCredential::new("shop", 0));
    let url = scoped("127.0.0.1", port, &authority.path());
    let error = failure(postgres::connect_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Dial { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_by_the_clock_with_the_stage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let authority = Authority::new().unwrap();
    let clock = ManualClock::at(std::time::SystemTime::now());
    let credential = TestCredential::new("shop", 0);
    let identity = Identity::builder(credential).clock(clock.clone()).build();
    let connector = connector(&identity, &scoped("127.0.0.1", port, &authority.path()));
    let connecting = tokio::spawn(async move { connector.connect().await.err().unwrap() });
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = [0; 8];
    socket.read_exact(&mut request).await.unwrap();
    clock.advance(Duration::from_secs(15));
    let error = connecting.await.unwrap();
    let Error::TimedOut { stage, limit, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*stage, *limit), (Stage::SslRequest, Duration::from_secs(15)));
    assert!(error.is_transient());
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}
