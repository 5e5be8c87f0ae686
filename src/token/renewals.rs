use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Token, TokenCache, TokenError};

/// How long a connector whose logins are refused with any token asks for no
/// other: where a user or role does not exist, tokens are not what is missing.
const PAUSE: Duration = Duration::from_secs(5 * 60);

/// One connector's right to have refused tokens renewed: once a login, only if
/// the token came from the cache, and not again for a while after a renewed one
/// was refused, too.
///
/// Of a connector, not of the cache: that one pool's user is missing must not
/// keep another pool from renewing.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    /// Monotonic.
    paused_until: Mutex<Duration>,
}

/// When a connect began (monotonic), and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connecting {
    pub(crate) began: Duration,
    pub(crate) limit: Duration,
}

impl Connecting {
    /// What is left of the time at `now`.
    pub(crate) fn left(self, now: Duration) -> Duration {
        self.limit.saturating_sub(now.saturating_sub(self.began))
    }
}

impl Renewals {
    /// Another token than the one that was refused; `None` if there is none, or
    /// none is asked for.
    pub(crate) async fn renew(
        &self,
        tokens: &TokenCache,
        refused: &Token,
        connecting: Connecting,
    ) -> Result<Option<Token>, TokenError> {
        let now = tokens.clock().monotonic();
        let paused = now < *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        if paused || tokens.came_since(refused, connecting.began) {
            return Ok(None);
        }
        // The refusal must reach the caller, and a second try wants time, too.
        tokens.renew_within(refused, connecting.left(now) / 2).await
    }

    /// The other token was refused, too.
    pub(crate) fn pause(&self, tokens: &TokenCache) {
        let until = tokens.clock().monotonic() + PAUSE;
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}
