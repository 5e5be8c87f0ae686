use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::{
    excerpt::{excerpt, excerpt_of},
    token::Token,
};

/// The tokens that servers have seen and may repeat in what they say. Clones share.
///
/// An expired token is worthless and is not kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<Vec<Token>>>);

impl Sent {
    /// The next login sends this token.
    pub(super) fn add(&self, token: &Token, now: SystemTime) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|sent| sent.expires_on() > now && !sent.same_secret(token));
        tokens.push(token.clone());
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
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut tokens.iter().map(Token::secret))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_of_the_tokens_that_were_sent_is_shown_while_they_are_valid() {
        let now = SystemTime::UNIX_EPOCH;
        let token = |secret: &str, minutes: u64| {
            Token::new(secret.repeat(16), now + Duration::from_secs(minutes * 60))
        };
        let (first, second) = (token("a", 10), token("b", 20));
        let sent = Sent::default();
        for token in [&first, &second, &first] {
            sent.add(token, now);
        }
        let text = format!("{} {}", first.secret(), second.secret());
        assert_eq!(sent.excerpt(&text), "[redacted]");
        assert_eq!(sent.excerpt_of(&std::io::Error::other(text)), "[redacted]");
        sent.add(&token("c", 30), now + Duration::from_secs(20 * 60));
        assert_eq!(sent.0.lock().unwrap().len(), 1, "those that have expired are gone");
    }
}
