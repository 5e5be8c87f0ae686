use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::Attempt;
use crate::token::{Token, TokenCache, TokenError};

/// How long a connector whose logins are refused with any token requests no other token:
/// where a user or role does not exist, another token does not help.
const PAUSE: Duration = Duration::from_secs(5 * 60);

/// One connector's renewals of refused tokens: one per login, only if the token came from
/// the cache, and none for a while after a renewed token was refused as well.
///
/// It belongs to a connector and not to the cache, because one pool's missing user must
/// not keep another pool from renewing.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// Monotonic.
    paused_until: Mutex<Duration>,
}

impl Renewals {
    /// Another token than the refused one; `None` if there is none, or none is requested.
    pub(super) async fn renew<E>(
        &self,
        tokens: &TokenCache,
        refused: &Token,
        attempt: &Attempt<E>,
    ) -> Result<Option<Token>, TokenError> {
        let now = tokens.clock().monotonic();
        let paused = now < *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        if paused || tokens.came_since(refused, attempt.began()) {
            return Ok(None);
        }
        // Half of the time left: the refusal must reach the caller, and a second login
        // needs time as well.
        tokens.renew_within(refused, attempt.left(now) / 2).await
    }

    /// The renewed token was refused as well.
    pub(super) fn pause(&self, tokens: &TokenCache) {
        let until = tokens.clock().monotonic() + PAUSE;
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}
