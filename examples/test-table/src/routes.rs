use axum::{
    Router,
    extract::{Query, State},
    response::IntoResponse,
    routing::get,
};
use entra_pool::azure_sql::{self, Pool};
use examples_common::{Problem, entry::Check, health, html::Page};
use maud::html;

use crate::database::{self, Values};

pub(crate) fn router(pool: Pool) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health::alive))
        .route("/ready", get(ready))
        .with_state(pool)
}

async fn index(
    State(pool): State<Pool>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Page, Problem> {
    let (mut check, mut from) = (Check::default(), i32::MIN);
    for (name, value) in &parameters {
        match name.as_str() {
            "from" => from = check.number("from", value, i32::MIN..=i32::MAX),
            _ => check.unknown(name),
        }
    }
    let from = check.passed(from).map_err(Problem::invalid)?;
    Ok(page(&database::column_2(&pool, from).await?, from == i32::MIN))
}

fn page(Values { values, next }: &Values, is_first: bool) -> Page {
    let content = html! {
        p.lead { "Read from Azure SQL, without a password." }
        @if values.is_empty() {
            p { "There are no rows here." }
        } @else {
            table {
                thead { tr { th scope="col" { "Column2" } } }
                tbody {
                    @for value in values {
                        tr {
                            @match value {
                                Some(value) => { td { (value) } }
                                None => { td { em { "NULL" } } }
                            }
                        }
                    }
                }
            }
        }
        @if !is_first || next.is_some() {
            nav.pages aria-label="Pages" {
                @if !is_first { a href="/" { "First page" } }
                @if let Some(next) = next { a rel="next" href={ "/?from=" (next) } { "Next page" } }
            }
        }
    };
    Page::new("TestTable", content)
}

async fn ready(State(pool): State<Pool>) -> Result<impl IntoResponse, Problem> {
    health::ready(async { pool.get().await.map_err(azure_sql::Error::from) }).await
}
