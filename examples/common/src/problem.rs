//! Errors as problem documents (RFC 9457), or as pages for browsers.

use std::error::Error;

use axum::{
    extract::{Request, rejection::JsonRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use entra_pool::{
    azure_sql::{self, tiberius},
    postgres::{self, tokio_postgres},
};
use serde::Serialize;

use crate::{html::Page, log::causes};

/// The seconds after which the client should retry.
const RETRY_AFTER: &str = "5";

/// A problem document: an error as the client sees it.
///
/// `?` converts database errors to a problem: 503 with `Retry-After` if a retry may succeed,
/// else 500. The error itself is logged and not sent.
///
/// A client that asks for `text/html`, as browsers do, gets a page instead
/// (see [`serve`](crate::serve)).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The HTTP status.
    status: u16,
    /// The name of the status.
    title: &'static str,
    /// The error.
    pub(crate) detail: String,
    /// The errors of fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// Why the application is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    #[serde(skip)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    page: Option<Box<Page>>,
}

/// An error in a field of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// The field's name.
    pub field: String,
    /// The error, as a sentence whose subject is the field.
    pub detail: String,
}

impl Problem {
    /// A problem of this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error"),
            detail: detail.into(),
            errors: Vec::new(),
            cause: None,
            page: None,
        }
    }

    /// 404: the requested item does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 422: the entry is well-formed but invalid.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail: Vec<_> =
            errors.iter().map(|it| format!("{} {}", it.field, it.detail)).collect();
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail.join("; ")) }
    }

    /// 503, with `Retry-After`.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// 503, with the last cause of `error`.
    pub(crate) fn not_ready(error: &(dyn Error + 'static)) -> Self {
        tracing::warn!(error = causes(error).join(": "), "not ready");
        let cause = causes(error).pop();
        Self { cause, ..Self::unavailable("the pool cannot get a connection") }
    }

    /// 503 if the error is transient, else 500. The error itself is logged.
    pub fn of(error: &(dyn Error + 'static), transient: bool) -> Self {
        if transient {
            tracing::warn!(error = causes(error).join(": "), "the database is unavailable");
            Self::unavailable("the database is unavailable: try again in a moment")
        } else {
            tracing::error!(error = causes(error).join(": "), "a request failed");
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "an error occurred, which was logged")
        }
    }

    /// Sets the page that browsers show. Default: the title and the detail.
    #[must_use]
    pub fn on(self, page: Page) -> Self {
        Self { page: Some(Box::new(page)), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Turns every error response, whether from a handler, the router or an extractor, into a
/// problem document, or into a page for browsers.
pub(crate) async fn explained(request: Request, next: Next) -> Response {
    let accepted = request.headers().get(header::ACCEPT).and_then(|it| it.to_str().ok());
    let wants_page = accepted.is_some_and(|accepted| accepted.contains("text/html"));
    let mut response = next.run(request).await;
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    if response.extensions().get::<Problem>().is_none() {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = Problem::new(status, meaning(status)).into_response();
        response.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    }
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) if wants_page => {
            let page = problem.page.clone().map_or_else(|| Page::problem(&problem), |page| *page);
            let (parts, body) = page.into_response().into_parts();
            *response.body_mut() = body;
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response.headers_mut().extend(parts.headers);
            response
        }
        _ => response,
    }
}

fn meaning(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is nothing at this address",
        StatusCode::METHOD_NOT_ALLOWED => "this address does not support the request's method",
        _ => "the request cannot be answered",
    }
}

/// Without the text that deadpool adds to the error of a connect.
impl From<azure_sql::PoolError> for Problem {
    fn from(error: azure_sql::PoolError) -> Self {
        let error = azure_sql::Error::from(error);
        Self::of(&error, error.is_transient())
    }
}

/// Without the text that deadpool adds to the error of a connect.
impl From<postgres::PoolError> for Problem {
    fn from(error: postgres::PoolError) -> Self {
        let error = postgres::Error::from(error);
        Self::of(&error, error.is_transient())
    }
}

impl From<tiberius::error::Error> for Problem {
    fn from(error: tiberius::error::Error) -> Self {
        Self::of(&error, azure_sql::is_transient(&error))
    }
}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::of(&error, postgres::is_transient(&error))
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        // The parser's message, without the prefix of axum.
        let reason = rejection.source().unwrap_or(&rejection).to_string();
        Self::new(rejection.status(), format!("the request's JSON cannot be used: {reason}"))
    }
}
