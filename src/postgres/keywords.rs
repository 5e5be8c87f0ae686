//! Connection strings taken apart: our own keywords come out, the rest stays
//! as it is for tokio-postgres, which would refuse ours as unknown.

use std::{collections::BTreeMap, time::Duration};

use percent_encoding::percent_decode_str;

use super::ConfigError;

pub(super) const CLIENT_ID: &str = "entra_client_id";

/// What tokio-postgres does not know, or reads in other units than libpq. Those of the pool have
/// pgx's names.
const OURS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    CLIENT_ID,
    "entra_scope",
    "keepalives_count",
    "tcp_user_timeout",
    "pool_max_conns",
    "pool_min_conns",
    "pool_max_conn_lifetime",
    "pool_max_conn_idle_time",
];

/// Our own keywords and their values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Keywords(BTreeMap<&'static str, String>);

/// Takes our keywords out of a URL or of a libpq string (`host=… user=…`);
/// returns them and the rest.
///
/// A password is refused here, before anybody else reads the string: a parser
/// that stumbles over part of one might show it.
pub(super) fn take(text: &str) -> Result<(Keywords, String), ConfigError> {
    let mut ours = Keywords::default();
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
    let rest = if is_url { from_url(text, &mut ours)? } else { from_pairs(text, &mut ours)? };
    Ok((ours, rest))
}

impl Keywords {
    pub(super) fn get(&self, keyword: &'static str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str)
    }

    pub(super) fn number(&self, keyword: &'static str) -> Result<Option<usize>, ConfigError> {
        let wrong = |_| ConfigError::value(keyword, "is not a number");
        self.get(keyword).map(|value| value.parse().map_err(wrong)).transpose()
    }

    pub(super) fn duration(&self, keyword: &'static str) -> Result<Option<Duration>, ConfigError> {
        let wrong = || ConfigError::value(keyword, "is not a duration: write 1h30m, 45s or 0s");
        self.get(keyword).map(|value| duration(value).ok_or_else(wrong)).transpose()
    }

    /// Takes the pair if it is ours.
    fn take(&mut self, key: &str, value: String) -> Result<bool, ConfigError> {
        let Some(keyword) = OURS.iter().find(|ours| **ours == key) else { return Ok(false) };
        if value.is_empty() {
            return Err(ConfigError::value(keyword, "is empty"));
        }
        if self.0.insert(keyword, value).is_some() {
            return Err(ConfigError::Duplicate { keyword: (*keyword).to_owned() });
        }
        Ok(true)
    }
}

fn from_url(text: &str, ours: &mut Keywords) -> Result<String, ConfigError> {
    let (_, behind_scheme) = text.split_once("://").unwrap_or_default();
    // tokio-postgres takes for user and password all that is before the first @.
    if let Some((user, _)) = behind_scheme.split_once('@') {
        if user.contains(['/', '?']) {
            let problem = "an @ behind the URL's host is written %40";
            return Err(ConfigError::syntax(problem));
        }
        if user.contains(':') {
            return Err(ConfigError::password());
        }
    }
    let (base, query) = text.split_once('?').unwrap_or((text, ""));
    if base.contains(';') {
        let problem = "a ; before the URL's parameters is written %3B";
        return Err(ConfigError::syntax(problem));
    }
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decoded(key);
        refuse_password(&key)?;
        if !ours.take(&key, decoded(value))? {
            rest.push(pair);
        }
    }
    let mark = if rest.is_empty() { "" } else { "?" };
    Ok(format!("{base}{mark}{}", rest.join("&")))
}

/// Before its value is read, of which no copy must be left.
fn refuse_password(key: &str) -> Result<(), ConfigError> {
    if key == "password" { Err(ConfigError::password()) } else { Ok(()) }
}

/// Percent-decoded, as libpq does it: a plus is a plus.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn from_pairs(text: &str, ours: &mut Keywords) -> Result<String, ConfigError> {
    let mut rest = String::new();
    let mut unread = text.trim_start();
    while !unread.is_empty() {
        let end = unread.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(unread.len());
        let (key, after_key) = unread.split_at(end);
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            let problem = "it is neither a URL, which begins with postgres://, nor keyword=value pairs with spaces between them";
            return Err(ConfigError::syntax(problem));
        }
        refuse_password(key)?;
        let Some(after_equals) = after_key.trim_start().strip_prefix('=') else {
            // It may stand behind what cannot be read.
            if unread.contains("password") {
                return Err(ConfigError::password());
            }
            // tokio-postgres has an error for it.
            rest.push_str(unread);
            return Ok(rest);
        };
        let (value, after_value) = value(after_equals.trim_start());
        if !ours.take(key, value)? {
            rest.push_str(&unread[..unread.len() - after_value.len()]);
            rest.push(' ');
        }
        unread = after_value.trim_start();
    }
    Ok(rest)
}

/// A value, quoted or not, `\` taking the meaning from what follows it
/// (PostgreSQL documentation, "Connection Strings"); and the text after it.
fn value(text: &str) -> (String, &str) {
    let quoted = text.strip_prefix('\'');
    let mut chars = quoted.unwrap_or(text).chars();
    let mut value = String::new();
    loop {
        let unread = chars.as_str();
        match chars.next() {
            Some('\'') if quoted.is_some() => return (value, chars.as_str()),
            Some(c) if quoted.is_none() && c.is_whitespace() => return (value, unread),
            Some('\\') => value.extend(chars.next()),
            Some(c) => value.push(c),
            None => return (value, unread),
        }
    }
}

/// As Go writes durations, in whole hours, minutes, seconds and milliseconds.
fn duration(text: &str) -> Option<Duration> {
    // `ms` comes before `m`, its beginning.
    let units = [("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1_000)];
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, millis) = units.iter().find(|(unit, _)| behind.starts_with(unit))?;
        let millis = number.parse::<u64>().ok()?.checked_mul(*millis)?;
        total = total.checked_add(Duration::from_millis(millis))?;
        rest = &behind[unit.len()..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("1h", Some(3_600_000)),
            ("1h30m", Some(5_400_000)),
            ("90s", Some(90_000)),
            ("0s", Some(0)),
            ("1m0s500ms", Some(60_500)),
            ("", None),
            ("1", None),
            ("h", None),
            ("1x", None),
            ("-1s", None),
            ("1.5h", None),
            ("1sé", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn our_keywords_come_out_of_a_url_and_the_rest_stays_as_it_is() {
        let (ours, rest) = take(
            "postgres://a%40b@h1,h2:6432/db?sslmode=verify-full&options=-c%20a%3Db&sslrootcert=%2Fetc%2Fa+b.pem&application_name=x",
        )
        .unwrap();
        assert_eq!(ours.get("sslmode"), Some("verify-full"));
        assert_eq!(ours.get("sslrootcert"), Some("/etc/a+b.pem"));
        assert_eq!(rest, "postgres://a%40b@h1,h2:6432/db?options=-c%20a%3Db&application_name=x");
        let (ours, rest) = take("postgresql://h/db?entra_client_id=c").unwrap();
        assert_eq!((ours.get(CLIENT_ID), rest.as_str()), (Some("c"), "postgresql://h/db"));
    }

    #[test]
    fn our_keywords_come_out_of_a_libpq_string_and_the_rest_stays_as_it_is() {
        let (ours, rest) = take(
            r"host=h  sslrootcert = '/a b/c\'s.pem' options='-c a=b' entra_scope=https://a/.default dbname=d",
        )
        .unwrap();
        assert_eq!(ours.get("sslrootcert"), Some("/a b/c's.pem"));
        assert_eq!(ours.get("entra_scope"), Some("https://a/.default"));
        assert_eq!(rest.trim(), "host=h options='-c a=b' dbname=d");
    }

    #[test]
    fn a_password_is_refused_wherever_it_stands_and_is_not_shown() {
        for text in [
            "postgres://h/d?password=hunter2",
            "postgres://u:hunter2@h/d",
            "postgres://u:p@ss?hunter2=x@h/d",
            "host=h password=hunter2 x",
            "password = 'hunter2",
        ] {
            let error = take(text).unwrap_err().to_string();
            assert!(error.contains("password") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_neither_a_url_nor_pairs_is_refused_and_not_shown() {
        for text in [
            " postgres://u:hunter2@h/d?sslmode=require",
            "'postgres://u:hunter2@h/d?sslmode=require'",
            "jdbc:postgresql://h/d?user=u&password=hunter2",
            "postgresql+asyncpg://u:hunter2@h/d?ssl=require",
            "POSTGRES://u:hunter 2@h/d",
            "Host=h;Username=u;Password=hunter2",
            "host=h =hunter2",
            "é=hunter2",
        ] {
            let error = take(text).unwrap_err();
            assert!(matches!(error, ConfigError::Syntax { .. }), "{text}: {error:?}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("postgres://") && !shown.contains("hunter"), "{shown}");
        }
    }

    #[test]
    fn an_at_sign_behind_the_host_is_refused_for_it_would_name_another_host() {
        for text in [
            "postgres://db.internal/restaurant?application_name=svc@contoso.com",
            "postgres://db.internal:5432/svc@contoso.com",
            "postgres://u:p/ss@db.internal/restaurant",
        ] {
            let error = take(text).unwrap_err().to_string();
            assert!(error.contains("%40") && !error.contains("ss@"), "{error}");
            assert!(!error.contains("contoso"), "{error}");
        }
        take("postgres://u@db.internal/restaurant?application_name=svc@contoso.com").unwrap();
    }

    #[test]
    fn a_keyword_that_is_empty_or_given_twice_is_refused() {
        for text in ["postgres://h/?sslmode=", "postgres://h/?entra_scope", "sslmode=''"] {
            assert!(take(text).unwrap_err().to_string().contains("is empty"), "{text}");
        }
        let twice = take("postgres://h/?sslmode=verify-full&sslmode=disable").unwrap_err();
        assert_eq!(twice.to_string(), "sslmode is given twice");
    }

    #[test]
    fn garbage_is_left_to_the_parser_of_the_rest() {
        for text in ["", " ", "host", "host=", "postgres://?&&=&a", "a='\\", "a=ü b"] {
            let (ours, _) = take(text).unwrap();
            assert_eq!(ours, Keywords::default(), "{text}");
        }
    }
}
