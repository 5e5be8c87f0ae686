//! LOGIN7 (MS-TDS 2.2.6.4), and the token that follows it in the MSAL workflow (2.2.6.3).

use std::fmt;

use super::{
    bytes::{Malformed, Reader, utf16},
    packets::DEFAULT_PACKET_SIZE,
};

/// A client's LOGIN7, with everything that can be sent on.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) tds_version: u32,
    asked_packet_size: u32,
    /// ClientProgVer, ClientPID, ConnectionID.
    client: [u8; 12],
    /// OptionFlags1, OptionFlags2, TypeFlags, OptionFlags3.
    flags: [u8; 4],
    /// ClientTimeZone, ClientLCID.
    locale: [u8; 8],
    pub(crate) host: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) application: String,
    /// The server's name as the client spells it.
    pub(crate) server: String,
    library: String,
    language: String,
    pub(crate) database: String,
    client_id: [u8; 6],
    attached_file: String,
    /// Without FEDAUTH.
    features: Vec<(u8, Vec<u8>)>,
    pub(crate) fed_auth: FedAuth,
}

/// How a login brings its token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum FedAuth {
    /// It brings none.
    None,
    /// In LOGIN7: library SecurityToken.
    Token(String),
    /// After FEDAUTHINFO: library MSAL (ADAL in MS-TDS).
    Workflow,
}

/// Without the token and the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("host", &self.host)
            .field("application", &self.application)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// fIntSecurity in OptionFlags2.
const INTEGRATED_SECURITY: u8 = 0x80;
/// fChangePassword in OptionFlags3.
const CHANGE_PASSWORD: u8 = 0x01;
/// fExtension in OptionFlags3.
const EXTENSION_USED: u8 = 0x10;
pub(crate) const FEATURE_FED_AUTH: u8 = 0x02;
pub(crate) const FEATURE_END: u8 = 0xff;
/// bFedAuthLibrary.
const LIBRARY_SECURITY_TOKEN: u8 = 0x01;
const LIBRARY_MSAL: u8 = 0x02;

pub(crate) const TDS_7_4: u32 = 0x7400_0004;
pub(crate) const TDS_8_0: u32 = 0x0800_0000;

/// Where LOGIN7's variable part begins.
const FIXED: usize = 94;

impl Login {
    /// `fed_auth`: whether PRELOGIN had FEDAUTHREQUIRED, which the extension
    /// must echo.
    pub(crate) fn parse(payload: &[u8], fed_auth: bool) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload, "LOGIN7");
        if reader.u32()? as usize != payload.len() {
            return reader.malformed();
        }
        let (tds_version, asked_packet_size) = (reader.u32()?, reader.u32()?);
        let (client, flags, locale) = (reader.array()?, reader.array::<4>()?, reader.array()?);
        let bytes = |reader: &mut Reader<'_>, unit: usize| {
            let (start, units) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
            payload.get(start..start + units * unit).map_or_else(|| reader.malformed(), Ok)
        };
        let text = |reader: &mut Reader<'_>| {
            let bytes = bytes(reader, 2)?;
            Reader::new(bytes, "LOGIN7").utf16(bytes.len())
        };
        let (host, user) = (text(&mut reader)?, text(&mut reader)?);
        let password: Vec<u8> = bytes(&mut reader, 2)?.iter().copied().map(clear).collect();
        let password = Reader::new(&password, "password").utf16(password.len())?;
        let (application, server) = (text(&mut reader)?, text(&mut reader)?);
        let extension = bytes(&mut reader, 1)?;
        let (library, language, database) =
            (text(&mut reader)?, text(&mut reader)?, text(&mut reader)?);
        let client_id = reader.array()?;
        // SSPI.
        reader.u32()?;
        let attached_file = text(&mut reader)?;
        // ChangePassword, cbSSPILong.
        reader.u64()?;
        let (mut features, mut token) = (Vec::new(), FedAuth::None);
        if flags[3] & EXTENSION_USED != 0 {
            let start = Reader::new(extension, "LOGIN7 extension").u32()? as usize;
            let Some(list) = payload.get(start..) else { return reader.malformed() };
            let mut list = Reader::new(list, "LOGIN7 feature");
            loop {
                let (feature, data) = match list.u8()? {
                    FEATURE_END => break,
                    feature => {
                        let length = list.u32()? as usize;
                        (feature, list.take(length)?)
                    }
                };
                match feature {
                    FEATURE_FED_AUTH => token = read_fed_auth(data, fed_auth)?,
                    _ => features.push((feature, data.to_vec())),
                }
            }
        }
        Ok(Self {
            tds_version,
            asked_packet_size,
            client,
            flags,
            locale,
            host,
            user,
            password,
            application,
            server,
            library,
            language,
            database,
            client_id,
            attached_file,
            features,
            fed_auth: token,
        })
    }

    /// The size of the packets that follow the login.
    pub(crate) fn packet_size(&self) -> usize {
        match self.asked_packet_size as usize {
            0 => DEFAULT_PACKET_SIZE,
            size => size.clamp(512, 32767),
        }
    }

    /// The same login with this user name and password instead of a token.
    pub(crate) fn as_user(&self, user: &str, password: &str) -> Self {
        let [first, second, kind, third] = self.flags;
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            flags: [first, second & !INTEGRATED_SECURITY, kind, third & !CHANGE_PASSWORD],
            fed_auth: FedAuth::None,
            ..self.clone()
        }
    }

    /// LOGIN7's bytes, without FEDAUTH.
    pub(crate) fn write(&self) -> Result<Vec<u8>, Malformed> {
        const EXTENSION: usize = 5;
        const CLIENT_ID: usize = 9;
        let password = utf16(&self.password).into_iter().map(obfuscated).collect();
        let fields: [Vec<u8>; 12] = [
            utf16(&self.host),
            utf16(&self.user),
            password,
            utf16(&self.application),
            utf16(&self.server),
            // Where the features are, once that is known.
            vec![0; 4],
            utf16(&self.library),
            utf16(&self.language),
            utf16(&self.database),
            // SSPI.
            Vec::new(),
            utf16(&self.attached_file),
            // ChangePassword.
            Vec::new(),
        ];
        let (mut offsets, mut data, mut pointer) = (Vec::new(), Vec::new(), 0);
        for (index, field) in fields.iter().enumerate() {
            if index == CLIENT_ID {
                offsets.extend(self.client_id);
            }
            let mut units = field.len() / 2;
            if index == EXTENSION {
                (units, pointer) = (field.len(), data.len());
            }
            for number in [FIXED + data.len(), units] {
                let number = u16::try_from(number).map_err(|_| Malformed("LOGIN7: too long"))?;
                offsets.extend(number.to_le_bytes());
            }
            data.extend(field);
        }
        // cbSSPILong.
        offsets.extend([0; 4]);
        let features = (FIXED + data.len()) as u32;
        data[pointer..pointer + 4].copy_from_slice(&features.to_le_bytes());
        for (feature, value) in &self.features {
            data.push(*feature);
            data.extend((value.len() as u32).to_le_bytes());
            data.extend(value);
        }
        data.push(FEATURE_END);
        let [first, second, kind, third] = self.flags;
        let mut login = ((FIXED + data.len()) as u32).to_le_bytes().to_vec();
        login.extend(self.tds_version.to_le_bytes());
        login.extend(self.asked_packet_size.to_le_bytes());
        login.extend(self.client);
        login.extend([first, second, kind, third | EXTENSION_USED]);
        login.extend(self.locale);
        login.extend(offsets);
        login.extend(data);
        Ok(login)
    }
}

/// A byte of a password as LOGIN7 has it (MS-TDS 2.2.6.4).
fn obfuscated(byte: u8) -> u8 {
    byte.rotate_left(4) ^ 0xa5
}

fn clear(byte: u8) -> u8 {
    (byte ^ 0xa5).rotate_left(4)
}

fn read_fed_auth(data: &[u8], echo: bool) -> Result<FedAuth, Malformed> {
    let mut data = Reader::new(data, "FEDAUTH feature");
    let options = data.u8()?;
    if (options & 1 != 0) != echo {
        return data.malformed();
    }
    match options >> 1 {
        LIBRARY_SECURITY_TOKEN => {
            let length = data.u32()? as usize;
            let token = data.utf16(length)?;
            // A nonce may follow, although the server asks for none.
            if !matches!(data.rest().len(), 0 | NONCE) {
                return data.malformed();
            }
            Ok(FedAuth::Token(token))
        }
        // Workflows: 1 for passwords and service principals, 2 for integrated security, 3 for
        // everything else. All of them continue in the same way.
        LIBRARY_MSAL if matches!(data.rest(), [1..=3]) => Ok(FedAuth::Workflow),
        _ => data.malformed(),
    }
}

const NONCE: usize = 32;

/// The token of a message of type 8, which answers FEDAUTHINFO.
///
/// Some drivers end it with a UTF-16 NUL, which is not part of the token.
pub(crate) fn read_token(payload: &[u8]) -> Result<String, Malformed> {
    let mut reader = Reader::new(payload, "federated authentication token");
    if reader.u32()? as usize != reader.rest().len() {
        return reader.malformed();
    }
    let length = reader.u32()? as usize;
    let token = reader.utf16(length)?;
    if !matches!(reader.rest().len(), 0 | NONCE) {
        return reader.malformed();
    }
    Ok(token.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Login {
        /// Without a token.
        pub(crate) fn test() -> Self {
            login(&[])
        }
    }

    fn login(features: &[(u8, Vec<u8>)]) -> Login {
        Login {
            tds_version: TDS_7_4,
            asked_packet_size: 8000,
            client: [1; 12],
            flags: [0xe0, 0x83, 0, 0x01],
            locale: [2; 8],
            host: "host".into(),
            user: "user".into(),
            password: "pässword".into(),
            application: "test".into(),
            server: "server".into(),
            library: "library".into(),
            language: "us_english".into(),
            database: "orders".into(),
            client_id: [3; 6],
            attached_file: "file".into(),
            features: features.to_vec(),
            fed_auth: FedAuth::None,
        }
    }

    fn with_token(token: &str) -> Vec<u8> {
        let token = utf16(token);
        let data = [&[0x03][..], &(token.len() as u32).to_le_bytes(), &token].concat();
        login(&[(4, vec![1]), (FEATURE_FED_AUTH, data), (10, vec![1])]).write().unwrap()
    }

    #[test]
    fn the_token_and_the_names_are_found() {
        let token = "t".repeat(30_000);
        let login = Login::parse(&with_token(&token), true).unwrap();
        assert!(login.fed_auth == FedAuth::Token(token));
        assert_eq!((login.database.as_str(), login.application.as_str()), ("orders", "test"));
        assert_eq!((login.host.as_str(), login.server.as_str()), ("host", "server"));
        assert_eq!((login.user.as_str(), login.password.as_str()), ("user", "pässword"));
        assert_eq!((login.tds_version, login.packet_size()), (TDS_7_4, 8000));
        let text = format!("{login:?}");
        assert!(!text.contains("ttt") && !text.contains("pässword"), "{text}");
    }

    #[test]
    fn a_login_with_a_token_becomes_one_with_a_password_and_keeps_the_rest() {
        let before = Login::parse(&with_token("token"), true).unwrap();
        let after = before.as_user("sa", "secret").write().unwrap();
        assert!(!after.windows(10).any(|bytes| bytes == utf16("token")), "the token is gone");
        assert!(!after.windows(12).any(|bytes| bytes == utf16("secret")), "it is obfuscated");
        let after = Login::parse(&after, false).unwrap();
        assert_eq!((after.user.as_str(), after.password.as_str()), ("sa", "secret"));
        assert!(after.fed_auth == FedAuth::None);
        // Integrated security and a change of the password are not asked for any more.
        assert_eq!(after.flags, [0xe0, 0x03, 0, EXTENSION_USED]);
        assert_eq!(after.features, [(4, vec![1]), (10, vec![1])]);
        let (user, password) = (before.user.clone(), before.password.clone());
        let fed_auth = before.fed_auth.clone();
        assert!(Login { user, password, fed_auth, flags: before.flags, ..after } == before);
    }

    #[test]
    fn the_workflows_of_the_drivers_are_understood() {
        // msodbcsql, tedious and mssql-tds.
        for workflow in 1..=3 {
            let bytes = login(&[(FEATURE_FED_AUTH, vec![0x05, workflow])]).write().unwrap();
            assert!(Login::parse(&bytes, true).unwrap().fed_auth == FedAuth::Workflow);
        }
        for data in [vec![0x05], vec![0x05, 0], vec![0x05, 4], vec![0x05, 1, 1], vec![0x07, 1]] {
            let bytes = login(&[(FEATURE_FED_AUTH, data.clone())]).write().unwrap();
            assert!(Login::parse(&bytes, true).is_err(), "{data:?}");
        }
    }

    #[test]
    fn the_token_of_a_workflow_is_read_with_and_without_its_nul() {
        let message = |token: &str, nonce: &[u8]| {
            let token = utf16(token);
            let mut bytes = ((token.len() + nonce.len() + 4) as u32).to_le_bytes().to_vec();
            bytes.extend((token.len() as u32).to_le_bytes());
            bytes.extend(token);
            bytes.extend(nonce);
            bytes
        };
        for bytes in [message("token", &[]), message("token\0", &[]), message("token", &[7; 32])] {
            assert_eq!(read_token(&bytes).as_deref(), Ok("token"));
            for end in 0..bytes.len() {
                assert!(read_token(&bytes[..end]).is_err(), "the first {end} bytes");
            }
        }
        assert!(read_token(&message("token", &[7; 31])).is_err());
        assert!(read_token(&[0xff; 64]).is_err());
    }

    #[test]
    fn no_cut_or_changed_login_is_more_than_malformed() {
        let whole = with_token("token");
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
