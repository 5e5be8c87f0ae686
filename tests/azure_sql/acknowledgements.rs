//! Acknowledgements that a server must send: of a login's token, and of a session's reset.

use entra_pool::{
    azure_sql::{Error, Recycling},
    connect::RetireReason,
};
use entra_pool_emulator::azure_sql::ServerError;

use crate::{Shop, failure, logs::capture, number, retired, run, session, sessions::BOTH, until};

#[tokio::test]
async fn a_login_without_an_acknowledgement_of_its_token_is_an_error() {
    let shop = Shop::open().await;
    shop.server().behaviour().acknowledge_tokens(false);
    let connector = shop.connector("");
    let error = connector.connect().await.unwrap_err();
    let Error::UnexpectedProtocol { problem, .. } = &error else { panic!("{error:?}") };
    assert!(problem.contains("FEDAUTH") && !error.is_transient(), "{error}");
    until(|| shop.counters().open_connections == 0).await;
    // A login that is refused or routed needs no acknowledgement.
    shop.server().behaviour().fail_logins(2, ServerError::new(18456, 1, "no"));
    let error = connector.connect().await.unwrap_err();
    assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
    shop.clock.advance(std::time::Duration::from_secs(1));
    shop.server().behaviour().route_logins(1, "localhost", shop.server().addr().port());
    let error = connector.connect().await.unwrap_err();
    assert!(matches!(error, Error::UnexpectedProtocol { .. }), "{error:?}");
    assert_eq!(shop.counters().routed_logins, 1);
    // After a refusal, the connector logs in once per second at most.
    shop.clock.advance(std::time::Duration::from_secs(1));
    shop.server().behaviour().acknowledge_tokens(true);
    connector.connect().await.unwrap();
}

#[tokio::test]
async fn fed_auth_required_must_be_0_or_1_in_the_prelogin_response() {
    let shop = Shop::open().await;
    for value in [0, 1] {
        shop.server().behaviour().require_fed_auth(value);
        // The emulator refuses a login that does not echo the value.
        shop.connector("").connect().await.unwrap();
    }
    for value in [2, 255] {
        shop.server().behaviour().require_fed_auth(value);
        let error = shop.connector("").connect().await.unwrap_err();
        assert!(matches!(error, Error::UnexpectedProtocol { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_whose_reset_is_not_acknowledged_is_retired() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let captured = capture();
        shop.server().behaviour().acknowledge_resets(false);
        let first = session(&mut pool.get().await.unwrap()).await;
        // The connector logs the warning once for all of its pools.
        let other = connector.pool_builder().max_size(1).build();
        for pool in [&pool, &other, &pool, &other] {
            assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
        }
        assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
        let reasons = retired(&connector);
        let [(RetireReason::ResetNotAcknowledged, count)] = reasons[..] else {
            panic!("{reasons:?}");
        };
        assert!(count >= 2);
        let warnings = captured.text().matches("does not acknowledge session resets").count();
        assert_eq!(warnings, 1, "{recycling:?}");
    }
}

#[tokio::test]
async fn a_reset_is_acknowledged_even_if_its_request_fails() {
    for recycling in BOTH {
        let shop = Shop::open().await;
        let (pool, connector) = shop.pool_of_one(recycling);
        let first = session(&mut pool.get().await.unwrap()).await;
        let mut again = pool.get().await.unwrap();
        failure(&mut again, "SELECT * FROM missing").await;
        run(&mut again, "SELECT 1").await;
        drop(again);
        assert_eq!(session(&mut pool.get().await.unwrap()).await, first);
        assert_eq!(retired(&connector), []);
    }
}

#[tokio::test]
async fn a_cancelled_request_does_not_show_whether_its_session_was_reset() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one(Recycling::Fast);
    session(&mut pool.get().await.unwrap()).await;
    let mut again = pool.get().await.unwrap();
    shop.server().behaviour().delay_queries(std::time::Duration::from_secs(3600));
    let query = again.simple_query("SELECT 1");
    tokio::select! {
        response = query => panic!("{:?}", response.map(drop)),
        () = until(|| shop.counters().reset_bits == 1) => {}
    }
    again.cancel_query().await.unwrap();
    drop(again);
    assert_eq!(retired(&connector), [(RetireReason::Cancelled, 1)]);
}
