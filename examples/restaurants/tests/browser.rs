//! The pages, as a person sees them and clicks through.

use std::path::{Path, PathBuf};

use examples_common::testing::{Application, Browser};

/// The smallest PNG: one pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\n\
    IDATx\xdach\0\0\0\x82\0\x81\xdaE\x08;\0\0\0\0IEND\xaeB`\x82";

#[tokio::test]
async fn a_browser_adds_a_restaurant_and_a_review_with_a_photo() {
    let application = Application::start(env!("CARGO_BIN_EXE_restaurants"), []).await;
    let browser = Browser::start().await;
    browser.open(application.address()).await;
    browser.follow("a[href='/restaurants/new']").await;
    browser.type_into("[name=name]", "Zum \"Ochsen\" <b>").await;
    browser.type_into("[name=description]", &"x".repeat(251)).await;
    browser.follow("button").await;
    let said = browser.text(".error").await;
    assert_eq!(said, "250 characters are the most, not 251");
    assert_eq!(browser.property("[name=name]", "value").await, "Zum \"Ochsen\" <b>");
    let kept = browser.property("[name=description]", "value").await;
    assert_eq!(kept.as_str().map(str::len), Some(251), "{kept}");
    assert_eq!(browser.complaints().await.len(), 1, "the status of the form's answer");
    browser.screenshot(&screenshots().join("restaurant-form.png")).await;
    // A backspace makes it fit.
    browser.type_into("[name=description]", "\u{e003}").await;
    browser.follow("button").await;
    assert_eq!(browser.text("h1").await, "Zum \"Ochsen\" <b>");
    // A word of 250 characters does not make the page wider than the window.
    let width = browser.property("html", "scrollWidth").await;
    assert_eq!(width, browser.property("html", "clientWidth").await);

    browser.follow("a[href$='/reviews/new']").await;
    browser.type_into("[name=reviewer]", "Ann").await;
    browser.type_into("[name=rating]", "4").await;
    browser.type_into("[name=content]", "Good soup.\nGood bread.").await;
    let photo = screenshots().join("photo.png");
    std::fs::write(&photo, PNG).unwrap();
    browser.type_into("[name=photo]", photo.to_str().unwrap()).await;
    browser.follow("button").await;
    assert!(browser.text("article h2").await.starts_with("4 of 5, by Ann on 20"));
    assert_eq!(browser.property("article img", "naturalWidth").await, 1);
    browser.screenshot(&screenshots().join("restaurant.png")).await;

    browser.open(application.address()).await;
    assert_eq!(browser.text("tbody tr").await, "Zum \"Ochsen\" <b> 4.0 1");
    browser.screenshot(&screenshots().join("restaurants.png")).await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

fn screenshots() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned()
}
