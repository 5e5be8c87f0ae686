use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Token, TokenCache, TokenError};

/// How long a connector whose logins are refused with any token asks for no
/// other: where a user or role does not exist, tokens are not what is missing.
const PAUSE: Duration = Duration::from_secs(5 * 60);

/// One connector's right to have refused tokens renewed: once a login, and not
/// again for a while after a renewed one was refused, too.
///
/// Of a connector, not of the cache: that one pool's user is missing must not
/// keep another pool from renewing.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    /// Monotonic.
    paused_until: Mutex<Duration>,
}

impl Renewals {
    /// Another token than the one that was refused; `None` if there is none, or
    /// none is asked for now.
    pub(crate) async fn renew(
        &self,
        tokens: &TokenCache,
        refused: &Token,
    ) -> Result<Option<Token>, TokenError> {
        let paused = {
            let until = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.clock().monotonic() < *until
        };
        if paused { Ok(None) } else { tokens.renew(refused).await }
    }

    /// The other token was refused, too.
    pub(crate) fn pause(&self, tokens: &TokenCache) {
        let until = tokens.clock().monotonic() + PAUSE;
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}
