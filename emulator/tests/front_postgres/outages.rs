//! The engine is unavailable, restarts, or does not answer.

use std::{sync::Arc, time::Duration};

use entra_pool_emulator::{
    front::{Fault, Stage, postgres::PostgresFront},
    jwt::{Directory, Issuer, Principal, PrincipalKind},
};
use tokio::net::TcpListener;

use super::{PostgresServer, Service, connect, options, sqlstate, text};

#[tokio::test]
async fn an_engine_is_used_again_after_a_restart() {
    let engine = PostgresServer::start().await;
    let (issuer, directory) = (Arc::new(Issuer::new()), Arc::new(Directory::default()));
    let front = PostgresFront::start(options(&engine, &issuer, &directory)).unwrap();
    let engine: &'static PostgresServer = Box::leak(Box::new(engine));
    let service = Service { engine, issuer, directory, front };
    let shop = service.principal("shop-restarted");
    let config = service.config(&shop);
    let client = connect(engine, &config).await.unwrap();

    engine.stop().await;
    client.query_one("SELECT 1", &[]).await.unwrap_err();
    let error = connect(engine, &config).await.err().unwrap();
    let (code, message) = sqlstate(&error);
    assert_eq!(code, "57P03");
    assert!(message.contains("is unreachable"), "{message}");
    let newcomer = service.config(&service.principal("shop-newcomer"));
    assert_eq!(sqlstate(&connect(engine, &newcomer).await.err().unwrap()).0, "57P03");
    service.front.behaviour().wait_until(|counters| counters.open_connections == 0).await;

    engine.restart().await;
    let client = connect(engine, &config).await.unwrap();
    assert_eq!(text(&client, "SELECT session_user::text").await, "shop-restarted");
    connect(engine, &newcomer).await.unwrap();
    drop(client);
    engine.stop().await;
}

#[tokio::test]
async fn a_login_to_a_silent_engine_times_out() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", silent.local_addr().unwrap());
    let service = Service::start_with(|options| {
        options.engine_url = url;
        options.login_timeout = Duration::from_millis(300);
    })
    .await;
    let shop = service.principal("shop-unanswered");
    assert_eq!(
        service.refusal(&service.config(&shop)).await,
        (
            "57P03".to_owned(),
            "the front's PostgreSQL engine did not answer within 300ms".to_owned()
        )
    );
}

#[tokio::test]
async fn faults_happen_where_they_were_requested() {
    let service = Service::start().await;
    let shop = service.principal("shop-faults");
    service.connect(&shop).await;
    let config = service.config(&shop);
    let control = service.front.behaviour();
    let stages = [Stage::Accept, Stage::Tls, Stage::Login, Stage::Engine, Stage::LoginAnswer];
    for (number, stage) in stages.into_iter().enumerate() {
        control.disturb(1, stage, Fault::Cut);
        service.connect_with(&config).await.err().unwrap();
        control.disturb(1, stage, Fault::Delay(Duration::from_millis(1)));
        service.connect_with(&config).await.unwrap();
        control.disturb(1, stage, Fault::Stall);
        let faults = 3 * number as u64 + 3;
        tokio::select! {
            _ = service.connect_with(&config) => panic!("the login continued after {stage:?}"),
            () = control.wait_until(|counters| counters.faults == faults) => {}
        }
    }
    service.wait_until_idle("shop-faults").await;
    // A fault that is requested and then cancelled.
    control.disturb(usize::MAX, Stage::Login, Fault::Cut);
    control.calm();
    let client = service.connect(&shop).await;

    service.front.cut_connections().await;
    client.query_one("SELECT 1", &[]).await.unwrap_err();
    service.front.go_away().await.unwrap();
    service.connect_with(&config).await.err().unwrap();
    service.front.come_back().unwrap();
    service.connect_with(&config).await.unwrap();
}

#[tokio::test]
async fn an_administrator_without_the_right_to_manage_roles_is_reported() {
    let service = Service::start_with(|options| {
        options.engine_url = options.engine_url.replace("user=postgres", "user=nobody-known");
    })
    .await;
    let shop = service.principal("shop-unmanaged");
    let (code, message) = service.refusal(&service.config(&shop)).await;
    // Not 28P01, which would blame the client's token.
    assert_eq!(code, "58000", "{message}");
    assert!(message.contains("cannot manage roles"), "{message}");
    service.front.prepare().await.unwrap_err();
}

#[test]
fn unusable_engine_urls_are_refused_at_the_start() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = super::engine().await;
        let (issuer, directory) = (Arc::new(Issuer::new()), Arc::new(Directory::default()));
        directory.add(Principal::new("shop", PrincipalKind::UserAssigned));
        for url in [
            "postgres://u:secret@h1,h2/db",
            "postgres://u:secret@",
            "postgres://u:secret@h/db?colour=secret",
            "postgres://u:secret@h/db?sslmode=require",
            "secret",
        ] {
            let mut options = options(engine, &issuer, &directory);
            options.engine_url = url.to_owned();
            assert!(!format!("{options:?}").contains("secret"), "{options:?}");
            let error = PostgresFront::start(options).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    });
}
