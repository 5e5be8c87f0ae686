use axum::{Json, Router, extract::State, routing::get};
use entra_pool::azure_sql::Pool;
use examples_common::{
    Problem,
    health::{self, Health},
    html::Page,
};
use maud::html;

use crate::database;

pub(crate) fn router(pool: Pool) -> Router {
    Router::new().route("/", get(index)).route("/health", get(health)).with_state(pool)
}

async fn index(State(pool): State<Pool>) -> Result<Page, Problem> {
    let values = database::column_2(&pool).await?;
    let content = html! {
        table {
            thead { tr { th { "Column2" } } }
            tbody {
                @for value in values {
                    tr { td { (value.as_deref().unwrap_or("NULL")) } }
                }
            }
        }
    };
    Ok(Page::new("TestTable", content))
}

async fn health(State(pool): State<Pool>) -> Json<Health> {
    health::azure_sql(&pool)
}
