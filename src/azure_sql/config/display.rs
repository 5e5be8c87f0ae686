use std::{fmt, path::Path, time::Duration};

use super::{
    Config, Encrypt,
    ado_net::quoted,
    check::{APPLICATION_NAME, COMMAND_TIMEOUT, CONNECT_TIMEOUT, MAX_LIFETIME},
    keywords::Setting,
};
use crate::{Cloud, tls::Trust, token::Scope};

/// An ADO.NET connection string, which reads back as the same configuration, but for what no
/// string can say: what a `dangerous_…` method allows, `tls`, `idle_timeout` and `recycling`.
/// Defaults are left out. (A path that is no Unicode is shown as far as it is.)
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=tcp:{},{}", Setting::Server.name(), self.host, self.port)?;
        for (setting, value) in self.settings() {
            if let Some(value) = value {
                write!(f, ";{}={}", setting.name(), quoted(&value))?;
            }
        }
        Ok(())
    }
}

impl Config {
    /// What is not as it would be without saying so.
    fn settings(&self) -> [(Setting, Option<String>); 19] {
        let (ca_file, certificate) = match &self.trust {
            Trust::Roots(file) => (Some(file), None),
            Trust::Certificate(file) => (None, Some(file)),
            Trust::Platform | Trust::AnyOnLoopback | Trust::AnyAnywhere | Trust::Own(_) => {
                (None, None)
            }
        };
        let path = |path: &Path| path.display().to_string();
        let scope_of_host = Cloud::of_azure_sql_host(&self.host).map(Cloud::azure_sql_scope);
        [
            (Setting::Database, self.database.clone()),
            (Setting::Encrypt, unless(self.encrypt == Encrypt::Mandatory, || "Strict")),
            (Setting::CaFile, ca_file.map(|file| path(file))),
            (Setting::ServerCertificate, certificate.map(|file| path(file))),
            (Setting::HostNameInCertificate, self.host_in_certificate.clone()),
            (
                Setting::ApplicationName,
                unless(self.application_name == APPLICATION_NAME, || &self.application_name),
            ),
            (Setting::WorkstationId, self.workstation_id.clone()),
            (Setting::ApplicationIntent, unless(!self.read_only, || "ReadOnly")),
            (Setting::PacketSize, self.packet_size.map(|size| size.to_string())),
            (Setting::MultiSubnetFailover, unless(!self.multi_subnet_failover, || "True")),
            (
                Setting::ConnectTimeout,
                unless(self.connect_timeout == CONNECT_TIMEOUT, || Seconds(self.connect_timeout)),
            ),
            (
                Setting::CommandTimeout,
                unless(self.command_timeout == Some(COMMAND_TIMEOUT), || {
                    Seconds(self.command_timeout.unwrap_or_default())
                }),
            ),
            (Setting::ConnectRetryCount, self.retry_count.map(|count| count.to_string())),
            (
                Setting::ConnectRetryInterval,
                self.retry_interval.map(|pause| Seconds(pause).to_string()),
            ),
            (Setting::MaxPoolSize, self.max_size.map(|size| size.to_string())),
            (Setting::MinPoolSize, unless(self.min_size == 0, || self.min_size)),
            (
                Setting::ConnectionLifetime,
                unless(self.max_lifetime == Some(MAX_LIFETIME), || {
                    Seconds(self.max_lifetime.unwrap_or_default())
                }),
            ),
            (
                Setting::AllowRoutingTo,
                unless(self.routing_suffixes.is_empty(), || self.routing_suffixes.join(",")),
            ),
            (
                Setting::Scope,
                self.scope
                    .as_ref()
                    .filter(|scope| scope_of_host.as_ref() != Some(scope))
                    .map(Scope::to_string),
            ),
        ]
    }
}

fn unless<T: fmt::Display>(is_default: bool, value: impl FnOnce() -> T) -> Option<String> {
    (!is_default).then(|| value().to_string())
}

/// As the parser reads it: decimals only where there are any.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs())?;
        match self.0.subsec_nanos() {
            0 => Ok(()),
            nanos => write!(f, ".{nanos:09}"),
        }
    }
}
