//! The state machine of a token cache. `cache.rs` sends the requests and waits for them.
//!
//! One lock guards the state; a fresh token is read without the lock. At most one request is
//! pending. The holder of its [`Ticket`] must [finish](Core::finish) it; if the ticket is dropped,
//! the request is cancelled.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Reason, Token, TokenError,
    policy::{self, Now, Schedule, Verdict},
    sync::{Cell, Mutex, MutexGuard, PoisonError, watch},
};

/// The pause between requests for [`Reason::Rejected`] after the provider has returned the same
/// token. Connectors pause longer while their logins are refused.
const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// The time limit of a request. (The longest known response time is 70 s, during an update of
/// IMDS.) A request without a result after this time counts as cancelled: its runtime is not
/// driven.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3 * 60);

/// A token and its times. A newer token has a higher generation.
#[derive(Debug, Clone)]
pub(super) struct CachedToken {
    pub(super) token: Token,
    pub(super) schedule: Schedule,
    generation: u64,
    pub(super) arrived: Now,
}

/// The result of a request, for all callers that wait for it.
pub(super) type Outcome = Result<Token, TokenError>;

/// The pending request, for callers that wait for it. It was cancelled if the sender is dropped
/// without sending.
#[derive(Debug, Clone)]
pub(super) struct PendingRequest {
    pub(super) outcome: watch::Receiver<Option<Outcome>>,
    pub(super) reason: Reason,
    id: u64,
    started: Duration,
}

/// The right to send the pending request, and the duty to finish it.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) reason: Reason,
    id: u64,
    outcome: watch::Sender<Option<Outcome>>,
}

/// What a caller must do.
#[derive(Debug)]
pub(super) enum Step {
    /// Return this token.
    Take(Token),
    /// Return this token, and start the request in the background.
    TakeAndStart(Token, Ticket),
    /// Wait for the request, and start it if there is a ticket. If it returns no token in time,
    /// return the fallback.
    Wait { pending: PendingRequest, start: Option<Ticket>, fallback: Option<Arc<CachedToken>> },
    /// Return this failure.
    Fail(TokenError),
}

/// What a caller with a refused token must do.
#[derive(Debug)]
pub(super) enum RenewStep {
    /// Return this other token.
    Take(Token),
    /// Wait for the request, and start it if there is a ticket; then check again.
    Wait { pending: PendingRequest, start: Option<Ticket> },
    /// Return `None`: the provider has just returned the same token.
    NoOther,
    /// Return this failure of the last request.
    Fail(TokenError),
}

/// The effect of a finished request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The first token, or the first token after a time without a usable token.
    Fetched,
    /// A newer token has replaced the cached one.
    Refreshed,
    /// The provider returned the same token again, or a token that does not expire later.
    NoProgress,
    /// The request failed, and the cached token remains usable for this time.
    FailedButUsable(Duration),
    /// The request failed, and no usable token is left.
    FailedWithNone,
}

/// An event that is logged once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// A login with the token was refused for the first time.
    Suspected,
    /// The token has expired, and no other token is available.
    Expired,
}

/// The counts of a report.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) failures: u64,
}

/// The state of one cache, shared.
#[derive(Debug)]
pub(super) struct Core {
    /// A copy of `state.held` that is read without the lock.
    current: Cell<CachedToken>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Arc<CachedToken>>,
    pending: Option<PendingRequest>,
    last_id: u64,
    generations: u64,
    /// A login with this generation was refused, and no later request has replaced it.
    suspect: Option<u64>,
    /// The provider repeated this generation: no request to replace it before this monotonic time.
    repeated: Option<(u64, Duration)>,
    /// The generation whose expiry was logged last.
    logged_expired: u64,
    failures_in_a_row: u32,
    /// The failures in a row since the last transient failure.
    refusals_in_a_row: u32,
    /// While a token is usable, no request before this (monotonic) time.
    not_before: Duration,
    /// While no token is usable, no background request before this (monotonic) time.
    background_not_before: Duration,
    /// The last failure, and until when callers get it (monotonic).
    last_failure: Option<(Duration, TokenError)>,
    counts: Counts,
}

impl Core {
    pub(super) fn new() -> Self {
        Self { current: Cell::empty(), state: Mutex::new(State::default()) }
    }

    /// Returns the token if it is fresh, without locking or allocating.
    pub(super) fn fresh(&self, wall: SystemTime) -> Option<Token> {
        self.current.with(|held| {
            // If the wall clock was set back to before the token arrived, it does not show the
            // token's age.
            let held =
                held.filter(|held| wall < held.schedule.refresh_at && held.arrived.wall <= wall)?;
            Some(held.token.clone())
        })
    }

    /// Reads the cached token, fresh or not.
    pub(super) fn peek<R>(&self, read: impl FnOnce(Option<&CachedToken>) -> R) -> R {
        self.current.with(read)
    }

    /// Handles a call without a fresh token.
    pub(super) fn call(&self, now: Now) -> (Step, Option<Notice>) {
        let mut state = self.lock();
        let notice = state.notice_expiry(now);
        (state.call(now), notice)
    }

    /// Handles the refusal of a token by a server.
    pub(super) fn refused(&self, refused: &Token, now: Now) -> (RenewStep, Option<Notice>) {
        let mut state = self.lock();
        let before = state.suspect;
        let step = state.refused(refused, now);
        let notice =
            (state.suspect.is_some() && state.suspect != before).then_some(Notice::Suspected);
        (step, notice)
    }

    /// Finishes the request: stores its answer and wakes all callers that wait.
    pub(super) fn finish(
        &self,
        ticket: Ticket,
        answer: Outcome,
        retry_after: Option<Duration>,
        requested: Now,
        now: Now,
        jitter: f64,
    ) -> (Change, Outcome) {
        let Ticket { reason, id, outcome: waiters } = ticket;
        let mut state = self.lock();
        if state.pending.as_ref().is_some_and(|pending| pending.id == id) {
            state.pending = None;
        }
        let (change, outcome) = match answer {
            Ok(token) => {
                let change = state.token(&token, reason, requested, now, jitter);
                (change, Ok(state.held.as_ref().map_or(token, |held| held.token.clone())))
            }
            Err(error) => (state.failure(error.clone(), retry_after, now, jitter), Err(error)),
        };
        self.current.store(state.held.clone());
        // While the lock is held: a caller that finds no pending request finds the token.
        waiters.send_replace(Some(outcome.clone()));
        (change, outcome)
    }

    /// The time from now until the next background request.
    pub(super) fn next_refresh(&self, now: Now) -> Duration {
        let state = self.lock();
        match state.held.as_ref().filter(|held| held.verdict(now) != Verdict::Wait) {
            Some(held) => {
                let due = held.schedule.refresh_at.duration_since(held.now(now));
                due.unwrap_or_default().max(state.not_before.saturating_sub(now.monotonic))
            }
            None => state.background_not_before.saturating_sub(now.monotonic),
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.lock().suspect.is_some()
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    pub(super) fn last_failure(&self) -> Option<TokenError> {
        self.lock().last_failure.as_ref().map(|(_, error)| error.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic while the lock is held leaves the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedToken {
    /// Returns how the token may be used.
    pub(super) fn verdict(&self, now: Now) -> Verdict {
        self.schedule.verdict(self.now(now))
    }

    /// Returns for how long the token can still be returned.
    pub(super) fn left(&self, now: Now) -> Duration {
        self.schedule.unusable_at.duration_since(self.now(now)).unwrap_or_default()
    }

    /// Returns the later of the two clocks' times: the wall clock may have been set back, and the
    /// monotonic clock stops while the machine sleeps.
    fn now(&self, now: Now) -> SystemTime {
        let elapsed = now.monotonic.saturating_sub(self.arrived.monotonic);
        now.wall.max(self.arrived.wall + elapsed)
    }
}

impl State {
    fn call(&mut self, now: Now) -> Step {
        let paused = now.monotonic < self.not_before;
        let held = self.held.clone();
        let pending = self.pending(now);
        let verdict = held.as_ref().map(|held| (held, held.verdict(now)));
        match verdict {
            Some((held, Verdict::UseAndRefresh)) if pending.is_none() && !paused => {
                let (_, ticket) = self.start(Reason::Expiring, now);
                Step::TakeAndStart(held.token.clone(), ticket)
            }
            Some((held, Verdict::Use | Verdict::UseAndRefresh)) => Step::Take(held.token.clone()),
            Some((held, Verdict::WaitWithFallback)) if pending.is_none() && paused => {
                Step::Take(held.token.clone())
            }
            Some((held, Verdict::WaitWithFallback)) => {
                let (pending, start) = self.join_or_start(pending, Reason::Expiring, now);
                Step::Wait { pending, start, fallback: Some(held.clone()) }
            }
            Some((_, Verdict::Wait)) | None => match self.recent_failure(now) {
                Some(error) if pending.is_none() => Step::Fail(error),
                _ => {
                    let (pending, start) = self.join_or_start(pending, Reason::Missing, now);
                    Step::Wait { pending, start, fallback: None }
                }
            },
        }
    }

    fn refused(&mut self, refused: &Token, now: Now) -> RenewStep {
        match &self.held {
            Some(held) if held.token.same_secret(refused) => match self.repeated {
                Some((generation, until))
                    if generation == held.generation && now.monotonic < until =>
                {
                    return RenewStep::NoOther;
                }
                _ => self.suspect = Some(held.generation),
            },
            Some(held) if held.verdict(now) != Verdict::Wait => {
                return RenewStep::Take(held.token.clone());
            }
            _ => {}
        }
        let pending = self.pending(now);
        if pending.is_none() {
            // The last failure may be that of a background refresh.
            let paused = now.monotonic < self.not_before.min(self.background_not_before);
            if let Some((until, error)) = &self.last_failure
                && (paused || now.monotonic < *until)
            {
                return RenewStep::Fail(error.clone());
            }
        }
        let (pending, start) = self.join_or_start(pending, Reason::Rejected, now);
        RenewStep::Wait { pending, start }
    }

    fn join_or_start(
        &mut self,
        pending: Option<PendingRequest>,
        reason: Reason,
        now: Now,
    ) -> (PendingRequest, Option<Ticket>) {
        if let Some(pending) = pending {
            return (pending, None);
        }
        let (pending, ticket) = self.start(reason, now);
        (pending, Some(ticket))
    }

    fn start(&mut self, reason: Reason, now: Now) -> (PendingRequest, Ticket) {
        self.last_id += 1;
        self.counts.requests += 1;
        let (sender, outcome) = watch::channel(None);
        let pending = PendingRequest { outcome, reason, id: self.last_id, started: now.monotonic };
        self.pending = Some(pending.clone());
        (pending, Ticket { reason, id: self.last_id, outcome: sender })
    }

    /// Returns the pending request, unless it was cancelled or has exceeded its time limit.
    fn pending(&mut self, now: Now) -> Option<PendingRequest> {
        let pending = self.pending.as_ref()?;
        let lost = pending.outcome.has_changed().is_err() && pending.outcome.borrow().is_none();
        if lost || now.monotonic.saturating_sub(pending.started) >= REQUEST_TIMEOUT {
            self.pending = None;
        }
        self.pending.clone()
    }

    /// Stores the token of a request.
    fn token(
        &mut self,
        token: &Token,
        reason: Reason,
        requested: Now,
        now: Now,
        jitter: f64,
    ) -> Change {
        self.last_failure = None;
        let (expires_on, hint) = (token.expires_on(), token.refresh_on());
        let schedule = Schedule::new(requested.wall, now.wall, expires_on, hint, jitter);
        let usable = self.held.clone().filter(|held| held.verdict(now) != Verdict::Wait);
        let same = self.held.clone().filter(|held| held.token.same_secret(token));
        if let (Some(held), Reason::Rejected) = (&same, reason) {
            self.repeated = Some((held.generation, now.monotonic + REPEAT_PAUSE));
            self.suspect = None;
        }
        let suspect = usable.as_ref().is_some_and(|held| self.suspect == Some(held.generation));
        let change = match usable {
            // A token that expires earlier does not replace the cached token, unless the server
            // refused that.
            Some(held) if same.is_some() || (!suspect && expires_on < held.token.expires_on()) => {
                if let Some(schedule) = held.schedule.repeated(held.arrived.wall, held.now(now)) {
                    self.held = Some(Arc::new(CachedToken { schedule, ..(*held).clone() }));
                }
                Change::NoProgress
            }
            usable => {
                // The same token may have expired by our clock but not by the provider's. It is
                // used for another minute, like any token that is expired on arrival.
                if same.is_none() {
                    self.generations += 1;
                    self.suspect = None;
                }
                let (token, generation) = (token.clone(), self.generations);
                let held = CachedToken { token, schedule, generation, arrived: now };
                self.held = Some(Arc::new(held));
                match usable {
                    _ if same.is_some() => Change::NoProgress,
                    None => Change::Fetched,
                    Some(held) if expires_on > held.token.expires_on() => Change::Refreshed,
                    Some(_) => Change::NoProgress,
                }
            }
        };
        if self.held.as_ref().is_some_and(|held| held.verdict(now) == Verdict::Use) {
            self.failures_in_a_row = 0;
            self.refusals_in_a_row = 0;
            self.not_before = Duration::ZERO;
            self.background_not_before = Duration::ZERO;
        } else {
            // The provider responds, so it may have another token at any time.
            let failures = self.failures_in_a_row.saturating_add(1);
            self.pause(now, Some(policy::idle_pause(failures, None, jitter)), jitter);
        }
        change
    }

    /// Stores the failure of a request.
    fn failure(
        &mut self,
        error: TokenError,
        retry_after: Option<Duration>,
        now: Now,
        jitter: f64,
    ) -> Change {
        self.counts.failures += 1;
        self.refusals_in_a_row =
            if error.is_transient() { 0 } else { self.refusals_in_a_row.saturating_add(1) };
        let holds = policy::failure_lifetime(self.refusals_in_a_row, retry_after);
        self.last_failure = Some((now.monotonic + holds, error));
        self.pause(now, retry_after, jitter);
        match self.left(now) {
            Duration::ZERO => Change::FailedWithNone,
            left => Change::FailedButUsable(left),
        }
    }

    fn pause(&mut self, now: Now, retry_after: Option<Duration>, jitter: f64) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let pause = policy::retry_pause(self.left(now), retry_after, jitter);
        self.not_before = now.monotonic + pause;
        let pause = policy::idle_pause(self.failures_in_a_row, retry_after, jitter);
        self.background_not_before = now.monotonic + pause;
    }

    fn left(&self, now: Now) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| held.left(now))
    }

    fn recent_failure(&self, now: Now) -> Option<TokenError> {
        let (until, error) = self.last_failure.as_ref()?;
        (now.monotonic < *until).then(|| error.clone())
    }

    fn notice_expiry(&mut self, now: Now) -> Option<Notice> {
        let held = self.held.as_ref()?;
        let out = held.verdict(now) == Verdict::Wait && self.logged_expired != held.generation;
        self.logged_expired = if out { held.generation } else { self.logged_expired };
        out.then_some(Notice::Expired)
    }
}
