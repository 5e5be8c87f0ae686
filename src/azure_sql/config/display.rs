use std::{fmt, time::Duration};

use super::{Config, Encrypt, keywords::Setting};
use crate::Cloud;

/// Writes an ADO.NET connection string without the settings that have their default. Parsing the
/// string returns the same configuration, except for settings that have no keyword: those of the
/// `dangerous_…` methods, `tls`, `idle_timeout`, `keepalive`, `tcp_user_timeout`, `recycling` and
/// `maintenance`. Names that look like a template's placeholder cannot be parsed, and invalid
/// Unicode in a path is replaced.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=tcp:{},{}", Setting::Server.name(), self.host, self.port)?;
        let defaults = Config::new("").settings();
        for ((setting, value), (_, default)) in self.settings().into_iter().zip(defaults) {
            if value != default {
                write!(f, ";{}={}", setting.name(), quoted(&value.unwrap_or_default()))?;
            }
        }
        Ok(())
    }
}

impl Config {
    /// Returns all settings except the server and its port, in the form that the parser accepts.
    pub(super) fn settings(&self) -> [(Setting, Option<String>); 19] {
        let [ca_file, certificate] = self.trusted_files();
        let encrypt = match self.encrypt {
            Encrypt::Mandatory => "Mandatory",
            Encrypt::Strict => "Strict",
        };
        let intent = if self.read_only { "ReadOnly" } else { "ReadWrite" };
        let at_once = if self.multi_subnet_failover { "True" } else { "False" };
        // 0 means without a limit.
        let limit = |limit: Option<Duration>| Some(seconds(limit.unwrap_or_default()));
        let suffixes = self.routing_suffixes.join(",");
        let scope_of_host = Cloud::of_azure_sql_host(&self.host).map(Cloud::azure_sql_scope);
        let scope = self.scope.as_ref().filter(|scope| scope_of_host.as_ref() != Some(scope));
        [
            (Setting::Database, self.database.clone()),
            (Setting::Encrypt, Some(encrypt.to_owned())),
            (Setting::CaFile, ca_file),
            (Setting::ServerCertificate, certificate),
            (Setting::HostNameInCertificate, self.host_in_certificate.clone()),
            (Setting::ApplicationName, Some(self.application_name.clone())),
            (Setting::WorkstationId, self.workstation_id.clone()),
            (Setting::ApplicationIntent, Some(intent.to_owned())),
            (Setting::PacketSize, text(self.packet_size)),
            (Setting::MultiSubnetFailover, Some(at_once.to_owned())),
            (Setting::ConnectTimeout, Some(seconds(self.connect_timeout))),
            (Setting::CommandTimeout, limit(self.command_timeout)),
            (Setting::ConnectRetryCount, text(self.retry_count)),
            (Setting::ConnectRetryInterval, self.retry_interval.map(seconds)),
            (Setting::MaxPoolSize, text(self.max_size)),
            (Setting::MinPoolSize, Some(self.min_size.to_string())),
            (Setting::ConnectionLifetime, limit(self.max_lifetime)),
            (Setting::AllowRoutingTo, (!self.routing_suffixes.is_empty()).then_some(suffixes)),
            (Setting::Scope, text(scope)),
        ]
    }
}

fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// Formats a time in seconds, with decimals only if they are needed.
fn seconds(time: Duration) -> String {
    match time.subsec_nanos() {
        0 => time.as_secs().to_string(),
        nanos => format!("{}.{nanos:09}", time.as_secs()),
    }
}

/// Quotes `value` if the parser would otherwise read another value. (A value with `&` and a `;`
/// after it would look like XML.)
fn quoted(value: &str) -> String {
    let reads_as_it_is = !value.is_empty()
        && !value
            .starts_with(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '=' | '{' | '\\'))
        && !value.ends_with(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
        && !value.contains(|c: char| matches!(c, ';' | '&') || c.is_control());
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
    use crate::pasted::{Rules, read};

    #[test]
    fn a_quoted_value_parses_to_itself() {
        for value in [
            "", "x", "x y", " x", "x ", "it's", "'x'", "\"x\"", "a'b\"c", "x;y", "=x", "x=", "{x}",
            "&quot", "{x", "{x}y", "'", "\"", "'\"", "\u{1}", "\n", "書",
        ] {
            let text = format!("A={};B=1", quoted(value));
            let expected = [("A".to_owned(), value.to_owned()), ("B".to_owned(), "1".to_owned())];
            let pairs = read(&text, Rules::AdoNet, |_| true).unwrap();
            let pairs: Vec<_> = pairs.into_iter().map(|(k, v)| (k, v.to_string())).collect();
            assert_eq!(pairs, expected, "{text}");
        }
    }
}
