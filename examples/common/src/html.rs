//! Pages, rendered with [maud], which escapes what is put into them.

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

/// Nothing but the page's own markup and style is run or loaded, whatever got into it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = "*{box-sizing:border-box}\
    body{font-family:system-ui,sans-serif;max-width:48rem;margin:2rem auto;\
    padding:0 1rem;line-height:1.5;overflow-wrap:anywhere}table{border-collapse:collapse}\
    th,td{text-align:left;padding:.3rem 2rem .3rem 0;border-bottom:1px solid #ccc}\
    label{display:block;margin-top:.8rem}input,textarea{width:100%;font:inherit}\
    button,select{font:inherit}select{display:block}\
    img{max-width:100%}.error{color:#a00;margin:0}";

/// A page.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    content: Markup,
}

impl Page {
    /// A page of this title, which is its heading, too.
    pub fn new(title: impl Into<String>, content: Markup) -> Self {
        Self { title: title.into(), content }
    }

    /// What a problem without a page of its own is shown on.
    pub(crate) fn problem(title: &str, detail: &str) -> Self {
        Self::new(title, html! { p { (detail) } p { a href="/" { "To the start" } } })
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    // Else browsers ask for /favicon.ico.
                    link rel="icon" href="data:,";
                    style { (maud::PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.title) }
                    (self.content)
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
}
