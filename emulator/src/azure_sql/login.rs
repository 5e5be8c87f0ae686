//! LOGIN7 (MS-TDS 2.2.6.4) and its answer.

use std::{fmt, time::SystemTime};

use super::{
    AzureSqlOptions,
    bytes::{Malformed, Reader},
    error::ServerError,
    packets::DEFAULT_PACKET_SIZE,
};
use crate::jwt::{Principal, Refusal};

/// What of a client's LOGIN7 matters here.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) tds_version: u32,
    pub(crate) packet_size: usize,
    pub(crate) host: String,
    pub(crate) application: String,
    /// As the client calls the server.
    pub(crate) server: String,
    pub(crate) database: String,
    /// The FEDAUTH extension's token, if there was one.
    pub(crate) token: Option<String>,
}

/// Without the token.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("host", &self.host)
            .field("application", &self.application)
            .field("database", &self.database)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}

const EXTENSION_USED: u8 = 0x10;
const FEATURE_FED_AUTH: u8 = 0x02;
const FEATURE_END: u8 = 0xff;
/// bFedAuthLibrary (MS-TDS 2.2.6.4, FEDAUTH).
const LIBRARY_SECURITY_TOKEN: u8 = 0x01;

pub(crate) const TDS_7_4: u32 = 0x7400_0004;
pub(crate) const TDS_8_0: u32 = 0x0800_0000;

impl Login {
    /// `fed_auth`: whether PRELOGIN had FEDAUTHREQUIRED, which the extension
    /// must echo.
    pub(crate) fn parse(payload: &[u8], fed_auth: bool) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload, "LOGIN7");
        if reader.u32()? as usize != payload.len() {
            return reader.malformed();
        }
        let tds_version = reader.u32()?;
        let packet_size = reader.u32()?;
        // ClientProgVer, ClientPID, ConnectionID, then three bytes of options.
        reader.take(12 + 3)?;
        let options_3 = reader.u8()?;
        // ClientTimeZone, ClientLCID.
        reader.take(8)?;
        let mut field = || {
            let (start, units) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
            let Some(bytes) = payload.get(start..start + units * 2) else {
                return reader.malformed();
            };
            Reader::new(bytes, "LOGIN7").utf16(bytes.len())
        };
        let (host, _user, _password, application, server) =
            (field()?, field()?, field()?, field()?, field()?);
        let (extension_start, extension_length) =
            (usize::from(reader.u16()?), usize::from(reader.u16()?));
        let mut field = || {
            let (start, units) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
            let Some(bytes) = payload.get(start..start + units * 2) else {
                return reader.malformed();
            };
            Reader::new(bytes, "LOGIN7").utf16(bytes.len())
        };
        let (_library, _language, database) = (field()?, field()?, field()?);
        // ClientID, SSPI, AtchDBFile, ChangePassword, cbSSPILong.
        reader.take(6 + 4 + 4 + 4 + 4)?;
        let token = match options_3 & EXTENSION_USED {
            0 => None,
            _ => {
                let pointer = payload.get(extension_start..extension_start + extension_length);
                let mut pointer = Reader::new(pointer.unwrap_or_default(), "LOGIN7 extension");
                let start = pointer.u32()? as usize;
                let Some(features) = payload.get(start..) else { return reader.malformed() };
                read_features(features, fed_auth)?
            }
        };
        let packet_size = match packet_size as usize {
            0 => DEFAULT_PACKET_SIZE,
            size => size.clamp(512, 32767),
        };
        Ok(Self { tds_version, packet_size, host, application, server, database, token })
    }
}

fn read_features(features: &[u8], fed_auth: bool) -> Result<Option<String>, Malformed> {
    let mut reader = Reader::new(features, "LOGIN7 feature");
    let mut token = None;
    loop {
        let feature = reader.u8()?;
        if feature == FEATURE_END {
            return Ok(token);
        }
        let length = reader.u32()? as usize;
        let mut data = Reader::new(reader.take(length)?, "FEDAUTH feature");
        if feature != FEATURE_FED_AUTH {
            continue;
        }
        let options = data.u8()?;
        if options >> 1 != LIBRARY_SECURITY_TOKEN || (options & 1 != 0) != fed_auth {
            return data.malformed();
        }
        let length = data.u32()? as usize;
        token = Some(data.utf16(length)?);
        // A nonce may follow; none was asked for.
        if !matches!(data.rest().len(), 0 | 32) {
            return data.malformed();
        }
    }
}

/// Who logs in, if they may, and until when their token holds.
pub(crate) fn admit(
    login: &Login,
    options: &AzureSqlOptions,
    now: SystemTime,
) -> Result<(Principal, SystemTime), ServerError> {
    let refused = |why: &str| {
        let text = format!("Login failed for user '<token-identified principal>'.{why}");
        Err(ServerError::new(18456, 14, text))
    };
    let Some(token) = &login.token else {
        return Err(ServerError::new(
            18456,
            14,
            "Login failed for user ''. Reason: the server takes Microsoft Entra tokens only.",
        ));
    };
    let verified = match options.issuer.verify_at(token, &options.audience, now) {
        Ok(verified) => verified,
        Err(Refusal::Expired) => return refused(" Token is expired."),
        Err(refusal) => {
            tracing::debug!(%refusal, "a token is refused");
            return refused("");
        }
    };
    let Some(principal) = options.directory.by_token(&verified) else { return refused("") };
    if database_name(login, &options.databases).is_none() {
        let text = format!(
            "Cannot open database \"{}\" requested by the login. The login failed.",
            login.database
        );
        return Err(ServerError::new(4060, 11, text));
    }
    Ok((principal, verified.expires_on))
}

/// The database asked for, as it is spelled here; without one, `master`.
pub(crate) fn database_name(login: &Login, databases: &[String]) -> Option<String> {
    let asked = if login.database.is_empty() { "master" } else { &login.database };
    databases.iter().find(|name| name.eq_ignore_ascii_case(asked)).cloned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::azure_sql::bytes::utf16;

    /// A LOGIN7 for `database` with this token.
    pub(crate) fn login7(database: &str, token: Option<&str>, fed_auth: bool) -> Vec<u8> {
        let mut data = Vec::new();
        let mut offsets = Vec::new();
        let start = 94;
        let field = |text: &str, data: &mut Vec<u8>, offsets: &mut Vec<u8>| {
            offsets.extend(((start + data.len()) as u16).to_le_bytes());
            offsets.extend((text.encode_utf16().count() as u16).to_le_bytes());
            data.extend(utf16(text));
        };
        for text in ["host", "", "", "test", "server"] {
            field(text, &mut data, &mut offsets);
        }
        offsets.extend(((start + data.len()) as u16).to_le_bytes());
        offsets.extend(4_u16.to_le_bytes());
        let pointer = data.len();
        data.extend([0; 4]);
        for text in ["", "", database] {
            field(text, &mut data, &mut offsets);
        }
        offsets.extend([0; 6 + 4 + 4 + 4 + 4]);
        let features = (start + data.len()) as u32;
        data[pointer..pointer + 4].copy_from_slice(&features.to_le_bytes());
        if let Some(token) = token {
            let token = utf16(token);
            data.push(FEATURE_FED_AUTH);
            data.extend((token.len() as u32 + 5).to_le_bytes());
            data.push(LIBRARY_SECURITY_TOKEN << 1 | u8::from(fed_auth));
            data.extend((token.len() as u32).to_le_bytes());
            data.extend(token);
        }
        data.push(FEATURE_END);
        let mut login = Vec::new();
        login.extend(((start + data.len()) as u32).to_le_bytes());
        login.extend(TDS_7_4.to_le_bytes());
        login.extend(8000_u32.to_le_bytes());
        login.extend([0; 12 + 3]);
        login.push(EXTENSION_USED);
        login.extend([0; 8]);
        login.extend(offsets);
        assert_eq!(login.len(), start);
        login.extend(data);
        login
    }

    #[test]
    fn the_token_and_the_names_are_found() {
        let token = "t".repeat(30_000);
        let login = Login::parse(&login7("orders", Some(&token), true), true).unwrap();
        assert_eq!(login.token.as_deref(), Some(token.as_str()));
        assert_eq!((login.database.as_str(), login.application.as_str()), ("orders", "test"));
        assert_eq!((login.host.as_str(), login.server.as_str()), ("host", "server"));
        assert_eq!((login.tds_version, login.packet_size), (TDS_7_4, 8000));
        assert!(!format!("{login:?}").contains("ttt"));
    }

    #[test]
    fn no_cut_or_changed_login_is_more_than_malformed() {
        let whole = login7("orders", Some("token"), true);
        for end in 0..whole.len() {
            assert!(Login::parse(&whole[..end], true).is_err(), "the first {end} bytes");
        }
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] = 0xff;
            // It may be understood otherwise, or not at all; it must not panic.
            drop(Login::parse(&changed, true));
        }
        assert!(Login::parse(&whole, false).is_err(), "the echo of FEDAUTHREQUIRED is wrong");
    }
}
