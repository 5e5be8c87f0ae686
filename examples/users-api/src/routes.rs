use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use entra_pool::azure_sql::{self, Pool};
use examples_common::{Problem, entry::Check, health, html};
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    database,
    user::{NewUser, User},
};

/// In bytes: enough for two names of 50 characters, escaped as JSON allows.
const LARGEST_BODY: usize = 4 * 1024;

#[derive(OpenApi)]
#[openapi(info(
    title = "users-api",
    description = "Users with first and last name. Errors are problem documents (RFC 9457)."
))]
struct Document;

pub(crate) fn router(pool: Pool) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(list, create))
        .routes(routes!(by_id))
        .split_for_parts();
    router
        .route("/", get(async || index()))
        .route("/health", get(health::alive))
        .route("/ready", get(ready))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(pool)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
}

fn index() -> html::Page {
    let routes = [
        ("GET /docs", "Swagger UI: try the API in the browser"),
        ("GET /openapi.json", "The API as an OpenAPI document"),
        ("GET /users", "Lists 100 users by ID, or ?limit=N; ?after=ID continues"),
        ("GET /users/{id}", "Returns a user"),
        ("POST /users", "Creates a user from JSON with first_name and last_name"),
        ("GET /health", "200 while the process runs"),
        ("GET /ready", "200 if the database can be reached, else 503 with the cause"),
    ];
    html::Page::routes("users-api", "Users with first and last name in Azure SQL.", &routes)
}

/// Create a user
#[utoipa::path(
    post,
    path = "/users",
    request_body = NewUser,
    responses(
        (status = 201, description = "The user was created", body = User,
            headers(("location" = String, description = "The user's address"))),
        (status = 400, description = "The body is not JSON",
            body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large",
            body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The content type is not JSON",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A name is missing, empty or too long",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is unavailable: see `Retry-After`",
            body = Problem, content_type = "application/problem+json"),
    )
)]
async fn create(
    State(pool): State<Pool>,
    body: Result<Json<NewUser>, JsonRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Json(user) = body?;
    let user = database::create(&pool, user.checked()?).await?;
    let location = format!("/users/{}", user.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(user)))
}

/// Which users to list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)] // Only the OpenAPI document uses the fields.
struct Page {
    /// Only users with a larger ID. For the next page: the ID of the last user.
    #[param(minimum = 0, default = 0)]
    after: Option<i32>,
    /// The maximum number of users to return.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i32>,
}

/// List users, by ID
#[utoipa::path(
    get,
    path = "/users",
    params(Page),
    responses(
        (status = 200, description = "A page of users; the last page is not full", body = Vec<User>),
        (status = 422, description = "A parameter is unknown, or not a number of its range",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is unavailable: see `Retry-After`",
            body = Problem, content_type = "application/problem+json"),
    )
)]
async fn list(
    State(pool): State<Pool>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<User>>, Problem> {
    let (mut check, mut after, mut limit) = (Check::default(), 0, 100);
    for (name, value) in &parameters {
        match name.as_str() {
            "after" => after = check.number("after", value, 0..=i32::MAX),
            "limit" => limit = check.number("limit", value, 1..=1000),
            _ => check.unknown(name),
        }
    }
    check.passed(()).map_err(Problem::invalid)?;
    Ok(Json(database::list(&pool, after, limit).await?))
}

/// Get a user
#[utoipa::path(
    get,
    path = "/users/{id}",
    params(("id" = i32, Path, description = "The user's ID")),
    responses(
        (status = 200, description = "The user", body = User),
        (status = 400, description = "The ID is not a whole number",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no user with this ID",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is unavailable: see `Retry-After`",
            body = Problem, content_type = "application/problem+json"),
    )
)]
async fn by_id(
    State(pool): State<Pool>,
    id: Result<Path<i32>, PathRejection>,
) -> Result<Json<User>, Problem> {
    let Ok(Path(id)) = id else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the ID of a user is a whole number"));
    };
    let user = database::get(&pool, id).await?;
    user.map(Json).ok_or_else(|| Problem::not_found(format!("there is no user {id}")))
}

async fn ready(State(pool): State<Pool>) -> Result<impl IntoResponse, Problem> {
    health::ready(async { pool.get().await.map_err(azure_sql::Error::from) }).await
}
