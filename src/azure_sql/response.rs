//! Parses the server's responses, as far as that is possible without decoding rows.

use super::link::Link;

/// The tokens (MS-TDS 2.2.7) that are parsed or skipped. Parsing stops at any other token, because
/// only a full decoder could compute its length.
mod token {
    pub(super) const RETURN_STATUS: u8 = 0x79;
    pub(super) const ERROR: u8 = 0xaa;
    pub(super) const INFO: u8 = 0xab;
    pub(super) const LOGIN_ACK: u8 = 0xad;
    pub(super) const FEATURE_EXT_ACK: u8 = 0xae;
    pub(super) const ENVIRONMENT_CHANGE: u8 = 0xe3;
    pub(super) const SESSION_STATE: u8 = 0xe4;
    pub(super) const FED_AUTH_INFO: u8 = 0xee;
    pub(super) const DONE: u8 = 0xfd;
    pub(super) const DONE_PROCEDURE: u8 = 0xfe;
    pub(super) const DONE_IN_PROCEDURE: u8 = 0xff;
}

/// Types of ENVCHANGE (MS-TDS 2.2.7.9).
mod change {
    pub(super) const TRANSACTION_BEGAN: u8 = 8;
    pub(super) const COMMITTED: u8 = 9;
    pub(super) const ROLLED_BACK: u8 = 10;
    pub(super) const TRANSACTION_ENDED: u8 = 17;
    pub(super) const SESSION_RESET: u8 = 18;
}

/// The feature of FEATUREEXTACK that acknowledges a token (MS-TDS 2.2.7.11).
const FED_AUTH: u8 = 2;

/// Ends the features of FEATUREEXTACK.
const NO_MORE_FEATURES: u8 = 0xff;

/// The status bit of DONE that acknowledges an attention (MS-TDS 2.2.7.6).
const DONE_ATTENTION: u8 = 0x20;

/// The session's token has expired.
pub(super) const TOKEN_EXPIRED: u32 = 37396;

/// The database is read-only: after a failover, on connections to the former primary replica.
pub(super) const READ_ONLY: u32 = 3906;

/// The length of an error's first fields: number, state and class.
const ERROR_HEAD: usize = 4 + 1 + 1;

/// Parses one response, in pieces of any size.
///
/// Parsing stops at the first result set or other token of unknown length. From there on, it only
/// searches for the end of the open transaction, by the transaction's descriptor.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// The bytes of the current token that have arrived and are needed.
    token: Vec<u8>,
    /// The number of bytes of the current token that are still to be skipped.
    skip: usize,
    within_features: bool,
    stopped: bool,
    /// The last bytes that arrived after parsing stopped.
    tail: Vec<u8>,
}

impl Response {
    /// Parses more bytes, and records the results in the link.
    pub(super) fn read(&mut self, bytes: &[u8], link: &Link) {
        let mut bytes = bytes.iter();
        self.read_tokens(&mut bytes, link);
        if self.stopped {
            self.find_end(bytes.as_slice(), link);
        }
    }

    /// Searches for the end of the transaction after parsing stopped.
    fn find_end(&mut self, bytes: &[u8], link: &Link) {
        /// Before the descriptor: token, length, kind, length of the empty new value, of the old.
        const HEAD: usize = 1 + 2 + 1 + 1 + 1;
        const ENDS: [u8; 3] = [change::COMMITTED, change::ROLLED_BACK, change::TRANSACTION_ENDED];

        let Some(descriptor) = link.state().transaction else { return };
        self.tail.extend_from_slice(bytes);
        let is_end = |bytes: &[u8]| {
            matches!(bytes, [token::ENVIRONMENT_CHANGE, 11, 0, kind, 0, 8, old @ ..]
                if ENDS.contains(kind) && old == descriptor)
        };
        if self.tail.windows(HEAD + descriptor.len()).any(is_end) {
            link.transaction_ended();
        }
        let keep = self.tail.len().min(HEAD + descriptor.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
    }

    fn read_tokens(&mut self, bytes: &mut std::slice::Iter<'_, u8>, link: &Link) {
        while !self.stopped {
            let (passed, rest) = bytes.as_slice().split_at(self.skip.min(bytes.len()));
            self.skip -= passed.len();
            *bytes = rest.iter();
            let Some(byte) = bytes.next() else { return };
            self.token.push(*byte);
            let within_features = self.within_features;
            let parse = if within_features { Self::parse_feature } else { Self::parse_token };
            if let Some(skip) = parse(self, link) {
                self.skip = skip;
                self.token.clear();
            }
        }
    }

    /// Parses the bytes of a token. Returns the number of bytes to skip, or `None` if more bytes of
    /// the token are needed.
    fn parse_token(&mut self, link: &Link) -> Option<usize> {
        let short = |low, high| usize::from(u16::from_le_bytes([low, high]));
        match self.token[..] {
            [token::RETURN_STATUS] => {
                link.state().check_reset();
                Some(4)
            }
            [token::DONE | token::DONE_PROCEDURE | token::DONE_IN_PROCEDURE, status] => {
                if status & DONE_ATTENTION == 0 {
                    link.state().check_reset();
                }
                Some(11)
            }
            [token::INFO | token::LOGIN_ACK, a, b] => Some(short(a, b)),
            [token::ENVIRONMENT_CHANGE, 0, 0] => Some(0),
            // The descriptor follows.
            [token::ENVIRONMENT_CHANGE, a, b, change::TRANSACTION_BEGAN, ref value @ ..]
                if short(a, b) > 10 =>
            {
                let [length, descriptor @ ..] = value.first_chunk::<9>()?;
                if *length == 8 {
                    link.state().transaction = Some(*descriptor);
                }
                Some(short(a, b) - 10)
            }
            [token::ENVIRONMENT_CHANGE, a, b, kind] => {
                match kind {
                    change::COMMITTED | change::ROLLED_BACK | change::TRANSACTION_ENDED => {
                        link.transaction_ended();
                    }
                    change::SESSION_RESET => {
                        let mut state = link.state();
                        (state.awaits_reset, state.transaction) = (false, None);
                    }
                    _ => {}
                }
                Some(short(a, b) - 1)
            }
            [token::SESSION_STATE | token::FED_AUTH_INFO, a, b, c, d] => {
                Some(u32::from_le_bytes([a, b, c, d]) as usize)
            }
            [token::FEATURE_EXT_ACK] => {
                self.within_features = true;
                Some(0)
            }
            [token::ERROR, a, b, ref error @ ..] => {
                self.stopped = short(a, b) < ERROR_HEAD;
                (error.len() == short(a, b) && !self.stopped).then(|| {
                    link.server_error(error.to_vec());
                    0
                })
            }
            [
                token::DONE
                | token::DONE_PROCEDURE
                | token::DONE_IN_PROCEDURE
                | token::INFO
                | token::LOGIN_ACK
                | token::ENVIRONMENT_CHANGE
                | token::SESSION_STATE
                | token::FED_AUTH_INFO
                | token::ERROR,
                ..,
            ] => None,
            _ => {
                link.state().check_reset();
                self.stopped = true;
                None
            }
        }
    }

    /// Parses a feature: its number, the length of its data, and the data.
    fn parse_feature(&mut self, link: &Link) -> Option<usize> {
        match self.token[..] {
            [NO_MORE_FEATURES] => {
                self.within_features = false;
                Some(0)
            }
            [feature, a, b, c, d] => {
                if feature == FED_AUTH {
                    link.state().acknowledged_token = true;
                }
                Some(u32::from_le_bytes([a, b, c, d]) as usize)
            }
            _ => None,
        }
    }
}

/// The error number of a request that is refused because its transaction has ended. SQL Server does
/// not use it.
pub(super) const REFUSED_AFTER_DROP: u32 = u32::MAX;

/// Returns the response to a request that is refused because its transaction has ended, encoded as
/// an error of the server (MS-TDS 2.2.7.10).
pub(super) fn refusal_after_drop() -> Vec<u8> {
    const MESSAGE: &str = "the transaction of this request has ended (it was dropped, its commit failed, or the server rolled it back), so the request was not sent: return the connection to its pool, which rolls back";
    /// State 1, class 14 ("permission denied").
    const STATE_AND_CLASS: [u8; 2] = [1, 14];
    const NO_SERVER_PROCEDURE_OR_LINE: [u8; 6] = [0; 6];
    /// The status is an error, without a command or rows.
    const DONE_WITH_ERROR: [u8; 13] = [token::DONE, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    let text: Vec<u8> = MESSAGE.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_le_bytes();
    let body = [
        &REFUSED_AFTER_DROP.to_le_bytes()[..],
        &STATE_AND_CLASS,
        &length(text.len() / 2),
        &text,
        &NO_SERVER_PROCEDURE_OR_LINE,
    ]
    .concat();
    [&[token::ERROR][..], &length(body.len()), &body, &DONE_WITH_ERROR].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{azure_sql::link::ResetRule, connect::RetireReason};

    fn sized(token: u8, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_le_bytes();
        [&[token][..], &length, data].concat()
    }

    fn error(number: u32, class: u8) -> Vec<u8> {
        sized(token::ERROR, &[&number.to_le_bytes()[..], &[1, class, 0, 0, 7, 7]].concat())
    }

    fn change(kind: u8) -> Vec<u8> {
        sized(token::ENVIRONMENT_CHANGE, &[&[kind][..], &[8; 10]].concat())
    }

    fn done(status: u8) -> Vec<u8> {
        [&[token::DONE, status][..], &[9; 11]].concat()
    }

    /// Returns the link after a response, and checks that the size of its pieces does not matter.
    fn after(response: &[&[u8]], begin: impl Fn(&Link)) -> Link {
        let response = response.concat();
        let links = (1..=response.len().max(1)).map(|size| {
            let (link, mut reader) = (Link::default(), Response::default());
            begin(&link);
            link.request_started();
            response.chunks(size).for_each(|piece| reader.read(piece, &link));
            link.response_ended();
            link
        });
        let links: Vec<_> = links.collect();
        let shown: Vec<_> = links.iter().map(|link| format!("{link:?}")).collect();
        assert!(shown.iter().all(|link| *link == shown[0]), "{shown:?}");
        links.into_iter().next().unwrap()
    }

    /// Simulates a request that resets the session.
    fn reset(link: &Link) {
        link.state().reset = Some(ResetRule::OutsideTransaction);
        assert!(link.take_reset(None).unwrap());
    }

    #[test]
    fn severe_errors_are_found_however_the_response_is_split() {
        let before = [
            change(1),
            sized(token::ENVIRONMENT_CHANGE, &[]),
            sized(token::INFO, &[]),
            done(1),
            vec![token::RETURN_STATUS, 1, 2, 3, 4],
            [&[token::SESSION_STATE, 3, 0, 0, 0][..], &[0xaa; 3]].concat(),
            error(208, 16),
        ]
        .concat();
        let rows = [0x81, 1, 0];
        for (tokens, severe) in [
            (vec![], false),
            (before.clone(), false),
            ([before.clone(), error(1205, 13), done(0)].concat(), false),
            ([before.clone(), error(596, 21), done(0)].concat(), true),
            ([before.clone(), error(TOKEN_EXPIRED, 16)].concat(), true),
            (error(21, 20), true),
            // After rows, bytes may have any value.
            ([&before[..], &rows, &error(21, 20)].concat(), false),
            (sized(token::ERROR, &[0; 5]), false),
        ] {
            let fault = after(&[&tokens], |_| ()).state().fault;
            assert_eq!(fault, severe.then_some(RetireReason::SevereError), "{tokens:?}");
        }
    }

    #[test]
    fn a_missing_reset_is_detected_at_the_first_token_after_the_prologue() {
        let (acknowledged, rows, done) = (change(18), [0x81, 1, 0], done(0));
        let (failed, severe) = (error(208, 16), error(21, 20));
        let missing = Some(RetireReason::ResetNotAcknowledged);
        for (response, fault) in [
            (vec![&acknowledged[..], &rows], None),
            (vec![&change(1), &failed, &acknowledged, &done], None),
            (vec![&rows], missing),
            (vec![&done], missing),
            (vec![&done, &acknowledged], missing),
            (vec![&failed, &done], missing),
            // Detected only at the end of the response.
            (vec![&failed], missing),
            (vec![], missing),
            (vec![&severe, &done], Some(RetireReason::SevereError)),
        ] {
            assert_eq!(after(&response, reset).state().fault, fault, "{response:?}");
        }
        for response in [vec![&rows[..]], vec![&done]] {
            assert_eq!(after(&response, |_| ()).state().fault, None, "no reset was sent");
        }
    }

    #[test]
    fn a_cancelled_request_does_not_show_whether_its_reset_was_acknowledged() {
        let cancelled = |link: &Link| {
            reset(link);
            link.set_fault(RetireReason::Cancelled);
        };
        for response in [vec![done(DONE_ATTENTION)], vec![vec![0x81, 1, 0]]] {
            let response: Vec<&[u8]> = response.iter().map(Vec::as_slice).collect();
            assert_eq!(after(&response, cancelled).state().fault, Some(RetireReason::Cancelled));
        }
        // A late acknowledgement of an attention does not belong to the next request.
        let late = [&done(DONE_ATTENTION)[..], &change(18), &done(0)];
        assert_eq!(after(&late, reset).state().fault, None);
    }

    /// Returns the ENVCHANGE for the start or the end of a transaction.
    fn transaction(kind: u8, descriptor: u8) -> Vec<u8> {
        let descriptor = [descriptor; 8];
        let data = match kind {
            change::TRANSACTION_BEGAN => [&[kind, 8][..], &descriptor, &[0]].concat(),
            _ => [&[kind, 0, 8][..], &descriptor].concat(),
        };
        sized(token::ENVIRONMENT_CHANGE, &data)
    }

    #[test]
    fn transactions_are_tracked_and_their_end_is_found_even_after_results() {
        let began = transaction(change::TRANSACTION_BEGAN, 7);
        let [committed, rolled_back, ended] = [9, 10, 17].map(|kind| transaction(kind, 7));
        let (another, rows) = (transaction(change::COMMITTED, 8), [0x81, 1, 0, 0xe3, 11, 0, 9]);
        for (response, open) in [
            (vec![&began[..]], true),
            (vec![&began, &done(1), &committed], false),
            (vec![&began, &rolled_back], false),
            (vec![&began, &ended], false),
            (vec![&rolled_back, &began, &rows], true),
            (vec![&began, &rows], true),
            (vec![&began, &rows, &committed, &done(0)], false),
            (vec![&began, &rows, &rolled_back, &done(0)], false),
            (vec![&began, &rows, &another, &done(0)], true),
            (vec![&rows, &began], false),
            (vec![&began, &change(18)], false),
            // With an impossible length.
            (vec![&sized(token::ENVIRONMENT_CHANGE, &[8, 8, 1])], false),
            (vec![&sized(token::ENVIRONMENT_CHANGE, &[8])], false),
        ] {
            let link = after(&response, |_| ());
            assert_eq!(link.state().transaction.is_some(), open, "{response:?}");
        }
    }

    #[test]
    fn only_a_feature_list_with_fedauth_acknowledges_the_token() {
        let ack = |features: &[u8]| [&[token::FEATURE_EXT_ACK], features].concat();
        let login = sized(token::LOGIN_ACK, &[7; 20]);
        for (list, acknowledged) in [
            (ack(&[2, 0, 0, 0, 0, 0xff]), true),
            (ack(&[1, 2, 0, 0, 0, 2, 0xff, 2, 1, 0, 0, 0, 9, 0xff]), true),
            (ack(&[1, 1, 0, 0, 0, 2, 0xff]), false),
            (ack(&[0xff]), false),
            (vec![], false),
        ] {
            let link = after(&[&change(1), &login, &list, &change(4), &done(0)], |_| ());
            assert_eq!(link.state().acknowledged_token, acknowledged, "{list:?}");
        }
    }
}
