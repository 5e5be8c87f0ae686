//! Metrics of pools, whose types belong to other crates.

use std::time::Duration;

use entra_pool::{
    adapters::{bb8::bb8, sqlx::sqlx},
    azure_sql::{PoolError, Recycling},
    telemetry::{self, CheckoutError},
};

use crate::{Shop, measuring::measure};

fn wait_time(failure: &str) -> String {
    format!("db.client.connection.wait_time{{db.client.connection.pool.name=till{failure}}}")
}

#[tokio::test]
async fn every_outcome_of_a_checkout_is_measured() {
    let shop = Shop::open().await;
    let pool = shop.azure_sql_pool(Recycling::Clean);
    let measured = measure();
    let held = telemetry::checkout("till", pool.get()).await.unwrap();
    let since = measured.since();
    assert_eq!(since[&wait_time("")].len(), 1, "{since:?}");

    let mut at_once = pool.timeouts();
    at_once.wait = Some(Duration::ZERO);
    let waited = telemetry::checkout("till", pool.timeout_get(&at_once)).await;
    assert!(matches!(waited, Err(PoolError::Timeout(_))));
    let since = measured.since();
    assert_eq!(since[&wait_time(",error.type=timeout")].len(), 1);
    let timeouts = "db.client.connection.timeouts{db.client.connection.pool.name=till}";
    assert_eq!(since[timeouts], [1.0]);
    assert!(!since.contains_key(&wait_time("")), "{since:?}");

    let waiting = telemetry::checkout("till", pool.get());
    tokio::select! {
        biased;
        _ = waiting => panic!("the only connection is checked out"),
        () = tokio::task::yield_now() => {}
    }
    let since = measured.since();
    assert_eq!(since[&wait_time(",error.type=cancelled")].len(), 1);
    assert!(!since.contains_key(timeouts), "{since:?}");

    drop(held);
    pool.close();
    telemetry::checkout("till", pool.get()).await.unwrap_err();
    assert_eq!(measured.since()[&wait_time(",error.type=closed")].len(), 1);
}

#[test]
fn the_errors_of_every_pool_have_an_error_type() {
    assert_eq!(bb8::RunError::<()>::TimedOut.error_type(), "timeout");
    assert_eq!(bb8::RunError::User(()).error_type(), "connect");
    assert_eq!(sqlx::Error::PoolTimedOut.error_type(), "timeout");
    assert_eq!(sqlx::Error::PoolClosed.error_type(), "closed");
    assert_eq!(sqlx::Error::WorkerCrashed.error_type(), "connect");
    assert_eq!(PoolError::NoRuntimeSpecified.error_type(), "_OTHER");
}

#[tokio::test]
async fn pool_status_records_connections_and_waiting_callers() {
    let shop = Shop::open().await;
    let pool = shop.azure_sql_pool(Recycling::Clean);
    pool.resize(3);
    let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    drop(second);
    let measured = measure();
    telemetry::pool_status("till", pool.status());
    let gauge = |name: &str, state: &str| {
        format!("db.client.connection.{name}{{db.client.connection.pool.name=till{state}}}")
    };
    let since = measured.since();
    assert_eq!(since[&gauge("count", ",db.client.connection.state=idle")], [1.0]);
    assert_eq!(since[&gauge("count", ",db.client.connection.state=used")], [1.0]);
    assert_eq!(since[&gauge("max", "")], [3.0]);
    assert_eq!(since[&gauge("pending_requests", "")], [0.0]);

    pool.resize(1);
    let waiting = pool.get();
    tokio::pin!(waiting);
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("the only connection is checked out"),
        () = tokio::task::yield_now() => {}
    }
    telemetry::pool_status("till", pool.status());
    let since = measured.since();
    assert_eq!(since[&gauge("pending_requests", "")], [1.0], "{since:?}");
    assert_eq!(since[&gauge("count", ",db.client.connection.state=used")], [1.0]);
    drop(first);
}

#[tokio::test]
async fn every_metric_is_described_with_its_unit() {
    let shop = Shop::open().await;
    let pool = shop.azure_sql_pool(Recycling::Clean);
    let measured = measure();
    telemetry::describe();
    drop(telemetry::checkout("till", pool.get()).await.unwrap());
    telemetry::pool_status("till", pool.status());
    let described = measured.described();
    assert_eq!(described.len(), 9, "{described:?}");
    for (name, (unit, description)) in described {
        let seconds =
            name.ends_with("_time") || name.ends_with("duration") || name.ends_with("expiry");
        let unit_wanted = if seconds { metrics::Unit::Seconds } else { metrics::Unit::Count };
        assert_eq!(unit, Some(unit_wanted), "{name}");
        assert!(description.is_some_and(|text| text.ends_with('.')), "{name}");
    }
}
