//! A PgBouncer in front of the server.

use entra_pool::{
    postgres::{self, Error},
    token::Identity,
};

use crate::{
    backend, connector, credential_for, failure, server,
    support::{
        credential::{TestCredential, code, said},
        pgbouncer::PgBouncer,
    },
    text,
};

#[tokio::test]
async fn pgbouncer_accepts_tokens_of_up_to_2_000_characters() {
    let server = server().await;
    for length in [1_500, 2_000] {
        let role = format!("bounced_{length}");
        let credential = TestCredential::new(&role, length);
        let secret = credential.secret();
        server.create_principal(credential.principal()).await;
        let bouncer = PgBouncer::start(server, &[(&role, &secret)]).await;
        let url = server.url_at(bouncer.port(), &role, "&application_name=menu");
        let pool = postgres::pool_with(&Identity::new(credential), &url).unwrap();
        pool.resize(1);
        let mut client = pool.get().await.unwrap();
        assert_eq!(text(&client, "SELECT current_user::text").await, role);
        assert_eq!(text(&client, "SHOW application_name").await, "menu");
        let transaction = client.transaction().await.unwrap();
        let statement = transaction.prepare_cached("SELECT $1::int + 1").await.unwrap();
        assert_eq!(transaction.query_one(&statement, &[&1]).await.unwrap().get::<_, i32>(0), 2);
        transaction.batch_execute("SET app.tenant = 'a'").await.unwrap();
        transaction.commit().await.unwrap();
        let pid = backend(&client).await;
        drop(client);
        // The session is cleaned and keeps its statements, as without PgBouncer.
        let client = pool.get().await.unwrap();
        assert_eq!(backend(&client).await, pid);
        assert_eq!(
            text(&client, "SELECT coalesce(current_setting('app.tenant', true), '')").await,
            ""
        );
        assert_eq!(client.query_one(&statement, &[&2]).await.unwrap().get::<_, i32>(0), 3);
        assert!(bouncer.log().contains(&format!("user={role} tls=TLSv1.3")), "{}", bouncer.log());
    }
}

#[tokio::test]
async fn a_token_that_pgbouncer_refuses_is_renewed_once() {
    let server = server().await;
    let credential = credential_for("bounced_off").await;
    let bouncer = PgBouncer::start(server, &[("bounced_off", &credential.secret())]).await;
    let identity = Identity::new(credential.clone());
    let url = server.url_at(bouncer.port(), "bounced_off", "");
    let connector = connector(&identity, &url);
    let pool = connector.pool();
    let _first = pool.get().await.unwrap();
    bouncer.reload(&[("bounced_off", &credential.rotate())]).await;
    let _second = pool.get().await.unwrap();
    assert_eq!((connector.report().renewed, credential.requests()), (1, 2));

    bouncer.reload(&[("bounced_off", "another")]).await;
    let Error::LoginRefused { source: error, advice, .. } = failure(pool.get().await) else {
        panic!("the login succeeded")
    };
    // PgBouncer reports every error as a protocol violation.
    assert_eq!(code(&error), Some("08P01"));
    assert!(advice.contains("pgaadauth_create_principal"), "{advice}");
}

#[tokio::test]
async fn a_token_that_is_too_long_for_pgbouncer_is_reported() {
    let server = server().await;
    let credential = TestCredential::new("bounced_long", 8_000);
    let bouncer = PgBouncer::start(server, &[("bounced_long", "whatever")]).await;
    let url = server.url_at(bouncer.port(), "bounced_long", "");
    let pool = postgres::pool_with(&Identity::new(credential), &url).unwrap();
    let error = failure(pool.get().await);
    assert!(matches!(error, Error::LoginRefused { .. }) && !error.is_transient(), "{error:?}");
    assert!(said(&error).contains("takes passwords of at most 2047"), "{}", said(&error));
}

#[tokio::test]
async fn a_full_pgbouncer_is_not_a_refused_token() {
    let server = server().await;
    let credential = credential_for("bounced_full").await;
    let secret = credential.secret();
    let roles = [("bounced_full", secret.as_str())];
    let bouncer = PgBouncer::start_with("max_client_conn = 1", server, &roles).await;
    let identity = Identity::new(credential.clone());
    let url = server.url_at(bouncer.port(), "bounced_full", "&connect_timeout=2");
    let connector = connector(&identity, &url);
    let pool = connector.pool();
    let first = pool.get().await.unwrap();
    text(&first, "SELECT current_user::text").await;
    let error = failure(pool.get().await);
    let Error::Login { source: cause, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code(cause), Some("08P01"));
    assert!(error.is_transient() && said(&error).contains("no more connections allowed"));
    let report = connector.report();
    assert!(report.retried > 0, "{report:?}");
    assert_eq!((report.renewed, credential.requests()), (0, 1));
    drop(first);
    drop(pool.get().await.unwrap());
}
