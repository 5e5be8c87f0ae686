//! Forms that a browser sends on behalf of another site.

use examples_test_support::Application;
use reqwest::header::{ACCEPT, CONTENT_TYPE};

use crate::{start, world};

/// Sends the form for a new restaurant with these headers; returns the status.
async fn status(application: &Application, headers: &[(&str, &str)]) -> u16 {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let mut request =
        client.build().unwrap().post(format!("{}/restaurants", application.address()));
    request = request.header(ACCEPT, "text/html");
    request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.body("name=Forged&description=Soup").send().await.unwrap();
    let status = answer.status().as_u16();
    let page = answer.text().await.unwrap();
    if status == 403 {
        assert!(page.contains("another site caused this request"), "{page}");
    }
    status
}

#[tokio::test]
async fn another_sites_form_adds_nothing() {
    let world = world().await;
    let application = start(&world).await;
    let here = application.address();
    for (headers, expected) in [
        (&[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..], 403),
        (&[("sec-fetch-site", "same-site"), ("origin", "https://evil.example")], 403),
        (&[("sec-fetch-site", "cross-site"), ("origin", here)], 403),
        (&[("origin", "https://evil.example")], 403),
        // From a sandboxed frame.
        (&[("origin", "null")], 403),
        (&[("origin", "http://127.0.0.1:1")], 403),
    ] {
        assert_eq!(status(&application, headers).await, expected, "{headers:?}");
    }
    let list = application.get("/").await;
    assert!(list.text.contains("There are no restaurants yet."), "{list:?}");

    for headers in [
        &[][..],
        &[("sec-fetch-site", "same-origin"), ("origin", here)],
        &[("sec-fetch-site", "none")],
        &[("origin", here)],
    ] {
        assert_eq!(status(&application, headers).await, 303, "{headers:?}");
    }
    let list = application.get("/").await;
    assert_eq!(list.text.matches("Forged").count(), 4, "{list:?}");
}

#[tokio::test]
async fn another_site_may_link_to_a_page() {
    let world = world().await;
    let application = start(&world).await;
    let request = reqwest::Client::builder().no_proxy().build().unwrap().get(application.address());
    let answer = request.header("sec-fetch-site", "cross-site").send().await.unwrap();
    assert_eq!(answer.status(), 200);
}
