//! URLs: `mssql://[client-id@]host[:port][/database][?keyword=value&…]`, also with `sqlserver://`.
//! (In go-mssqldb, the path is the instance. Azure SQL does not have instances, so here the path is
//! the database.)

use ::url::Url;

use super::ConfigError;
use crate::pasted::{Pairs, decoded, named, no_equals};

/// Returns pairs of keyword and value: the parts before the `?`, and the parameters in order with
/// their names as written. `text` starts after the scheme.
pub(super) fn pairs(text: &str) -> Result<Pairs, ConfigError> {
    let refuse = |problem| Err(ConfigError::url(problem));
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, path) = text.split_at(text.find(['/', '#']).unwrap_or(text.len()));
    let (identity, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = identity.split_once(':').unwrap_or((identity, ""));
    // `Url` keeps a copy of the text, so the part that may be a secret is not passed to it.
    let Ok(url) = Url::parse(&format!("mssql://{host}{path}")) else {
        return refuse("does not parse: mssql://HOST:PORT/DATABASE?KEYWORD=VALUE&KEYWORD=VALUE");
    };
    if url.fragment().is_some() || query.contains('#') {
        return refuse("has a '#', which in a value is written %23");
    }
    let path = url.path().strip_prefix('/').unwrap_or(url.path());
    if path.contains(';') {
        return refuse("has a ';' in its path, which is written %3B: parameters follow a '?'");
    }
    if path.contains('/') {
        return refuse(
            "has a path of several parts, but the path is the database's name (write a '/' in it as %2F)",
        );
    }
    let port = url.port().map(|port| port.to_string()).unwrap_or_default();
    let mut pairs = Vec::new();
    for (keyword, value) in [
        ("Server", url.host_str().unwrap_or_default()),
        ("Port", &port),
        ("User Id", user),
        ("Password", password),
        ("Database", path),
    ] {
        if !value.is_empty() {
            pairs.push((keyword.to_owned(), decoded(value, false)?));
        }
    }
    let parameters = query.split('&').filter(|it| !it.is_empty());
    for (parameter, number) in parameters.zip(1..) {
        let (keyword, value) = parameter.split_once('=').ok_or_else(|| no_equals(number))?;
        // In parameters, a plus sign means a space (as in HTML forms and go-mssqldb).
        let keyword = named(&decoded(keyword, true)?, number)?;
        pairs.push((keyword, decoded(value, true)?));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_percent_decoded() {
        let server = ("Server", "h");
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("h", &[server]),
            ("h/", &[server]),
            ("h:1500/db", &[server, ("Port", "1500"), ("Database", "db")]),
            ("[::1]:1500", &[("Server", "[::1]"), ("Port", "1500")]),
            ("127.0.0.1", &[("Server", "127.0.0.1")]),
            ("id@h", &[server, ("User Id", "id")]),
            ("id%40tenant:s%3Acret@h", &[server, ("User Id", "id@tenant"), ("Password", "s:cret")]),
            ("h/B%C3%BCcher%2F+", &[server, ("Database", "Bücher/+")]),
            ("h/Bücher", &[server, ("Database", "Bücher")]),
            ("h?a=x%26y&app+name=a+b%2Bc&", &[server, ("a", "x&y"), ("app name", "a b+c")]),
            ("h?a=b=c&d=", &[server, ("a", "b=c"), ("d", "")]),
            ("", &[]),
            ("/db", &[("Database", "db")]),
        ];
        for (rest, expected) in cases {
            let read = pairs(rest).unwrap();
            let read: Vec<_> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(read, *expected, "{rest}");
        }
    }

    #[test]
    fn parse_errors_name_the_place_but_no_value() {
        for (text, expected) in [
            ("sa:hunter2/x@h", "does not parse"),
            ("h:port", "does not parse"),
            ("h:70000", "does not parse"),
            (r"h\hunter2", "does not parse"),
            ("h/db#hunter2", "'#'"),
            ("h/db/hunter2", "%2F"),
            ("h?hunter2", "keyword number 1 has no '='"),
            ("h?a=1&=hunter2", "pair number 2"),
            ("h?a=hunter2%FF", "not UTF-8"),
        ] {
            let error = pairs(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
