//! Parses pairs of keywords and values that are separated by semicolons, by the rules of .NET's
//! `DbConnectionStringBuilder` and of ODBC, or by those of JDBC (Microsoft Learn, "Building the
//! connection URL").
//!
//! The `connection-string` crate does not follow these rules. Its version 0.2.0 fails for text that
//! is not ASCII, keeps both of two doubled quotes (`'it''s'`), treats quotes and braces within a
//! value as quoting (`it's`, `{x`), trims quoted values (`'  x '`), ends a value in braces at the
//! first of two closing braces, and does not support `==` in a keyword or an empty pair (`;;`).

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::{ESCAPED, Mistake, is_placeholder, is_template_name};

/// The keywords as written, and their values.
pub(crate) type Pairs = Vec<(String, Zeroizing<String>)>;

/// A value, and the text after its semicolon. The error is the end of a sentence whose subject is
/// the value.
type Value<'a> = Result<(Zeroizing<String>, &'a str), String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// A value may be in `'…'`, `"…"`, or, as in ODBC, `{…}`. In a keyword, `==` means `=`.
    AdoNet,
    /// A value may be in `{…}`.
    #[cfg_attr(not(feature = "azure-sql"), allow(dead_code))]
    Jdbc,
}

/// Reads the pairs of `text` in order. Only known keywords appear in errors.
pub(crate) fn read(
    text: &str,
    rules: Rules,
    is_known: impl Fn(&str) -> bool,
) -> Result<Pairs, Mistake> {
    let mut pairs = Vec::new();
    let mut rest = text;
    for number in 1.. {
        rest = rest.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        if rest.is_empty() {
            break;
        }
        let (keyword, after) = read_keyword(rest, rules).ok_or_else(|| no_equals(number))?;
        let keyword = named(&keyword, number)?;
        let value;
        (value, rest) = read_value(after, rules).map_err(|problem| {
            // An unknown keyword may be a part of a password that was not quoted.
            let shown = Some(format!("'{keyword}'")).filter(|_| is_known(&keyword));
            let keyword = shown.unwrap_or_else(|| format!("keyword number {number}"));
            Mistake::Syntax(format!("cannot be read: the value of {keyword} {problem}"))
        })?;
        pairs.push((keyword, value));
    }
    Ok(pairs)
}

/// Trims the keyword of pair `number`, which must not be empty.
pub(crate) fn named(keyword: &str, number: usize) -> Result<String, Mistake> {
    match keyword.trim() {
        "" => Err(Mistake::Syntax(format!(
            "has a value without a keyword before its '=' (pair number {number})"
        ))),
        keyword => Ok(keyword.to_owned()),
    }
}

pub(crate) fn no_equals(number: usize) -> Mistake {
    Mistake::Syntax(format!(
        "cannot be read: keyword number {number} has no '=' (it must be Keyword=value;Keyword=value)"
    ))
}

/// Decodes a part of a URL. The buffer does not grow, because that would leave copies of a secret
/// in memory.
pub(crate) fn decoded(text: &str, plus_is_space: bool) -> Result<Zeroizing<String>, Mistake> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    for (at, part) in text.split(|c| plus_is_space && c == '+').enumerate() {
        decoded.extend((at > 0).then_some(b' '));
        decoded.extend(percent_decode_str(part));
    }
    match std::str::from_utf8(&decoded) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        // The placeholder `%DATABASE%` begins with a valid code (`%DA`), but is not UTF-8.
        Err(_) if is_placeholder(text) => Err(Mistake::Syntax(
            "has a template's placeholder between %-signs: write your own value there".to_owned(),
        )),
        Err(_) => Err(Mistake::Syntax("has %-codes that are not UTF-8".to_owned())),
    }
}

/// Splits `host[:port]`. A colon within square brackets belongs to an IPv6 address.
pub(crate) fn host_and_port(address: &str) -> (&str, &str) {
    let is_port = |(_, port): &(&str, &str)| !port.contains(']');
    address.rsplit_once(':').filter(is_port).unwrap_or((address, ""))
}

/// Removes the square brackets around an IPv6 address.
pub(crate) fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Reads a keyword up to its `=`. A doubled `=` belongs to the keyword.
fn read_keyword(mut text: &str, rules: Rules) -> Option<(String, &str)> {
    let mut keyword = String::new();
    loop {
        let (part, after) = text.split_once('=').filter(|(part, _)| !part.contains(';'))?;
        keyword.push_str(part);
        match after.strip_prefix('=') {
            Some(rest) if rules == Rules::AdoNet => text = rest,
            _ => return Some((keyword, after)),
        }
        keyword.push('=');
    }
}

/// Reads a value up to its `;`, or up to its closing quote and the `;` after the quote.
fn read_value(text: &str, rules: Rules) -> Value<'_> {
    let text = text.trim_start();
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\'' | '{'));
    let value = match (rules, quote) {
        (Rules::Jdbc, Some('{')) => return quoted_value(&text[1..], '}'),
        // .NET does not quote with braces, so braces that do not enclose the value belong to it.
        (Rules::AdoNet, Some('{')) => quoted_value(&text[1..], '}').ok(),
        (Rules::AdoNet, Some(quote)) => return quoted_value(&text[1..], quote),
        _ => None,
    };
    if let Some(value) = value {
        return Ok(value);
    }
    let (value, rest) = to_semicolon(text);
    let value = value.trim_end();
    let problem = match rules {
        _ if (value.starts_with("\\\"") || value.starts_with("\\'")) => ESCAPED,
        Rules::Jdbc if value.contains('{') => {
            "has a '{' that is not its first character: put all of it in braces"
        }
        Rules::AdoNet if value.ends_with(['"', '\'']) => {
            "ends with a quote, but does not begin with one: put it in quotes"
        }
        Rules::AdoNet if value.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            "has a control character: put it in quotes"
        }
        _ => return Ok((Zeroizing::new(value.to_owned()), rest)),
    };
    Err(problem.to_owned())
}

/// Reads a value in quotes or braces; `inside` begins after the opening character. A `closing`
/// character that belongs to the value is written twice. A placeholder keeps its braces.
fn quoted_value(inside: &str, closing: char) -> Value<'_> {
    let (name, doubled) = if closing == '}' { ("brace", "'}'") } else { ("quote", "quote") };
    let mut value = Zeroizing::new(String::with_capacity(inside.len() + 2));
    let mut characters = inside.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character != closing || characters.next_if(|(_, next)| *next == closing).is_some() {
            value.push(character);
            continue;
        }
        let (after, rest) = to_semicolon(&inside[at + 1..]);
        if !after.trim().is_empty() {
            return Err(format!(
                "continues after its closing {name} (a {doubled} inside is written twice)"
            ));
        }
        if closing == '}' && is_template_name(&value) {
            value.insert(0, '{');
            value.push('}');
        }
        return Ok((value, rest));
    }
    Err(format!("begins with a {name} that is not closed (a {doubled} inside is written twice)"))
}

/// Splits `text` at its first semicolon.
fn to_semicolon(text: &str) -> (&str, &str) {
    text.split_once(';').unwrap_or((text, ""))
}
