use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Attempt, retry::TOO_LITTLE};
use crate::clock::{self, Clock};

/// How long a refusal answers the connector's other logins as well.
const HOLDS: Duration = Duration::from_secs(1);

/// The refused logins of one connector. Where logins are refused, more of them would be, and
/// servers limit or lock out clients that hammer.
///
/// After a refusal, other logins fail with the same error for 1 s. Then one login at a time is
/// made, until one succeeds. If the server accepted this identity before (see
/// [`Driver::patience`](super::Driver::patience)), logins wait for their turn instead of
/// failing, for as long as the connect that was refused first.
#[derive(Debug)]
pub(super) struct Refusals<R> {
    state: Mutex<State<R>>,
    /// Held while a login is made although logins are refused.
    turn: tokio::sync::Mutex<()>,
}

/// Times are monotonic.
#[derive(Debug)]
struct State<R> {
    /// When a login last succeeded.
    accepted: Option<Duration>,
    /// The last refusal, if no login succeeded since.
    last: Option<Refusal<R>>,
}

#[derive(Debug, Clone)]
struct Refusal<R> {
    refusal: R,
    holds_until: Duration,
    patient_until: Duration,
}

/// Permission to log in.
pub(super) type Turn<'a> = Option<tokio::sync::MutexGuard<'a, ()>>;

impl<R: Clone> Refusals<R> {
    pub(super) fn new() -> Self {
        let state = Mutex::new(State { accepted: None, last: None });
        Self { state, turn: tokio::sync::Mutex::default() }
    }

    /// Waits until a login may be made; else returns the refusal that answers it.
    pub(super) async fn turn<E>(
        &self,
        clock: &dyn Clock,
        attempt: &Attempt<E>,
    ) -> Result<Turn<'_>, R> {
        let mut turn = None;
        loop {
            let last = self.state().last.clone();
            let Some(Refusal { refusal, holds_until, patient_until }) = last else {
                return Ok(None);
            };
            let now = clock.monotonic();
            let pause = holds_until.saturating_sub(now);
            let left = attempt.left(now).saturating_sub(TOO_LITTLE);
            if !pause.is_zero() && (now >= patient_until || left < pause) {
                return Err(refusal);
            }
            if turn.is_none() {
                let Ok(locked) = clock::timeout(clock, left, self.turn.lock()).await else {
                    return Err(refusal);
                };
                // Meanwhile, another login has had its turn.
                turn = Some(locked);
            } else if pause.is_zero() {
                return Ok(turn);
            } else {
                clock.sleep(pause).await;
            }
        }
    }

    /// A login succeeded.
    pub(super) fn accepted(&self, now: Duration) {
        *self.state() = State { accepted: Some(now), last: None };
    }

    /// A login of this connect was refused. Returns the pause after which it may be retried, if
    /// it may.
    pub(super) fn refused<E>(
        &self,
        refusal: R,
        now: Duration,
        patience: Duration,
        attempt: &Attempt<E>,
    ) -> Option<Duration> {
        let mut state = self.state();
        let patient_until = match &state.last {
            Some(before) => before.patient_until,
            None => match state.accepted {
                Some(at) if now.saturating_sub(at) < patience => now + attempt.left(now),
                _ => now,
            },
        };
        state.last = Some(Refusal { refusal, holds_until: now + HOLDS, patient_until });
        (now < patient_until).then_some(HOLDS)
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
