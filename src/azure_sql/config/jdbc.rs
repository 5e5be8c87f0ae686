//! JDBC URLs, parsed as mssql-jdbc does (Microsoft Learn, "Building the connection URL"):
//! `jdbc:sqlserver://[host[\instance][:port]][;property=value[;property=value]]`. Prisma's URLs
//! have the same form without `jdbc:`.

use zeroize::Zeroizing;

use super::{ConfigError, keywords::KEYWORDS};
use crate::pasted::{Pairs, Rules, host_and_port, read};

/// Returns pairs of keyword and value: the host, the port, and the properties in order with their
/// names as written. `text` starts after the scheme.
pub(super) fn pairs(text: &str) -> Result<Pairs, ConfigError> {
    let (address, properties) = text.split_once(';').unwrap_or((text, ""));
    let mut pairs = server(address)?;
    pairs.extend(read(properties, Rules::Jdbc, |it| KEYWORDS.is_known(it))?);
    Ok(pairs)
}

/// Parses `host[\instance][:port]`; an IPv6 address is in square brackets.
fn server(address: &str) -> Result<Pairs, ConfigError> {
    let address = address.trim();
    if address.starts_with('[') && !address.contains(']') {
        return Err(ConfigError::url("has a '[' that is not closed"));
    }
    if address.contains(['/', '?']) {
        let problem = "has a '/' or a '?' after its host, where ;databaseName=NAME follows";
        return Err(ConfigError::url(problem));
    }
    let (host, port) = host_and_port(address);
    let pair = |name: &str, value: &str| (name.to_owned(), Zeroizing::new(value.trim().to_owned()));
    let pairs = [pair("serverName", host), pair("portNumber", port)];
    Ok(pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_as_by_the_jdbc_driver() {
        let server = ("serverName", "h");
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("h", &[server]),
            ("h:1500", &[server, ("portNumber", "1500")]),
            (" h : 1500 ;", &[server, ("portNumber", "1500")]),
            (r"h\i:1", &[("serverName", r"h\i"), ("portNumber", "1")]),
            ("[::1]:1500;a=b", &[("serverName", "[::1]"), ("portNumber", "1500"), ("a", "b")]),
            ("[::1]", &[("serverName", "[::1]")]),
            (";serverName=h;portNumber=1", &[server, ("portNumber", "1")]),
            ("h;databaseName=x y ; user = u;;", &[server, ("databaseName", "x y"), ("user", "u")]),
            ("h;a={x;y=z} ;b=2", &[server, ("a", "x;y=z"), ("b", "2")]),
            ("h;a={ x }", &[server, ("a", " x ")]),
            ("h;a={p\";{}}w}", &[server, ("a", "p\";{}w")]),
            ("h;a={}}};b=2", &[server, ("a", "}"), ("b", "2")]),
            ("h;a={};b=", &[server, ("a", ""), ("b", "")]),
            ("h;a=x}y;b=p=q", &[server, ("a", "x}y"), ("b", "p=q")]),
            ("h;a=C:\\x/y;b='q'", &[server, ("a", "C:\\x/y"), ("b", "'q'")]),
            ("h;databaseName=Bücher", &[server, ("databaseName", "Bücher")]),
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
            ("h;hunter2", "keyword number 1 has no '='"),
            ("h;a=1;hunter2;b=1", "keyword number 2 has no '='"),
            ("h;=hunter2", "pair number 1"),
            ("h;user={hunter2", "of 'user' begins with a brace"),
            ("h;user={x}hunter2", "of 'user' continues after its closing brace"),
            ("h;user=hunter2{x}", "of 'user' has a '{'"),
            ("h;password=x;hunter2={", "of keyword number 2"),
            ("[::1", "'[' that is not closed"),
            ("h:1433/hunter2", ";databaseName=NAME"),
            ("h?user=hunter2;a=b", ";databaseName=NAME"),
        ] {
            let error = pairs(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
