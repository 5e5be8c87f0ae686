//! Mistakes that only a connect can detect: it returns a typed error before the deadline. The error
//! says what to do, and contains no token.

use std::{error::Error as _, time::Duration};

use entra_pool::{
    azure_sql::{Connector, Error},
    connect::Stage,
    credential::{Environment, ManagedIdentity, UserAssignedId},
};
use entra_pool_emulator::{azure_sql as fault, identity::Fault};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    Shop, refused, refused_saying,
    support::{credential::said, refusing_port},
    until, without_pauses,
};

/// The shop, with the identity of a virtual machine.
async fn on_a_machine(client_id: Option<&str>) -> Shop {
    let shop = Shop::open().await;
    let builder = match client_id {
        Some(id) => ManagedIdentity::user_assigned(UserAssignedId::ClientId(id.to_owned())),
        None => ManagedIdentity::system_assigned(),
    };
    let credential = builder
        .environment(Environment::default())
        .imds_endpoint(shop.emulator.identity().imds_endpoint())
        .build()
        .unwrap();
    shop.with_identity(credential)
}

#[tokio::test]
async fn no_identity_is_available() {
    let shop = on_a_machine(None).await;
    shop.emulator.identity().go_away().await.unwrap();
    let facts = ["cannot get a token for localhost", "managed identity (IMDS)"];
    let error = refused_saying(&shop.connector(""), &facts).await;
    assert!(matches!(error, Error::Token { .. }), "{error:?}");
    assert_eq!(shop.counters().connections, 0);

    // The failure is not cached: once there is an identity, a connect succeeds a second later.
    shop.emulator.identity().come_back().unwrap();
    shop.clock.advance(Duration::from_secs(2));
    shop.connector("").connect().await.unwrap();
}

#[tokio::test]
async fn an_identity_that_is_not_assigned() {
    let unassigned = "00000000-0000-0000-0000-00000000beef";
    let shop = on_a_machine(Some(unassigned)).await;
    let facts = ["cannot get a token for", "Identity not found", unassigned];
    let error = refused_saying(&shop.connector(""), &facts).await;
    assert!(matches!(error, Error::Token { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!((shop.token_requests(), shop.counters().connections), (1, 0));
}

#[tokio::test]
async fn a_response_without_a_token() {
    let shop = on_a_machine(None).await;
    shop.emulator.identity().fail_next(1, Fault::Status(200, "<!doctype html>".to_owned()));
    let error = refused_saying(&shop.connector(""), &["cannot get a token for"]).await;
    assert!(matches!(error, Error::Token { .. }), "{error:?}");
}

#[tokio::test]
async fn a_token_for_the_wrong_audience() {
    let shop = Shop::open().await;
    let vault = "https://vault.azure.net";
    shop.emulator.identity().configure_tokens(|tokens| tokens.audience = Some(vault.into()));
    let facts = ["wrong audience", vault, "https://database.windows.net", "Entra Scope"];
    let error = refused_saying(&shop.connector(""), &facts).await;
    assert!(matches!(error, Error::LoginRefused(_)) && !error.is_transient(), "{error:?}");
    assert!(!error.to_string().contains("CREATE USER"), "{error}");
}

#[tokio::test]
async fn an_expired_token() {
    let shop = Shop::open().await;
    shop.emulator.identity().configure_tokens(|tokens| tokens.lifetime_seconds = -60);
    let facts = ["Token is expired", "clock"];
    let error = refused_saying(&shop.connector(""), &facts).await;
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
    assert!(!error.to_string().contains("CREATE USER"), "{error}");
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let shop = Shop::open().await;
    let string = shop.string().replace("=orders", "=nowhere");
    let connector = shop.connector_of(&string);
    let facts = ["Cannot open database \"nowhere\"", "does not exist, or", "no user in it"];
    let error = without_pauses(&shop, &connector).await.unwrap_err();
    assert!(matches!(error, Error::Login { .. }), "{error:?}");
    for fact in facts {
        assert!(said(&error).contains(fact), "{fact} is missing: {}", said(&error));
    }
    assert_eq!(error.server_error().unwrap().code(), 4060);
    // The connect is retried, because the database might be failing over.
    assert_eq!((shop.counters().refused_logins, connector.report().retried), (3, 2));
}

#[tokio::test]
async fn a_connection_string_without_a_database() {
    let shop = Shop::open().await;
    shop.emulator.directory().remove("shop-identity");
    let string = shop.string().replace("Database=orders;", "");
    let error = refused_saying(&shop.connector_of(&string), &["master", "add Database="]).await;
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
}

#[tokio::test]
async fn a_port_without_a_listener() {
    let shop = Shop::open().await;
    let (port, _held) = refusing_port();
    let connector = shop.connector_to("127.0.0.1", port, "");
    let address = format!("127.0.0.1,{port} cannot be reached");
    let error = refused_saying(&connector, &[&address, "firewall", "refused"]).await;
    assert!(matches!(error, Error::Dial { .. }) && error.is_transient(), "{error:?}");
}

/// Starts a listener that calls `serve` for each connection; returns its port.
async fn host<F, R>(serve: F) -> u16
where
    F: Fn(tokio::net::TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            serve(listener.accept().await.unwrap().0).await;
        }
    });
    port
}

#[tokio::test]
async fn a_host_that_is_not_a_tds_server() {
    let shop = Shop::open().await;
    let long = [&[4, 1, 0xff, 0xff, 0, 0, 0, 0][..], &[0; 9000]].concat();
    let answers = [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[4, 1, 0, 3, 0, 0, 0, 0],
        &[4, 1, 0, 9, 0, 0, 0, 0, 7],
        &long,
    ];
    for answer in answers {
        let answer = answer.to_vec();
        let port = host(move |mut socket| {
            let answer = answer.clone();
            async move {
                let mut request = [0; 16];
                socket.read_exact(&mut request).await.unwrap();
                let _ = socket.write_all(&answer).await;
            }
        })
        .await;
        let connector = shop.connector_to("127.0.0.1", port, "");
        let error = refused_saying(&connector, &["does not respond like Azure SQL"]).await;
        assert!(
            matches!(error, Error::UnexpectedProtocol { .. }) && !error.is_transient(),
            "{error:?}"
        );
    }
}

/// Such a server closes the connection, or sends an error of its own version.
#[tokio::test]
async fn a_server_that_speaks_the_other_version_of_tds_is_reported_with_encrypt() {
    /// A TLS alert: unexpected message.
    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 10];
    /// The first bytes of a TDS error response.
    const RESPONSE: &[u8] = &[4, 1, 0, 12, 0, 0, 1, 0, 0xaa, 0, 0, 0];
    let shop = Shop::open().await;
    for (encrypt, response, advice) in [
        ("Strict", None, "Encrypt=Strict needs a server that speaks TDS 8.0"),
        ("Strict", Some(RESPONSE), "set Encrypt=Mandatory"),
        ("Mandatory", None, "only speaks TDS 8.0 needs Encrypt=Strict"),
        ("Mandatory", Some(ALERT), "set Encrypt=Strict"),
    ] {
        let port = host(move |mut socket| async move {
            let _ = socket.read(&mut [0; 512]).await;
            if let Some(response) = response {
                let _ = socket.write_all(response).await;
            }
        })
        .await;
        let more = format!("Encrypt={encrypt};ConnectRetryCount=0");
        let error = shop.connector_to("127.0.0.1", port, &more).connect().await.unwrap_err();
        let said =
            format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
        assert!(said.contains(advice), "{encrypt}, {response:?}: {said}");
    }
    // At other stages, the error does not mention `Encrypt`.
    shop.server().behaviour().disturb(1, fault::Stage::Tls, fault::Fault::Cut);
    let error = shop.connector("ConnectRetryCount=0").connect().await.unwrap_err();
    let said = format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
    assert!(matches!(error, Error::ConnectionLost { stage: Stage::Tls, .. }), "{said}");
    assert!(!said.contains("Encrypt"), "{said}");
}

#[tokio::test]
async fn a_host_that_closes_at_once() {
    let shop = Shop::open().await;
    let port = host(|socket| async move { drop(socket) }).await;
    let connector = shop.connector_to("127.0.0.1", port, "");
    let error = without_pauses(&shop, &connector).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionLost { stage: Stage::Negotiate, .. }), "{error:?}");
    assert_eq!((error.is_transient(), connector.report().retried), (true, 2));
}

/// Lets a connect time out after `stuck` completes; returns its error.
async fn timed_out(shop: &Shop, connector: Connector, stuck: impl Future<Output = ()>) -> Error {
    let connecting = tokio::spawn(async move { refused(&connector).await });
    stuck.await;
    shop.clock.advance(Duration::from_secs(15));
    connecting.await.unwrap()
}

fn assert_timed_out(error: &Error, at: Stage, words: &str) {
    let Error::TimedOut { stage, limit, .. } = error else { panic!("{error:?}") };
    assert_eq!((*stage, *limit), (at, Duration::from_secs(15)));
    assert!(error.is_transient());
    assert!(said(error).contains(words), "{}", said(error));
    assert!(said(error).contains("Connect Timeout"), "{}", said(error));
}

#[tokio::test]
async fn an_identity_endpoint_that_never_responds() {
    let shop = Shop::open().await;
    shop.emulator.identity().hold();
    let connector = shop.connector("");
    let error = timed_out(&shop, connector, shop.emulator.identity().wait_for_requests(1)).await;
    assert!(matches!(error, Error::Token { .. }) && error.is_transient(), "{error:?}");
    for words in ["cannot get a token for localhost", "managed identity", "after 15s"] {
        assert!(said(&error).contains(words), "{}", said(&error));
    }
    // The request continued in the background; the next caller gets its token.
    shop.emulator.identity().release();
    shop.connector("").connect().await.unwrap();
    assert_eq!(shop.token_requests(), 1);
}

#[tokio::test]
async fn a_host_that_accepts_connections_and_never_responds() {
    let shop = Shop::open().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = None;
    let connector = shop.connector_to("127.0.0.1", port, "");
    let error = timed_out(&shop, connector, async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut header = [0; 8];
        socket.read_exact(&mut header).await.unwrap();
        held = Some(socket);
    })
    .await;
    assert_timed_out(&error, Stage::Negotiate, "negotiating encryption");
    drop(held);
}

#[tokio::test]
async fn a_host_that_stops_responding_in_the_tls_handshake() {
    let shop = Shop::open().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = None;
    let connector = shop.connector_to("127.0.0.1", port, "");
    let error = timed_out(&shop, connector, async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut header = [0; 8];
        socket.read_exact(&mut header).await.unwrap();
        let mut rest = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
        socket.read_exact(&mut rest).await.unwrap();
        // ENCRYPTION: ENCRYPT_ON (MS-TDS 2.2.6.5).
        let answer = [4, 1, 0, 15, 0, 0, 1, 0, 1, 0, 6, 0, 1, 255, 1];
        socket.write_all(&answer).await.unwrap();
        socket.read_exact(&mut header).await.unwrap();
        held = Some(socket);
    })
    .await;
    assert_timed_out(&error, Stage::Tls, "in the TLS handshake");
    drop(held);
}

#[tokio::test]
async fn a_server_that_does_not_respond_to_the_login() {
    let shop = Shop::open().await;
    shop.server().behaviour().delay_logins(Duration::from_secs(3600));
    let capture = crate::logs::capture();
    let connector = shop.connector("");
    // The event is logged just before the login is sent.
    let error = timed_out(&shop, connector, until(|| capture.text().contains("logging in"))).await;
    assert_timed_out(&error, Stage::Login, "login response");
    assert_eq!(shop.counters().logins, 0);
}

#[tokio::test]
async fn a_connection_that_is_dropped_during_the_login_is_retried() {
    let shop = Shop::open().await;
    shop.server().behaviour().disturb(1, fault::Stage::Login, fault::Fault::Cut);
    let capture = crate::logs::capture();
    let connector = shop.connector("");
    without_pauses(&shop, &connector).await.unwrap();
    let report = connector.report();
    assert_eq!((report.logins, report.retried), (1, 1));
    assert!(capture.text().contains("the login to localhost"), "{}", capture.text());
}
