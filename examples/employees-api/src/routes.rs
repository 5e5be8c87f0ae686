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
use examples_common::{Problem, entry::Check, health, html::Page};

use crate::{
    database,
    employee::{Employee, NewEmployee},
};

/// In bytes: enough for two texts of 100 characters, escaped as JSON allows.
const LARGEST_BODY: usize = 4 * 1024;

pub(crate) fn router(pool: Pool) -> Router {
    Router::new()
        .route("/", get(async || index()))
        .route("/employees", get(list).post(create))
        .route("/employees/{id}", get(by_id))
        // For App Service's health check: the only path without authentication there.
        .route("/health", get(health::alive))
        .route("/ready", get(ready))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(pool)
}

fn index() -> Page {
    let routes = [
        ("GET /employees", "Lists the first 1,000 employees by ID"),
        ("GET /employees/{id}", "Returns an employee"),
        ("POST /employees", "Adds an employee from JSON with Name, Position and Salary"),
        ("GET /health", "200 while the process runs"),
        ("GET /ready", "200 if the database can be reached, else 503 with the cause"),
    ];
    Page::routes("employees-api", "Employees and their salaries in Azure SQL.", &routes)
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

async fn list(
    State(pool): State<Pool>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Employee>>, Problem> {
    let mut check = Check::default();
    for (name, _) in &parameters {
        check.unknown(name);
    }
    check.passed(()).map_err(Problem::invalid)?;
    Ok(Json(database::list(&pool).await?))
}

async fn by_id(
    State(pool): State<Pool>,
    id: Result<Path<i32>, PathRejection>,
) -> Result<Json<Employee>, Problem> {
    let Ok(Path(id)) = id else {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "the ID of an employee is a whole number",
        ));
    };
    let employee = database::get(&pool, id).await?;
    employee.map(Json).ok_or_else(|| Problem::not_found(format!("there is no employee {id}")))
}

async fn ready(State(pool): State<Pool>) -> Result<impl IntoResponse, Problem> {
    health::ready(async { pool.get().await.map_err(azure_sql::Error::from) }).await
}
