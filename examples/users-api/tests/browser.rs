//! Swagger UI, as a person uses it.

use std::path::Path;

use examples_common::testing::{Application, Browser};
use serde_json::json;

#[tokio::test]
async fn a_browser_creates_a_user_in_swagger_ui() {
    let application = Application::start(env!("CARGO_BIN_EXE_users-api"), []).await;
    let browser = Browser::start().await;
    browser.open(&format!("{}/docs", application.address())).await;
    assert!(browser.text(".info .title").await.starts_with("users-api"));
    browser.click(".opblock-post .opblock-summary-control").await;
    browser.click(".opblock-post .try-out__btn").await;
    // The request's body is the document's example.
    browser.click(".opblock-post .execute").await;
    let status = ".opblock-post .live-responses-table tbody .response-col_status";
    assert!(browser.text(status).await.starts_with("201"));
    browser.screenshot(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("users-api.png")).await;
    assert_eq!(browser.complaints().await, [""; 0]);
    let users = application.get("/users").await.json();
    assert_eq!(users, json!([{ "id": 1, "first_name": "Ada", "last_name": "Lovelace" }]));
}
