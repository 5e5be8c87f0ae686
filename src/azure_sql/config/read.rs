//! Parses connection strings of any form into a configuration and the identity that they select.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use super::{
    Config, ConfigError, Encrypt, authentication,
    identity::NamedIdentity,
    jdbc,
    keywords::{KEYWORDS, NO, Setting, YES},
    settings::{host_name, routing_suffixes},
    url,
};
use crate::{
    clock::limit,
    cloud,
    pasted::{self, Mistake, Pairs, Rules, is_one_of, is_same},
    tls::Trust,
    token::Scope,
};

const SECOND: Duration = Duration::from_secs(1);
/// The longest time in SqlClient, whose numbers have 32 bits.
const LONGEST: Duration = Duration::from_secs(i32::MAX as u64);
const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=LONGEST;
const SOME_TIME: RangeInclusive<Duration> = Duration::from_nanos(1)..=LONGEST;
const LARGEST_POOL: usize = 32_767;
/// The maximum length of names in LOGIN7 (MS-TDS 2.2.6.4), in UTF-16 units.
const LONGEST_NAME: usize = 128;

/// The settings that a string contains, and their keywords as written.
#[derive(Default)]
pub(super) struct Written(Vec<(Setting, String)>);

impl Written {
    fn add(&mut self, setting: Setting, keyword: &str) -> Result<(), ConfigError> {
        if self.has(setting) {
            return Err(ConfigError::Duplicate { keyword: keyword.to_owned() });
        }
        self.0.push((setting, keyword.to_owned()));
        Ok(())
    }

    fn has(&self, setting: Setting) -> bool {
        self.0.iter().any(|(of, _)| *of == setting)
    }

    fn keyword(&self, setting: Setting) -> &str {
        let written = self.0.iter().find(|(of, _)| *of == setting);
        written.map_or_else(|| setting.name(), |(_, keyword)| keyword)
    }

    pub(super) fn wrong(&self, setting: Setting) -> ConfigError {
        self.refuse(setting, setting.accepted_values())
    }

    pub(super) fn refuse(&self, setting: Setting, problem: &str) -> ConfigError {
        ConfigError::value(self.keyword(setting), problem)
    }

    pub(super) fn conflict(&self, first: Setting, second: Setting) -> ConfigError {
        let [first, second] = [first, second].map(|setting| self.keyword(setting).to_owned());
        ConfigError::Conflict { first, second }
    }
}

/// Parses a string of any form. `dangerous` is whether `TrustServerCertificate=True` is accepted.
pub(super) fn parse(text: &str, dangerous: bool) -> Result<(Config, NamedIdentity), ConfigError> {
    read(&pairs(text)?, dangerous)
}

fn pairs(text: &str) -> Result<Pairs, ConfigError> {
    const OWN: [&str; 3] = ["mssql", "sqlserver", "jdbc:sqlserver"];
    let text = pasted::trimmed(text)?;
    let starts_with =
        |scheme: &str| text.get(..scheme.len()).is_some_and(|it| it.eq_ignore_ascii_case(scheme));
    let scheme = pasted::scheme(text);
    let (_, rest) = text.split_once("://").unwrap_or_default();
    match scheme.as_deref() {
        Some("jdbc:sqlserver") => jdbc::pairs(rest),
        // Prisma's form.
        Some("mssql" | "sqlserver")
            if rest.find([';', '/', '?', '#']).is_some_and(|at| rest[at..].starts_with(';')) =>
        {
            jdbc::pairs(rest)
        }
        Some("mssql" | "sqlserver") => url::pairs(rest),
        Some("jdbc:postgresql") => Err(pasted::other_url("jdbc:postgresql", &OWN).into()),
        _ if starts_with("jdbc:") => Err(ConfigError::url(
            "is a JDBC URL, but not for SQL Server: write jdbc:sqlserver://HOST:PORT;databaseName=NAME",
        )),
        Some(other) => Err(pasted::other_url(other, &OWN).into()),
        None => {
            // go-mssqldb's prefix for ODBC's rules.
            let text = if starts_with("odbc:") { &text["odbc:".len()..] } else { text };
            let has_spaces = text.split_whitespace().filter(|word| word.contains('=')).count() > 1;
            if has_spaces && !text.contains(';') {
                let problem = "has spaces between its pairs, as in PostgreSQL's strings (use \
                               entra_pool::postgres): for Azure SQL, write ';' instead";
                return Err(Mistake::Syntax(problem.to_owned()).into());
            }
            Ok(pasted::read(text, Rules::AdoNet, |it| KEYWORDS.is_known(it))?)
        }
    }
}

pub(super) fn read(pairs: &Pairs, dangerous: bool) -> Result<(Config, NamedIdentity), ConfigError> {
    // Checked first, because a PostgreSQL string also has other errors.
    let is_postgres = |host: &str| cloud::postgresql_scope(host).is_some();
    if pairs.iter().any(|(_, value)| value.split(',').any(is_postgres)) {
        let problem = "belongs to Azure Database for PostgreSQL: use entra_pool::postgres";
        return Err(ConfigError::value("Server", problem));
    }
    let mut reader = Reader::new();
    let placeholder = KEYWORDS.apply(pairs, |_, setting, keyword, value| {
        reader.written.add(setting, keyword)?;
        reader.set(setting, keyword, value)
    })?;
    reader.identity.check(&reader.written)?;
    if let Some(mistake) = placeholder {
        return Err(mistake.into());
    }
    reader.finish(dangerous)
}

pub(super) struct Reader {
    config: Config,
    identity: NamedIdentity,
    written: Written,
    /// Whether the string has `TrustServerCertificate=True`.
    trusts_any: bool,
}

impl Reader {
    pub(super) fn new() -> Self {
        let (identity, written) = (NamedIdentity::default(), Written::default());
        Self { config: Config::new(""), identity, written, trusts_any: false }
    }

    /// Sets a setting to a value from a string, or from a configuration that is being checked.
    pub(super) fn set(
        &mut self,
        setting: Setting,
        keyword: &str,
        value: &str,
    ) -> Result<(), ConfigError> {
        let Self { config, identity, written, .. } = self;
        let refuse = |problem: &str| Err(written.refuse(setting, problem));
        if value.contains('\0') {
            return refuse("has a NUL character");
        }
        match setting {
            Setting::Server => match server(value) {
                Ok((host, port)) => {
                    config.host = host;
                    if let Some(port) = port {
                        written.add(Setting::Port, keyword)?;
                        config.port = port;
                    }
                }
                Err(problem) => return refuse(&problem),
            },
            Setting::Authentication => match authentication::read(value) {
                Ok(named) => identity.authentication = named,
                Err(problem) => return refuse(&problem),
            },
            Setting::Database | Setting::ApplicationName | Setting::WorkstationId
                if value.encode_utf16().count() > LONGEST_NAME =>
            {
                return refuse("is longer than 128 characters");
            }
            // In JDBC, 0 means the default.
            Setting::ConnectTimeout if value == "0" && is_same(keyword, "loginTimeout") => {}
            _ => return self.read_value(setting, value).ok_or_else(|| self.written.wrong(setting)),
        }
        Ok(())
    }

    /// Parses a value and sets the setting. Returns `None` if the setting does not accept it.
    fn read_value(&mut self, setting: Setting, value: &str) -> Option<()> {
        let Self { config, identity, .. } = self;
        let text = || (!value.is_empty()).then(|| value.to_owned());
        let flag = || choice(value, &[(YES, true), (NO, false)]);
        let time =
            |range: RangeInclusive<Duration>| seconds(value).filter(|time| range.contains(time));
        match setting {
            Setting::Port => config.port = value.parse().ok()?,
            Setting::Database => config.database = Some(text()?),
            Setting::UserId => identity.client_id = Some(text()?),
            Setting::Password => identity.client_secret = Some(Zeroizing::new(text()?)),
            Setting::Tenant => identity.tenant = Some(text()?),
            Setting::Encrypt => {
                let levels = [
                    (&["strict"][..], Encrypt::Strict),
                    (&["mandatory"], Encrypt::Mandatory),
                    (YES, Encrypt::Mandatory),
                ];
                config.encrypt = choice(value, &levels)?;
            }
            Setting::TrustServerCertificate => self.trusts_any = flag()?,
            Setting::CaFile => config.trust = Trust::Roots(text()?.into()),
            Setting::ServerCertificate => config.trust = Trust::Certificate(text()?.into()),
            Setting::HostNameInCertificate => config.host_in_certificate = Some(text()?),
            Setting::ApplicationName => config.application_name = text()?,
            Setting::WorkstationId => config.workstation_id = Some(text()?),
            Setting::ApplicationIntent => {
                let intents = [(&["ReadOnly"][..], true), (&["ReadWrite"], false)];
                config.read_only = choice(value, &intents)?;
            }
            Setting::PacketSize => config.packet_size = Some(number(value, 512..=32_767)?),
            Setting::MultiSubnetFailover => config.multi_subnet_failover = flag()?,
            Setting::ConnectTimeout => config.connect_timeout = time(SOME_TIME)?,
            // In JDBC, -1 means no limit.
            Setting::CommandTimeout if value == "-1" => config.command_timeout = None,
            Setting::CommandTimeout => config.command_timeout = limit(time(ANY_TIME)?),
            Setting::ConnectRetryCount => config.retry_count = Some(number(value, 0..=255)?),
            Setting::ConnectRetryInterval => {
                config.retry_interval = Some(time(SECOND..=60 * SECOND)?);
            }
            Setting::MaxPoolSize => config.max_size = Some(number(value, 1..=LARGEST_POOL)?),
            Setting::MinPoolSize => config.min_size = number(value, 0..=LARGEST_POOL)?,
            Setting::ConnectionLifetime => config.max_lifetime = limit(time(ANY_TIME)?),
            Setting::AllowRoutingTo => {
                let suffixes = routing_suffixes(value);
                let are_right = suffixes.iter().all(|suffix| is_routing_suffix(suffix));
                config.routing_suffixes = are_right.then_some(suffixes)?;
            }
            Setting::CliTimeout => identity.cli_timeout = Some(time(SOME_TIME)?),
            Setting::Scope => config.scope = Some(Scope::new(value).ok()?),
            Setting::Server | Setting::Authentication => return None,
        }
        Some(())
    }

    fn finish(self, dangerous: bool) -> Result<(Config, NamedIdentity), ConfigError> {
        let Self { mut config, identity, written, trusts_any } = self;
        if trusts_any && !dangerous {
            return Err(written.wrong(Setting::TrustServerCertificate));
        }
        let trusts = [
            (Setting::TrustServerCertificate, trusts_any),
            (Setting::CaFile, written.has(Setting::CaFile)),
            (Setting::ServerCertificate, written.has(Setting::ServerCertificate)),
        ];
        let mut trusts = trusts.into_iter().filter(|(_, is_set)| *is_set).map(|(it, _)| it);
        if let (Some(first), Some(second)) = (trusts.next(), trusts.next()) {
            return Err(written.conflict(first, second));
        }
        if trusts_any {
            config = config.dangerous_trust_any_certificate_on_loopback();
        }
        let wildcard = config.host_in_certificate.as_ref().and_then(|it| it.strip_prefix('*'));
        if let Some(suffix) = wildcard.filter(|it| it.starts_with('.')) {
            // Azure's portal writes `*.database.windows.net`. Verifying the certificate for the
            // host itself is stricter.
            if !config.host.to_ascii_lowercase().ends_with(&suffix.to_ascii_lowercase()) {
                return Err(written.refuse(
                    Setting::HostNameInCertificate,
                    "is a wildcard that does not match the server's host: leave it out, or give \
                     a single name",
                ));
            }
            config.host_in_certificate = None;
        }
        config.check_together(&written)?;
        Ok((config, identity))
    }
}

/// Parses `[tcp:]host[,port]`.
fn server(value: &str) -> Result<(String, Option<u16>), String> {
    const PIPE: &str = "is a named pipe, but Azure SQL only supports TCP: use tcp:HOST,PORT";
    const REFUSED: [(&str, &str); 3] = [
        ("np", PIPE),
        ("lpc", "is shared memory, but Azure SQL only supports TCP: use tcp:HOST,PORT"),
        (
            "admin",
            "is the dedicated administrator connection, which a pool cannot use: use tcp:HOST,PORT",
        ),
    ];
    let (protocol, address) = value.split_once(':').unwrap_or_default();
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| is_same(name, protocol)) {
        return Err((*why).to_owned());
    }
    // Without a protocol, the first colon is part of an IPv6 address.
    let value = if is_same(protocol, "tcp") { address } else { value }.trim();
    if value.starts_with(r"\\") {
        return Err(PIPE.to_owned());
    }
    if value.contains('\\') {
        let problem = "names an instance (HOST\\INSTANCE), which Azure SQL does not have";
        return Err(format!("{problem}: use tcp:HOST,PORT"));
    }
    if let Some((host, port)) = value.split_once(':')
        && port.parse::<u16>().is_ok()
        && ServerName::try_from(host).is_ok()
    {
        return Err(format!(
            "has a ':' before its port, but the port follows a comma: {host},{port}"
        ));
    }
    let (host, port) = match value.split_once(',') {
        None => (value, None),
        Some((host, port)) => match port.trim().parse() {
            Ok(port @ 1..) => (host.trim_end(), Some(port)),
            _ => return Err("must be tcp:HOST,PORT with a port from 1 to 65535".to_owned()),
        },
    };
    Ok((host_name(pasted::unbracketed(host)), port))
}

/// Returns the choice that has this name.
fn choice<T: Copy>(value: &str, choices: &[(&[&str], T)]) -> Option<T> {
    choices.iter().find(|(names, _)| is_one_of(names, value)).map(|(_, choice)| *choice)
}

fn number<T: FromStr + PartialOrd>(value: &str, range: RangeInclusive<T>) -> Option<T> {
    value.parse().ok().filter(|number| range.contains(number))
}

/// Whether this is a host name in lower case with at least two labels, an address, or `localhost`.
/// With a single label such as `net`, the token could be sent to the owner of any name below it.
fn is_routing_suffix(suffix: &str) -> bool {
    match ServerName::try_from(suffix) {
        Ok(ServerName::DnsName(name)) => name.as_ref().contains('.') || suffix == "localhost",
        Ok(_) => true,
        Err(_) => false,
    }
}

/// Parses seconds, with or without decimals: `Display` writes decimals for times from setters.
fn seconds(value: &str) -> Option<Duration> {
    let (whole, decimals) = value.split_once('.').unwrap_or((value, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 9 {
        return None;
    }
    Some(Duration::new(whole.parse().ok()?, format!("{decimals:0<9}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_decimals() {
        for (text, expected) in [
            ("0", Some(Duration::ZERO)),
            ("15", Some(Duration::from_secs(15))),
            ("1.5", Some(Duration::from_millis(1500))),
            ("0.000000001", Some(Duration::from_nanos(1))),
            ("0.0000000001", None),
            ("18446744073709551616", None),
            ("1.", None),
            (".5", None),
            ("+1", None),
            ("-1", None),
            ("1e3", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn every_spelling_of_a_server_is_parsed() {
        for (text, host, port) in [
            ("h", "h", None),
            ("tcp:h,1500", "h", Some(1500)),
            (" TCP: h , 1500 ", "h", Some(1500)),
            ("::1,1500", "::1", Some(1500)),
            ("tcp:[::1]", "::1", None),
            ("(local)", "localhost", None),
        ] {
            assert_eq!(server(text), Ok((host.to_owned(), port)), "{text}");
        }
    }
}
