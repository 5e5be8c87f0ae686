//! Where every configuration is checked, however it was said.

use std::{path::Path, time::Duration};

use rustls::pki_types::ServerName;

use super::{Authentication, Config, ConfigBuilder, ConfigError, keywords::Setting};
use crate::{Cloud, tls::Trust};

const DEFAULT_PORT: u16 = 1433;
pub(super) const APPLICATION_NAME: &str = "entra-pool";
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// That of SqlClient, whose sizes and seconds are 32-bit.
const LONGEST: Duration = Duration::from_secs(i32::MAX as u64);
const LARGEST_POOL: usize = 32_767;
/// Of names in LOGIN7 (MS-TDS 2.2.6.4), in UTF-16 units.
const LONGEST_NAME: usize = 128;

/// What a setting takes, as the end of a sentence that begins with its keyword.
pub(super) fn expected(setting: Setting) -> &'static str {
    match setting {
        Setting::Server => "must be tcp:HOST[,PORT], with a host name or an address",
        Setting::Port => "must be a number from 1 to 65535",
        Setting::Encrypt => "must be True (or Mandatory, or Strict): a token is only sent over TLS",
        Setting::TrustServerCertificate => {
            "must be False: a token is only sent to a server whose certificate is verified; to \
             trust a CA of your own, give its file with TrustServerCertificateCA (for a server on \
             this machine, Config::dangerous_parse lets it)"
        }
        Setting::HostNameInCertificate => "is no host name",
        Setting::ApplicationIntent => "must be ReadWrite or ReadOnly",
        Setting::PacketSize => "must be a number of bytes from 512 to 32767",
        Setting::MultiSubnetFailover => "must be True or False",
        Setting::ConnectTimeout => "must be a number of seconds, 1 or more",
        Setting::CommandTimeout | Setting::ConnectionLifetime => {
            "must be a number of seconds (0 for no limit)"
        }
        Setting::ConnectRetryCount => "must be a number from 0 to 255",
        Setting::ConnectRetryInterval => "must be a number of seconds from 1 to 60",
        Setting::MaxPoolSize => "must be a number from 1 to 32767",
        Setting::MinPoolSize => "must be a number from 0 to 32767",
        Setting::AllowRoutingTo => {
            "must be ends of host names, such as database.windows.net, with a comma between them"
        }
        // Any text will do for these, as far as it goes.
        Setting::Database
        | Setting::Authentication
        | Setting::UserId
        | Setting::Password
        | Setting::Tenant
        | Setting::CaFile
        | Setting::ServerCertificate
        | Setting::ApplicationName
        | Setting::WorkstationId
        | Setting::Scope => "must have a value",
    }
}

impl ConfigBuilder {
    /// Checks all of it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the keyword of what is wrong.
    pub fn build(self) -> Result<Config, ConfigError> {
        let host = self.checked_host()?;
        self.check_texts()?;
        self.check_numbers()?;
        let (client_id, tenant) = self.checked_identity()?;
        let trust = self.checked_trust()?;
        let routing_suffixes = self
            .routing_suffixes
            .iter()
            .map(|suffix| routing_suffix(suffix))
            .collect::<Result<_, _>>()?;
        let host_in_certificate = self.checked_name(&host)?;
        let scope = match &self.scope {
            Some(scope) => scope.clone(),
            None => Cloud::of_azure_sql_host(&host)
                .ok_or_else(|| ConfigError::UnknownHost { host: host.clone() })?
                .azure_sql_scope(),
        };
        Ok(Config {
            host,
            port: self.port.unwrap_or(DEFAULT_PORT),
            database: self.database,
            authentication: self.authentication,
            client_id,
            tenant,
            client_secret: self.client_secret,
            encrypt: self.encrypt.unwrap_or_default(),
            trust,
            host_in_certificate,
            application_name: self.application_name.unwrap_or_else(|| APPLICATION_NAME.to_owned()),
            workstation_id: self.workstation_id,
            read_only: self.read_only,
            packet_size: self.packet_size,
            multi_subnet_failover: self.multi_subnet_failover,
            connect_timeout: self.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            command_timeout: limit(self.command_timeout.unwrap_or(COMMAND_TIMEOUT)),
            retry_count: self.retry_count,
            retry_interval: self.retry_interval,
            max_pool_size: self.max_pool_size,
            min_pool_size: self.min_pool_size.unwrap_or(0),
            max_lifetime: limit(self.max_lifetime.unwrap_or(MAX_LIFETIME)),
            routing_suffixes,
            scope,
        })
    }

    fn checked_host(&self) -> Result<String, ConfigError> {
        match self.host.as_str() {
            "" => Err(ConfigError::NoServer),
            // SqlClient's names for this machine.
            "." | "(local)" => Ok("localhost".to_owned()),
            host if ServerName::try_from(host).is_ok() => Ok(host.to_owned()),
            _ => Err(self.wrong(Setting::Server)),
        }
    }

    /// The name that the certificate must bear, if it is not the host's. A wildcard
    /// (Azure's portal writes `*.database.windows.net`) stands for the host itself.
    fn checked_name(&self, host: &str) -> Result<Option<String>, ConfigError> {
        let Some(name) = &self.host_in_certificate else { return Ok(None) };
        let Some(domain) = name.strip_prefix("*.") else {
            return match ServerName::try_from(name.as_str()) {
                Ok(_) => Ok(Some(name.clone())),
                Err(_) => Err(self.wrong(Setting::HostNameInCertificate)),
            };
        };
        match host.split_once('.') {
            Some((_, rest)) if rest.eq_ignore_ascii_case(domain) => Ok(None),
            _ => Err(self.refuse(
                Setting::HostNameInCertificate,
                "is a wildcard that does not stand for the server's host: leave it out, or give \
                 the one name",
            )),
        }
    }

    fn check_texts(&self) -> Result<(), ConfigError> {
        for (setting, text, longest) in [
            (Setting::Database, &self.database, LONGEST_NAME),
            (Setting::ApplicationName, &self.application_name, LONGEST_NAME),
            (Setting::WorkstationId, &self.workstation_id, LONGEST_NAME),
            (Setting::UserId, &self.client_id, usize::MAX),
            (Setting::Tenant, &self.tenant, usize::MAX),
        ] {
            let Some(text) = text else { continue };
            if text.encode_utf16().count() > longest {
                return Err(self.refuse(setting, "is longer than 128 characters"));
            }
            self.check_text(setting, text)?;
        }
        if let Some(secret) = &self.client_secret {
            self.check_text(Setting::Password, secret.reveal())?;
        }
        for (setting, path) in [
            (Setting::CaFile, &self.ca_file),
            (Setting::ServerCertificate, &self.server_certificate),
        ] {
            self.check_text(setting, &path.as_deref().unwrap_or(Path::new("-")).to_string_lossy())?;
        }
        Ok(())
    }

    fn check_text(&self, setting: Setting, text: &str) -> Result<(), ConfigError> {
        match text {
            "" => Err(self.wrong(setting)),
            _ if text.contains('\0') => Err(self.refuse(setting, "has a NUL character")),
            _ => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        let checks = [
            (Setting::Port, self.port.is_none_or(|it| it > 0)),
            (Setting::PacketSize, self.packet_size.is_none_or(|it| (512..=32_767).contains(&it))),
            (
                Setting::ConnectTimeout,
                self.connect_timeout.is_none_or(|it| !it.is_zero() && it <= LONGEST),
            ),
            (Setting::CommandTimeout, self.command_timeout.is_none_or(|it| it <= LONGEST)),
            (Setting::ConnectionLifetime, self.max_lifetime.is_none_or(|it| it <= LONGEST)),
            (Setting::ConnectRetryCount, self.retry_count.is_none_or(|it| it <= 255)),
            (
                Setting::ConnectRetryInterval,
                self.retry_interval.is_none_or(|it| (second..=60 * second).contains(&it)),
            ),
            (
                Setting::MaxPoolSize,
                self.max_pool_size.is_none_or(|it| (1..=LARGEST_POOL).contains(&it)),
            ),
            (Setting::MinPoolSize, self.min_pool_size.is_none_or(|it| it <= LARGEST_POOL)),
        ];
        if let Some((setting, _)) = checks.into_iter().find(|(_, is_right)| !is_right) {
            return Err(self.wrong(setting));
        }
        match (self.min_pool_size, self.max_pool_size) {
            (Some(min), Some(max)) if min > max => {
                Err(self.refuse(Setting::MinPoolSize, "is more than Max Pool Size"))
            }
            _ => Ok(()),
        }
    }

    /// The client ID and the tenant, which may be said in one.
    fn checked_identity(&self) -> Result<(Option<String>, Option<String>), ConfigError> {
        let (client_id, tenant) = (self.client_id.clone(), self.tenant.clone());
        if self.authentication == Some(Authentication::ServicePrincipal) {
            // go-mssqldb's `CLIENT_ID@TENANT`.
            return match client_id.as_deref().and_then(|id| id.split_once('@')) {
                Some(_) if tenant.is_some() => {
                    Err(self.contradiction(Setting::UserId, Setting::Tenant))
                }
                Some((id, of)) if !id.is_empty() && !of.is_empty() => {
                    Ok((Some(id.to_owned()), Some(of.to_owned())))
                }
                Some(_) => {
                    Err(self.refuse(Setting::UserId, "must be CLIENT_ID or CLIENT_ID@TENANT"))
                }
                None => Ok((client_id, tenant)),
            };
        }
        if self.client_secret.is_some() {
            return Err(self.refuse(
                Setting::Password,
                "has no place here: a login is made with a token of the machine's identity; remove \
                 it (and User Id, unless it is the client ID of a managed identity), or, if it is \
                 an application's secret, add Authentication=Active Directory Service Principal",
            ));
        }
        if tenant.is_some() {
            return Err(self.refuse(
                Setting::Tenant,
                "is for Authentication=Active Directory Service Principal only",
            ));
        }
        if client_id.is_some() && self.authentication.is_some_and(|it| !it.takes_client_id()) {
            return Err(self.refuse(
                Setting::UserId,
                "would choose nothing: this Authentication says by itself who logs in",
            ));
        }
        Ok((client_id, None))
    }

    fn checked_trust(&self) -> Result<Trust, ConfigError> {
        if self.trust_server_certificate {
            return Err(self.wrong(Setting::TrustServerCertificate));
        }
        let pinned = self.server_certificate.is_some();
        if pinned && self.host_in_certificate.is_some() {
            // The pinned certificate is right whatever name it bears.
            return Err(
                self.contradiction(Setting::ServerCertificate, Setting::HostNameInCertificate)
            );
        }
        match (&self.any_certificate, &self.ca_file, &self.server_certificate) {
            (None, None, None) => Ok(Trust::Platform),
            (None, Some(path), None) => Ok(Trust::Roots(path.clone())),
            (None, None, Some(path)) => Ok(Trust::Certificate(path.clone())),
            (Some(any), None, None) => Ok(any.clone()),
            (_, Some(_), Some(_)) => {
                Err(self.contradiction(Setting::CaFile, Setting::ServerCertificate))
            }
            (Some(_), Some(_), None) => {
                Err(self.contradiction(Setting::TrustServerCertificate, Setting::CaFile))
            }
            (Some(_), None, Some(_)) => {
                Err(self.contradiction(Setting::TrustServerCertificate, Setting::ServerCertificate))
            }
        }
    }

    /// The keyword as it was written.
    fn keyword(&self, setting: Setting) -> String {
        let written = self.written.iter().find(|(of, _)| *of == setting);
        written.map_or_else(|| setting.name().to_owned(), |(_, keyword)| keyword.clone())
    }

    fn wrong(&self, setting: Setting) -> ConfigError {
        self.refuse(setting, expected(setting))
    }

    fn refuse(&self, setting: Setting, problem: &str) -> ConfigError {
        ConfigError::Value { keyword: self.keyword(setting), problem: problem.to_owned() }
    }

    fn contradiction(&self, first: Setting, second: Setting) -> ConfigError {
        ConfigError::Contradiction { first: self.keyword(first), second: self.keyword(second) }
    }
}

/// In strings, and so here, no time is no limit.
fn limit(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

/// The end of host names at a label's border, in lower case; one label alone
/// would let a token go to whoever has a name under `net`.
pub(super) fn routing_suffix(suffix: &str) -> Result<String, ConfigError> {
    let suffix = suffix.trim_matches('.').to_ascii_lowercase();
    let is_far_enough_down = match ServerName::try_from(suffix.as_str()) {
        Ok(ServerName::DnsName(name)) => name.as_ref().contains('.') || suffix == "localhost",
        Ok(_) => true,
        Err(_) => false,
    };
    if is_far_enough_down {
        return Ok(suffix);
    }
    Err(ConfigError::Value {
        keyword: Setting::AllowRoutingTo.name().to_owned(),
        problem: expected(Setting::AllowRoutingTo).to_owned(),
    })
}
