//! What the forms of connection strings share: keywords and values, with semicolons between
//! the pairs.

use zeroize::Zeroizing;

use super::{ConfigError, keywords};

/// Keywords as written, and their values.
pub(super) type Pairs = Vec<(String, Zeroizing<String>)>;

/// A value and what follows its semicolon; or what is wrong with the value.
pub(super) type Value<'a> = Result<(Zeroizing<String>, &'a str), String>;

/// The pairs of `text` in their order. `read_keyword` returns what stands before the `=` and
/// after it, if there is one before the next semicolon.
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
            // An unknown one may be a piece of a password that was not quoted.
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

/// The keyword of pair `number`.
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

/// A value of which `inside` stands behind the opening quote or brace. The `closing` one is
/// written twice where it belongs to the value.
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

/// What stands before the next one, and what behind it.
pub(super) fn to_semicolon(text: &str) -> (&str, &str) {
    text.split_once(';').unwrap_or((text, ""))
}
