use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use examples_common::{
    BoxError, Problem,
    health::{self, Health},
};
use futures_util::{Stream, stream};

use crate::{
    format::{Format, Writer},
    report::{Pool, Report, Source},
};

/// Functions asks for what its host serves below `/api`.
pub(crate) fn router(source: Source) -> Router {
    Router::new()
        .route("/report/{format}", get(report))
        .route("/api/report/{format}", get(report))
        .route("/health", get(health))
        .with_state(source)
}

async fn report(
    State(source): State<Source>,
    Path(format): Path<String>,
) -> Result<Response, Problem> {
    let format: Format =
        format.parse().map_err(|()| Problem::not_found("a report is had as csv, json or table"))?;
    let report = source.run().await?;
    let headers = [(header::CONTENT_TYPE, format.content_type())];
    Ok((headers, Body::from_stream(texts(report, format))).into_response())
}

/// A failure on the way breaks the connection off: nobody shall take the part for the
/// whole.
fn texts(report: Report, format: Format) -> impl Stream<Item = Result<Bytes, BoxError>> {
    stream::try_unfold(Some((report, Writer::new(format))), async |state| {
        let Some((mut report, mut writer)) = state else { return Ok(None) };
        match report.next().await {
            Ok(Some(batch)) => {
                let text = writer.write(&batch)?;
                Ok(Some((text.into(), Some((report, writer)))))
            }
            Ok(None) => Ok(Some((Bytes::from_static(writer.end()), None))),
            Err(_) => Err("the query has failed on the way; the log says why".into()),
        }
    })
}

async fn health(State(source): State<Source>) -> Json<Health> {
    match &source.pool {
        Pool::AzureSql(pool) => health::azure_sql(pool),
        Pool::Postgres(pool, connector) => health::postgres(pool, connector),
    }
}
