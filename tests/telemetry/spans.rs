//! Spans have OpenTelemetry's names, and exist only for actual work.

use std::{collections::BTreeMap, time::Duration};

use entra_pool::{
    azure_sql::Recycling,
    clock::Clock,
    postgres,
    token::{Scope, TokenCache},
};
use entra_pool_emulator::identity::Fault;
use tracing::Instrument;

use crate::{
    Shop, paused, refused,
    support::logs::assert_no_token,
    until,
    watching::{Seen, watch},
};

fn fields<'a>(
    pairs: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> BTreeMap<&'static str, String> {
    pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// The values of this field of a span's events.
fn event_fields<'a>(span: &'a Seen, field: &str) -> Vec<&'a str> {
    span.events.iter().filter_map(|event| event.get(field)).map(String::as_str).collect()
}

/// Checks that a span has an event with this message.
#[track_caller]
fn assert_event(span: &Seen, message: &str) {
    assert!(event_fields(span, "message").contains(&message), "{span:?}");
}

#[tokio::test]
async fn a_connect_to_azure_sql_is_a_span_and_its_stages_are_events() {
    let shop = Shop::open().await;
    let connector = shop.azure_sql();
    let port = shop.emulator.azure_sql().addr().port().to_string();
    let watched = watch();
    let request = tracing::info_span!("request");
    connector.connect().instrument(request).await.unwrap();
    let connect = watched.one("connect");
    let expected = fields([
        ("otel.kind", "client"),
        ("db.system.name", "microsoft.sql_server"),
        ("db.namespace", "orders"),
        ("server.address", "localhost"),
        ("server.port", &port),
        ("db.client.connection.pool.name", connector.pool_name()),
    ]);
    assert_eq!(connect.fields, expected);
    assert_eq!((connect.parent, connect.closed), (Some("request"), true));
    let stages = [
        "waiting for a token",
        "resolving the host name",
        "connecting over TCP",
        "negotiating encryption",
        "in the TLS handshake",
        "waiting for the login response",
    ];
    assert_eq!(event_fields(&connect, "stage"), stages);
    assert_event(&connect, "logging in over TLS");
    assert_event(&connect, "connected");
}

#[tokio::test]
async fn a_connect_to_postgresql_is_a_span_and_its_stages_are_events() {
    let shop = Shop::open().await;
    let connector = shop.postgres();
    let watched = watch();
    let _connected = connector.connect().await.unwrap();
    let connect = watched.one("connect");
    assert_eq!(connect.fields["db.system.name"], "postgresql");
    assert_eq!(connect.fields["db.namespace"], "restaurant");
    assert_eq!(connect.fields["db.client.connection.pool.name"], connector.pool_name());
    assert_eq!(connect.fields["otel.kind"], "client");
    assert!(!connect.fields.contains_key("error.type") && connect.closed, "{connect:?}");
    let stages = [
        "waiting for a token",
        "resolving the host name",
        "connecting over TCP",
        "negotiating encryption",
        "in the TLS handshake",
        "waiting for the login response",
    ];
    assert_eq!(event_fields(&connect, "stage"), stages);
}

#[tokio::test]
async fn the_span_of_a_failed_connect_has_its_error() {
    let shop = Shop::open().await;
    let (orders, menu) = (shop.azure_sql(), shop.postgres());
    let watched = watch();
    shop.emulator.directory().remove("shop-identity");
    orders.connect().await.unwrap_err();
    shop.refuse_postgres("28000", "no pg_hba.conf entry");
    assert!(menu.connect().await.is_err());
    let connects = watched.named("connect");
    for (connect, code) in connects.iter().zip(["18456", "28000"]) {
        assert_eq!(connect.fields["otel.status_code"], "ERROR");
        assert_eq!(connect.fields["error.type"], "login_refused");
        assert_eq!(connect.fields["db.response.status_code"], code);
        assert_event(connect, "cannot connect");
    }
    assert_eq!(connects.len(), 2);
}

#[tokio::test]
async fn retries_are_events_of_one_connect_span() {
    let shop = Shop::open().await;
    let connector = shop.azure_sql();
    let watched = watch();
    shop.emulator.azure_sql().behaviour().fail_logins(1, refused());
    connector.connect().await.unwrap();
    let connect = watched.one("connect");
    assert_event(&connect, "retrying the refused login with another token");

    let watched = watch();
    shop.emulator.azure_sql().behaviour().fail_logins(1, paused());
    let pausing = async {
        until(|| connector.report().retried == 1 && shop.clock.sleepers() > 1).await;
        shop.clock.advance(shop.clock.next_wake().unwrap());
    };
    let (connected, ()) = tokio::join!(connector.connect(), pausing);
    connected.unwrap();
    assert_event(&watched.one("connect"), "retrying to connect");
}

#[tokio::test]
async fn a_routed_login_is_an_event_and_the_span_keeps_the_configured_address() {
    let shop = Shop::open().await;
    let connector = shop.azure_sql();
    let port = shop.emulator.azure_sql().addr().port();
    let watched = watch();
    shop.emulator.azure_sql().behaviour().route_logins(1, "localhost", port);
    connector.connect().await.unwrap();
    let connect = watched.one("connect");
    assert_event(&connect, "the server routes the login");
    assert_eq!(connect.fields["server.port"], port.to_string());
}

#[tokio::test]
async fn the_span_of_a_token_request_follows_from_its_caller_and_may_outlive_it() {
    let shop = Shop::open().await;
    let connector = shop.azure_sql();
    let watched = watch();
    connector.connect().await.unwrap();
    let request = watched.one("request_token");
    assert_eq!((request.parent, request.follows.as_slice()), (None, ["connect"].as_slice()));
    let expected = fields([
        ("otel.kind", "client"),
        ("entra_pool.token.scope", Scope::AZURE_SQL.as_str()),
        ("entra_pool.token.reason", "missing"),
        ("entra_pool.token.outcome", "fetched"),
    ]);
    assert_eq!(request.fields, expected);
    assert_event(&request, "token fetched");
    // Its task may still have to drop values.
    until(|| watched.one("request_token").closed).await;

    // A refresh in the background: the caller's span ends before it.
    let tokens = connector.tokens();
    advance_to_refresh(&shop, tokens);
    shop.emulator.identity().hold();
    let watched = watch();
    let caller = tracing::info_span!("caller");
    tokens.token().instrument(caller).await.unwrap();
    assert!(watched.one("caller").closed);
    assert_eq!(watched.one("request_token").follows, ["caller"]);
    assert!(!watched.one("request_token").closed);
    shop.emulator.identity().release();
    until(|| watched.one("request_token").closed).await;
    assert_eq!(watched.one("request_token").fields["entra_pool.token.reason"], "expiring");
}

#[tokio::test]
async fn the_span_of_a_failed_token_request_has_its_error() {
    let shop = Shop::open().await;
    let watched = watch();
    shop.emulator.identity().fail(Fault::Status(400, "{}".into()));
    shop.identity.tokens(Scope::AZURE_SQL).token().await.unwrap_err();
    let request = watched.one("request_token");
    assert_eq!(request.fields["otel.status_code"], "ERROR");
    assert_eq!(request.fields["error.type"], "refused");
    assert_eq!(request.fields["entra_pool.token.outcome"], "failed");
}

/// Uses a connection, so that it must be cleaned.
async fn use_once(pool: &entra_pool::azure_sql::Pool) {
    let mut lent = pool.get().await.unwrap();
    lent.simple_query("SELECT 1").await.unwrap().into_results().await.unwrap();
}

#[tokio::test]
async fn the_round_trip_of_clean_recycling_is_a_span() {
    let shop = Shop::open().await;
    for (recycling, spans) in [(Recycling::Clean, 1), (Recycling::Fast, 0)] {
        let pool = shop.azure_sql_pool(recycling);
        use_once(&pool).await;
        let watched = watch();
        drop(pool.get().await.unwrap());
        assert_eq!(watched.named("recycle").len(), spans, "{recycling:?}");
        assert!(watched.named("connect").is_empty(), "it is the same connection");
    }
    for (recycling, spans) in [(postgres::Recycling::Clean, 1), (postgres::Recycling::Fast, 0)] {
        let config: postgres::Config = shop.emulator.postgres_url().parse().unwrap();
        let tokens = shop.identity.tokens(config.token_scope().unwrap());
        let config = config.recycling(recycling.clone());
        let connector = postgres::Connector::new(config, tokens).unwrap();
        let pool = connector.pool_builder().max_size(1).build();
        drop(pool.get().await.unwrap());
        let watched = watch();
        drop(pool.get().await.unwrap());
        assert_eq!(watched.named("recycle").len(), spans, "{recycling:?}");
    }
}

#[tokio::test]
async fn the_span_of_a_failed_probe_has_the_reason_for_the_retirement() {
    let shop = Shop::open().await;
    let pool = shop.azure_sql_pool(Recycling::Clean);
    use_once(&pool).await;
    let watched = watch();
    let severe = entra_pool_emulator::azure_sql::ServerError::new(4060, 20, "It has ended.");
    shop.emulator.azure_sql().behaviour().fail_requests(1, severe);
    drop(pool.get().await.unwrap());
    let recycle = watched.one("recycle");
    assert_eq!(recycle.fields["otel.status_code"], "ERROR");
    assert_eq!(recycle.fields["error.type"], "severe_error");
}

#[tokio::test]
async fn a_cached_token_creates_no_span() {
    let shop = Shop::open().await;
    let tokens = shop.identity.tokens(Scope::AZURE_SQL);
    tokens.warm_up().await.unwrap();
    let watched = watch();
    tokens.token().await.unwrap();
    assert_eq!(watched.text(), "[]");
}

#[tokio::test]
async fn spans_and_their_events_contain_no_token() {
    let shop = Shop::open().await;
    let connector = shop.azure_sql();
    let watched = watch();
    shop.emulator.azure_sql().behaviour().fail_logins(1, refused());
    connector.connect().await.unwrap();
    let _connected = shop.postgres().connect().await.unwrap();
    let token = connector.tokens().token().await.unwrap();
    shop.emulator.directory().remove("shop-identity");
    shop.azure_sql().connect().await.unwrap_err();
    let text = watched.text();
    assert!(text.contains("login_refused") && text.contains("token fetched"), "{text}");
    assert_no_token(&text);
    assert!(!text.contains(&token.secret()[..20]));
}

/// Advances the clock to the time when the token is refreshed in the background.
fn advance_to_refresh(shop: &Shop, tokens: &TokenCache) {
    let refresh_at = tokens.report().refresh_at.unwrap();
    let by = refresh_at.duration_since(shop.clock.wall()).unwrap_or(Duration::ZERO);
    shop.clock.advance(by);
}
