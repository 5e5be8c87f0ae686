//! ADO.NET connection strings, by the rules of .NET's `DbConnectionStringBuilder`.
//!
//! Not by the `connection-string` crate. Its 0.2.0 fails for anything but ASCII,
//! keeps both of two doubled quotes (`'it''s'`), takes quotes and braces within a
//! value for quoting (`it's`, `{x`), trims what was quoted (`'  x '`), takes no
//! `=` in a value, no `==` in a keyword and no empty pair (`;;`), and joins what
//! stands behind a closing quote to the value (`"x"y`).

use zeroize::Zeroizing;

use super::{
    ConfigError,
    pairs::{self, Pairs, Value, quoted_value, to_semicolon},
};

/// The pairs of a connection string in their order. Keywords are as written.
pub(super) fn pairs(text: &str) -> Result<Pairs, ConfigError> {
    pairs::read(text, read_keyword, read_value)
}

/// Up to the `=`; a doubled one belongs to the keyword.
fn read_keyword(mut text: &str) -> Option<(String, &str)> {
    let mut keyword = String::new();
    loop {
        let (part, behind) = text.split_once('=').filter(|(part, _)| !part.contains(';'))?;
        keyword.push_str(part);
        let Some(rest) = behind.strip_prefix('=') else { return Some((keyword, behind)) };
        keyword.push('=');
        text = rest;
    }
}

/// Up to the `;`, or the closing quote and the `;` behind it.
fn read_value(text: &str) -> Value<'_> {
    let text = text.trim_start();
    for quote in ['"', '\''] {
        if let Some(inside) = text.strip_prefix(quote) {
            return quoted_value(inside, quote);
        }
    }
    let (value, rest) = to_semicolon(text);
    let value = value.trim_end();
    if value.ends_with(['"', '\'']) {
        return Err("ends with a quote, but does not begin with one: put it in quotes".into());
    }
    if value.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return Err("has a control character: put it in quotes".into());
    }
    Ok((Zeroizing::new(value.to_owned()), rest))
}

/// `value` as it stands in a connection string: in quotes where it would be read
/// as something else without.
pub(super) fn quoted(value: &str) -> String {
    let reads_as_it_is = !value.is_empty()
        && !value.starts_with(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '=' | '{'))
        && !value.ends_with(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
        && !value.contains(|c: char| c == ';' || c.is_control());
    if reads_as_it_is {
        value.to_owned()
    } else if value.contains('"') && !value.contains('\'') {
        format!("'{value}'")
    } else {
        format!("\"{}\"", value.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let pairs = pairs(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        pairs.into_iter().map(|(keyword, value)| (keyword, value.to_string())).collect()
    }

    #[test]
    fn strings_are_read_as_dotnet_reads_them() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            (" ; ;", &[]),
            ("A=1", &[("A", "1")]),
            ("A=1;B=2;", &[("A", "1"), ("B", "2")]),
            (";;A=1;;B=2", &[("A", "1"), ("B", "2")]),
            (" User Id = x y ; B = 2 ", &[("User Id", "x y"), ("B", "2")]),
            (
                r#"A="x;y";B='it''s';C="say ""hi""""#,
                &[("A", "x;y"), ("B", "it's"), ("C", r#"say "hi""#)],
            ),
            (r#"A='"';B="'""#, &[("A", "\""), ("B", "'")]),
            (r#"A=" x ";B=2"#, &[("A", " x "), ("B", "2")]),
            ("A=''''", &[("A", "'")]),
            ("A={x;B=2", &[("A", "{x"), ("B", "2")]),
            ("A={x};B=2", &[("A", "{x}"), ("B", "2")]),
            ("A=it's;B=2", &[("A", "it's"), ("B", "2")]),
            ("a==b=c", &[("a=b", "c")]),
            ("a== =c", &[("a=", "c")]),
            ("A=b=c", &[("A", "b=c")]),
            ("A= =b==", &[("A", "=b==")]),
            ("A=;B=2;C=\"\"", &[("A", ""), ("B", "2"), ("C", "")]),
            ("Datenbank=Bücher;名=書", &[("Datenbank", "Bücher"), ("名", "書")]),
            ("A=\n1\n;\nB=2", &[("A", "1"), ("B", "2")]),
            ("A=\u{a0}1\u{3000}", &[("A", "1")]),
            ("A='\u{1}'", &[("A", "\u{1}")]),
        ];
        for (text, expected) in cases {
            let read = read(text);
            let read: Vec<_> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(read, *expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_without_its_value() {
        for (text, expected) in [
            ("Server", "keyword number 1 has no '='"),
            ("A=1;hunter2;B=2", "keyword number 2 has no '='"),
            ("a==b", "keyword number 1 has no '='"),
            ("=hunter2", "pair number 1"),
            ("A=1;=hunter2", "pair number 2"),
            ("Server=\"hunter2", "of 'Server' begins with a quote that is not closed"),
            ("Server='x'hunter2;B=1", "of 'Server' goes on behind its closing quote"),
            ("Server=hunter2'", "of 'Server' ends with a quote"),
            ("Server=hunter2\u{1}", "of 'Server' has a control character"),
            // What follows an unquoted password may be the rest of it.
            ("PWD=x;hunter2='y", "of keyword number 2 begins with a quote"),
            ("Server=hunter2\0", "of 'Server' has a control character"),
        ] {
            let error = pairs(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_quoted_is_read_again() {
        for value in [
            "", "x", "x y", " x", "x ", "it's", "'x'", "\"x\"", "a'b\"c", "x;y", "=x", "x=", "{x}",
            "'", "\"", "'\"", "\u{1}", "\n", "書",
        ] {
            let text = format!("A={};B=1", quoted(value));
            let expected = [("A".to_owned(), value.to_owned()), ("B".to_owned(), "1".to_owned())];
            assert_eq!(read(&text), expected, "{text}");
        }
    }
}
