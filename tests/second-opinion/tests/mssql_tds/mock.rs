//! The adapter against Microsoft's server, which does not acknowledge resets.

use entra_pool::{
    adapters::mssql_tds::Connector,
    azure_sql::Config,
    connect::RetireReason,
    token::{Identity, Scope},
};
use entra_pool_emulator::{
    certificates::Authority,
    jwt::{Principal, PrincipalKind},
};
use mssql_mock_tds::QueryResponse;
use second_opinion::Server;
use tempfile::TempDir;

use crate::{HOUR, credential::TestCredential, number, retired};

/// The token length with which the login nearly fills one packet.
const ONE_PACKET: usize = 1_500;

struct Visitor {
    credential: TestCredential,
    server: Server,
    connector: Connector,
    /// The certificate's file is read at each connect.
    _certificate: TempDir,
}

impl Visitor {
    async fn at(strict: bool) -> Self {
        let principal = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        let audience = "https://database.windows.net";
        let credential = TestCredential::for_principal(principal, audience, ONE_PACKET);
        let authority = Authority::new().unwrap();
        let (server, certificate) = Server::start_pinned(&authority, strict).await;
        let config: Config = format!(
            "Server=localhost,{};Database=orders;Encrypt={};Entra Scope={}",
            server.port(),
            if strict { "Strict" } else { "Mandatory" },
            Scope::AZURE_SQL,
        )
        .parse()
        .unwrap();
        let config = config.server_certificate(certificate.path().join("server.crt"));
        let tokens = Identity::new(credential.clone()).tokens(Scope::AZURE_SQL);
        let connector = Connector::new(config, tokens).unwrap();
        Self { credential, server, connector, _certificate: certificate }
    }
}

#[tokio::test]
async fn a_token_logs_in_over_tds_7_4_and_8() {
    for strict in [false, true] {
        let visitor = Visitor::at(strict).await;
        let mut client = visitor.connector.connect().await.unwrap();
        assert_eq!(number(&mut client, "SELECT 1").await, 1);
        let seen = visitor.server.seen().await;
        assert_eq!(seen.len(), 1);
        assert!(seen[0].authenticated);
        assert_eq!(seen[0].received_token_as_string(), Some(visitor.credential.secret()));
        // The driver adds the port, as in SqlClient's connection strings.
        let name = format!("localhost,{}", visitor.server.port());
        assert_eq!(seen[0].received_server_name, Some(name));
        assert_eq!(seen[0].received_database.as_deref(), Some("orders"));
    }
}

#[tokio::test]
async fn a_connection_without_an_acknowledged_reset_is_not_reused() {
    let visitor = Visitor::at(false).await;
    let pool = visitor.connector.pool_builder().max_size(1).build();
    for _ in 0..2 {
        assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
    }
    assert_eq!(visitor.server.seen().await.len(), 2);
    assert_eq!(retired(&visitor.connector), [(RetireReason::ResetNotAcknowledged, 1)]);
}

#[tokio::test]
async fn the_response_of_a_dropped_query_does_not_reach_another_caller() {
    let visitor = Visitor::at(false).await;
    let delayed = QueryResponse::select_one().with_delay(HOUR / 36_000);
    visitor.server.answer("SELECT 2", delayed).await;
    let pool = visitor.connector.pool_builder().max_size(1).build();
    let mut client = pool.get().await.unwrap();
    tokio::select! {
        answer = client.execute("SELECT 2".into(), ()) => panic!("{answer:?}"),
        () = async {
            while visitor.server.seen().await[0].transaction_descriptor_headers.is_empty() {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    drop(client);
    assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
    assert_eq!(visitor.server.seen().await.len(), 2);
}
