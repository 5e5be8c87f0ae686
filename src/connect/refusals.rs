use std::time::Duration;

use tokio::sync::Notify;

use super::{Attempt, retry::MIN_LOGIN_TIME};
use crate::{
    clock::{self, Clock},
    lock::Lock,
};

/// How long the connector returns a refusal for other logins, and the time between two turns.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(1);

/// The refused logins of one connector. While logins are refused, further attempts would also fail,
/// and servers throttle or lock out clients that retry too often.
///
/// After a refusal, other logins fail with the same error for 1 s. Then one login per second is
/// started, until one succeeds. If the server accepted this identity before (see
/// [`Driver::patience`](super::Driver::patience)), logins wait for their turn instead of failing,
/// until the deadline of the connect that was refused first.
// A turn is a time span and not a lock, because its owner may hang or may not be polled.
#[derive(Debug)]
pub(super) struct Refusals<R> {
    state: Lock<State<R>>,
    /// Notified when a login is accepted or refused.
    decided: Notify,
}

/// All times are monotonic.
#[derive(Debug)]
struct State<R> {
    /// When a login last succeeded.
    accepted: Option<Duration>,
    /// The last refusal, if no login has succeeded since.
    last: Option<Refusal<R>>,
}

#[derive(Debug)]
struct Refusal<R> {
    answer: R,
    valid_until: Duration,
    patient_until: Duration,
    /// The end of the turn of the login that was started last.
    turn_until: Duration,
}

impl<R: Clone> Refusals<R> {
    pub(super) fn new() -> Self {
        let state = Lock::new(State { accepted: None, last: None });
        Self { state, decided: Notify::new() }
    }

    /// Waits until a login may start. Returns the last refusal if the login must fail with it.
    pub(super) async fn turn<E>(&self, clock: &dyn Clock, attempt: &Attempt<E>) -> Result<(), R> {
        loop {
            let decided = self.decided.notified();
            let now = clock.monotonic();
            let pause = {
                let State { last: Some(last), .. } = &mut *self.state.lock() else { return Ok(()) };
                let is_valid = last.valid_until > now;
                let pause = last.valid_until.max(last.turn_until).saturating_sub(now);
                let left = attempt.left(now).saturating_sub(MIN_LOGIN_TIME);
                if pause.is_zero() {
                    last.turn_until = now + REFUSAL_LIFETIME;
                    return Ok(());
                }
                if left < pause || (is_valid && now >= last.patient_until) {
                    return Err(last.answer.clone());
                }
                pause
            };
            let _ = clock::timeout(clock, pause, decided).await;
        }
    }

    /// Records a successful login.
    pub(super) fn accepted(&self, now: Duration) {
        *self.state.lock() = State { accepted: Some(now), last: None };
        self.decided.notify_waiters();
    }

    /// Records that a login of this connect was refused. Returns the pause before a retry, if a
    /// retry is allowed.
    pub(super) fn refused<E>(
        &self,
        refusal: R,
        now: Duration,
        patience: Duration,
        attempt: &Attempt<E>,
    ) -> Option<Duration> {
        let mut state = self.state.lock();
        let patient_until = match &state.last {
            Some(before) => before.patient_until,
            None => match state.accepted {
                Some(at) if now.saturating_sub(at) < patience => {
                    now.saturating_add(attempt.left(now))
                }
                _ => now,
            },
        };
        let (valid_until, turn_until) = (now + REFUSAL_LIFETIME, now);
        state.last = Some(Refusal { answer: refusal, valid_until, patient_until, turn_until });
        self.decided.notify_waiters();
        (now < patient_until).then_some(REFUSAL_LIFETIME)
    }
}
