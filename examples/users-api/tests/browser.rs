//! The start page and Swagger UI in a browser.

use std::path::Path;

use examples_test_support::{Application, Browser, World};
use serde_json::json;

#[tokio::test]
async fn a_browser_creates_a_user_in_swagger_ui() {
    let world = World::with_azure_sql(include_str!("../setup.sql")).await;
    let application =
        Application::start(env!("CARGO_BIN_EXE_users-api"), world.environment()).await;
    let browser = Browser::start().await;
    browser.open(application.address()).await;
    browser.is_accessible().await;
    screenshot(&browser, "start").await;

    browser.follow("a[href='/docs']").await;
    assert!(browser.text(".info .title").await.starts_with("users-api"));
    browser.click(".opblock-post .opblock-summary-control").await;
    browser.click(".opblock-post .try-out__btn").await;
    // Swagger UI sends the document's example.
    browser.click(".opblock-post .execute").await;
    let status = ".opblock-post .live-responses-table tbody .response-col_status";
    assert!(browser.text(status).await.starts_with("201"));
    assert_eq!(browser.logged_errors().await, [""; 0]);
    let users = application.get("/users").await.json();
    assert_eq!(users, json!([{ "id": 1, "first_name": "Ada", "last_name": "Lovelace" }]));
}

async fn screenshot(browser: &Browser, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("screenshots");
    browser.screenshot(&folder.join(format!("{name}.png"))).await;
}
