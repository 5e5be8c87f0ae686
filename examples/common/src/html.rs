//! Pages, rendered with [maud], which escapes the values in them.

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use crate::problem::Problem;

/// A page loads only this application's own style, script and images, whatever its values
/// contain.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
                      img-src 'self' data:; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// A page.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    navigation: Markup,
    content: Markup,
}

impl Page {
    /// A page with this title, which is also its heading.
    pub fn new(title: impl Into<String>, content: Markup) -> Self {
        Self { title: title.into(), navigation: html! {}, content }
    }

    /// Links above the heading.
    #[must_use]
    pub fn navigation(self, navigation: Markup) -> Self {
        Self { navigation, ..self }
    }

    /// A start page that lists the routes of an API: the request, and its effect.
    pub fn routes(title: &str, about: &str, routes: &[(&str, &str)]) -> Self {
        let content = html! {
            p.lead { (about) }
            dl.routes {
                @for (request, does) in routes { dt { (linked(request)) } dd { (does) } }
            }
        };
        Self::new(title, content)
    }

    /// The page for a problem without a specific page.
    pub(crate) fn problem(problem: &Problem) -> Self {
        let content = html! {
            p.lead.problem { (problem.detail) }
            @if let Some(cause) = &problem.cause { p { (cause) } }
            p { a.button href="/" { "Home" } }
        };
        Self::new("Something went wrong", content)
    }
}

/// A link if a browser can follow it: a GET without parameters in the path.
fn linked(request: &str) -> Markup {
    match request.strip_prefix("GET ") {
        Some(path) if !path.contains('{') => html! { code { "GET " a href=(path) { (path) } } },
        _ => html! { code { (request) } },
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
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    // Without it, browsers request /favicon.ico.
                    link rel="icon" href="data:,";
                    link rel="stylesheet" href="/style.css";
                }
                body {
                    @if !self.navigation.0.is_empty() {
                        header { nav aria-label="Main" { (self.navigation) } }
                    }
                    main {
                        h1 { (self.title) }
                        (self.content)
                    }
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

/// `/style.css`, which every page uses.
pub(crate) async fn style() -> impl IntoResponse {
    let headers =
        [(header::CONTENT_TYPE, "text/css"), (header::CACHE_CONTROL, "public, max-age=600")];
    (headers, include_str!("style.css"))
}
