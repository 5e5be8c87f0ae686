use std::time::Duration;

use super::Attempt;
use crate::{
    lock::Lock,
    token::{Token, TokenCache, with_causes},
};

/// How long no other token is requested after one that did not help …
const PAUSE: Duration = Duration::from_secs(1);

/// … which doubles up to this: a principal that was created again is in after so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One connector's renewals of refused tokens: one per login, only if the token came from
/// the cache, and fewer while they do not help.
///
/// It belongs to a connector and not to the cache, because one pool's missing user must
/// not keep another pool from renewing.
#[derive(Debug, Default)]
pub(super) struct Renewals(Lock<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest token that was refused.
    refused: Option<Token>,
    pause: Duration,
    /// Monotonic.
    paused_until: Duration,
}

impl Renewals {
    /// Another token than the refused one, or why there is none, in a sentence.
    pub(super) async fn renew<E>(
        &self,
        tokens: &TokenCache,
        refused: &Token,
        attempt: &Attempt<E>,
    ) -> Result<Token, String> {
        let now = tokens.clock().monotonic();
        if self.is_paused(refused, now) {
            return Err(
                "No other token was requested, because another token did not help before: \
                        one is requested within 30 s."
                    .to_owned(),
            );
        }
        if tokens.came_since(refused, attempt.began) {
            return Err("The token was requested for this login.".to_owned());
        }
        // Half of the time left: the refusal must reach the caller, and a second login
        // needs time as well.
        match tokens.renew_within(refused, attempt.left(now) / 2).await {
            Ok(Some(other)) => Ok(other),
            Ok(None) => {
                self.pause(tokens, refused);
                Err("The identity has no other token.".to_owned())
            }
            Err(error) => {
                // The caller gets the refusal.
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(error = cause, "cannot get another token after a refused login");
                Err(format!("Cannot get another token: {}.", with_causes(&error)))
            }
        }
    }

    /// Another token than this one may still help.
    fn is_paused(&self, refused: &Token, now: Duration) -> bool {
        let state = self.0.lock();
        let is_same = state.refused.as_ref().is_some_and(|token| token.same_secret(refused));
        is_same && now < state.paused_until
    }

    /// To request another token did not help: this is the last one, and it is refused.
    pub(super) fn pause(&self, tokens: &TokenCache, refused: &Token) {
        let now = tokens.clock().monotonic();
        let mut state = self.0.lock();
        state.refused = Some(refused.clone());
        // Logins that were refused together count once.
        if now >= state.paused_until {
            state.pause = (state.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
            state.paused_until = now + state.pause;
        }
    }

    /// A login succeeded.
    pub(super) fn succeeded(&self) {
        *self.0.lock() = State::default();
    }
}
