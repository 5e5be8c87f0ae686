//! Connection strings of any form, parsed to a configuration and the identity that they name.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{
    Config, ConfigError, Encrypt, ado_net, authentication,
    identity::NamedIdentity,
    jdbc,
    keywords::{self, Meaning, NO, Setting, YES, is_one_of, is_same},
    pairs::Pairs,
    settings::{host_name, routing_suffix},
    url,
};
use crate::{clock::limit, tls::Trust, token::Scope};

/// The settings of a string, with their keywords as they are written.
#[derive(Default)]
pub(in crate::azure_sql) struct Written(Vec<(Setting, String)>);

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
        self.refuse(setting, setting.takes())
    }

    pub(super) fn refuse(&self, setting: Setting, problem: &str) -> ConfigError {
        ConfigError::value(self.keyword(setting), problem)
    }

    pub(super) fn conflict(&self, first: Setting, second: Setting) -> ConfigError {
        let [first, second] = [first, second].map(|setting| self.keyword(setting).to_owned());
        ConfigError::Conflict { first, second }
    }
}

/// Parses any form. `dangerous`: `TrustServerCertificate=True` is accepted.
pub(super) fn parse(text: &str, dangerous: bool) -> Result<(Config, NamedIdentity), ConfigError> {
    let pairs = match () {
        () if jdbc::is_jdbc(text) => jdbc::pairs(text)?,
        () if url::is_url(text) => url::pairs(text)?,
        () => ado_net::pairs(text)?,
    };
    let mut reader = Reader {
        config: Config::new(""),
        identity: NamedIdentity::default(),
        written: Written::default(),
        trusts_any: false,
    };
    reader.read(&pairs)?;
    reader.finish(dangerous)
}

struct Reader {
    config: Config,
    identity: NamedIdentity,
    written: Written,
    /// `TrustServerCertificate=True`
    trusts_any: bool,
}

impl Reader {
    /// A keyword without a value is as good as none, as in .NET.
    fn read(&mut self, pairs: &Pairs) -> Result<(), ConfigError> {
        let mut others: Vec<&str> = Vec::new();
        let mut behind_a_secret = false;
        for (keyword, value) in pairs {
            let known = keywords::find(keyword).ok_or_else(|| unknown(keyword, behind_a_secret))?;
            behind_a_secret = keywords::may_be_secret(keyword);
            if value.is_empty() {
                continue;
            }
            if let Meaning::Sets(setting, _) = *known {
                self.written.add(setting, keyword)?;
                self.set(setting, value)?;
                continue;
            }
            if others.iter().any(|other| is_same(other, keyword)) {
                return Err(ConfigError::Duplicate { keyword: keyword.clone() });
            }
            others.push(keyword);
            match *known {
                Meaning::Only(values, why) if !is_one_of(values, value) => {
                    let problem = format!("must be {}, or be left out: {why}", values[0]);
                    return Err(ConfigError::value(keyword, problem));
                }
                Meaning::Never(why) => return Err(ConfigError::value(keyword, why)),
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, setting: Setting, value: &str) -> Result<(), ConfigError> {
        let Self { config, identity, written, .. } = self;
        let wrong = || written.wrong(setting);
        let refuse = |problem: &str| written.refuse(setting, problem);
        let text = || Some(value.to_owned());
        let flag = || choice(value, &[(YES, true), (NO, false)]).ok_or_else(wrong);
        let time = || seconds(value).ok_or_else(wrong);
        if value.contains('\0') {
            return Err(refuse("has a NUL character"));
        }
        match setting {
            Setting::Server => {
                let (host, port) = server(value).map_err(refuse)?;
                config.host = host;
                if let Some(port) = port {
                    let keyword = written.keyword(setting).to_owned();
                    written.add(Setting::Port, &keyword)?;
                    config.port = port;
                }
            }
            Setting::Port => config.port = value.parse().map_err(|_| wrong())?,
            Setting::Database => config.database = text(),
            Setting::Authentication => {
                identity.authentication =
                    authentication::read(value).map_err(|why| refuse(&why))?;
            }
            Setting::UserId => identity.client_id = text(),
            Setting::Password => identity.client_secret = Some(Zeroizing::new(value.to_owned())),
            Setting::Tenant => identity.tenant = text(),
            Setting::Encrypt => {
                let levels = [
                    (&["strict"][..], Encrypt::Strict),
                    (&["mandatory"], Encrypt::Mandatory),
                    (YES, Encrypt::Mandatory),
                ];
                config.encrypt = choice(value, &levels).ok_or_else(wrong)?;
            }
            Setting::TrustServerCertificate => self.trusts_any = flag()?,
            Setting::CaFile => config.trust = Trust::Roots(value.into()),
            Setting::ServerCertificate => config.trust = Trust::Certificate(value.into()),
            Setting::HostNameInCertificate => config.host_in_certificate = text(),
            Setting::ApplicationName => value.clone_into(&mut config.application_name),
            Setting::WorkstationId => config.workstation_id = text(),
            Setting::ApplicationIntent => {
                let intents = [(&["ReadOnly"][..], true), (&["ReadWrite"], false)];
                config.read_only = choice(value, &intents).ok_or_else(wrong)?;
            }
            Setting::PacketSize => config.packet_size = Some(value.parse().map_err(|_| wrong())?),
            Setting::MultiSubnetFailover => config.multi_subnet_failover = flag()?,
            Setting::ConnectTimeout => config.connect_timeout = time()?,
            // JDBC's -1 is no limit, too.
            Setting::CommandTimeout if value == "-1" => config.command_timeout = None,
            Setting::CommandTimeout => config.command_timeout = limit(time()?),
            Setting::ConnectRetryCount => {
                config.retry_count = Some(value.parse().map_err(|_| wrong())?);
            }
            Setting::ConnectRetryInterval => config.retry_interval = Some(time()?),
            Setting::MaxPoolSize => config.max_size = Some(value.parse().map_err(|_| wrong())?),
            Setting::MinPoolSize => config.min_size = value.parse().map_err(|_| wrong())?,
            Setting::ConnectionLifetime => config.max_lifetime = limit(time()?),
            Setting::AllowRoutingTo => {
                config.routing_suffixes = value.split(',').map(routing_suffix).collect();
            }
            Setting::Scope => config.scope = Some(Scope::new(value)?),
        }
        Ok(())
    }

    fn finish(self, dangerous: bool) -> Result<(Config, NamedIdentity), ConfigError> {
        let Self { mut config, mut identity, written, trusts_any, .. } = self;
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
        let wildcard = config.host_in_certificate.as_ref().and_then(|it| it.strip_prefix("*."));
        if let Some(domain) = wildcard {
            // Azure's portal writes `*.database.windows.net`, which stands for the host itself.
            let domain_of_host = config.host.split_once('.').map(|(_, domain)| domain);
            if !domain_of_host.is_some_and(|it| it.eq_ignore_ascii_case(domain)) {
                return Err(written.refuse(
                    Setting::HostNameInCertificate,
                    "is a wildcard that does not stand for the server's host: leave it out, \
                     or give the one name",
                ));
            }
            config.host_in_certificate = None;
        }
        config.check(&written)?;
        identity.check(&written)?;
        Ok((config, identity))
    }
}

fn unknown(keyword: &str, behind_a_secret: bool) -> ConfigError {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.');
    if behind_a_secret || keyword.chars().count() > 40 || !keyword.chars().all(is_plain) {
        return ConfigError::UnknownKeyword { keyword: None, nearest: None };
    }
    let nearest = keywords::nearest(keyword);
    ConfigError::UnknownKeyword { keyword: Some(keyword.to_owned()), nearest }
}

/// `[tcp:]host[,port]`
fn server(value: &str) -> Result<(String, Option<u16>), &'static str> {
    const PIPE: &str = "is a named pipe; Azure SQL speaks TCP only: use tcp:HOST,PORT";
    const REFUSED: [(&str, &str); 3] = [
        ("np", PIPE),
        ("lpc", "is shared memory of one machine; Azure SQL speaks TCP only: use tcp:HOST,PORT"),
        (
            "admin",
            "is the administrator's connection, of which there is one, so that no pool can have it: use tcp:HOST,PORT",
        ),
    ];
    let (protocol, address) = value.split_once(':').unwrap_or_default();
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| is_same(name, protocol)) {
        return Err(why);
    }
    // Without a protocol, the first colon belongs to an IPv6 address.
    let value = if is_same(protocol, "tcp") { address } else { value }.trim();
    if value.starts_with(r"\\") {
        return Err(PIPE);
    }
    if value.contains('\\') {
        return Err(
            "names an instance (HOST\\INSTANCE), which Azure SQL has none of: use tcp:HOST,PORT",
        );
    }
    let (host, port) = match value.split_once(',') {
        None => (value, None),
        Some((host, port)) => match port.trim().parse() {
            Ok(port @ 1..) => (host.trim_end(), Some(port)),
            _ => return Err("must be tcp:HOST,PORT with a port from 1 to 65535"),
        },
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok((host_name(bare), port))
}

/// Returns the choice that has `value` among its names.
fn choice<T: Copy>(value: &str, choices: &[(&[&str], T)]) -> Option<T> {
    choices.iter().find(|(names, _)| is_one_of(names, value)).map(|(_, choice)| *choice)
}

/// Whole seconds; or with decimals, which no driver knows, as those of a method may be.
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
    fn a_server_is_read_in_every_spelling() {
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
