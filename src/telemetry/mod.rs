//! Spans and events through [`tracing`], and, with the feature `metrics`, metrics through the
//! [metrics](https://docs.rs/metrics) facade.
//!
//! The names follow OpenTelemetry's semantic conventions for databases (spans: stable; connection
//! pools: in development). Names that OpenTelemetry does not define begin with `entra_pool.`. No
//! span, event or metric contains a token or a secret. Only events name principals: the user name
//! of a login, and the principal of a refused login.
//!
//! `examples/observability` shows all spans and metrics on a page with charts, and has a Grafana
//! dashboard and alert rules for Prometheus.
//!
//! # Spans
//!
//! Spans have the level `DEBUG`, so that an application's log does not grow unexpectedly: the
//! filter `entra_pool::telemetry=debug` enables them. A disabled span costs one check of a flag.
//! Operations without a round trip have no span: a token from the cache, and a checkout that sends
//! nothing (`Recycling::Fast`).
//!
//! | span | operation | further fields |
//! |---|---|---|
//! | `connect` | a connect, with all retries and the wait for a token | those of the database |
//! | `recycle` | the round trip between two borrowers, in deadpool's and bb8's pools | those of the database |
//! | `request_token` | a request to the credential | `entra_pool.token.scope`, `entra_pool.token.reason`, `entra_pool.token.outcome` |
//!
//! - All spans have `otel.kind` (`client`). Failed operations have `otel.status_code` (`ERROR`) and
//!   `error.type`, which tracing-opentelemetry knows.
//! - Fields of the database: `db.system.name` (`microsoft.sql_server`, `postgresql`),
//!   `db.namespace` (the database that the configuration names), `server.address`,
//!   `server.port`, `db.client.connection.pool.name`, and after a refusal
//!   `db.response.status_code` (SQL Server's error number, PostgreSQL's SQLSTATE). Their values are
//!   those of the configuration, even if the server routes a login elsewhere.
//! - The stages that a connect reaches are events in its span, with `stage` and `server`. Routing,
//!   retries and the negotiated TLS are also events in this span.
//! - A request for a token is a separate task that several callers may wait for. Its span has no
//!   parent, but follows from the span in which it was started (a link, in OpenTelemetry), so that
//!   no caller's span lasts as long as a background refresh.
//!
//! To send the spans to OpenTelemetry, add the layer of tracing-opentelemetry with its own filter:
//! `info,entra_pool=debug` for all spans and events.
//!
//! # Metrics
//!
//! With the feature `metrics`, the crate sends metrics to the recorder that the application has
//! installed. Without the feature, this code is not compiled. Times are in seconds.
//!
//! | metric | kind | labels | what it measures |
//! |---|---|---|---|
//! | `db.client.connection.create_time` | histogram, s | database, `error.type` | a connect, with all retries and the wait for a token |
//! | `db.client.connection.wait_time` | histogram, s | pool, `error.type` | a [`checkout`] |
//! | `db.client.connection.timeouts` | counter | pool | a [`checkout`] that failed with a timeout of the pool |
//! | `db.client.connection.count` | gauge | pool, `db.client.connection.state` | connections, by [`pool_status`] |
//! | `db.client.connection.max` | gauge | pool | the pool's size, by [`pool_status`] |
//! | `db.client.connection.pending_requests` | gauge | pool | callers that wait for a connection, by [`pool_status`] |
//! | `entra_pool.login.refused` | counter | database | connects that failed because the login was refused |
//! | `entra_pool.login.renewed` | counter | database | refused logins that were retried with another token |
//! | `entra_pool.login.retried` | counter | database, `error.type` | retries of a connect after a transient error |
//! | `entra_pool.connection.retired` | counter | database, `entra_pool.retire.reason` | connections that were not used again |
//! | `entra_pool.token.requests` | counter | `entra_pool.token.scope`, `entra_pool.token.reason`, `entra_pool.token.outcome`, `error.type` | finished requests for a token |
//! | `entra_pool.token.request.duration` | histogram, s | `entra_pool.token.scope`, `error.type` | the duration of a request for a token |
//! | `entra_pool.token.expiry` | gauge, s | `entra_pool.token.scope` | the expiry of the cached token, since 1970. Subtract the current time to get the remaining lifetime |
//!
//! The labels, and how many values each has:
//!
//! | label | values |
//! |---|---|
//! | pool: `db.client.connection.pool.name` | one for each name that is passed to [`checkout`] and [`pool_status`] |
//! | database: `db.client.connection.pool.name`, `db.system.name` | one for each connector's server and database: `server:port/database` ([`pool_name`](crate::azure_sql::Connector::pool_name)) |
//! | `db.client.connection.state` | 2: `idle`, `used` |
//! | `entra_pool.token.scope` | one for each scope. Identities with the same scope share a series |
//! | `entra_pool.token.reason` | 3: `missing`, `expiring`, `rejected` |
//! | `entra_pool.token.outcome` | 4: `fetched` (there was no cached token), `refreshed`, `unchanged` (the provider has no newer token yet), `failed` |
//! | `entra_pool.retire.reason` | 12: the variants of [`RetireReason`](crate::connect::RetireReason) in snake case, such as `token_expiry` |
//! | `error.type` of a connect | 13: the variants of [`azure_sql::Error`](crate::azure_sql::Error) and [`postgres::Error`](crate::postgres::Error) that a connect can return, in snake case: `token`, `no_user`, `resolve`, `dial`, `not_loopback`, `connection_lost`, `unexpected_protocol`, `encryption_declined`, `tls`, `login_refused`, `login`, `routing`, `timeout` |
//! | `error.type` of a checkout | 5: `timeout`, `closed`, `connect`, `cancelled` (the caller gave up), `_OTHER` |
//! | `error.type` of a request for a token | 3: `unavailable`, `refused`, `transient` |
//!
//! Only failed operations have an `error.type`. Counters whose labels are known in advance start
//! at 0 when the connector is created: install the recorder before that. A connect whose caller
//! gives up is not measured, and neither is a request for a token whose runtime is shut down. The
//! time for which a connection is in use (`db.client.connection.use_time`) is not measured, because
//! callers borrow a connection in a type of the pool.
//!
//! An exporter for Prometheus writes `_` for `.`. Configure it to append units and `_total` to the
//! names (`with_recommended_naming`). OpenTelemetry recommends these bounds for the histograms'
//! buckets: 1, 5, 10, 50, 100 and 500 ms, 1, 5 and 10 s.
//!
//! ```no_run
//! # #[cfg(all(feature = "metrics", feature = "postgres"))]
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::{postgres, telemetry};
//!
//! // After installing the recorder:
//! telemetry::describe();
//!
//! let connector = postgres::connector(
//!     "postgres://shop.postgres.database.azure.com/restaurant",
//! )?;
//! let pool = connector.pool();
//! let checkout = telemetry::checkout(connector.pool_name(), pool.get()).await;
//! let client = checkout.map_err(postgres::Error::from)?;
//!
//! // When the metrics are read:
//! telemetry::pool_status(connector.pool_name(), pool.status());
//! # Ok(())
//! # }
//! ```

#[cfg(all(feature = "metrics", any(feature = "azure-sql", feature = "postgres")))]
mod checkout;
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
mod database;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
mod token;

#[cfg(all(feature = "metrics", any(feature = "azure-sql", feature = "postgres")))]
pub use checkout::{CheckoutError, checkout, pool_status};
#[cfg(feature = "metrics")]
pub use metrics::describe;

#[cfg(any(feature = "azure-sql", feature = "postgres"))]
pub(crate) use database::{Database, Failure, LOGIN_REFUSED, TIMEOUT};
pub(crate) use token::{TokenRequestOutcome, token_span};

use tracing::Span;

/// Marks a span as failed.
pub(crate) fn record_error(span: &Span, error_type: &'static str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", error_type);
}
