//! Parses connection strings into settings: URLs, libpq's pairs, and the forms of Npgsql and
//! pgjdbc.

use std::{collections::BTreeMap, time::Duration};

use zeroize::Zeroizing;

use super::ConfigError;
use crate::{
    Cloud,
    pasted::{self, Keywords, Pairs, Rules, is_one_of},
};

pub(super) const CLIENT_ID: &str = "entra_client_id";

/// The keywords. The first name of a setting is libpq's, or this crate's.
pub(super) const KEYWORDS: Keywords<()> = Keywords {
    settings: &[],
    named: include_str!("settings.md"),
    others: include_str!("keywords.md"),
    unknown: " (write a setting of the session as options='-c NAME=VALUE')",
};

/// Values of other drivers: the setting, the values, and their equivalent (empty: the default).
const VALUES: &[(&str, &[&str], &str)] = &[
    ("sslrootcert", &["system"], ""),
    ("target_session_attrs", &["primary", "master"], "read-write"),
    ("target_session_attrs", &["standby", "secondary", "slave"], "read-only"),
    ("load_balance_hosts", &["true"], "random"),
    ("load_balance_hosts", &["false"], "disable"),
    ("keepalives", &["true"], "1"),
    ("keepalives", &["false"], "0"),
];

/// Settings with fixed values, which are compared without case, as in Npgsql.
const WORDS: &[(&str, &str)] = &[
    ("channel_binding", "disable, prefer, require"),
    ("load_balance_hosts", "disable, random"),
    ("sslnegotiation", "postgres, direct"),
    ("target_session_attrs", "any, read-write, read-only"),
];

/// Settings by the first names of their keywords.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        const OWN: [&str; 3] = ["postgres", "postgresql", "jdbc:postgresql"];
        let text = pasted::trimmed(text)?;
        let (_, rest) = text.split_once("://").unwrap_or_default();
        let pairs = match pasted::scheme(text) {
            Some(scheme) if OWN.contains(&scheme.as_str()) => {
                from_url(rest, scheme.starts_with("jdbc:"))?
            }
            Some(scheme) => return Err(pasted::other_url(&scheme, &OWN).into()),
            // In Npgsql's form, there is one pair before the first semicolon.
            None if text.split_once(';').is_some_and(|(first, _)| {
                first.matches('=').count() == 1 && first.matches('\'').count() % 2 == 0
            }) =>
            {
                from_npgsql(text)?
            }
            None => from_pairs(text)?,
        };
        Self::read(&pairs)
    }

    pub(super) fn read(pairs: &Pairs) -> Result<Self, ConfigError> {
        let empty = pairs.iter().find(|(keyword, value)| {
            // Ignoring it would change the identity, or the verification of the server.
            value.is_empty() && (keyword.starts_with("entra_") || keyword.starts_with("ssl"))
        });
        if let Some((keyword, _)) = empty {
            return Err(ConfigError::value(keyword, "is empty"));
        }
        let mut settings = Self::default();
        let placeholder = KEYWORDS.apply(pairs, |name, (), _, value| {
            if name == "password" {
                return Err(ConfigError::password());
            }
            if name == "options" && value.ends_with("-c") {
                let problem = "ends with -c, but a value with a space must be quoted: \
                               options='-c search_path=app'";
                return Err(ConfigError::value("options", problem));
            }
            let is_this = |row: &&(&str, &[&str], &str)| row.0 == name && is_one_of(row.1, value);
            let mut value = VALUES.iter().find(is_this).map_or(value, |(.., it)| it).to_owned();
            if let Some((_, words)) = WORDS.iter().find(|(keyword, _)| *keyword == name) {
                value.make_ascii_lowercase();
                if !words.split(", ").any(|word| word == value) {
                    return Err(ConfigError::value(name, format!("must be one of {words}")));
                }
            }
            settings.0.insert(name, value);
            Ok(())
        })?;
        placeholder.map_or(Ok(settings), |mistake| Err(mistake.into()))
    }

    pub(super) fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn number(&self, keyword: &'static str) -> Result<Option<usize>, ConfigError> {
        let wrong = |_| ConfigError::value(keyword, "is not a number");
        self.get(keyword).map(|value| value.parse().map_err(wrong)).transpose()
    }

    pub(super) fn duration(&self, keyword: &'static str) -> Result<Option<Duration>, ConfigError> {
        let wrong =
            || ConfigError::value(keyword, "is not a duration: write 1h30m, 45s, 0s, or seconds");
        self.get(keyword).map(|value| duration(value).ok_or_else(wrong)).transpose()
    }

    /// Returns the settings that tokio-postgres supports, in its own syntax.
    pub(super) fn of_driver(&self) -> String {
        let mut pairs = String::new();
        let is_ours = |keyword: &str| {
            // tokio-postgres reads `tcp_user_timeout` in seconds.
            matches!(
                keyword,
                "loginTimeout" | "ssl" | "sslmode" | "sslrootcert" | "tcp_user_timeout"
            ) || ["entra_", "pool_"].iter().any(|prefix| keyword.starts_with(prefix))
        };
        for (keyword, value) in self.0.iter().filter(|(keyword, _)| !is_ours(keyword)) {
            let value = value.replace('\\', r"\\").replace('\'', r"\'");
            pairs.extend([keyword, "='", &value, "' "]);
        }
        pairs
    }
}

/// Parses `Keyword=value;Keyword=value`, where a host may include its port.
fn from_npgsql(text: &str) -> Result<Pairs, ConfigError> {
    let mut pairs = pasted::read(text, Rules::AdoNet, |it| KEYWORDS.is_known(it))?;
    // For a string of Azure SQL, this advice is more useful than an error about a keyword.
    let is_azure_sql =
        |host: &str| Cloud::of_azure_sql_host(host).is_some() && !host.contains("://");
    if pairs.iter().any(|(_, value)| value.split(',').any(is_azure_sql)) {
        return Err(ConfigError::value("host", "belongs to Azure SQL: use entra_pool::azure_sql"));
    }
    let is_host = |name: &str| KEYWORDS.find(name).is_some_and(|(name, _)| name == "host");
    if let Some((_, hosts)) = pairs.iter_mut().find(|(name, _)| is_host(name)) {
        let (names, ports) = hosts_and_ports(hosts);
        *hosts = Zeroizing::new(names);
        pairs.push(("port".to_owned(), Zeroizing::new(ports)));
    }
    Ok(pairs)
}

/// Splits `host[:port][,host[:port]]` into the values of `host` and `port`.
fn hosts_and_ports(hosts: &str) -> (String, String) {
    let split = |host| {
        let (name, port) = pasted::host_and_port(host);
        // An invalid port stays in the name, which is checked later.
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
        let is_name = name.starts_with('[') || !name.contains(':');
        if is_port && is_name { (pasted::unbracketed(name), port) } else { (host, "") }
    };
    let (names, ports): (Vec<_>, Vec<_>) = hosts.split(',').map(split).unzip();
    let has_ports = ports.iter().any(|port| !port.is_empty());
    (names.join(","), if has_ports { ports.join(",") } else { String::new() })
}

/// Parses `[user@]host[:port][,host[:port]][/database][?keyword=value&…]`.
fn from_url(text: &str, is_jdbc: bool) -> Result<Pairs, ConfigError> {
    let problem = |problem| Err(ConfigError::syntax(problem));
    let (base, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, path) = base.split_once('/').unwrap_or((base, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    if !password.is_empty() {
        return Err(ConfigError::password());
    }
    if user.contains('@') || (user.is_empty() && text.contains('@')) || path.contains('@') {
        return problem("an @ elsewhere than before the URL's host must be written as %40");
    }
    if base.contains(';') {
        return problem("a ; before the URL's parameters must be written as %3B");
    }
    let ((names, ports), mut pairs) = (hosts_and_ports(hosts), Pairs::new());
    for (keyword, value) in [("host", &*names), ("port", &ports), ("dbname", path), ("user", user)]
    {
        if !value.is_empty() {
            pairs.push((keyword.to_owned(), pasted::decoded(value, false)?));
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // In Java, a plus sign is an encoded space; in libpq, it is not.
        pairs.push((pasted::decoded(key, is_jdbc)?.to_string(), pasted::decoded(value, is_jdbc)?));
    }
    Ok(pairs)
}

/// Parses `keyword=value keyword='value'`.
fn from_pairs(text: &str) -> Result<Pairs, ConfigError> {
    let mut pairs = Pairs::new();
    let mut unread = text;
    while !unread.is_empty() {
        let end = unread.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(unread.len());
        let (key, after_key) = unread.split_at(end);
        let after_equals = after_key.trim_start().strip_prefix('=').filter(|_| !key.is_empty());
        let Some(after_equals) = after_equals else {
            let problem = match pairs.last() {
                Some((key, _)) if KEYWORDS.is_known(key) => format!(
                    "after the value of {key} comes a word without '=': a value with a space must be \
                     quoted, as in user='DB Admins'"
                ),
                _ => "it is neither a URL, which starts with postgres://, nor pairs of \
                      keyword=value separated by spaces"
                    .to_owned(),
            };
            return Err(ConfigError::syntax(problem));
        };
        let value;
        let unread_value = after_equals.trim_start();
        if unread_value.starts_with("\\\"") {
            return Err(pasted::Mistake::Syntax(pasted::ESCAPED.to_owned()).into());
        }
        if unread_value.starts_with('"') {
            let problem = "a value must be quoted with ', as in user='DB Admins', and not with \"";
            return Err(ConfigError::syntax(problem));
        }
        (value, unread) = read_value(unread_value);
        pairs.push((key.to_owned(), value));
        unread = unread.trim_start();
    }
    Ok(pairs)
}

/// Reads a value, quoted or not, in which `\` escapes the next character (PostgreSQL documentation,
/// "Connection Strings"). Returns the value and the text after it.
fn read_value(text: &str) -> (Zeroizing<String>, &str) {
    let quoted = text.strip_prefix('\'');
    let mut chars = quoted.unwrap_or(text).chars();
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
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

/// Parses seconds, or a duration in Go's form with whole hours, minutes, seconds and milliseconds.
fn duration(text: &str) -> Option<Duration> {
    // Npgsql's form: seconds.
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // `m` is a prefix of `ms`, so `ms` is tried first.
    let units = [("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1_000)];
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, millis) = units.iter().find(|(unit, _)| after.starts_with(unit))?;
        let millis = number.parse::<u64>().ok()?.checked_mul(*millis)?;
        total = total.checked_add(Duration::from_millis(millis))?;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_in_gos_form() {
        for (text, millis) in [
            ("1h", Some(3_600_000)),
            ("1h30m", Some(5_400_000)),
            ("90s", Some(90_000)),
            ("0s", Some(0)),
            ("1m0s500ms", Some(60_500)),
            ("", None),
            ("1", Some(1_000)),
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

    fn read(text: &str) -> Settings {
        Settings::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn all_forms_parse_to_the_same_settings() {
        let url = read(
            "postgres://a%40b@h1,h2:6432/db?sslmode=verify-full&options=-c%20a%3Db\
             &sslrootcert=%2Fetc%2Fa+b.pem&application_name=x",
        );
        assert_eq!(
            url.of_driver(),
            "application_name='x' dbname='db' host='h1,h2' options='-c a=b' port=',6432' user='a@b' "
        );
        assert_eq!(url.get("sslmode"), Some("verify-full"));
        assert_eq!(url.get("sslrootcert"), Some("/etc/a+b.pem"));
        for text in [
            r"host=h1,h2 port=,6432 user=a@b dbname = db sslmode=verify-full options='-c a=b'
              sslrootcert=/etc/a+b.pem application_name='x'",
            "Host=h1,h2;Port=',6432';Username=a@b;Database=db;SSL Mode=verify-full;\
             Options=-c a=b;Root Certificate=/etc/a+b.pem;Application Name=x;",
            "jdbc:postgresql://h1,h2:6432/db?user=a%40b&sslmode=verify-full&options=-c+a%3Db\
             &sslrootcert=/etc/a%2Bb.pem&ApplicationName=x",
        ] {
            assert_eq!(read(text), url, "{text}");
        }
        for text in [
            "Host=h1,h2:6432;Username=a@b;Database=db",
            "Host='h1,h2:6432';Username='a@b';Database='db'",
            "host=h1,h2 port=,6432 user=a@b dbname=db;",
        ] {
            assert_eq!(read(text).of_driver(), "dbname='db' host='h1,h2' port=',6432' user='a@b' ");
        }
        assert_eq!(read("Host=[::1]:1;DB=d"), read("Host=::1;Port=1;DB=d"));
        assert_eq!(read("postgresql://[::1]:1/").of_driver(), "host='::1' port='1' ");
        assert_eq!(read("postgresql:///?host=h").of_driver(), "host='h' ");
    }

    #[test]
    fn tokio_postgres_parses_the_same_values() {
        for value in ["a b", "it's", r"a\b", r"\'", "x;y=z"] {
            let text = format!("dbname='{}'", value.replace('\\', r"\\").replace('\'', r"\'"));
            let driver: tokio_postgres::Config = read(&text).of_driver().parse().unwrap();
            assert_eq!(driver.get_dbname(), Some(value));
        }
    }

    #[test]
    fn every_name_belongs_to_one_setting() {
        let names: Vec<_> = KEYWORDS.names().collect();
        for (at, name) in names.iter().enumerate() {
            assert!(names[..at].iter().all(|other| !pasted::is_same(other, name)), "{name}");
        }
    }

    #[test]
    fn a_password_is_refused_in_every_form_and_not_shown() {
        for text in [
            "postgres://h/d?password=hunter2",
            "postgres://u:hunter2@h/d",
            "postgres://u:p@ss?hunter2=x@h/d",
            "postgres://u:p@hunter2@h/d",
            "host=h password=hunter2 x",
            "password = 'hunter2",
            "Host=h;Username=u;Password=hunter2",
            "Host=h;PWD={hunter2};Username=u",
            "jdbc:postgresql://h/d?user=u&password=hunter2",
        ] {
            let error = Settings::parse(text).unwrap_err().to_string();
            assert!(error.contains("password") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_invalid_string_is_refused_and_not_shown() {
        for (text, expected) in [
            ("'postgres://u:hunter2@h/d?sslmode=require'", "the whole string is in quotes"),
            ("postgresql+asyncpg://u:hunter2@h/d?ssl=require", "write postgresql://"),
            ("mysql://u:hunter2@h/d", "use one of postgres://"),
            ("host=h =hunter2", "a word without '='"),
            ("hunter2", "postgres://"),
            ("passfile=x hunter2='y'", "not shown"),
            (r#"user=\"hunter2\" host=h"#, "backslashes"),
            (r#"user="hunter2" host=h"#, "a value must be quoted with '"),
            ("postgres://h/%FF", "not UTF-8"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert!(matches!(error, ConfigError::Syntax { .. }), "{text}: {error:?}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expected) && !shown.contains("hunter"), "{shown}");
        }
    }

    #[test]
    fn an_at_sign_after_the_host_is_refused_because_it_would_name_another_host() {
        for text in [
            "postgres://db.internal/restaurant?application_name=svc@contoso.com",
            "postgres://db.internal:5432/svc@contoso.com",
            "postgres://u:p/ss@db.internal/restaurant",
        ] {
            let error = Settings::parse(text).unwrap_err().to_string();
            assert!(error.contains("%40") && !error.contains("ss@"), "{error}");
            assert!(!error.contains("contoso"), "{error}");
        }
        read("postgres://u@db.internal/restaurant?application_name=svc@contoso.com");
    }

    #[test]
    fn empty_security_keywords_and_duplicates_are_refused() {
        for text in ["postgres://h/?sslmode=", "postgres://h/?entra_scope", "sslmode=''"] {
            assert!(Settings::parse(text).unwrap_err().to_string().contains("is empty"), "{text}");
        }
        assert_eq!(read("host=h user='' dbname=").of_driver(), "host='h' ");
        for (text, expected) in [
            (
                "postgres://h/?sslmode=require&sslmode=disable",
                "sslmode=require and sslmode=disable",
            ),
            ("postgres://h/d?dbname=e", "dbname=d and dbname=e"),
            ("host=h user=u user=u", "user=u is given twice"),
            ("target_session_attrs=prefer-standby", "must be one of any, read-write, read-only"),
        ] {
            let error = Settings::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
