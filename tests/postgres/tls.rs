//! The token is only sent to a verified server.

use std::{sync::Arc, time::Duration};

use entra_pool::{
    clock::ManualClock,
    connect::Stage,
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
    connector, credential_for, failure, server,
    support::{
        credential::{TestCredential, said},
        refusing_port,
    },
    text,
};

pub fn scoped(host: &str, port: u16, ca: &std::path::Path) -> String {
    format!(
        "postgres://shop@{host}:{port}/db?sslrootcert={}&entra_scope={}",
        ca.display(),
        Scope::AZURE_POSTGRESQL
    )
}

#[tokio::test]
async fn a_server_with_a_certificate_of_another_authority_gets_no_token() {
    let server = server().await;
    let credential = credential_for("stranger").await;
    let stranger = Authority::new().unwrap();
    let url = scoped("127.0.0.1", server.port(), &stranger.path());
    let identity = Identity::new(credential);
    let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(said(&error).contains("invalid peer certificate"), "{}", said(&error));
    assert!(said(&error).contains("sslrootcert"), "{}", said(&error));
}

#[tokio::test]
async fn a_refused_connection_is_reported_with_the_servers_name() {
    let (port, _held) = refusing_port();
    let authority = Authority::new().unwrap();
    let identity = Identity::new(TestCredential::new("shop", 0));
    let url = scoped("127.0.0.1", port, &authority.path());
    let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::Dial { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_server_that_stops_responding_causes_a_timeout_that_names_the_stage() {
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
    assert_eq!((*stage, *limit), (Stage::Negotiate, Duration::from_secs(15)));
    assert!(error.is_transient());
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

/// A server that starts with TLS, as PostgreSQL 17 can (its documentation, "SSL Session
/// Encryption"), and asks for the token in plain text. Returns the received password.
async fn direct_server(
    authority: &Authority,
    name: &str,
) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tls = authority.issue(&[name]).unwrap().server_config().unwrap();
    Arc::get_mut(&mut tls).unwrap().alpn_protocols = vec![b"postgresql".to_vec()];
    let received = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(tls).accept(socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"postgresql".as_slice()));
        let startup = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
        stream.read_exact(&mut vec![0; startup - 4]).await.unwrap();
        // AuthenticationCleartextPassword.
        stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'p');
        let length = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
        let mut password = vec![0; length - 4];
        stream.read_exact(&mut password).await.unwrap();
        let body = b"SFATAL\0C3D000\0Mno such database\0\0";
        let length = u32::try_from(body.len() + 4).unwrap();
        stream.write_all(&[b"E", length.to_be_bytes().as_slice(), body].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        password
    });
    (port, received)
}

/// As with PostgreSQL 17 (its documentation, "SSL Session Encryption").
#[tokio::test]
async fn tls_starts_directly_if_the_server_supports_it() {
    let identity = Identity::new(credential_for("direct-17").await);
    let url = server().await.url_with("direct-17", "&sslnegotiation=direct");
    let pool = postgres::pool_with(&identity, &url).unwrap();
    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT current_user::text").await, "direct-17");
}

#[tokio::test]
async fn a_private_endpoint_is_verified_by_the_public_name_of_its_server() {
    let authority = Authority::new().unwrap();
    for (host, verified) in [
        ("Shop.PrivateLink.postgres.database.azure.com", true),
        // Only in Azure's names is `privatelink` left out.
        ("shop.privatelink.postgres.database.example", false),
    ] {
        let public = host.to_ascii_lowercase().replace("privatelink.", "");
        let (port, received) = direct_server(&authority, &public).await;
        let identity = Identity::new(TestCredential::new("shop", 0));
        let url = scoped(host, port, &authority.path());
        let url = url + "&hostaddr=127.0.0.1&sslnegotiation=direct";
        let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
        assert_eq!(matches!(error, Error::Login { .. }), verified, "{error:?}");
        assert!(error.to_string().contains(&format!("{host}:{port}")), "{error}");
        assert_eq!(received.await.is_ok(), verified);
    }
}

#[tokio::test]
async fn a_server_that_cannot_start_with_tls_gets_no_token() {
    let identity = Identity::new(credential_for("direct").await);
    // PostgreSQL 15 rejects the handshake as an invalid packet and closes the connection.
    let version = server().await.value("SHOW server_version_num").await.unwrap();
    assert!(
        version.parse::<u32>().unwrap() < 170_000,
        "another test covers servers that support it"
    );
    let server = server().await;
    let url = server.url_at(server.engine_port(), "direct", "&sslnegotiation=direct");
    let error = failure(postgres::pool_with(&identity, &url).unwrap().get().await);
    assert!(matches!(error, Error::ConnectionLost { stage: Stage::Tls, .. }), "{error:?}");
    assert!(error.to_string().contains("no token was sent"), "{error}");
}
