//! Checks configurations, whether they were parsed or built.

use rustls::pki_types::ServerName;

use super::{
    Config, ConfigError,
    keywords::Setting,
    read::{Reader, Written},
};
use crate::tls::Trust;

impl Config {
    /// Checks each setting as the parser does, and combinations of settings.
    pub(in crate::azure_sql) fn check(&self) -> Result<(), ConfigError> {
        let mut reader = Reader::new();
        for (setting, value) in self.settings() {
            value.map_or(Ok(()), |value| reader.set(setting, setting.name(), &value))?;
        }
        self.check_together(&Written::default())
    }

    /// Checks the server and combinations of settings. Errors name the keywords as they are
    /// `written`.
    pub(super) fn check_together(&self, written: &Written) -> Result<(), ConfigError> {
        let is_host = |name: &str| ServerName::try_from(name).is_ok();
        if self.host.is_empty() {
            return Err(written.refuse(Setting::Server, "is missing: write tcp:HOST[,PORT]"));
        }
        let name = self.host_in_certificate.as_deref();
        let checks = [
            (Setting::Server, is_host(&self.host)),
            (Setting::Port, self.port > 0),
            (Setting::HostNameInCertificate, name.is_none_or(is_host)),
        ];
        if let Some((setting, _)) = checks.into_iter().find(|(_, is_right)| !is_right) {
            return Err(written.wrong(setting));
        }
        if let (Some(_), Trust::Certificate(_)) = (name, &self.trust) {
            // The pinned certificate is accepted regardless of its names.
            return Err(
                written.conflict(Setting::ServerCertificate, Setting::HostNameInCertificate)
            );
        }
        if self.max_size.is_some_and(|max| self.min_size > max) {
            return Err(written.refuse(Setting::MinPoolSize, "is more than Max Pool Size"));
        }
        self.token_scope().map(drop)
    }

    /// Returns the files of `TrustServerCertificateCA` and `ServerCertificate`. In a path, invalid
    /// Unicode is replaced.
    pub(super) fn trusted_files(&self) -> [Option<String>; 2] {
        match &self.trust {
            Trust::Roots(file) => [Some(file.to_string_lossy().into_owned()), None],
            Trust::Certificate(file) => [None, Some(file.to_string_lossy().into_owned())],
            _ => [None, None],
        }
    }
}
