use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use entra_pool::azure_sql::Pool;
use examples_common::{
    Problem,
    health::{self, Health},
    problem::FieldError,
};
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    database,
    user::{NewUser, User},
};

/// Two names of 50 characters, escaped as JSON allows, and room to spare.
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
        .route("/health", get(health))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(pool)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
}

/// Create a user
#[utoipa::path(
    post,
    path = "/users",
    request_body = NewUser,
    responses(
        (status = 201, description = "It was created", body = User,
            headers(("location" = String, description = "Where it is"))),
        (status = 400, description = "The body is no JSON",
            body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large",
            body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is of another type",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A name is missing, empty or too long",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away: see `Retry-After`",
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
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Only users with a larger ID: the last one of the page before.
    #[serde(default)]
    after: i32,
    /// So many at most.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 1000)]
    limit: i32,
}

fn default_limit() -> i32 {
    100
}

/// List users, by ID
#[utoipa::path(
    get,
    path = "/users",
    params(Page),
    responses(
        (status = 200, description = "A page of them; the last one is not full", body = Vec<User>),
        (status = 400, description = "A parameter is no number",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The limit is out of bounds",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away: see `Retry-After`",
            body = Problem, content_type = "application/problem+json"),
    )
)]
async fn list(
    State(pool): State<Pool>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Vec<User>>, Problem> {
    let Query(Page { after, limit }) = page?;
    if !(1..=1000).contains(&limit) {
        return Err(Problem::invalid(vec![FieldError::new("limit", "is from 1 to 1000")]));
    }
    Ok(Json(database::list(&pool, after, limit).await?))
}

/// Get a user
#[utoipa::path(
    get,
    path = "/users/{id}",
    params(("id" = i32, Path, description = "The user's ID")),
    responses(
        (status = 200, description = "The user", body = User),
        (status = 400, description = "The ID is no number",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of this ID",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away: see `Retry-After`",
            body = Problem, content_type = "application/problem+json"),
    )
)]
async fn by_id(
    State(pool): State<Pool>,
    id: Result<Path<i32>, PathRejection>,
) -> Result<Json<User>, Problem> {
    let Path(id) = id?;
    let user = database::get(&pool, id).await?;
    user.map(Json).ok_or_else(|| Problem::not_found(format!("there is no user {id}")))
}

async fn health(State(pool): State<Pool>) -> Json<Health> {
    health::azure_sql(&pool)
}
