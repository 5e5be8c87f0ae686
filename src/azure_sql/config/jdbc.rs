//! JDBC URLs, by the rules of mssql-jdbc (Microsoft Learn, "Building the
//! connection URL"):
//! `jdbc:sqlserver://[host[\instance][:port]][;property=value[;property=value]]`.
//!
//! Not by the `connection-string` crate. Its 0.2.0 fails for anything but ASCII,
//! ends a value in braces at the first of two closing ones, takes no `=`, `:`,
//! `/` or `\` outside of braces and no empty pair (`;;`), and trims nothing.

use zeroize::Zeroizing;

use super::{
    ConfigError,
    pairs::{self, Pairs, Value, quoted_value, to_semicolon},
};

const SCHEME: &str = "jdbc:sqlserver://";

/// Whether it is a JDBC URL, of SQL Server or another database.
pub(super) fn is_jdbc(text: &str) -> bool {
    starts_with(text, "jdbc:")
}

/// The host and port of a URL under their keywords, then its properties in
/// their order, names as written.
pub(super) fn pairs(text: &str) -> Result<Pairs, ConfigError> {
    let text = text.trim_start();
    if !starts_with(text, SCHEME) {
        return Err(ConfigError::url(
            "is of JDBC, but not for SQL Server: jdbc:sqlserver://HOST:PORT;databaseName=NAME",
        ));
    }
    let (address, properties) = to_semicolon(&text[SCHEME.len()..]);
    let mut pairs = server(address)?;
    pairs.extend(pairs::read(properties, read_name, read_value)?);
    Ok(pairs)
}

/// `host[\instance][:port]`; the host of IPv6 in square brackets.
fn server(address: &str) -> Result<Pairs, ConfigError> {
    let address = address.trim();
    if address.starts_with('[') && !address.contains(']') {
        return Err(ConfigError::url("has a '[' that is not closed"));
    }
    // A colon within the brackets belongs to the address.
    let is_port = |(_, port): &(&str, &str)| !port.contains(']');
    let (host, port) = address.rsplit_once(':').filter(is_port).unwrap_or((address, ""));
    let pair = |name: &str, value: &str| (name.to_owned(), Zeroizing::new(value.trim().to_owned()));
    let pairs = [pair("serverName", host), pair("portNumber", port)];
    Ok(pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect())
}

fn read_name(text: &str) -> Option<(String, &str)> {
    let (name, behind) = text.split_once('=').filter(|(name, _)| !name.contains(';'))?;
    Some((name.to_owned(), behind))
}

/// Reads up to the `;` and trims, or reads the text in braces as it is.
fn read_value(text: &str) -> Value<'_> {
    let text = text.trim_start();
    if let Some(inside) = text.strip_prefix('{') {
        return quoted_value(inside, '}');
    }
    let (value, rest) = to_semicolon(text);
    if value.contains('{') {
        return Err("has a '{' that is not its first character: put all of it in braces".into());
    }
    Ok((Zeroizing::new(value.trim_end().to_owned()), rest))
}

fn starts_with(text: &str, scheme: &str) -> bool {
    text.trim_start().get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_the_jdbc_driver_reads_them() {
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
        for (behind, expected) in cases {
            for scheme in [SCHEME, "JDBC:SqlServer://"] {
                let read = pairs(&format!("{scheme}{behind}")).unwrap();
                let read: Vec<_> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                assert_eq!(read, *expected, "{behind}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_without_its_value() {
        for (text, expected) in [
            ("jdbc:postgresql://hunter2", "not for SQL Server"),
            ("jdbc:sqlserver:h", "not for SQL Server"),
            ("jdbc:sqlserver://h;hunter2", "keyword number 1 has no '='"),
            ("jdbc:sqlserver://h;a=1;hunter2;b=1", "keyword number 2 has no '='"),
            ("jdbc:sqlserver://h;=hunter2", "pair number 1"),
            ("jdbc:sqlserver://h;user={hunter2", "of 'user' begins with a brace"),
            ("jdbc:sqlserver://h;user={x}hunter2", "of 'user' goes on behind its closing brace"),
            ("jdbc:sqlserver://h;user=hunter2{x}", "of 'user' has a '{'"),
            ("jdbc:sqlserver://h;password=x;hunter2={", "of keyword number 2"),
            ("jdbc:sqlserver://[::1", "'[' that is not closed"),
        ] {
            let error = pairs(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
