//! PRELOGIN (MS-TDS 2.2.6.5): the negotiation between client and server before TLS.

/// The options that are sent or parsed here.
mod option {
    pub(super) const VERSION: u8 = 0;
    pub(super) const ENCRYPTION: u8 = 1;
    pub(super) const INSTANCE: u8 = 2;
    pub(super) const THREAD_ID: u8 = 3;
    pub(super) const MARS: u8 = 4;
    pub(super) const TRACE_ID: u8 = 5;
    pub(super) const FED_AUTH_REQUIRED: u8 = 6;
    pub(super) const NONCE: u8 = 7;
    pub(super) const TERMINATOR: u8 = 0xff;
}

const ENCRYPT_ON: u8 = 1;
const ENCRYPT_NOT_SUPPORTED: u8 = 2;
const ENCRYPT_REQUIRED: u8 = 3;

/// The server's response to our PRELOGIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    encryption: u8,
    fed_auth_required: bool,
    nonce: Option<[u8; 32]>,
}

/// Returns the payload of our PRELOGIN, which requests TLS and a login with a token
/// (FEDAUTHREQUIRED, MS-TDS 2.2.6.5).
///
/// It contains `ENCRYPT_ON` instead of `ENCRYPT_REQ`, because Microsoft's servers respond to
/// `ENCRYPT_REQ` with OFF.
///
/// It contains a trace ID (GUIDs of a connection and of an activity, and a number), as in
/// Microsoft's drivers. Servers to which Fabric routes reportedly refuse logins without a trace ID.
pub(super) fn request() -> Vec<u8> {
    let mut trace_id = [0; 16 + 16 + 4];
    fastrand::fill(&mut trace_id[..32]);
    encode(&[
        // The version of the client. tiberius also sends 0.
        (option::VERSION, &[0; 6]),
        (option::ENCRYPTION, &[ENCRYPT_ON]),
        (option::INSTANCE, &[0]),
        (option::THREAD_ID, &[0; 4]),
        (option::MARS, &[0]),
        (option::TRACE_ID, &trace_id),
        (option::FED_AUTH_REQUIRED, &[1]),
    ])
}

impl Response {
    /// Parses a payload. Returns `None` if it is malformed.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let mut answer =
            Self { encryption: ENCRYPT_NOT_SUPPORTED, fed_auth_required: false, nonce: None };
        let mut table = payload;
        loop {
            let [token, rest @ ..] = table else { return None };
            if *token == option::TERMINATOR {
                return Some(answer);
            }
            let [o1, o2, l1, l2, rest @ ..] = rest else { return None };
            table = rest;
            let offset = usize::from(u16::from_be_bytes([*o1, *o2]));
            let length = usize::from(u16::from_be_bytes([*l1, *l2]));
            let data = payload.get(offset..offset + length)?;
            match *token {
                option::ENCRYPTION => answer.encryption = *data.first()?,
                option::FED_AUTH_REQUIRED => {
                    answer.fed_auth_required = match data {
                        [0] => false,
                        [1] => true,
                        _ => return None,
                    };
                }
                option::NONCE => answer.nonce = Some(data.try_into().ok()?),
                // Other options are ignored, including unknown ones.
                _ => {}
            }
        }
    }

    /// Whether the server uses TLS for the whole session.
    pub(super) fn encrypts(&self) -> bool {
        matches!(self.encryption, ENCRYPT_ON | ENCRYPT_REQUIRED)
    }

    /// Returns the response for tiberius. It declines encryption, because tiberius must not encrypt
    /// again, and omits options that tiberius does not use, because it refuses unknown options.
    pub(super) fn for_tiberius(&self) -> Vec<u8> {
        let required = [u8::from(self.fed_auth_required)];
        let mut options: Vec<(u8, &[u8])> = vec![
            (option::ENCRYPTION, &[ENCRYPT_NOT_SUPPORTED]),
            (option::FED_AUTH_REQUIRED, &required),
        ];
        if let Some(nonce) = &self.nonce {
            options.push((option::NONCE, nonce));
        }
        encode(&options)
    }
}

/// Encodes options: a table of (token, offset, length), its terminator, and the data.
fn encode(options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut data = Vec::new();
    let base = options.len() * 5 + 1;
    for (token, value) in options {
        let place = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
        table.push(*token);
        table.extend(place(base + data.len()));
        table.extend(place(value.len()));
        data.extend_from_slice(value);
    }
    table.push(option::TERMINATOR);
    table.extend(data);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_parsed_and_forwarded_without_encryption() {
        let sent = encode(&[
            (option::VERSION, &[16, 0, 1, 2, 0, 0]),
            (option::ENCRYPTION, &[ENCRYPT_ON]),
            (option::INSTANCE, &[0]),
            (option::FED_AUTH_REQUIRED, &[1]),
            (option::NONCE, &[7; 32]),
            (99, b"new"),
        ]);
        let answer = Response::read(&sent).unwrap();
        assert!(answer.encrypts());
        let forwarded = Response::read(&answer.for_tiberius()).unwrap();
        assert!(!forwarded.encrypts());
        assert_eq!(forwarded, Response { encryption: ENCRYPT_NOT_SUPPORTED, ..answer });
        assert_eq!(forwarded.nonce, Some([7; 32]));
    }

    #[test]
    fn a_response_without_an_encryption_option_declines_encryption() {
        assert!(!Response::read(&[option::TERMINATOR]).unwrap().encrypts());
        for declined in [0, 2] {
            let answer = Response::read(&encode(&[(option::ENCRYPTION, &[declined])])).unwrap();
            assert!(!answer.encrypts());
        }
    }

    #[test]
    fn garbage_is_refused() {
        let beyond = [option::ENCRYPTION, 0, 200, 0, 1, option::TERMINATOR];
        let illegal =
            encode(&[(option::ENCRYPTION, &[ENCRYPT_ON]), (option::FED_AUTH_REQUIRED, &[2])]);
        let empty = &[1, 0, 6, 0, 0, 0xff];
        for garbage in [&b""[..], b"HTTP/1.1 400", &[0, 0, 0], &beyond, empty, &illegal] {
            assert_eq!(Response::read(garbage), None, "{garbage:?}");
        }
    }
}
