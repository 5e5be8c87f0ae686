//! The common parts of parsing both databases' connection strings: keywords, quoting, and typical
//! mistakes in pasted strings.

mod keywords;
mod pairs;
mod variables;

#[cfg(test)]
pub(crate) use keywords::Known;
pub(crate) use keywords::{Keywords, is_one_of, is_same};
pub(crate) use pairs::{Pairs, Rules, decoded, host_and_port, read, unbracketed};
#[cfg(feature = "azure-sql")]
pub(crate) use pairs::{named, no_equals};
pub(crate) use variables::{connection_string, settings};

/// The reason why a connection string is refused, which each database converts to its own error. It
/// never contains a value that may be a secret.
#[derive(Debug, PartialEq)]
pub(crate) enum Mistake {
    /// The end of a sentence whose subject is the connection string.
    Syntax(String),
    /// Two keywords for the same setting, with their values if these may be shown.
    Twice(String, String),
    /// A keyword, and the end of a sentence whose subject is the keyword.
    Value(String, String),
}

/// The end of a sentence whose subject is a connection string or a value.
pub(crate) const ESCAPED: &str =
    "has quotes that are escaped with backslashes (\\\"): write the quotes alone";

/// Removes white space, byte order marks and semicolons around a pasted string. Refuses a string
/// that still has the quotes or escapes of the file that it was copied from.
pub(crate) fn trimmed(text: &str) -> Result<&str, Mistake> {
    let surrounds = |c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}' | ';');
    let text = text.trim_matches(surrounds);
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let problem = match () {
        () if text.starts_with("\\\"") => ESCAPED,
        () if has(&["&quot;", "&apos;", "&amp;", "&#3"]) => {
            "is escaped for XML: write \" for &quot;, ' for &apos; and & for &amp;"
        }
        () if has(&["\\u0022", "\\u0026", "\\u0027"]) => {
            "is escaped for JSON: write \" for \\u0022, ' for \\u0027 and & for \\u0026"
        }
        () if text.starts_with(['"', '\'', '`', '“', '‘']) => {
            "cannot be read: the whole string is in quotes: remove them"
        }
        () => return Ok(text),
    };
    Err(Mistake::Syntax(problem.to_owned()))
}

/// Returns the scheme of a URL in lower case; for JDBC with the database, as in `jdbc:postgresql`.
pub(crate) fn scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:".contains(c));
    is_scheme.then(|| scheme.to_ascii_lowercase())
}

/// Returns the error for a URL that the database's module does not support. `own` are the schemes
/// that it supports.
pub(crate) fn other_url(scheme: &str, own: &[&str]) -> Mistake {
    const MODULES: [(&str, &[&str]); 2] = [
        ("postgres", &["postgres", "postgresql", "jdbc:postgresql"]),
        ("azure_sql", &["mssql", "sqlserver", "jdbc:sqlserver"]),
    ];
    let base = scheme.split('+').next().unwrap_or_default();
    let module = MODULES.iter().find(|(_, schemes)| schemes.contains(&base));
    Mistake::Syntax(match module {
        Some((module, _)) if !own.contains(&base) => {
            format!("is for another database: use entra_pool::{module}")
        }
        Some(_) => format!(
            "is an SQLAlchemy URL ({scheme}://): write {base}://HOST:PORT/DATABASE, or KEYWORD=VALUE \
             pairs"
        ),
        None => {
            let own: Vec<_> = own.iter().map(|own| format!("{own}://")).collect();
            format!("is a URL with an unknown scheme: use one of {}", own.join(", "))
        }
    })
}

/// Returns whether a value contains a placeholder of a template (`{your_password}`, `<server>`,
/// `[server]`, `YOUR_SERVER`) or a variable that was not substituted (`${SERVER}`, `$(SERVER)`,
/// `$SERVER`, `%SERVER%`). The last two must be the whole value or the first label of a host,
/// because `$` and `%` can be parts of other values.
pub(crate) fn is_placeholder(value: &str) -> bool {
    let between = |open, close| {
        let (_, rest) = value.split_once(open)?;
        Some(rest.split_once(close)?.0).filter(|inside: &&str| !inside.is_empty())
    };
    let word = value.trim_start_matches("tcp:").split(['.', ',']).next().unwrap_or_default();
    let is_variable = |name: &str| {
        let is_capital = |c: char| c.is_ascii_uppercase() || c == '_';
        let is_constant = name.len() > 1
            && name.starts_with(is_capital)
            && name.chars().all(|c| is_capital(c) || c.is_ascii_digit());
        is_constant || is_template_name(name)
    };
    let in_percent_signs = word.strip_prefix('%').and_then(|word| word.strip_suffix('%'));
    let is_text = |text: &str| text.chars().all(|c| c.is_alphanumeric() || " _-.".contains(c));
    between('<', '>').is_some_and(is_text)
        || between('{', '}').is_some_and(is_template_name)
        || between('[', ']').is_some_and(is_template_name)
        || word.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("your_"))
            && is_template_name(&word[5..])
        || word.strip_prefix('$').or(in_percent_signs).is_some_and(is_variable)
        || ["${", "$(", "#{"].iter().any(|variable| value.contains(variable))
}

/// Returns whether the text in braces is a placeholder's name, and not a value in ODBC's quotes.
pub(crate) fn is_template_name(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "server",
        "servername",
        "host",
        "hostname",
        "port",
        "database",
        "databasename",
        "user",
        "username",
        "password",
        "clientid",
        "tenantid",
    ];
    // The text is not copied, because it may be a secret.
    let letters =
        || name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase());
    letters().take(4).eq("your".chars()) || NAMES.iter().any(|it| letters().eq(it.chars()))
}

#[cfg(test)]
mod tests;
