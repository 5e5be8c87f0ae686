//! The pool through a login front, to an engine that accepts only SQL logins.

use std::sync::Arc;

use entra_pool::azure_sql::Recycling;
use entra_pool_emulator::{
    azure_sql::{AzureSqlEndpoint, AzureSqlServer},
    front::{
        EngineLogin,
        azure_sql::{AzureSqlFront, EngineTrust},
    },
};

use crate::{
    Shop, pool, recycled, refused_saying, retired, run, session, sessions::assert_clean, text,
};

async fn front(shop: &Shop) -> (AzureSqlServer, AzureSqlServer) {
    let login = EngineLogin { user: "shop_login".into(), password: "only here".into() };
    let engine = shop
        .another_server("localhost", |options| {
            options.sql_logins = vec![login.clone()];
        })
        .await;
    let emulator = &shop.emulator;
    let front = AzureSqlFront {
        endpoint: AzureSqlEndpoint::new(
            Arc::clone(emulator.issuer()),
            Arc::clone(emulator.directory()),
            emulator.authority().issue(&["localhost"]).unwrap().server_config().unwrap(),
        ),
        engine: ("localhost".into(), engine.addr().port()),
        engine_trust: EngineTrust::CaFile(emulator.ca_path()),
        engine_logins: [(emulator.user_assigned().name.clone(), login)].into(),
    };
    (front.start().unwrap(), engine)
}

#[tokio::test]
async fn sessions_behind_the_front_are_reset_between_borrowers() {
    for (recycling, more) in
        [(Recycling::Clean, ""), (Recycling::Fast, ""), (Recycling::Clean, "Encrypt=Strict")]
    {
        let shop = Shop::open().await;
        let (front, engine) = front(&shop).await;
        let connector = shop.connector_to("localhost", front.addr().port(), more);
        let connector = recycled(&connector, recycling);
        let pool = pool(&connector, 1);
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        assert_eq!(text(&mut a, "SELECT SUSER_SNAME()").await.as_deref(), Some("shop_login"));
        run(&mut a, "CREATE TABLE #bill (total int); SET LOCK_TIMEOUT 7; USE master").await;
        drop(a);
        let mut b = pool.get().await.unwrap();
        assert_clean(&mut b).await;
        assert_eq!(session(&mut b).await, first, "the same session");
        let (front, engine) = (front.counters(), engine.counters());
        assert_eq!((front.logins, front.reset_bits, engine.resets), (1, 1, 1), "{recycling:?}");
        assert_eq!(retired(&connector), [], "{recycling:?}");
    }
}

#[tokio::test]
async fn the_front_refuses_a_principal_that_is_not_granted_access() {
    let shop = Shop::open().await;
    let (front, engine) = front(&shop).await;
    shop.emulator.directory().remove("shop-identity");
    let connector = shop.connector_to("localhost", front.addr().port(), "");
    refused_saying(&connector, &["<token-identified principal>"]).await;
    assert_eq!((engine.counters().logins, engine.counters().refused_logins), (0, 0));
}
