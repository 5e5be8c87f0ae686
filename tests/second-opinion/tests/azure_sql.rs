//! Logins, routing and recycling with Microsoft's server.
#![allow(clippy::disallowed_methods)] // The server runs in real time.

#[path = "../../support/credential.rs"]
#[allow(dead_code)] // Other tests use the rest.
mod credential;

use std::time::Duration;

use credential::TestCredential;
use entra_pool::{
    azure_sql::{Client, Config, Connector, Error, Pool, Recycling},
    connect::RetireReason,
    token::{Identity, Scope},
};
use entra_pool_emulator::{
    certificates::Authority,
    jwt::{Principal, PrincipalKind},
};
use mssql_mock_tds::{
    QueryResponse, RedirectionConfig, TerminalError, protocol::FEATURE_EXT_FEDAUTH,
};
use second_opinion::Server;

/// The token length with which the login nearly fills one packet of 4,096 bytes.
const ONE_PACKET: usize = 1_850;

const HOUR: Duration = Duration::from_secs(3_600);

/// An authority for the servers, and an identity that logs in.
struct Visitor {
    authority: Authority,
    credential: TestCredential,
    identity: Identity,
}

impl Visitor {
    fn new() -> Self {
        let principal = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        let audience = "https://database.windows.net";
        let credential = TestCredential::for_principal(principal, audience, ONE_PACKET);
        let identity = Identity::new(credential.clone());
        Self { authority: Authority::new().unwrap(), credential, identity }
    }

    /// Builds a connector that trusts only this authority.
    fn connector(&self, server: &Server, more: &str) -> Connector {
        self.connector_to("localhost", server, more)
    }

    fn connector_to(&self, host: &str, server: &Server, more: &str) -> Connector {
        let config: Config = format!(
            "Server={host},{};Database=orders;TrustServerCertificateCA={};Entra Scope={};{more}",
            server.port(),
            self.authority.path().display(),
            Scope::AZURE_SQL,
        )
        .parse()
        .unwrap();
        let tokens = self.identity.tokens(config.token_scope().unwrap());
        Connector::new(config, tokens).unwrap()
    }

    fn pool_of_one(&self, server: &Server, recycling: Recycling) -> (Pool, Connector) {
        let connector = self.connector(server, "");
        let config = connector.config().clone().recycling(recycling);
        let connector = Connector::new(config, connector.tokens().clone()).unwrap();
        (connector.pool_builder().max_size(1).build(), connector)
    }

    /// Asserts that the server received `connections` logins, each with the unmodified token.
    async fn assert_logged_in(&self, server: &Server, connections: usize) {
        let seen = server.seen().await;
        assert_eq!(seen.len(), connections);
        for connection in seen {
            assert!(connection.authenticated);
            assert_eq!(connection.received_token_as_string(), Some(self.credential.secret()));
            assert_eq!(connection.received_server_name.as_deref(), Some("localhost"));
            assert_eq!(connection.received_database.as_deref(), Some("orders"));
            // The login contains the token and requests no other feature.
            assert_eq!(connection.requested_feature_ids, [FEATURE_EXT_FEDAUTH]);
            assert_eq!(connection.fedauth_workflow, None);
        }
    }
}

async fn one(client: &mut Client) -> i32 {
    let row = client.simple_query("SELECT 1").await.unwrap().into_row().await.unwrap().unwrap();
    row.get(0).unwrap()
}

#[tokio::test]
async fn a_token_of_one_packet_logs_in_over_tls() {
    let visitor = Visitor::new();
    let server = Server::start(&visitor.authority).await;
    for connections in 1..=3 {
        let mut client = visitor.connector(&server, "").connect().await.unwrap();
        assert_eq!(one(&mut client).await, 1);
        visitor.assert_logged_in(&server, connections).await;
    }
    assert_eq!(visitor.credential.requests(), 1);
}

#[tokio::test]
async fn a_token_logs_in_over_tds_8() {
    let visitor = Visitor::new();
    let server = Server::start_strict(&visitor.authority).await;
    let mut client = visitor.connector(&server, "Encrypt=Strict").connect().await.unwrap();
    assert_eq!(one(&mut client).await, 1);
    visitor.assert_logged_in(&server, 1).await;

    let old = Server::start(&visitor.authority).await;
    let connector = visitor.connector(&old, "Encrypt=Strict;ConnectRetryCount=0");
    connector.connect().await.unwrap_err();
    assert!(old.seen().await.is_empty());
}

#[tokio::test]
async fn a_server_that_declines_tls_gets_no_token() {
    let visitor = Visitor::new();
    let server = Server::start_unencrypted().await;
    let error = visitor.connector(&server, "").connect().await.unwrap_err();
    assert!(matches!(error, Error::EncryptionDeclined { .. }), "{error:?}");
    assert!(server.seen().await.iter().all(|seen| seen.received_token.is_none()));
}

#[tokio::test]
async fn a_server_that_is_not_trusted_gets_no_token() {
    let visitor = Visitor::new();
    let unknown = Authority::new().unwrap();
    for (host, authority) in [("localhost", &unknown), ("127.0.0.1", &visitor.authority)] {
        let server = Server::start(authority).await;
        let error = visitor.connector_to(host, &server, "").connect().await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
        assert!(server.seen().await.is_empty());
    }
}

#[tokio::test]
async fn a_login_is_routed_with_and_without_a_loginack() {
    for login_ack in [true, false] {
        let visitor = Visitor::new();
        let server = Server::start(&visitor.authority).await;
        let router = Server::start_routing(&visitor.authority, |_| RedirectionConfig {
            login_ack,
            // For clients that request it (feature 0x0F), which this crate does not.
            ..RedirectionConfig::enhanced("localhost", server.port(), "elsewhere")
        })
        .await;
        let mut client = visitor.connector(&router, "").connect().await.unwrap();
        assert_eq!(one(&mut client).await, 1);
        visitor.assert_logged_in(&server, 1).await;
        assert_eq!(router.seen().await.len(), 1);
    }
}

#[tokio::test]
async fn a_login_that_is_routed_in_circles_fails() {
    let visitor = Visitor::new();
    let router = Server::start_routing(&visitor.authority, |itself| {
        RedirectionConfig::new("localhost", itself)
    })
    .await;
    let error = visitor.connector(&router, "").connect().await.unwrap_err();
    assert!(matches!(error, Error::Routing { .. }), "{error:?}");
    assert_eq!(router.seen().await.len(), 11);
}

#[tokio::test]
async fn a_connection_without_an_acknowledged_reset_is_not_reused() {
    let visitor = Visitor::new();
    // This server ignores resets.
    let server = Server::start(&visitor.authority).await;
    let (pool, connector) = visitor.pool_of_one(&server, Recycling::Fast);
    for resets in [0, 1, 0] {
        let mut client = pool.get().await.unwrap();
        assert_eq!(one(&mut client).await, 1);
        assert_eq!(client.resets_sent(), resets);
    }
    visitor.assert_logged_in(&server, 2).await;
    // Autocommit: no transaction, one request (MS-TDS 2.2.5.3.2).
    assert_eq!(server.seen().await[0].transaction_descriptor_headers, [(0, 1); 2]);
    assert_eq!(connector.report().retired, [(RetireReason::ResetNotAcknowledged, 1)]);
}

#[tokio::test]
async fn a_connection_whose_probe_returns_no_row_is_not_reused() {
    let visitor = Visitor::new();
    let server = Server::start(&visitor.authority).await;
    let (pool, connector) = visitor.pool_of_one(&server, Recycling::Clean);
    for _ in 0..2 {
        assert_eq!(one(&mut pool.get().await.unwrap()).await, 1);
    }
    visitor.assert_logged_in(&server, 2).await;
    // The server also does not acknowledge the reset that is sent with the probe.
    assert_eq!(connector.report().retired, [(RetireReason::ResetNotAcknowledged, 1)]);
}

#[tokio::test]
async fn requests_name_their_transaction_and_it_does_not_reach_the_next_caller() {
    let visitor = Visitor::new();
    let server = Server::start(&visitor.authority).await;
    let (pool, connector) = visitor.pool_of_one(&server, Recycling::Fast);
    let mut client = pool.get().await.unwrap();
    client.begin_transaction().await.unwrap();
    one(&mut client).await;
    client.commit_transaction().await.unwrap();
    one(&mut client).await;
    assert_eq!(server.seen().await[0].transaction_descriptor_headers, [(1, 1), (0, 1)]);

    client.begin_transaction().await.unwrap();
    drop(client);
    assert_eq!(one(&mut pool.get().await.unwrap()).await, 1);
    assert_eq!(connector.report().retired, [(RetireReason::TransactionOpen, 1)]);
}

#[tokio::test]
async fn a_query_that_was_dropped_is_not_waited_for() {
    let visitor = Visitor::new();
    let server = Server::start(&visitor.authority).await;
    server.answer("SELECT 2", QueryResponse::select_one().with_delay(HOUR)).await;
    let (pool, connector) = visitor.pool_of_one(&server, Recycling::Fast);
    let mut client = pool.get().await.unwrap();
    tokio::select! {
        answer = client.simple_query("SELECT 2") => panic!("{:?}", answer.map(drop)),
        () = async {
            while server.seen().await[0].transaction_descriptor_headers.is_empty() {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    drop(client);
    assert_eq!(one(&mut pool.get().await.unwrap()).await, 1);
    assert_eq!(connector.report().retired, [(RetireReason::Unsettled, 1)]);
}

#[tokio::test]
async fn an_error_that_terminates_the_session_retires_the_connection() {
    let visitor = Visitor::new();
    let server = Server::start(&visitor.authority).await;
    for (sql, class) in [("SELECT 16", 16), ("SELECT 20", 20)] {
        let error = TerminalError::new(50_000, class, "chosen by the test");
        server.answer(sql, QueryResponse::error_only(error)).await;
    }
    for (sql, retired) in
        [("SELECT 16", vec![]), ("SELECT 20", vec![(RetireReason::SevereError, 1)])]
    {
        let (pool, connector) = visitor.pool_of_one(&server, Recycling::Fast);
        let mut client = pool.get().await.unwrap();
        let error = client.simple_query(sql).await.map(drop).unwrap_err();
        assert_eq!(error.code(), Some(50_000));
        drop(client);
        assert_eq!(connector.report().retired, retired);
        assert_eq!(one(&mut pool.get().await.unwrap()).await, 1);
    }
}
