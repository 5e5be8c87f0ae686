use std::{collections::VecDeque, error::Error, sync::Arc};

use crate::{
    excerpt::{excerpt, excerpt_of},
    lock::Lock,
    token::Token,
};

/// The last [`KEPT`] tokens that were sent to servers. They are removed from the texts of servers,
/// which may repeat them. Clones share the tokens.
#[derive(Debug, Clone, Default)]
pub(crate) struct SentTokens(Arc<Lock<VecDeque<Token>>>);

/// The number of tokens. They are renewed at most every 5 minutes, and usually expire in an hour.
const KEPT: usize = 16;

impl SentTokens {
    /// Records a token that the next login sends.
    pub(super) fn add(&self, token: &Token) {
        let mut tokens = self.0.lock();
        tokens.retain(|sent| !sent.same_secret(token));
        tokens.push_back(token.clone());
        if tokens.len() > KEPT {
            tokens.pop_front();
        }
    }

    /// Returns a server's text as an excerpt for output, without tokens.
    pub(crate) fn excerpt(&self, text: &str) -> String {
        self.with(|secrets| excerpt(text, secrets))
    }

    /// Returns an error that contains a server's text, with its causes, as an excerpt for output,
    /// without tokens.
    pub(crate) fn excerpt_of(&self, error: &(dyn Error + 'static)) -> String {
        self.with(|secrets| excerpt_of(error, secrets))
    }

    fn with<T>(&self, look: impl FnOnce(&mut dyn Iterator<Item = &str>) -> T) -> T {
        let tokens = self.0.lock().clone();
        look(&mut tokens.iter().map(Token::secret))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn excerpts_never_contain_tokens_that_were_sent() {
        let token = |secret: &str| Token::new(secret.repeat(16), SystemTime::UNIX_EPOCH);
        let (first, second) = (token("a"), token("b"));
        let sent = SentTokens::default();
        for token in [&first, &second, &first] {
            sent.add(token);
        }
        let text = format!("{} {}", first.secret(), second.secret());
        assert_eq!(sent.excerpt(&text), "[redacted]");
        assert_eq!(sent.excerpt_of(&std::io::Error::other(text)), "[redacted]");
        for letter in 'c'..='z' {
            sent.add(&token(&letter.to_string()));
        }
        assert_eq!(sent.0.lock().len(), KEPT);
    }
}
