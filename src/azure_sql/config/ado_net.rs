//! ADO.NET connection strings, by the rules of .NET's `DbConnectionStringBuilder`.
//!
//! Not by the `connection-string` crate. Its 0.2.0 fails for anything but ASCII,
//! keeps both of two doubled quotes (`'it''s'`), takes quotes and braces within a
//! value for quoting (`it's`, `{x`), trims what was quoted (`'  x '`), takes no
//! `=` in a value, no `==` in a keyword and no empty pair (`;;`), and joins what
//! stands behind a closing quote to the value (`"x"y`).

use zeroize::Zeroizing;

use super::{
    SyntaxError,
    read::{Pairs, shown},
};

/// The pairs of a connection string in their order. Keywords are as written.
pub(super) fn pairs(text: &str) -> Result<Pairs, SyntaxError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    for number in 1.. {
        rest = rest.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        if rest.is_empty() {
            break;
        }
        let keyword;
        (keyword, rest) = read_keyword(rest, number)?;
        let value;
        (value, rest) = read_value(rest).map_err(|problem| SyntaxError::Quoting {
            keyword: shown(&keyword, number),
            problem,
        })?;
        pairs.push((keyword, value));
    }
    Ok(pairs)
}

/// Up to the `=`; a doubled one belongs to the keyword.
fn read_keyword(text: &str, number: usize) -> Result<(String, &str), SyntaxError> {
    let mut keyword = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '=' if characters.next_if(|(_, next)| *next == '=').is_some() => keyword.push('='),
            '=' => {
                let keyword = keyword.trim();
                if keyword.is_empty() {
                    return Err(SyntaxError::NoKeyword { number });
                }
                return Ok((keyword.to_owned(), &text[at + 1..]));
            }
            ';' => break,
            other => keyword.push(other),
        }
    }
    Err(SyntaxError::NoEquals { number })
}

/// Up to the `;`, or the closing quote and the `;` behind it.
fn read_value(text: &str) -> Result<(Zeroizing<String>, &str), &'static str> {
    let text = text.trim_start();
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return read_unquoted(text);
    };
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            value.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            let (behind, rest) = to_semicolon(&text[at + 1..]);
            if !behind.trim().is_empty() {
                return Err("goes on behind its closing quote (a quote inside is written twice)");
            }
            return Ok((value, rest));
        }
    }
    Err("begins with a quote that is not closed (a quote inside is written twice)")
}

fn read_unquoted(text: &str) -> Result<(Zeroizing<String>, &str), &'static str> {
    let (value, rest) = to_semicolon(text);
    let value = value.trim_end();
    if value.ends_with(['"', '\'']) {
        return Err("ends with a quote, but does not begin with one: put it in quotes");
    }
    if value.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return Err("has a control character: put it in quotes");
    }
    Ok((Zeroizing::new(value.to_owned()), rest))
}

/// What stands before the next one, and what behind it.
pub(super) fn to_semicolon(text: &str) -> (&str, &str) {
    text.split_once(';').unwrap_or((text, ""))
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
