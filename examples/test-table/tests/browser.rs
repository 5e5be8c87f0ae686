//! The page in a browser.

use std::path::Path;

use examples_test_support::{Application, Browser, World};

#[tokio::test]
async fn a_browser_shows_the_table_and_its_pages() {
    let world = World::with_azure_sql(include_str!("../setup.sql")).await;
    let rows: Vec<_> = (3..=60).map(|n| format!("({n}, N'Row {n}')")).collect();
    world.sql(&format!("INSERT INTO TestTable VALUES {}, (61, NULL)", rows.join(", "))).await;
    let application =
        Application::start(env!("CARGO_BIN_EXE_test-table"), world.environment()).await;
    let browser = Browser::start().await;
    browser.open(application.address()).await;
    assert_eq!(browser.title().await, "TestTable");
    assert_eq!(browser.text("thead th").await, "Column2");
    assert!(browser.text("tbody").await.starts_with("Hello\nEntra\nRow 3\n"));
    browser.is_accessible().await;

    browser.follow("a[rel=next]").await;
    let rows = browser.text("tbody").await;
    assert!(rows.starts_with("Row 51\n") && rows.ends_with("\nRow 60\nNULL"), "{rows}");
    browser.is_accessible().await;
    screenshot(&browser, "table").await;
    browser.follow(".pages a").await;
    assert!(browser.text("tbody").await.starts_with("Hello\n"));
    assert_eq!(browser.logged_errors().await, [""; 0]);

    for path in ["/nothing", "/?from=here"] {
        browser.open(&format!("{}{path}", application.address())).await;
        browser.is_accessible().await;
    }
    assert_eq!(browser.text(".lead").await.matches("from must be a whole number").count(), 1);
    screenshot(&browser, "error").await;
}

async fn screenshot(browser: &Browser, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("screenshots");
    browser.screenshot(&folder.join(format!("{name}.png"))).await;
}
