use std::time::Duration;

use super::Attempt;
use crate::{
    lock::Lock,
    token::{Token, TokenCache, with_causes},
};

/// How long no other token is requested after a new token was refused as well. This pause doubles …
const PAUSE: Duration = Duration::from_secs(1);

/// … up to this limit, so a principal that was created again can log in within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Renews the refused tokens of one connector: once per login, only if the token came from the
/// cache, and less often while it does not help.
///
/// It belongs to a connector and not to the cache, because a user that is missing in one database
/// must not keep another pool from renewing.
#[derive(Debug, Default)]
pub(super) struct Renewals(Lock<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest refused token.
    refused: Option<Token>,
    pause: Duration,
    /// On the monotonic clock.
    paused_until: Duration,
}

impl Renewals {
    /// Returns another token than the refused one; otherwise a sentence that explains why not.
    pub(super) async fn renew<E>(
        &self,
        tokens: &TokenCache,
        refused: &Token,
        attempt: &Attempt<E>,
    ) -> Result<Token, String> {
        let now = tokens.clock().monotonic();
        if self.is_paused(refused, now) {
            return Err("No other token was requested, because an earlier one was also refused: \
                        the next request follows within 30 s."
                .to_owned());
        }
        if tokens.came_since(refused, attempt.began) {
            return Err(
                "The token is new (it was requested for this login), so no other token was \
                        requested."
                    .to_owned(),
            );
        }
        // Half of the remaining time, because the caller must get the refusal in time, and a second
        // login takes time.
        match tokens.renew_within(refused, attempt.left(now) / 2).await {
            Ok(Some(other)) => Ok(other),
            Ok(None) => {
                self.pause(tokens, refused);
                Err("The identity has no other token.".to_owned())
            }
            Err(error) => {
                // The caller gets the refusal, and this error only in its text.
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(error = cause, "cannot get another token after a refused login");
                Err(format!("Cannot get another token: {}.", with_causes(&error)))
            }
        }
    }

    /// Whether it is too early to request another token in place of this one.
    fn is_paused(&self, refused: &Token, now: Duration) -> bool {
        let state = self.0.lock();
        let is_same = state.refused.as_ref().is_some_and(|token| token.same_secret(refused));
        is_same && now < state.paused_until
    }

    /// Records that another token did not help: `refused` is the newest one, and was refused.
    pub(super) fn pause(&self, tokens: &TokenCache, refused: &Token) {
        let now = tokens.clock().monotonic();
        let mut state = self.0.lock();
        state.refused = Some(refused.clone());
        // Logins that were refused together count as one.
        if now >= state.paused_until {
            state.pause = (state.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
            state.paused_until = now + state.pause;
        }
    }

    /// Records a successful login.
    pub(super) fn succeeded(&self) {
        *self.0.lock() = State::default();
    }
}
