use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use entra_pool::{azure_sql, postgres};
use examples_common::{BoxError, Problem, entry::Check, health, html::Page};
use futures_util::{Stream, stream};

use crate::{
    format::{Format, Writer},
    report::{Pool, Report, Source},
};

/// Functions forwards requests under `/api`.
pub(crate) fn router(source: Source) -> Router {
    Router::new()
        .route("/", get(async || index()))
        .route("/report/{format}", get(report))
        .route("/api/report/{format}", get(report))
        .route("/health", get(health::alive))
        .route("/ready", get(ready))
        .with_state(source)
}

fn index() -> Page {
    let routes = [
        ("GET /report/table", "The rows as a table of text"),
        ("GET /report/csv", "The rows as CSV"),
        ("GET /report/json", "The rows as a JSON array"),
        ("GET /health", "200 while the process runs"),
        ("GET /ready", "200 if the database can be reached, else 503 with the cause"),
    ];
    Page::routes("report", "The rows of one query, streamed.", &routes)
}

async fn report(
    State(source): State<Source>,
    Path(format): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let format: Format = format
        .parse()
        .map_err(|()| Problem::not_found("there is a report as csv, json and table"))?;
    let mut check = Check::default();
    // Functions forwards the caller's key as `code`.
    for (name, _) in parameters.iter().filter(|(name, _)| name != "code") {
        check.unknown(name);
    }
    check.passed(()).map_err(Problem::invalid)?;
    let report = source.run().await?;
    let headers = [(header::CONTENT_TYPE, format.content_type())];
    Ok((headers, Body::from_stream(texts(report, format))).into_response())
}

/// A failure aborts the response, so that no client mistakes it for a complete response.
fn texts(report: Report, format: Format) -> impl Stream<Item = Result<Bytes, BoxError>> {
    stream::try_unfold(Some((report, Writer::new(format))), async |state| {
        let Some((mut report, mut writer)) = state else { return Ok(None) };
        match report.next().await {
            Ok(Some(batch)) => {
                let text = writer.write(&batch)?;
                Ok(Some((text.into(), Some((report, writer)))))
            }
            Ok(None) => Ok(Some((Bytes::from_static(writer.end()), None))),
            Err(_) => Err("the query failed: see the log above".into()),
        }
    })
}

async fn ready(State(source): State<Source>) -> Result<impl IntoResponse, Problem> {
    match &source.pool {
        Pool::AzureSql(pool) => {
            health::ready(async { pool.get().await.map_err(azure_sql::Error::from) }).await
        }
        Pool::Postgres(pool) => {
            health::ready(async { pool.get().await.map_err(postgres::Error::from) }).await
        }
    }
}
