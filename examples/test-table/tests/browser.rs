//! The page, as a person sees it.

use std::path::Path;

use examples_common::testing::{Application, Browser};

#[tokio::test]
async fn a_browser_shows_the_table() {
    let application = Application::start(env!("CARGO_BIN_EXE_test-table"), []).await;
    let browser = Browser::start().await;
    browser.open(application.address()).await;
    assert_eq!(browser.title().await, "TestTable");
    assert_eq!(browser.text("thead th").await, "Column2");
    assert_eq!(browser.text("tbody").await, "Hello\nEntra");
    browser.screenshot(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("test-table.png")).await;
    assert_eq!(browser.complaints().await, [""; 0]);
}
