use std::time::Duration;

use super::Attempt;
use crate::{
    lock::Lock,
    token::{Token, TokenCache, with_causes},
};

/// The first pause before another token is requested, after a new token was also refused. Doubles.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause. A principal that was recreated can log in after this time at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Requests replacements for a connector's refused tokens: once per login, only if the token came
/// from the cache, and with longer pauses while the replacements are also refused.
///
/// This state belongs to a connector and not to the cache, because a user that is missing in one
/// database must not prevent renewals for another pool.
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
    /// Requests another token than `refused`. The error is a sentence: why there is none.
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
                "The token is new (it was requested for this login), so no other token was requested."
                    .to_owned(),
            );
        }
        // Half of the remaining time: the second login needs time, and the caller must get the
        // refusal before its deadline.
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

    /// Whether it is too early to request a replacement for this token.
    fn is_paused(&self, refused: &Token, now: Duration) -> bool {
        let state = self.0.lock();
        let is_same = state.refused.as_ref().is_some_and(|token| token.same_secret(refused));
        is_same && now < state.paused_until
    }

    /// Records that the newest token, `refused`, was also refused, and starts a pause.
    pub(super) fn pause(&self, tokens: &TokenCache, refused: &Token) {
        let now = tokens.clock().monotonic();
        let mut state = self.0.lock();
        state.refused = Some(refused.clone());
        // Logins that were refused at the same time count once.
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
