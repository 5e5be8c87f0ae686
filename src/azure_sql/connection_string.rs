//! ADO.NET connection strings, by the rules of .NET's `DbConnectionStringBuilder`.
//!
//! Not by the `connection-string` crate, which knows ASCII only, keeps both of
//! two doubled quotes, and takes braces for quotes, which they are in JDBC.

/// Why a string is no connection string. Never shows a value: it may be a
/// secret that got into the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxError {
    /// Text that has no `=`.
    #[error(
        "keyword number {number} has no '=' (a connection string is Keyword=value;Keyword=value)"
    )]
    #[non_exhaustive]
    NoEquals {
        /// Which pair, from 1.
        number: usize,
    },
    /// `=value`.
    #[error("there is a value without a keyword before its '=' (pair number {number})")]
    #[non_exhaustive]
    NoKeyword {
        /// Which pair, from 1.
        number: usize,
    },
    /// A quote that does not end.
    #[error(
        "the value of '{keyword}' begins with a quote that is not closed (a quote inside is written twice)"
    )]
    #[non_exhaustive]
    OpenQuote {
        /// Whose value.
        keyword: String,
    },
    /// Something between a closing quote and the `;`.
    #[error(
        "the value of '{keyword}' goes on behind its closing quote (a quote inside is written twice)"
    )]
    #[non_exhaustive]
    BehindQuote {
        /// Whose value.
        keyword: String,
    },
    /// A NUL character.
    #[error("a connection string must not have a NUL character")]
    Nul,
}

/// The pairs of a connection string in their order. Keywords are as written;
/// a pair with an empty value is left out, as .NET does.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, SyntaxError> {
    if text.contains('\0') {
        return Err(SyntaxError::Nul);
    }
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
        (value, rest) = read_value(rest, &keyword)?;
        if !value.is_empty() {
            pairs.push((keyword, value));
        }
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
fn read_value<'a>(text: &'a str, keyword: &str) -> Result<(String, &'a str), SyntaxError> {
    let text = text.trim_start();
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let (value, rest) = text.split_once(';').unwrap_or((text, ""));
        return Ok((value.trim_end().to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            value.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            let (behind, rest) = text[at + 1..].split_once(';').unwrap_or((&text[at + 1..], ""));
            if !behind.trim().is_empty() {
                return Err(SyntaxError::BehindQuote { keyword: keyword.to_owned() });
            }
            return Ok((value, rest));
        }
    }
    Err(SyntaxError::OpenQuote { keyword: keyword.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_as_dotnet_reads_them() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            (" ; ;", &[]),
            ("A=1", &[("A", "1")]),
            ("A=1;B=2;", &[("A", "1"), ("B", "2")]),
            (" User Id = x y ; B = 2 ", &[("User Id", "x y"), ("B", "2")]),
            (
                r#"A="x;y";B='it''s';C="say ""hi""""#,
                &[("A", "x;y"), ("B", "it's"), ("C", r#"say "hi""#)],
            ),
            (r#"A='"';B="'""#, &[("A", "\""), ("B", "'")]),
            (r#"A=" x ";B=2"#, &[("A", " x "), ("B", "2")]),
            ("A={x;B=2", &[("A", "{x"), ("B", "2")]),
            ("A=it's;B=2", &[("A", "it's"), ("B", "2")]),
            ("a==b=c", &[("a=b", "c")]),
            ("A=b=c", &[("A", "b=c")]),
            ("A=;B=2;C=\"\"", &[("B", "2")]),
            ("Datenbank=Bücher;名=書", &[("Datenbank", "Bücher"), ("名", "書")]),
            ("A=\n1\n;\nB=2", &[("A", "1"), ("B", "2")]),
        ];
        for (text, expected) in cases {
            let read = pairs(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let read: Vec<_> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(read, *expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_without_its_value() {
        let cases = [
            ("Server", SyntaxError::NoEquals { number: 1 }),
            ("A=1;hunter2;B=2", SyntaxError::NoEquals { number: 2 }),
            ("=hunter2", SyntaxError::NoKeyword { number: 1 }),
            ("A=\"hunter2", SyntaxError::OpenQuote { keyword: "A".into() }),
            ("A='x'hunter2;B=1", SyntaxError::BehindQuote { keyword: "A".into() }),
            ("A=1\0", SyntaxError::Nul),
        ];
        for (text, expected) in cases {
            let error = pairs(text).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
