use std::{
    convert::Infallible,
    error::Error,
    iter::successors,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post, put},
};
use entra_pool::telemetry;
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_http::trace::{DefaultMakeSpan, DefaultOnResponse, TraceLayer};
use tracing::Level;

use crate::{
    App, BoxError,
    pool::{Failed, Session},
    samples::{self, Sample},
};

const HTML: (&str, &str) = ("text/html; charset=utf-8", include_str!("page/index.html"));
const SCRIPT: (&str, &str) = ("text/javascript; charset=utf-8", include_str!("page/pools.js"));
const STYLE: (&str, &str) = ("text/css; charset=utf-8", include_str!("page/pools.css"));

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'";

pub(crate) fn router(app: Arc<App>) -> Router {
    let file = |(content_type, text): (&'static str, &'static str)| {
        get(async move || ([(header::CONTENT_TYPE, content_type)], text))
    };
    Router::new()
        .route("/", file(HTML))
        .route("/pools.js", file(SCRIPT))
        .route("/pools.css", file(STYLE))
        .route("/events", get(events))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/azure-sql", get(ask::<0>))
        .route("/postgres", get(ask::<1>))
        // These require JSON, which another site's page cannot make a browser send.
        .route("/load", put(load))
        .route("/faults/identity", put(identity))
        .route("/faults/cut", post(cut))
        .with_state(app)
        .layer(from_fn(with_policy))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(DefaultMakeSpan::new().level(Level::INFO))
                .on_response(DefaultOnResponse::new().level(Level::DEBUG)),
        )
}

async fn with_policy(request: Request, next: Next) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, next.run(request).await).into_response()
}

/// Server-sent events, each an array of samples: first the samples of the last two minutes,
/// then each new sample.
async fn events(State(app): State<Arc<App>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let samples = app.samples.subscribe();
    let events = stream::unfold((samples, true), |(mut samples, is_first)| async move {
        let count = if is_first {
            usize::MAX
        } else {
            samples.changed().await.ok()?;
            1
        };
        let newest: Vec<_> = samples.borrow_and_update().iter().take(count).cloned().collect();
        let oldest_first: Vec<_> = newest.iter().rev().map(|sample| &**sample).collect();
        let event = Event::default().data(format!("[{}]", oldest_first.join(",")));
        Some((Ok(event), (samples, false)))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn status(State(app): State<Arc<App>>) -> Json<Sample> {
    Json(samples::current(&app))
}

/// Sets the gauges. The other metrics were recorded when they were measured.
async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    for pool in &app.pools {
        telemetry::pool_status(pool.name(), pool.status());
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render())
}

/// The process runs. It does not check the databases, because the service should not be restarted
/// when a database is unavailable.
async fn health() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// 200 if both pools have a connection, else 503 with the cause.
async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Value>) {
    let [azure_sql, postgres] = &app.pools;
    let (of_azure_sql, of_postgres) = tokio::join!(azure_sql.check(), postgres.check());
    let mut causes = Vec::new();
    for (pool, checked) in [(azure_sql, of_azure_sql), (postgres, of_postgres)] {
        if let Err(error) = checked {
            let error = &*error as &dyn Error;
            tracing::warn!(pool = pool.title, error, "not ready");
            causes.push(format!("{}: {}", pool.title, last_cause(error)));
        }
    }
    if causes.is_empty() {
        (StatusCode::OK, Json(json!({ "status": "ready" })))
    } else {
        let body = json!({ "status": "not ready", "cause": causes.join("; ") });
        (StatusCode::SERVICE_UNAVAILABLE, Json(body))
    }
}

fn last_cause(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |error| (*error).source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

async fn ask<const POOL: usize>(State(app): State<Arc<App>>) -> Result<Json<Session>, Failed> {
    app.pools[POOL].session(Duration::ZERO).await.map(Json)
}

#[derive(Deserialize)]
struct Load {
    per_second: u32,
}

async fn load(State(app): State<Arc<App>>, Json(load): Json<Load>) -> StatusCode {
    app.load.store(load.per_second.min(100), Ordering::Relaxed);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Endpoint {
    down: bool,
}

/// The identity endpoint refuses connections, or accepts them again.
async fn identity(
    State(app): State<Arc<App>>,
    Json(Endpoint { down }): Json<Endpoint>,
) -> Result<StatusCode, Fault> {
    let identity = app.emulator.as_ref().ok_or(Fault::NotEmulated)?.identity();
    if app.identity_is_down.swap(down, Ordering::Relaxed) != down {
        let changed = if down { identity.go_away().await } else { identity.come_back() };
        changed.map_err(|error| Fault::Failed(error.into()))?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Cuts every connection to the databases.
async fn cut(State(app): State<Arc<App>>, Json(()): Json<()>) -> Result<StatusCode, Fault> {
    let emulator = app.emulator.as_ref().ok_or(Fault::NotEmulated)?;
    emulator.azure_sql().cut_connections().await;
    emulator.postgres().cut_connections().await;
    Ok(StatusCode::NO_CONTENT)
}

enum Fault {
    NotEmulated,
    Failed(BoxError),
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        match self {
            Self::NotEmulated => (StatusCode::NOT_FOUND, "faults require the emulator"),
            Self::Failed(error) => {
                tracing::error!(error = &*error as &dyn Error, "cannot set the fault");
                (StatusCode::INTERNAL_SERVER_ERROR, "the emulator failed: see the log")
            }
        }
        .into_response()
    }
}
