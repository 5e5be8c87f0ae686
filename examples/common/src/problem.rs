//! What goes wrong, as problem documents (RFC 9457).

use std::{error::Error, time::Duration};

use axum::{
    extract::{
        Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use entra_pool::{azure_sql, postgres, token::TokenError};
use serde::Serialize;

use crate::html::Page;

/// When to come back, where nobody says.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A problem document: an error as the client is told of it.
///
/// Errors of the databases become one by `?`: 503 with `Retry-After` where the same
/// may succeed later, else 500. What they say is logged, not sent.
///
/// Whoever asks for `text/html`, as browsers do, gets a page in its place
/// ([`serve`](crate::serve) sees to that).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The HTTP status.
    status: u16,
    /// What the status is called.
    pub(crate) title: &'static str,
    /// What is wrong, in this case.
    pub(crate) detail: String,
    /// What is wrong with which field of the entry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    retry_after: Option<Duration>,
    #[serde(skip)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    page: Option<Box<Page>>,
}

/// What is wrong with a field of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

impl FieldError {
    /// Of `field`.
    pub fn new(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field, detail: detail.into() }
    }
}

impl Problem {
    /// A problem of this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error"),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            page: None,
        }
    }

    /// 404: it is not there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 422: an entry was understood, but is not fit to be taken.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = "the entry is not valid".to_owned();
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// 503, with `Retry-After`: the same may succeed later.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let retry_after = Some(RETRY_AFTER);
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// 503 for what is transient, else 500; the error itself goes to the log.
    pub fn of(error: &(dyn Error + 'static), transient: bool) -> Self {
        if transient {
            tracing::warn!(error, "the database is not available");
            Self::unavailable("the database is not available now")
        } else {
            tracing::error!(error, "a request failed");
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be carried out")
        }
    }

    /// What browsers show of it; default: what its title and detail say.
    #[must_use]
    pub fn on(self, page: Page) -> Self {
        Self { page: Some(Box::new(page)), ..self }
    }

    /// After what the identity's host said, if that was asked.
    fn after(self, error: Option<&TokenError>) -> Self {
        let said = match error {
            Some(TokenError::Credential { source, .. }) => source.retry_after(),
            _ => None,
        };
        Self { retry_after: self.retry_after.map(|default| said.unwrap_or(default)), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Makes every answer that is an error a problem document, whoever gave it (the router,
/// an extractor, a library), and a page for those who look at pages.
pub(crate) async fn told(request: Request, next: Next) -> Response {
    let wants_page = wants_page(request.headers());
    let mut response = next.run(request).await;
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    if response.extensions().get::<Problem>().is_none() {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = Problem::new(status, what_it_means(status)).into_response();
        response.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    }
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) if wants_page => {
            let page = problem
                .page
                .unwrap_or_else(|| Box::new(Page::problem(problem.title, &problem.detail)));
            let (parts, body) = page.into_response().into_parts();
            *response.body_mut() = body;
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response.headers_mut().extend(parts.headers);
            response
        }
        _ => response,
    }
}

fn what_it_means(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is nothing of this name",
        StatusCode::METHOD_NOT_ALLOWED => "this is not to be had by this method",
        _ => "this request cannot be answered",
    }
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<azure_sql::PoolError> for Problem {
    fn from(error: azure_sql::PoolError) -> Self {
        match &error {
            azure_sql::PoolError::Backend(failed) => {
                let token = match failed {
                    azure_sql::Error::Token { source, .. } => Some(source),
                    _ => None,
                };
                Self::of(failed, failed.is_transient()).after(token)
            }
            // All connections are in use, or the application is about to end.
            azure_sql::PoolError::Timeout(_) | azure_sql::PoolError::Closed => {
                Self::of(&error, true)
            }
            _ => Self::of(&error, false),
        }
    }
}

impl From<azure_sql::tiberius::error::Error> for Problem {
    fn from(error: azure_sql::tiberius::error::Error) -> Self {
        Self::of(&error, azure_sql::is_transient(&error))
    }
}

impl From<postgres::deadpool_postgres::PoolError> for Problem {
    fn from(error: postgres::deadpool_postgres::PoolError) -> Self {
        let error = postgres::Error::from(error);
        let token = match &error {
            postgres::Error::Token { source, .. } => Some(source),
            _ => None,
        };
        Self::of(&error, error.is_transient()).after(token)
    }
}

impl From<postgres::tokio_postgres::Error> for Problem {
    fn from(error: postgres::tokio_postgres::Error) -> Self {
        Self::of(&error, postgres::is_transient(&error))
    }
}
