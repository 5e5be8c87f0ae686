//! The syntax that several forms of connection strings share: pairs of keywords and values,
//! separated by semicolons.

use zeroize::Zeroizing;

use super::{ConfigError, keywords};

/// Keywords as written, and their values.
pub(super) type Pairs = Vec<(String, Zeroizing<String>)>;

/// A value, and the text after its semicolon. The error is the end of a sentence that begins
/// with the value.
pub(super) type Value<'a> = Result<(Zeroizing<String>, &'a str), String>;

/// Reads the pairs of `text` in their order. `read_keyword` returns the text before the `=` and
/// the text after it, or `None` if a semicolon comes first.
pub(super) fn read(
    text: &str,
    read_keyword: fn(&str) -> Option<(String, &str)>,
    read_value: fn(&str) -> Value<'_>,
) -> Result<Pairs, ConfigError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    for number in 1.. {
        rest = rest.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        if rest.is_empty() {
            break;
        }
        let (keyword, behind) = read_keyword(rest).ok_or_else(|| no_equals(number))?;
        let keyword = named(&keyword, number)?;
        let value;
        (value, rest) = read_value(behind).map_err(|problem| {
            // An unknown keyword may be a piece of a password that was not quoted.
            let keyword = match keywords::find(&keyword) {
                Some(_) => format!("'{keyword}'"),
                None => format!("keyword number {number}"),
            };
            ConfigError::syntax(format!("the value of {keyword} {problem}"))
        })?;
        pairs.push((keyword, value));
    }
    Ok(pairs)
}

/// Trims the keyword of pair `number`, which must not be empty.
pub(super) fn named(keyword: &str, number: usize) -> Result<String, ConfigError> {
    match keyword.trim() {
        "" => Err(ConfigError::syntax(format!(
            "there is a value without a keyword before its '=' (pair number {number})"
        ))),
        keyword => Ok(keyword.to_owned()),
    }
}

pub(super) fn no_equals(number: usize) -> ConfigError {
    ConfigError::syntax(format!(
        "keyword number {number} has no '=' (a connection string is Keyword=value;Keyword=value)"
    ))
}

/// Reads a value in quotes or braces; `inside` begins after the opening one. A `closing`
/// character that belongs to the value is written twice.
pub(super) fn quoted_value(inside: &str, closing: char) -> Value<'_> {
    let (name, doubled) = if closing == '}' { ("brace", "'}'") } else { ("quote", "quote") };
    let mut value = Zeroizing::new(String::with_capacity(inside.len()));
    let mut characters = inside.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character != closing || characters.next_if(|(_, next)| *next == closing).is_some() {
            value.push(character);
            continue;
        }
        let (behind, rest) = to_semicolon(&inside[at + 1..]);
        if !behind.trim().is_empty() {
            return Err(format!(
                "goes on behind its closing {name} (a {doubled} inside is written twice)"
            ));
        }
        return Ok((value, rest));
    }
    Err(format!("begins with a {name} that is not closed (a {doubled} inside is written twice)"))
}

/// Splits `text` at its first semicolon.
pub(super) fn to_semicolon(text: &str) -> (&str, &str) {
    text.split_once(';').unwrap_or((text, ""))
}
