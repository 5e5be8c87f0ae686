//! Forms as browsers send them.

use examples_test_support::{Answer, Application};
use reqwest::Method;

pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

pub(crate) async fn add_restaurant(to: &Application, name: &str, description: &str) -> Answer {
    let mut url = reqwest::Url::parse("http://localhost/").unwrap();
    url.query_pairs_mut().append_pair("name", name).append_pair("description", description);
    let form = url.query().unwrap();
    to.send(Method::POST, "/restaurants", "application/x-www-form-urlencoded", form).await
}

/// A review's form, with an empty file if there is no photo, as browsers send it.
#[derive(Default)]
pub(crate) struct Review<'a> {
    pub(crate) reviewer: &'a str,
    pub(crate) rating: &'a str,
    pub(crate) content: &'a str,
    pub(crate) photo: &'a [u8],
}

impl Review<'_> {
    pub(crate) async fn add(&self, to: &Application, restaurant: &str) -> Answer {
        let mut body = Vec::new();
        for (name, value) in [
            ("reviewer", self.reviewer.as_bytes()),
            ("rating", self.rating.as_bytes()),
            ("content", self.content.as_bytes()),
            ("photo\"; filename=\"../me.png", self.photo),
        ] {
            body.extend(
                format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n")
                    .bytes(),
            );
            body.extend(value);
            body.extend(b"\r\n");
        }
        body.extend(b"--edge--\r\n");
        let path = format!("{restaurant}/reviews");
        to.send(Method::POST, &path, "multipart/form-data; boundary=edge", body).await
    }
}

/// The path of the restaurant whose page this is.
pub(crate) fn restaurant_of(page: &Answer) -> &str {
    let at = page.text.find("/reviews/new\"").unwrap_or_else(|| panic!("{page:?}"));
    page.text[..at].rsplit('"').next().unwrap()
}

/// The first link on a page that begins with this text.
pub(crate) fn link<'a>(page: &'a Answer, begins: &str) -> &'a str {
    let at = page.text.find(&format!("=\"{begins}")).unwrap_or_else(|| panic!("{page:?}"));
    page.text[at + 2..].split('"').next().unwrap()
}

/// Asserts that this is a page with this status, and returns it.
#[track_caller]
pub(crate) fn page(answer: &Answer, status: u16) -> &str {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{answer:?}");
    assert!(answer.header("content-security-policy").starts_with("default-src 'none';"));
    for internal in ["localhost", "127.0.0.1", "SELECT", "INSERT", "token", "postgres"] {
        assert!(!answer.text.contains(internal), "{answer:?} shows {internal}");
    }
    &answer.text
}
