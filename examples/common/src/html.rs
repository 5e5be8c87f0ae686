//! Pages, rendered with [maud], which escapes what is put into them.

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use crate::Problem;

/// Nothing but the page's own markup and style is run or loaded, whatever got into it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = "body{font-family:system-ui,sans-serif;max-width:48rem;margin:2rem auto;\
    padding:0 1rem;line-height:1.5}table{border-collapse:collapse}\
    th,td{text-align:left;padding:.3rem 1rem;border-bottom:1px solid #ccc}\
    label{display:block;margin-top:.8rem}input,textarea{width:100%;font:inherit}\
    img{max-width:100%}.error{color:#a00}";

/// A page of this title.
#[must_use]
pub fn page(title: &str, content: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                // Else browsers ask for /favicon.ico.
                link rel="icon" href="data:,";
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (content)
            }
        }
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
    ];
    (headers, Html(page.into_string())).into_response()
}

/// A [`Problem`] as a page, for those who look at pages.
#[derive(Debug)]
pub struct ProblemPage(Problem);

impl<E: Into<Problem>> From<E> for ProblemPage {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ProblemPage {
    fn into_response(self) -> Response {
        let content = html! { p { (self.0.detail) } p { a href="/" { "To the start" } } };
        self.0.answered_with(page(self.0.title, &content))
    }
}
