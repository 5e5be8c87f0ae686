//! LOGIN7 (MS-TDS 2.2.6.4), and the token that follows it in the MSAL workflow (2.2.6.3).

use super::{
    bytes::{Malformed, Reader, utf16},
    packets::DEFAULT_PACKET_SIZE,
};

/// A client's LOGIN7, with everything that a front sends on.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) tds_version: u32,
    packet_size: u32,
    /// From ClientProgVer to ClientLCID; the option flags among them.
    fixed: [u8; 24],
    /// In the order of [`field`].
    texts: [String; field::COUNT],
    client_id: [u8; 6],
    /// Without FEDAUTH.
    features: Vec<(u8, Vec<u8>)>,
    pub(crate) fed_auth: FedAuth,
}

/// The indexes of LOGIN7's variable fields (MS-TDS 2.2.6.4).
pub(crate) mod field {
    pub(crate) const HOST: usize = 0;
    pub(crate) const USER: usize = 1;
    pub(crate) const PASSWORD: usize = 2;
    pub(crate) const APPLICATION: usize = 3;
    pub(crate) const SERVER: usize = 4;
    pub(super) const EXTENSION: usize = 5;
    pub(crate) const DATABASE: usize = 8;
    pub(super) const SSPI: usize = 9;
    pub(super) const NEW_PASSWORD: usize = 11;
    pub(super) const COUNT: usize = 12;
}
use field::{EXTENSION, NEW_PASSWORD, PASSWORD, SSPI};

/// How a client sends its token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum FedAuth {
    /// It sends no token.
    None,
    /// In LOGIN7: library SecurityToken.
    Token(String),
    /// After FEDAUTHINFO: library MSAL (ADAL in MS-TDS).
    Workflow,
}

/// The positions of OptionFlags2 and OptionFlags3 in [`Login::fixed`].
const FLAGS_2: usize = 13;
const FLAGS_3: usize = 15;
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
    /// `fed_auth`: whether the answer to PRELOGIN requires FEDAUTH, which the extension must
    /// echo.
    pub(crate) fn parse(payload: &[u8], fed_auth: bool) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload, "LOGIN7");
        if reader.u32()? as usize != payload.len() {
            return reader.malformed();
        }
        let mut login = Self {
            tds_version: reader.u32()?,
            packet_size: reader.u32()?,
            fixed: reader.array()?,
            texts: Default::default(),
            client_id: [0; 6],
            features: Vec::new(),
            fed_auth: FedAuth::None,
        };
        let mut extension: &[u8] = &[];
        for index in 0..field::COUNT {
            if index == SSPI {
                login.client_id = reader.array()?;
            }
            let (start, units) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
            if matches!(index, SSPI | NEW_PASSWORD) {
                continue;
            }
            let length = if index == EXTENSION { units } else { units * 2 };
            let Some(bytes) = payload.get(start..start + length) else {
                return reader.malformed();
            };
            if index == EXTENSION {
                extension = bytes;
                continue;
            }
            let hidden = index == PASSWORD;
            let bytes: Vec<u8> =
                bytes.iter().map(|byte| if hidden { clear(*byte) } else { *byte }).collect();
            login.texts[index] = Reader::new(&bytes, "LOGIN7").utf16(length)?;
        }
        if login.fixed[FLAGS_3] & EXTENSION_USED != 0 {
            let start = Reader::new(extension, "LOGIN7 extension").u32()? as usize;
            let list = payload.get(start..).unwrap_or_default();
            let mut list = Reader::new(list, "LOGIN7 feature");
            loop {
                let feature = list.u8()?;
                if feature == FEATURE_END {
                    break;
                }
                let length = list.u32()? as usize;
                let data = list.take(length)?;
                match feature {
                    FEATURE_FED_AUTH => login.fed_auth = read_fed_auth(data, fed_auth)?,
                    _ => login.features.push((feature, data.to_vec())),
                }
            }
        }
        Ok(login)
    }

    /// The text of a [`field`].
    pub(crate) fn text(&self, field: usize) -> &str {
        &self.texts[field]
    }

    pub(crate) fn set_text(&mut self, field: usize, text: &str) {
        text.clone_into(&mut self.texts[field]);
    }

    /// The size of the packets that follow the login.
    pub(crate) fn packet_size(&self) -> usize {
        match self.packet_size as usize {
            0 => DEFAULT_PACKET_SIZE,
            size => size.clamp(512, 32767),
        }
    }

    /// The same login with this user name and password instead of a token.
    pub(crate) fn as_user(&self, user: &str, password: &str) -> Self {
        let mut login = self.clone();
        login.set_text(field::USER, user);
        login.set_text(PASSWORD, password);
        login.fixed[FLAGS_2] &= !INTEGRATED_SECURITY;
        login.fixed[FLAGS_3] &= !CHANGE_PASSWORD;
        login.fed_auth = FedAuth::None;
        login
    }

    /// LOGIN7's bytes, without FEDAUTH.
    pub(crate) fn write(&self) -> Result<Vec<u8>, Malformed> {
        let (mut offsets, mut data, mut pointer) = (Vec::new(), Vec::new(), 0);
        for (index, text) in self.texts.iter().enumerate() {
            if index == SSPI {
                offsets.extend(self.client_id);
            }
            let mut bytes = utf16(text);
            let mut units = bytes.len() / 2;
            if index == PASSWORD {
                bytes.iter_mut().for_each(|byte| *byte = obfuscated(*byte));
            }
            if index == EXTENSION {
                // The position of the features, which is written below.
                (bytes, units, pointer) = (vec![0; 4], 4, data.len());
            }
            for number in [FIXED + data.len(), units] {
                let number = u16::try_from(number).map_err(|_| Malformed("LOGIN7: too long"))?;
                offsets.extend(number.to_le_bytes());
            }
            data.extend(bytes);
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
        let mut fixed = self.fixed;
        fixed[FLAGS_3] |= EXTENSION_USED;
        let numbers = [(FIXED + data.len()) as u32, self.tds_version, self.packet_size];
        let numbers = numbers.map(u32::to_le_bytes).concat();
        Ok([numbers, fixed.to_vec(), offsets, data].concat())
    }
}

/// Obfuscates a byte of a password for LOGIN7 (MS-TDS 2.2.6.4).
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
            // Some clients send a nonce, although the server does not ask for one.
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
        let texts = [
            "host",
            "user",
            "pässword",
            "test",
            "server",
            "",
            "library",
            "us_english",
            "orders",
            "",
            "file",
            "",
        ];
        let mut fixed = [1; 24];
        fixed[12..16].copy_from_slice(&[0xe0, 0x83, 0, 0x01]);
        Login {
            tds_version: TDS_7_4,
            packet_size: 8000,
            fixed,
            texts: texts.map(str::to_owned),
            client_id: [3; 6],
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
        let texts = [field::HOST, field::USER, PASSWORD, field::SERVER, field::DATABASE];
        let texts = texts.map(|field| login.text(field));
        assert_eq!(texts, ["host", "user", "pässword", "server", "orders"]);
        assert_eq!((login.tds_version, login.packet_size()), (TDS_7_4, 8000));
    }

    #[test]
    fn a_login_with_a_token_becomes_one_with_a_password_and_keeps_the_rest() {
        let before = Login::parse(&with_token("token"), true).unwrap();
        let after = before.as_user("sa", "secret").write().unwrap();
        assert!(!after.windows(10).any(|bytes| bytes == utf16("token")), "no token remains");
        assert!(!after.windows(12).any(|bytes| bytes == utf16("secret")), "obfuscated password");
        let after = Login::parse(&after, false).unwrap();
        assert_eq!((after.text(field::USER), after.text(PASSWORD)), ("sa", "secret"));
        assert!(after.fed_auth == FedAuth::None);
        // Integrated security and a change of the password are no longer requested.
        assert_eq!(after.fixed[12..16], [0xe0, 0x03, 0, EXTENSION_USED]);
        assert_eq!(after.features, [(4, vec![1]), (10, vec![1])]);
        let mut again = after.as_user("user", "pässword");
        (again.fixed, again.fed_auth) = (before.fixed, before.fed_auth.clone());
        assert!(again == before);
    }

    #[test]
    fn the_workflows_of_the_drivers_are_accepted() {
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
    fn a_truncated_login_is_malformed_and_a_corrupted_login_does_not_panic() {
        let whole = with_token("token");
        for end in 0..whole.len() {
            assert!(Login::parse(&whole[..end], true).is_err(), "the first {end} bytes");
        }
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] = 0xff;
            // It may be accepted or refused; it must not panic.
            drop(Login::parse(&changed, true));
        }
        assert!(Login::parse(&whole, false).is_err(), "the echo of FEDAUTHREQUIRED is wrong");
    }
}
