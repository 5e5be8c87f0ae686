use std::{collections::VecDeque, error::Error, sync::Arc};

use crate::{
    excerpt::{excerpt, excerpt_of},
    lock::Lock,
    token::Token,
};

/// The tokens that servers have seen and may repeat in what they say, the last [`KEPT`] of
/// them. Clones share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(Arc<Lock<VecDeque<Token>>>);

/// Tokens are renewed every 5 minutes at most, and expire within a day, mostly an hour.
const KEPT: usize = 16;

impl Sent {
    /// The next login sends this token.
    pub(super) fn add(&self, token: &Token) {
        let mut tokens = self.0.lock();
        tokens.retain(|sent| !sent.same_secret(token));
        tokens.push_back(token.clone());
        if tokens.len() > KEPT {
            tokens.pop_front();
        }
    }

    /// A server's text, fit to be shown.
    pub(crate) fn excerpt(&self, text: &str) -> String {
        self.with(|secrets| excerpt(text, secrets))
    }

    /// An error that a server had a part in and its causes, as text that is fit to be shown.
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
    fn nothing_of_the_tokens_that_were_sent_is_shown() {
        let token = |secret: &str| Token::new(secret.repeat(16), SystemTime::UNIX_EPOCH);
        let (first, second) = (token("a"), token("b"));
        let sent = Sent::default();
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
