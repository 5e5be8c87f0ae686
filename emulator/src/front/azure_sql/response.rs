//! The engine's answer to a login, to which the front adds the acknowledgement of the token.

use crate::azure_sql::{
    bytes::{Malformed, Reader},
    login::{FEATURE_END, FEATURE_FED_AUTH, Login, TDS_8_0},
    packets::Message,
    tokens::token,
};

/// Type 20 of ENVCHANGE (MS-TDS 2.2.7.9).
const ROUTING: u8 = 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoginResponse {
    bytes: Vec<u8>,
    pub(super) spid: u16,
    /// Whether there is a LOGINACK.
    pub(super) accepted: bool,
    /// The server to log in to instead.
    pub(super) route: Option<(String, u16)>,
    /// The position of LOGINACK's TDS version.
    version: usize,
    /// The position to acknowledge features at, and whether it is within a FEATUREEXTACK.
    features: (usize, bool),
}

impl LoginResponse {
    pub(super) fn parse(message: Message) -> Result<Self, Malformed> {
        let Message { payload, spid, .. } = message;
        let mut reader = Reader::new(&payload, "the engine's answer to the login");
        let (mut accepted, mut route, mut version) = (false, None, 0);
        let (mut last_done, mut feature_end) = (None, None);
        while !reader.is_empty() {
            let start = payload.len() - reader.rest().len();
            let token = reader.u8()?;
            let length = match token {
                token::FEATURE_EXT_ACK => {
                    while reader.rest().first() != Some(&FEATURE_END) {
                        reader.u8()?;
                        let length = reader.u32()? as usize;
                        reader.take(length)?;
                    }
                    feature_end = Some(payload.len() - reader.rest().len());
                    1
                }
                token::DONE | token::DONE_PROC | token::DONE_IN_PROC => {
                    last_done = Some(start);
                    12
                }
                token::SESSION_STATE => reader.u32()? as usize,
                token::LOGIN_ACK | token::ENV_CHANGE | token::ERROR | token::INFO => {
                    usize::from(reader.u16()?)
                }
                _ => return reader.malformed(),
            };
            let data = reader.take(length)?;
            match token {
                // The version follows the token's length and the interface.
                token::LOGIN_ACK if length >= 5 => (accepted, version) = (true, start + 4),
                token::LOGIN_ACK => return reader.malformed(),
                token::ENV_CHANGE => route = routed(data)?.or(route),
                _ => {}
            }
        }
        let Some(last_done) = last_done else { return reader.malformed() };
        let features = feature_end.map_or((last_done, false), |at| (at, true));
        Ok(Self { bytes: payload, spid, accepted, route, version, features })
    }

    /// The answer for the client that has logged in with a token.
    pub(super) fn for_client(&self, login: &Login, acknowledges_token: bool) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if !self.accepted {
            return bytes;
        }
        if login.tds_version == TDS_8_0 {
            bytes[self.version..self.version + 4].copy_from_slice(&TDS_8_0.to_be_bytes());
        }
        if acknowledges_token {
            let acknowledgement = [FEATURE_FED_AUTH, 0, 0, 0, 0];
            let (at, within) = self.features;
            let token: &[u8] = if within { &[] } else { &[token::FEATURE_EXT_ACK] };
            let end: &[u8] = if within { &[] } else { &[FEATURE_END] };
            bytes.splice(at..at, [token, &acknowledgement, end].concat());
        }
        bytes
    }
}

fn routed(change: &[u8]) -> Result<Option<(String, u16)>, Malformed> {
    let mut change = Reader::new(change, "ENVCHANGE");
    if change.u8()? != ROUTING {
        return Ok(None);
    }
    // Its length; then the protocol, which is TCP.
    change.u16()?;
    change.u8()?;
    let port = change.u16()?;
    let units = usize::from(change.u16()?);
    Ok(Some((change.utf16(units * 2)?, port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure_sql::{
        ServerError,
        packets::kind,
        tokens::{Answer, Change},
    };

    fn parsed(payload: Vec<u8>) -> LoginResponse {
        let message = Message { kind: kind::TABULAR_RESULT, first_status: 0, spid: 51, payload };
        LoginResponse::parse(message).unwrap()
    }

    fn accepted(features: &[u8]) -> Vec<u8> {
        let login = Login::test();
        let mut answer = Answer::default();
        answer.information(5701, "Changed database context to 'orders'.");
        answer.login_ack(&login);
        answer.environment(&Change::PacketSize(8000));
        let mut bytes = answer.unfinished();
        bytes.extend(features);
        bytes.extend([token::DONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn the_acknowledgement_is_added_to_others_or_sent_alone() {
        let own = [0xae, 2, 0, 0, 0, 0, 0xff];
        let others = [0xae, 10, 1, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0xff];
        let all = [0xae, 10, 1, 0, 0, 0, 1, 5, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0xff];
        for (from_engine, to_client) in [(&[][..], &own[..]), (&others, &all)] {
            let response = parsed(accepted(from_engine));
            assert!(response.accepted && response.route.is_none() && response.spid == 51);
            assert_eq!(response.for_client(&Login::test(), true), accepted(to_client));
            assert_eq!(response.for_client(&Login::test(), false), accepted(from_engine));
        }
    }

    #[test]
    fn the_answer_to_a_client_of_tds_8_has_that_version() {
        let mut login = Login::test();
        login.tds_version = TDS_8_0;
        let answer = parsed(accepted(&[])).for_client(&login, false);
        let mut expected = Answer::default();
        expected.login_ack(&login);
        let expected = expected.unfinished();
        assert!(answer.windows(expected.len()).any(|bytes| bytes == expected));
    }

    #[test]
    fn a_refusal_is_unchanged_and_a_route_is_found() {
        let mut answer = Answer::default();
        answer.error(&ServerError::new(18456, 14, "Login failed for user 'sa'."));
        answer.done_with_error();
        let refusal = answer.finish(true);
        let response = parsed(refusal.clone());
        assert!(!response.accepted);
        assert_eq!(response.for_client(&Login::test(), true), refusal);
        let mut answer = Answer::default();
        answer.login_ack(&Login::test());
        answer.environment(&Change::Routing { host: "tr1.example".into(), port: 11001 });
        let response = parsed(answer.finish(false));
        assert_eq!(response.route, Some(("tr1.example".to_owned(), 11001)));
    }

    #[test]
    fn no_answer_causes_a_panic() {
        let whole = accepted(&[0xae, 10, 1, 0, 0, 0, 1, 0xff]);
        let parse = |payload: Vec<u8>| {
            LoginResponse::parse(Message { kind: 4, first_status: 0, spid: 0, payload })
        };
        for end in 0..whole.len() {
            assert!(parse(whole[..end].to_vec()).is_err(), "the first {end} bytes");
            let mut changed = whole.clone();
            changed[end] ^= 0xff;
            if let Ok(response) = parse(changed) {
                response.for_client(&Login::test(), true);
            }
        }
    }
}
