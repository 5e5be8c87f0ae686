//! Protection against cross-site request forgery (CSRF).

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use examples_common::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a request that could change data (every method except GET, HEAD and OPTIONS) with 403
/// if a browser sent it on behalf of another site.
///
/// Otherwise another site's page could submit a form here with the cookies, the client
/// certificate or the network position of its visitor.
pub(crate) async fn refused(request: Request, next: Next) -> Response {
    if is_allowed(request.method(), request.uri(), request.headers()) {
        return next.run(request).await;
    }
    tracing::warn!("refused a request that another site caused");
    let detail = "another site caused this request: use the form on this site";
    Problem::new(StatusCode::FORBIDDEN, detail).into_response()
}

/// Whether the request may change data, according to the headers that browsers set and pages
/// cannot change (Fetch Metadata Request Headers; Fetch, section "Origin header").
fn is_allowed(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
        return true;
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // `none`: the browser's user caused the request, not a page.
        return site == "same-origin" || site == "none";
    }
    // Older browsers, and every browser on plain HTTP, send no Sec-Fetch-Site. A client that
    // sends neither header is not a browser.
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str()));
    // `Origin: null` has no host.
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.zip(host).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_of_this_origin_may_change_something() {
        for (sec_fetch_site, origin, allowed) in [
            // Not a browser.
            (None, None, true),
            (Some("same-origin"), None, true),
            (Some("none"), None, true),
            (Some("same-site"), None, false),
            (Some("cross-site"), None, false),
            (Some("SAME-ORIGIN"), None, false),
            (Some(""), None, false),
            // Sec-Fetch-Site takes precedence.
            (Some("same-origin"), Some("https://evil.example"), true),
            (Some("cross-site"), Some("https://shop.example"), false),
            // Older browsers.
            (None, Some("https://shop.example"), true),
            (None, Some("http://SHOP.example"), true),
            (None, Some("https://shop.example:8443"), false),
            (None, Some("https://evil.example"), false),
            (None, Some("https://shop.example.evil.example"), false),
            (None, Some("https://evil.example/shop.example"), false),
            (None, Some("shop.example"), false),
            (None, Some("null"), false),
            (None, Some(""), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "shop.example".parse().unwrap());
            headers.extend(sec_fetch_site.map(|site| (SEC_FETCH_SITE, site.parse().unwrap())));
            headers.extend(origin.map(|origin| (header::ORIGIN, origin.parse().unwrap())));
            let uri = Uri::from_static("/restaurants");
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                let is = is_allowed(&method, &uri, &headers);
                assert_eq!(is, allowed, "{method} {sec_fetch_site:?} {origin:?}");
            }
            for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
                assert!(is_allowed(&method, &uri, &headers), "{method}");
            }
        }
    }

    #[test]
    fn without_a_host_an_origin_is_refused() {
        let headers =
            HeaderMap::from_iter([(header::ORIGIN, "https://a.example".parse().unwrap())]);
        assert!(!is_allowed(&Method::POST, &Uri::from_static("/"), &headers));
        // HTTP/2 names the host in the address.
        let uri = Uri::from_static("https://a.example/");
        assert!(is_allowed(&Method::POST, &uri, &headers));
    }
}
