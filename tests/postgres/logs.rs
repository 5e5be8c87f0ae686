//! Logs and messages never contain a token.

use entra_pool::{
    connect::RetireReason,
    postgres::{self, Config, Error},
    token::{Identity, Scope},
};

use crate::{
    backend, connector, credential_for, failure, server,
    support::{
        credential::{TestCredential, said},
        logs::{assert_no_token, capture},
        pgbouncer::PgBouncer,
    },
    text,
};

#[tokio::test]
async fn no_token_is_logged_or_shown() {
    let server = server().await;
    let credential = credential_for("discreet").await;
    let bouncer = PgBouncer::start(server, &[]).await;
    let captured = capture();
    let identity = Identity::new(credential.clone());
    let connector = connector(&identity, &server.url("discreet"));
    let pool = connector.pool_builder().max_size(2).build();
    let client = pool.get().await.unwrap();
    assert_eq!(text(&client, "SELECT current_user::text").await, "discreet");
    drop(client);
    server
        .sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'discreet'")
        .await;
    credential.rotate();
    drop(pool.get().await.unwrap());
    let report = connector.report();
    assert_eq!(
        (report.renewed, report.retired.as_slice()),
        (1, [(RetireReason::Closed, 1)].as_slice())
    );

    let mut shown = format!("{pool:?} {connector:?} {identity:?} {report:?} {credential:?}");
    let refused = TestCredential::new("indiscreet", 2_000);
    for url in [
        server.url("indiscreet"),
        server.url_at(bouncer.port(), "indiscreet", ""),
        server.url("indiscreet").replace("127.0.0.1", "db.invalid"),
    ] {
        let config: Config = url.parse().unwrap();
        let identity = Identity::new(refused.clone());
        let pool = postgres::pool_with(&identity, &url).unwrap();
        let error = pool.get().await.err().unwrap();
        shown += &format!("{config:?} {config} {error} {error:?} {}", said(&error));
        shown += &said(&Error::from(error));
    }
    let long = Identity::new(TestCredential::new("indiscreet", 8_000));
    let url = server.url_at(bouncer.port(), "indiscreet", "");
    shown += &said(&failure(postgres::pool_with(&long, &url).unwrap().get().await));
    assert!(shown.contains("pgaadauth_create_principal"), "{shown}");
    assert_no_token(&shown);

    let logged = captured.text();
    assert!(logged.contains("TRACE"), "the log includes the level TRACE");
    assert!(logged.contains("token fetched"), "the log includes this crate's events");
    assert!(logged.contains("rustls"), "the log includes the log crate's records");
    assert_no_token(&logged);
    let token = identity.tokens(Scope::AZURE_POSTGRESQL).token().await.unwrap();
    assert!(!logged.contains(&token.secret()[..20]) && !shown.contains(&token.secret()[..20]));
}

#[tokio::test]
async fn the_servers_reason_for_closing_a_connection_is_logged() {
    let (server, credential) = (server().await, credential_for("ended").await);
    let captured = capture();
    let pool = postgres::pool_with(&Identity::new(credential), &server.url("ended")).unwrap();
    let client = pool.get().await.unwrap();
    let connection = backend(&client).await;
    // The statement is closed in the background. If the server closes the connection before it
    // reads that request, TCP resets the connection, and the server's error is lost.
    client.batch_execute("").await.unwrap();
    server.sql(&format!("SELECT pg_terminate_backend({connection})")).await;
    while !client.is_closed() {
        tokio::task::yield_now().await;
    }
    let logged = captured.text();
    let warning = logged.lines().find(|line| line.contains("the connection failed")).unwrap();
    assert!(warning.contains("WARN") && warning.contains("administrator command"), "{warning}");
}
