//! Health checks: whether the process runs, and whether it can serve requests.

use std::error::Error;

use axum::Json;
use serde_json::{Value, json};

use crate::problem::Problem;

/// `/health`: the process runs. It does not check the database, because an application should
/// not be restarted when its database is unavailable.
pub async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `/ready`: the pool has a connection.
///
/// # Errors
///
/// 503 with the last cause, if the pool cannot get a connection.
pub async fn ready<C, E: Error + 'static>(
    connection: impl Future<Output = Result<C, E>>,
) -> Result<Json<Value>, Problem> {
    let connected = connection.await.map_err(|error| Problem::not_ready(&error));
    connected.map(|_| Json(json!({ "status": "ready" })))
}
