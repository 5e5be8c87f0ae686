//! Where every configuration is checked, however it was made.

use std::{borrow::Cow, time::Duration};

use rustls::pki_types::ServerName;

use super::{Config, ConfigError, keywords::Setting, read::Written};
use crate::tls::Trust;

/// That of SqlClient, whose sizes and seconds are 32-bit.
const LONGEST: Duration = Duration::from_secs(i32::MAX as u64);
const LARGEST_POOL: usize = 32_767;
/// Of names in LOGIN7 (MS-TDS 2.2.6.4), in UTF-16 units.
const LONGEST_NAME: usize = 128;

impl Config {
    /// Checks each setting, and those that limit each other. Errors have the keywords as they
    /// are `written`.
    pub(in crate::azure_sql) fn check(&self, written: &Written) -> Result<(), ConfigError> {
        if self.host.is_empty() {
            return Err(written.refuse(Setting::Server, "is missing: write tcp:HOST[,PORT]"));
        }
        self.check_texts(written)?;
        self.check_values(written)?;
        if let (Some(_), Trust::Certificate(_)) = (&self.host_in_certificate, &self.trust) {
            // The pinned certificate is right whatever name it bears.
            return Err(
                written.conflict(Setting::ServerCertificate, Setting::HostNameInCertificate)
            );
        }
        if self.max_size.is_some_and(|max| self.min_size > max) {
            return Err(written.refuse(Setting::MinPoolSize, "is more than Max Pool Size"));
        }
        self.token_scope().map(drop)
    }

    fn check_texts(&self, written: &Written) -> Result<(), ConfigError> {
        let (ca_file, certificate) = self.trusted_files();
        for (setting, text, longest) in [
            (Setting::Database, self.database.as_deref(), LONGEST_NAME),
            (Setting::ApplicationName, Some(self.application_name.as_str()), LONGEST_NAME),
            (Setting::WorkstationId, self.workstation_id.as_deref(), LONGEST_NAME),
            (Setting::CaFile, ca_file.as_deref(), usize::MAX),
            (Setting::ServerCertificate, certificate.as_deref(), usize::MAX),
        ] {
            let Some(text) = text else { continue };
            if text.is_empty() {
                return Err(written.wrong(setting));
            }
            if text.contains('\0') {
                return Err(written.refuse(setting, "has a NUL character"));
            }
            if text.encode_utf16().count() > longest {
                return Err(written.refuse(setting, "is longer than 128 characters"));
            }
        }
        Ok(())
    }

    /// The files of `TrustServerCertificateCA` and of `ServerCertificate`. Parts of a path that
    /// are not Unicode are replaced.
    pub(super) fn trusted_files(&self) -> (Option<Cow<'_, str>>, Option<Cow<'_, str>>) {
        match &self.trust {
            Trust::Roots(file) => (Some(file.to_string_lossy()), None),
            Trust::Certificate(file) => (None, Some(file.to_string_lossy())),
            Trust::Platform | Trust::AnyOnLoopback | Trust::AnyAnywhere | Trust::Own(_) => {
                (None, None)
            }
        }
    }

    fn check_values(&self, written: &Written) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        let is_host = |name: &str| ServerName::try_from(name).is_ok();
        let suffixes = &self.routing_suffixes;
        let checks = [
            (Setting::Server, is_host(&self.host)),
            (Setting::Port, self.port > 0),
            (Setting::PacketSize, self.packet_size.is_none_or(|it| (512..=32_767).contains(&it))),
            (
                Setting::ConnectTimeout,
                !self.connect_timeout.is_zero() && self.connect_timeout <= LONGEST,
            ),
            (Setting::CommandTimeout, self.command_timeout.is_none_or(|it| it <= LONGEST)),
            (Setting::ConnectionLifetime, self.max_lifetime.is_none_or(|it| it <= LONGEST)),
            (Setting::ConnectRetryCount, self.retry_count.is_none_or(|it| it <= 255)),
            (
                Setting::ConnectRetryInterval,
                self.retry_interval.is_none_or(|it| (second..=60 * second).contains(&it)),
            ),
            (Setting::MaxPoolSize, self.max_size.is_none_or(|it| (1..=LARGEST_POOL).contains(&it))),
            (Setting::MinPoolSize, self.min_size <= LARGEST_POOL),
            (
                Setting::HostNameInCertificate,
                self.host_in_certificate.as_deref().is_none_or(is_host),
            ),
            (Setting::AllowRoutingTo, suffixes.iter().all(|suffix| is_routing_suffix(suffix))),
        ];
        match checks.into_iter().find(|(_, is_right)| !is_right) {
            Some((setting, _)) => Err(written.wrong(setting)),
            None => Ok(()),
        }
    }
}

/// Whether this is the end of host names at a label's border, in lower case. One label alone
/// would let a token go to whoever has a name under `net`.
fn is_routing_suffix(suffix: &str) -> bool {
    match ServerName::try_from(suffix) {
        Ok(ServerName::DnsName(name)) => name.as_ref().contains('.') || suffix == "localhost",
        Ok(_) => true,
        Err(_) => false,
    }
}
