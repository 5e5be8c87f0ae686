//! Errors that end a session, found in what a response begins with.

/// Tokens (MS-TDS 2.2.7) that are passed over, or looked at, until one comes
/// whose length only a whole decoder could tell.
mod token {
    pub(super) const RETURN_STATUS: u8 = 0x79;
    pub(super) const ERROR: u8 = 0xaa;
    pub(super) const INFO: u8 = 0xab;
    pub(super) const ENVIRONMENT_CHANGE: u8 = 0xe3;
    pub(super) const DONE: u8 = 0xfd;
    pub(super) const DONE_PROCEDURE: u8 = 0xfe;
    pub(super) const DONE_IN_PROCEDURE: u8 = 0xff;
}

/// An error of this class or above ends the session ("Database Engine error
/// severities" on Microsoft Learn).
const SEVERE: u8 = 20;

/// The session's token has expired.
pub(super) const TOKEN_EXPIRED: u32 = 37396;

/// Token, length, number, state and class of an error.
const ERROR_HEAD: usize = 1 + 2 + 4 + 1 + 1;

/// Watches the bytes of one response, in whatever pieces they come.
///
/// Behind the first result set it is blind. A server that ends a session closes
/// the connection as well, so that nothing is lost but the reason's name.
#[derive(Debug, Default)]
pub(super) struct SevereErrors {
    head: [u8; ERROR_HEAD],
    have: usize,
    /// Of the token at hand, still to be passed over.
    skip: usize,
    blind: bool,
}

impl SevereErrors {
    /// Whether an error that ends the session comes to light in the next bytes.
    pub(super) fn found_in(&mut self, bytes: &[u8]) -> bool {
        let mut found = false;
        let mut bytes = bytes.iter();
        while !self.blind {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes.nth(passed.saturating_sub(1));
                if self.skip > 0 {
                    return found;
                }
            }
            let Some(byte) = bytes.next() else { return found };
            self.head[self.have] = *byte;
            self.have += 1;
            found |= self.look();
        }
        found
    }

    /// Looks at the head as far as it has come.
    fn look(&mut self) -> bool {
        let length = usize::from(u16::from_le_bytes([self.head[1], self.head[2]]));
        match (self.head[0], self.have) {
            (token::DONE | token::DONE_PROCEDURE | token::DONE_IN_PROCEDURE, _) => self.pass(12),
            (token::RETURN_STATUS, _) => self.pass(4),
            (token::INFO | token::ENVIRONMENT_CHANGE, 3) => self.pass(length),
            (token::ERROR, 3) if length < ERROR_HEAD - 3 => self.blind = true,
            (token::ERROR, ERROR_HEAD) => {
                let [_, _, _, a, b, c, d, _, class] = self.head;
                self.pass(length - (ERROR_HEAD - 3));
                return class >= SEVERE || u32::from_le_bytes([a, b, c, d]) == TOKEN_EXPIRED;
            }
            (token::INFO | token::ENVIRONMENT_CHANGE, ..3) | (token::ERROR, ..ERROR_HEAD) => {}
            _ => self.blind = true,
        }
        false
    }

    fn pass(&mut self, bytes: usize) {
        (self.skip, self.have) = (bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(token: u8, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_le_bytes();
        [&[token][..], &length, data].concat()
    }

    fn error(number: u32, class: u8) -> Vec<u8> {
        sized(token::ERROR, &[&number.to_le_bytes()[..], &[1, class, 0, 0, 7, 7]].concat())
    }

    fn found(response: &[u8], size: usize) -> bool {
        let mut watch = SevereErrors::default();
        response.chunks(size).fold(false, |found, piece| watch.found_in(piece) | found)
    }

    #[test]
    fn severe_errors_are_found_however_the_network_cuts_the_response() {
        let done = [&[token::DONE][..], &[9; 12]].concat();
        let status = [token::RETURN_STATUS, 1, 2, 3, 4];
        let before = [
            sized(token::ENVIRONMENT_CHANGE, &[8; 11]),
            sized(token::INFO, &[]),
            done.clone(),
            status.to_vec(),
            error(208, 16),
        ]
        .concat();
        let rows = [0x81, 1, 0];
        for (tokens, severe) in [
            (vec![], false),
            (before.clone(), false),
            ([before.clone(), error(1205, 13), done.clone()].concat(), false),
            ([before.clone(), error(596, 21), done.clone()].concat(), true),
            ([before.clone(), error(TOKEN_EXPIRED, 16)].concat(), true),
            (error(21, 20), true),
            // What is behind rows cannot be told from them.
            ([&before[..], &rows, &error(21, 20)].concat(), false),
            (sized(token::ERROR, &[0; 5]), false),
        ] {
            for size in 1..=tokens.len().max(1) {
                assert_eq!(found(&tokens, size), severe, "{tokens:?} in pieces of {size}");
            }
        }
    }
}
