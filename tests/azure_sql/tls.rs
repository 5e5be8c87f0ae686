//! The token is sent only to a verified server.

use std::path::Path;

use entra_pool::azure_sql::{Config, Connector, Error};
use entra_pool_emulator::{
    azure_sql::AzureSqlServer,
    certificates::{Authority, ServerCertificate},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{Shop, number, pool, refused_saying, support::credential::said};

/// Checks that no client has sent a login.
fn assert_no_login(server: &AzureSqlServer) {
    let counters = server.counters();
    assert_eq!(counters.logins + counters.refused_logins + counters.routed_logins, 0);
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let shop = Shop::open().await;
    let connector = shop.connector("HostNameInCertificate=other.example");
    let facts = ["other.example", "HostNameInCertificate", "invalid peer certificate", "no token"];
    let error = refused_saying(&connector, &facts).await;
    assert!(matches!(error, Error::Tls { .. }) && !error.is_transient(), "{error:?}");
    assert_no_login(shop.server());
}

#[tokio::test]
async fn a_server_whose_host_name_differs_from_its_certificate() {
    let shop = Shop::open().await;
    let server = shop.another_server("sql.example", |_| {}).await;
    let port = server.addr().port();
    let connector = shop.connector_to("127.0.0.1", port, "");
    let error = refused_saying(&connector, &["127.0.0.1", "HostNameInCertificate"]).await;
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert_no_login(&server);
    let connector = shop.connector_to("127.0.0.1", port, "HostNameInCertificate=sql.example");
    connector.connect().await.unwrap();
}

#[tokio::test]
async fn an_authority_that_is_not_trusted() {
    let shop = Shop::open().await;
    let stranger = Authority::new().unwrap();
    let port = shop.server().addr().port();
    let scope = "Entra Scope=https://database.windows.net/.default";
    let string = format!("Server=localhost,{port};Database=orders;{scope}");
    let of_a_stranger = format!("{string};TrustServerCertificateCA={}", stranger.path().display());
    // Without a file, the platform's authorities are trusted.
    for string in [of_a_stranger, string] {
        let facts = ["TrustServerCertificateCA", "invalid peer certificate", "no token was sent"];
        let error = refused_saying(&shop.connector_of(&string), &facts).await;
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    }
    assert_no_login(shop.server());
}

/// One server for each version of TLS, with a self-signed certificate for another name.
async fn unknown_servers(shop: &Shop) -> Vec<(ServerCertificate, AzureSqlServer)> {
    let mut servers = Vec::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let certificate = ServerCertificate::self_signed(&["sql.example"]).unwrap();
        let tls = certificate.server_config_for(&[version]).unwrap();
        let server = shop.another_server("sql.example", |options| options.endpoint.tls = tls).await;
        servers.push((certificate, server));
    }
    servers
}

fn string_to(server: &AzureSqlServer) -> String {
    let scope = "Entra Scope=https://database.windows.net/.default";
    format!("Server=localhost,{};Database=orders;{scope}", server.addr().port())
}

#[tokio::test]
async fn only_the_configured_certificate_is_trusted() {
    let shop = Shop::open().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.crt");
    let another = tempfile::tempdir().unwrap();
    ServerCertificate::self_signed(&["localhost"]).unwrap().write_to(another.path()).unwrap();
    for (certificate, server) in unknown_servers(&shop).await {
        let named =
            |file: &Path| format!("{};ServerCertificate={}", string_to(&server), file.display());
        let error = refused_saying(
            &shop.connector_of(&named(&another.path().join("server.crt"))),
            &["no token"],
        )
        .await;
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
        assert_no_login(&server);
        certificate.write_to(folder.path()).unwrap();
        shop.connector_of(&named(&file)).connect().await.unwrap();
        // The same certificate as DER.
        let der = CertificateDer::from_pem_file(&file).unwrap();
        std::fs::write(&file, &der).unwrap();
        shop.connector_of(&named(&file)).connect().await.unwrap();
        assert_eq!(server.counters().logins, 2);
    }
}

#[tokio::test]
async fn a_file_without_exactly_one_certificate() {
    let shop = Shop::open().await;
    let folder = tempfile::tempdir().unwrap();
    ServerCertificate::self_signed(&["localhost"]).unwrap().write_to(folder.path()).unwrap();
    let one = std::fs::read_to_string(folder.path().join("server.crt")).unwrap();
    for (text, problem) in [(one.repeat(2), "more than one certificate"), (String::new(), "")] {
        let file = folder.path().join("file.pem");
        std::fs::write(&file, text).unwrap();
        let config: Config =
            format!("{};ServerCertificate={}", string_to(shop.server()), file.display())
                .parse()
                .unwrap();
        let tokens = shop.identity.tokens(config.token_scope().unwrap());
        let error = Connector::new(config, tokens).unwrap_err();
        assert!(matches!(error, Error::TlsConfig(_)), "{error:?}");
        let said = said(&error);
        assert!(said.contains("file.pem") && said.contains(problem), "{said}");
    }
}

#[tokio::test]
async fn dangerous_methods_accept_any_certificate_of_a_local_server() {
    let shop = Shop::open().await;
    for (_, server) in unknown_servers(&shop).await {
        let config: Config = string_to(&server).parse().unwrap();
        for config in [
            config.clone().dangerous_trust_any_certificate_on_loopback(),
            config.dangerous_trust_any_certificate_anywhere(),
        ] {
            let tokens = shop.identity.tokens(config.token_scope().unwrap());
            Connector::new(config, tokens).unwrap().connect().await.unwrap();
        }
        assert_eq!(server.counters().logins, 2);
    }
}

/// A server that responds to PRELOGIN with this encryption, then sends `more`. Its task returns
/// everything that it received afterwards.
async fn fake_server(
    encryption: u8,
    more: &'static [u8],
) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut header = [0; 8];
        socket.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
        socket.read_exact(&mut payload).await.unwrap();
        // VERSION and ENCRYPTION (MS-TDS 2.2.6.5).
        let options = [0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 255, 16, 0, 0, 0, 0, 0, encryption];
        socket.write_all(&[4, 1, 0, 26, 0, 0, 1, 0]).await.unwrap();
        socket.write_all(&options).await.unwrap();
        socket.write_all(more).await.unwrap();
        let mut rest = Vec::new();
        // A reset is also an end of the stream.
        let _ = socket.read_to_end(&mut rest).await;
        rest
    });
    (port, received)
}

#[tokio::test]
async fn a_server_that_declines_encryption() {
    let shop = Shop::open().await;
    // ENCRYPT_OFF, which would encrypt the login only, and ENCRYPT_NOT_SUP.
    for encryption in [0, 2] {
        let (port, received) = fake_server(encryption, b"").await;
        let connector = shop.connector_to("127.0.0.1", port, "");
        let error = refused_saying(&connector, &["declines encryption", "no token was sent"]).await;
        assert!(matches!(error, Error::EncryptionDeclined { .. }), "{error:?}");
        assert!(!error.is_transient());
        assert_eq!(received.await.unwrap(), b"");
    }
}

#[tokio::test]
async fn a_server_that_responds_to_the_tls_handshake_with_another_protocol() {
    let shop = Shop::open().await;
    for (answer, said) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "responds to the TLS handshake with something else",
        ),
        (&[0x12, 1, 0, 12, 0, 0, 0, 0, 9, 9, 9, 9], "no token was sent"),
    ] {
        let (port, received) = fake_server(1, answer).await;
        let connector = shop.connector_to("127.0.0.1", port, "");
        let error = refused_saying(&connector, &[said]).await;
        assert!(matches!(error, Error::Tls { .. } | Error::UnexpectedProtocol { .. }), "{error:?}");
        assert!(!error.is_transient(), "{error:?}");
        assert_eq!(received.await.unwrap()[0], 0x12, "a PRELOGIN packet with TLS in it");
    }
}

#[tokio::test]
async fn tls_in_packets_of_either_type() {
    let shop = Shop::open().await;
    for kind in [0x12, 0x04] {
        let server = shop
            .another_server("localhost", |options| options.endpoint.handshake_packet_type = kind)
            .await;
        let connector = shop.connector_to("localhost", server.addr().port(), "");
        let mut connection = connector.connect().await.unwrap();
        assert_eq!(number(&mut connection, "SELECT 1").await, 1, "{kind}");
    }
}

#[tokio::test]
async fn tls_sessions_are_resumed_within_a_pool() {
    let shop = Shop::open().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for kind in [0x12, 0x04] {
            let certificate = shop.emulator.authority().issue(&["localhost"]).unwrap();
            let tls = certificate.server_config_for(&[version]).unwrap();
            let server = shop
                .another_server("localhost", |options| {
                    options.endpoint.tls = tls;
                    options.endpoint.handshake_packet_type = kind;
                })
                .await;
            let connector = shop.connector_to("localhost", server.addr().port(), "");
            let pool = pool(&connector, 4);
            let mut lent = Vec::new();
            for resumed in 0..4 {
                let mut connection = pool.get().await.unwrap();
                assert_eq!(number(&mut connection, "SELECT 1").await, 1);
                assert_eq!(server.counters().tls_resumptions, resumed, "{version:?} {kind}");
                lent.push(connection);
            }
        }
    }
}
