use axum::{
    Json, Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use entra_pool::{azure_sql, postgres, telemetry};
use examples_common::{
    Problem,
    rows::{one, value},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;

use crate::health::{self, Health};

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) azure_sql: azure_sql::Pool,
    pub(crate) postgres: postgres::Pool,
    /// What the pool of PostgreSQL connects with.
    pub(crate) connector: postgres::Connector,
    pub(crate) metrics: PrometheusHandle,
}

impl App {
    fn azure_sql_name(&self) -> &str {
        self.azure_sql.manager().connector().pool_name()
    }
}

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/azure-sql", get(ask_azure_sql))
        .route("/postgres", get(ask_postgres))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(app)
}

/// Where the service is logged in, and as whom.
#[derive(Serialize)]
struct Session {
    database: String,
    user: String,
}

async fn ask_azure_sql(State(app): State<App>) -> Result<Json<Session>, Problem> {
    let checkout = telemetry::checkout(app.azure_sql_name(), app.azure_sql.get());
    let mut connection = checkout.await?;
    let row = connection.simple_query("SELECT DB_NAME(), USER_NAME()").await?.into_row().await?;
    let row = one(row)?;
    let text = |column| value::<&str>(&row, column).map(str::to_owned);
    Ok(Json(Session { database: text(0)?, user: text(1)? }))
}

async fn ask_postgres(State(app): State<App>) -> Result<Json<Session>, Problem> {
    let checkout = telemetry::checkout(app.connector.pool_name(), app.postgres.get());
    let client = checkout.await?;
    let row = client.query_one("SELECT current_database()::text, current_user::text", &[]).await?;
    Ok(Json(Session { database: row.try_get(0)?, user: row.try_get(1)? }))
}

#[derive(Serialize)]
struct Healths {
    azure_sql: Health,
    postgres: Health,
}

async fn health(State(app): State<App>) -> Json<Healths> {
    let Json(azure_sql) = health::azure_sql(&app.azure_sql);
    let Json(postgres) = health::postgres(&app.postgres, &app.connector);
    Json(Healths { azure_sql, postgres })
}

/// How the pools are is asked now; the rest was measured when it happened.
async fn metrics(State(app): State<App>) -> impl IntoResponse {
    telemetry::pool_status(app.azure_sql_name(), app.azure_sql.status());
    telemetry::pool_status(app.connector.pool_name(), app.postgres.status());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render())
}
