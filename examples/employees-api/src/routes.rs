use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use entra_pool::azure_sql::Pool;
use examples_common::{
    Problem,
    health::{self, Health},
};

use crate::{
    database,
    employee::{Employee, NewEmployee},
};

/// Two texts of 100 characters, escaped as JSON allows, and room to spare.
const LARGEST_BODY: usize = 4 * 1024;

pub(crate) fn router(pool: Pool) -> Router {
    Router::new()
        .route("/employees", get(list).post(create))
        .route("/employees/{id}", get(by_id))
        .route("/health", get(health))
        // For App Service's health check, the one path that needs no authentication there.
        .route("/live", get(|| async {}))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(pool)
}

async fn create(
    State(pool): State<Pool>,
    body: Result<Json<NewEmployee>, JsonRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Json(employee) = body?;
    let employee = database::create(&pool, employee.checked()?).await?;
    let location = format!("/employees/{}", employee.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(employee)))
}

async fn list(State(pool): State<Pool>) -> Result<Json<Vec<Employee>>, Problem> {
    Ok(Json(database::list(&pool).await?))
}

async fn by_id(
    State(pool): State<Pool>,
    id: Result<Path<i32>, PathRejection>,
) -> Result<Json<Employee>, Problem> {
    let Path(id) = id?;
    let employee = database::get(&pool, id).await?;
    employee.map(Json).ok_or_else(|| Problem::not_found(format!("there is no employee {id}")))
}

async fn health(State(pool): State<Pool>) -> Json<Health> {
    health::azure_sql(&pool)
}
