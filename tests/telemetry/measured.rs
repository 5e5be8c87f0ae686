//! When each metric is recorded, and with which labels.

use std::time::{Duration, UNIX_EPOCH};

use entra_pool::{azure_sql::Recycling, clock::Clock, token::Scope};
use entra_pool_emulator::identity::Fault;

use crate::{
    Shop,
    measuring::{Series, measure, names},
    paused, refused,
    support::logs::assert_no_token,
    until,
};

const SQL_SCOPE: &str = "entra_pool.token.scope=https://database.windows.net/.default";

/// `name{…}` with the labels of the database and `more` labels, in order.
fn of(name: &str, pool: &str, system: &str, more: &[&str]) -> String {
    let mut labels =
        vec![format!("db.client.connection.pool.name={pool}"), format!("db.system.name={system}")];
    labels.extend(more.iter().map(|label| (*label).to_owned()));
    labels.sort();
    format!("{name}{{{}}}", labels.join(","))
}

fn of_sql(name: &str, pool: &str, more: &[&str]) -> String {
    of(name, pool, "microsoft.sql_server", more)
}

fn requests(reason: &str, outcome: &str, failure: &str) -> String {
    format!(
        "entra_pool.token.requests{{entra_pool.token.outcome={outcome},entra_pool.token.reason={reason},{SQL_SCOPE}{failure}}}"
    )
}

#[tokio::test]
async fn the_first_connect_measures_token_and_login_and_the_second_only_the_login() {
    let shop = Shop::open().await;
    let measured = measure();
    let connector = shop.azure_sql();
    connector.connect().await.unwrap();
    let expiry = connector.report().token.expires_on.unwrap();
    let expiry = expiry.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let pool = connector.pool_name();
    let create_time = of_sql("db.client.connection.create_time", pool, &[]);
    let expected = [
        (create_time.clone(), vec![0.0]),
        (format!("entra_pool.token.expiry{{{SQL_SCOPE}}}"), vec![expiry]),
        (format!("entra_pool.token.request.duration{{{SQL_SCOPE}}}"), vec![0.0]),
        (requests("missing", "fetched", ""), vec![1.0]),
    ];
    assert_eq!(measured.since(), Series::from(expected));

    connector.connect().await.unwrap();
    let next = measured.since();
    assert_eq!(next[&create_time], [0.0]);
    assert!(!next.contains_key(&requests("missing", "fetched", "")), "{next:?}");
}

#[tokio::test]
async fn a_pool_is_named_after_its_server_and_database() {
    let shop = Shop::open().await;
    let measured = measure();
    let (orders, menu) = (shop.azure_sql(), shop.postgres());
    let port = shop.emulator.azure_sql().addr().port();
    assert_eq!(orders.pool_name(), format!("localhost:{port}/orders"));
    assert!(menu.pool_name().ends_with("/restaurant"), "{}", menu.pool_name());
    let _connected = menu.connect().await.unwrap();
    let create_time = of("db.client.connection.create_time", menu.pool_name(), "postgresql", &[]);
    assert_eq!(measured.since()[&create_time], [0.0]);
}

#[tokio::test]
async fn a_refused_login_counts_as_renewed_or_refused() {
    let shop = Shop::open().await;
    let connector = shop.azure_sql();
    connector.tokens().warm_up().await.unwrap();
    let pool = connector.pool_name();
    let measured = measure();

    shop.emulator.azure_sql().behaviour().fail_logins(1, refused());
    connector.connect().await.unwrap();
    let since = measured.since();
    assert_eq!(since[&of_sql("entra_pool.login.renewed", pool, &[])], [1.0]);
    let rejected: Vec<_> =
        since.keys().filter(|name| name.contains("token.reason=rejected")).collect();
    assert_eq!(rejected.len(), 1, "{since:?}");
    assert!(!names(&since).iter().any(|name| name.contains("refused")), "{since:?}");

    shop.emulator.directory().remove("shop-identity");
    // A connector with successful logins would wait.
    let connector = shop.azure_sql();
    connector.connect().await.unwrap_err();
    let since = measured.since();
    assert_eq!(since[&of_sql("entra_pool.login.refused", pool, &[])], [1.0]);
    let failed = ["error.type=login_refused"];
    assert_eq!(since[&of_sql("db.client.connection.create_time", pool, &failed)], [0.0]);
}

#[tokio::test]
async fn a_retry_is_counted_and_its_pause_is_part_of_the_create_time() {
    let shop = Shop::open().await;
    let connector = shop.azure_sql();
    connector.tokens().warm_up().await.unwrap();
    let measured = measure();
    shop.emulator.azure_sql().behaviour().fail_logins(1, paused());
    let began = shop.clock.monotonic();
    let pausing = async {
        // The connect's time limit is also a sleeper.
        until(|| connector.report().retried == 1 && shop.clock.sleepers() > 1).await;
        shop.clock.advance(shop.clock.next_wake().unwrap());
    };
    let (connected, ()) = tokio::join!(connector.connect(), pausing);
    connected.unwrap();
    let took = (shop.clock.monotonic() - began).as_secs_f64();
    let since = measured.since();
    let pool = connector.pool_name();
    assert_eq!(since[&of_sql("entra_pool.login.retried", pool, &["error.type=login"])], [1.0]);
    assert!(took > 0.5);
    assert_eq!(since[&of_sql("db.client.connection.create_time", pool, &[])], [took]);
}

#[tokio::test]
async fn a_failed_connect_has_an_error_type_of_low_cardinality() {
    let shop = Shop::open().await;
    let (orders, menu) = (shop.azure_sql(), shop.postgres());
    let measured = measure();
    shop.emulator.identity().fail(Fault::Status(400, "{}".into()));
    orders.connect().await.unwrap_err();
    assert!(menu.connect().await.is_err());
    let since = measured.since();
    let failed = ["error.type=token"];
    for (pool, system) in
        [(orders.pool_name(), "microsoft.sql_server"), (menu.pool_name(), "postgresql")]
    {
        let name = of("db.client.connection.create_time", pool, system, &failed);
        assert_eq!(since[&name].len(), 1, "{since:?}");
    }

    shop.emulator.identity().recover();
    shop.clock.advance(Duration::from_secs(60));
    shop.refuse_postgres("28000", "no pg_hba.conf entry");
    assert!(menu.connect().await.is_err());
    let since = measured.since();
    let refused = of("entra_pool.login.refused", menu.pool_name(), "postgresql", &[]);
    assert_eq!(since[&refused], [1.0], "{since:?}");
}

#[tokio::test]
async fn token_requests_are_counted_by_reason_and_outcome() {
    let shop = Shop::open().await;
    let tokens = shop.identity.tokens(Scope::AZURE_SQL);
    let measured = measure();
    let endpoint = shop.emulator.identity();
    endpoint.fail(Fault::Status(400, "{}".into()));
    tokens.token().await.unwrap_err();
    let since = measured.since();
    let failed = ",error.type=refused";
    let missing = since.get(&requests("missing", "failed", failed));
    assert_eq!(missing.map(Vec::as_slice), Some([1.0].as_slice()), "{since:?}");
    let duration = format!("entra_pool.token.request.duration{{{SQL_SCOPE}{failed}}}");
    assert_eq!(since[&duration], [0.0]);
    assert!(!names(&since).iter().any(|name| name.contains("expiry")), "there is no token");

    endpoint.recover();
    shop.clock.advance(Duration::from_secs(2));
    let token = tokens.token().await.unwrap();
    assert_eq!(measured.since()[&requests("missing", "fetched", "")], [1.0]);

    // From this time on, a call starts a refresh in the background.
    let refresh_at = tokens.report().refresh_at.unwrap();
    shop.clock.advance(refresh_at.duration_since(shop.clock.wall()).unwrap());
    endpoint.fail(Fault::Status(400, "{}".into()));
    assert!(tokens.token().await.unwrap().same_secret(&token));
    until(|| tokens.report().failures == 2).await;
    assert_eq!(measured.since()[&requests("expiring", "failed", failed)], [1.0]);

    endpoint.recover();
    // The expiry is in whole seconds of the machine's clock, which hardly advances here.
    endpoint.configure_tokens(|tokens| tokens.lifetime_seconds += 3600);
    // The longest pause after a failure.
    shop.clock.advance(token.remaining(shop.clock.wall()) * 3 / 4);
    tokens.token().await.unwrap();
    until(|| tokens.report().expires_on > Some(token.expires_on())).await;
    let since = measured.since();
    assert_eq!(since[&requests("expiring", "refreshed", "")], [1.0], "{since:?}");
    let expiry = tokens.report().expires_on.unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(since[&format!("entra_pool.token.expiry{{{SQL_SCOPE}}}")], [expiry.as_secs_f64()]);
}

#[tokio::test]
async fn retirements_are_counted_by_reason() {
    let shop = Shop::open().await;
    let pool = shop.azure_sql_pool(Recycling::Clean);
    let name = pool.manager().connector().pool_name().to_owned();
    let measured = measure();
    drop(pool.get().await.unwrap());
    shop.clock.advance(Duration::from_secs(3600));
    drop(pool.get().await.unwrap());
    let retired = |reason: &str| {
        let reason = format!("entra_pool.retire.reason={reason}");
        of_sql("entra_pool.connection.retired", &name, &[&reason])
    };
    assert_eq!(measured.since()[&retired("age")], [1.0]);
    shop.emulator.azure_sql().cut_connections().await;
    until(|| shop.emulator.azure_sql().counters().open_connections == 0).await;
    drop(pool.get().await.unwrap());
    let since = measured.since();
    assert_eq!(since[&retired("closed")], [1.0], "{since:?}");
    assert!(!since.contains_key(&retired("age")), "it is not counted again: {since:?}");

    let connector = shop.postgres();
    let menu = connector.pool_builder().max_size(1).build();
    drop(menu.get().await.unwrap());
    shop.emulator.postgres().cut_connections().await;
    drop(menu.get().await.unwrap());
    let closed = ["entra_pool.retire.reason=closed"];
    let closed = of("entra_pool.connection.retired", connector.pool_name(), "postgresql", &closed);
    assert_eq!(measured.since()[&closed], [1.0]);
}

#[tokio::test]
async fn no_label_contains_a_principal_or_a_token() {
    let shop = Shop::open().await;
    let connector = shop.azure_sql();
    let measured = measure();
    connector.connect().await.unwrap();
    shop.emulator.directory().remove("shop-identity");
    shop.azure_sql().connect().await.unwrap_err();
    let text = format!("{:?}", measured.since());
    assert_no_token(&text);
    let principal = shop.emulator.user_assigned();
    for identifier in [&principal.name, &principal.client_id, &principal.object_id] {
        assert!(!text.contains(identifier.as_str()), "{identifier}: {text}");
    }
}
