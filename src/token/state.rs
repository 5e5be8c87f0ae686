//! The state of a token cache: a state machine that neither waits nor sends requests, which
//! `cache.rs` does.
//!
//! One lock guards the state; a fresh token is read without it. At most one request is running.
//! The holder of its [`Ticket`] must [finish](Core::land) it; if a ticket is dropped, its request
//! is lost.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Reason, Token, TokenError,
    policy::{self, Now, Schedule, Verdict},
    sync::{Cell, Mutex, MutexGuard, PoisonError, watch},
};

/// The pause between forced requests after the provider has returned the same token. Connectors
/// pause longer while that does not help.
const SAME_AGAIN_HOLDS: Duration = Duration::from_secs(1);

/// The time limit of a request. (The longest known response time is 70 s, during an update of
/// IMDS.) An older request is lost: the runtime that would have ended it no longer runs.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(3 * 60);

/// A token and its times. A newer token has a higher generation.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) schedule: Schedule,
    generation: u64,
    pub(super) arrived: Now,
}

/// The result of a request, for all callers that wait for it.
pub(super) type Outcome = Result<Token, TokenError>;

/// The running request, for callers that wait for it. It is lost if the sender is dropped
/// without sending.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) outcome: watch::Receiver<Option<Outcome>>,
    pub(super) reason: Reason,
    id: u64,
    started: Duration,
}

/// The right to send the one request, and the duty to finish it.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) reason: Reason,
    id: u64,
    outcome: watch::Sender<Option<Outcome>>,
}

/// What a caller must do.
#[derive(Debug)]
pub(super) enum Step {
    /// Take this token.
    Take(Token),
    /// Take this token, and start the request in the background.
    TakeAndStart(Token, Ticket),
    /// Wait for the request, and start it if there is a ticket. If it returns no token in time,
    /// use the fallback.
    Wait { flight: Flight, start: Option<Ticket>, fallback: Option<Arc<Held>> },
    /// Take this failure.
    Fail(TokenError),
}

/// What a caller with a refused token must do.
#[derive(Debug)]
pub(super) enum RenewStep {
    /// Take this other token.
    Take(Token),
    /// Wait for the request, and start it if there is a ticket; then check again.
    Wait { flight: Flight, start: Option<Ticket> },
    /// The provider has just returned the same token.
    NoOther,
    /// The last request has just failed.
    Fail(TokenError),
}

/// The effect of a finished request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The first token, or the first after a time without one.
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
    /// The value of `state.held`, which is read without the lock.
    current: Cell<Held>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Arc<Held>>,
    flight: Option<Flight>,
    flights: u64,
    generations: u64,
    /// A login with this generation was refused, and no request has finished since.
    suspect: Option<u64>,
    /// No forced request for this generation before this (monotonic) time.
    same_again: Option<(u64, Duration)>,
    /// The expiry of this generation has been logged.
    logged_expired: u64,
    failures_in_a_row: u32,
    /// Those since the last transient failure.
    refusals_in_a_row: u32,
    /// While a token is usable, no request before this (monotonic) time.
    not_before: Duration,
    /// While no token is usable, no background request before this (monotonic) time.
    unasked_not_before: Duration,
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
            // If the wall clock was set back to before the arrival, it does not show the
            // token's age.
            let held =
                held.filter(|held| wall < held.schedule.refresh_at && held.arrived.wall <= wall)?;
            Some(held.token.clone())
        })
    }

    /// Reads the cached token, fresh or not.
    pub(super) fn peek<R>(&self, read: impl FnOnce(Option<&Held>) -> R) -> R {
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
    pub(super) fn land(
        &self,
        ticket: Ticket,
        answer: Outcome,
        retry_after: Option<Duration>,
        asked: Now,
        now: Now,
        jitter: f64,
    ) -> (Change, Outcome) {
        let Ticket { reason, id, outcome: waiters } = ticket;
        let mut state = self.lock();
        if state.flight.as_ref().is_some_and(|flight| flight.id == id) {
            state.flight = None;
        }
        let (change, outcome) = match answer {
            Ok(token) => {
                let change = state.token(&token, reason, asked, now, jitter);
                (change, Ok(state.held.as_ref().map_or(token, |held| held.token.clone())))
            }
            Err(error) => (state.failure(error.clone(), retry_after, now, jitter), Err(error)),
        };
        self.current.store(state.held.clone());
        // While the lock is held: a caller that finds no request finds the token.
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
            None => state.unasked_not_before.saturating_sub(now.monotonic),
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
        // No panic in here leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Returns how the token may be used.
    pub(super) fn verdict(&self, now: Now) -> Verdict {
        self.schedule.verdict(self.now(now))
    }

    /// The time for which it can still be returned.
    pub(super) fn left(&self, now: Now) -> Duration {
        self.schedule.out_at.duration_since(self.now(now)).unwrap_or_default()
    }

    /// The later time of the two clocks: the wall clock may have been set back, and the monotonic
    /// clock stops while the machine sleeps.
    fn now(&self, now: Now) -> SystemTime {
        let elapsed = now.monotonic.saturating_sub(self.arrived.monotonic);
        now.wall.max(self.arrived.wall + elapsed)
    }
}

impl State {
    fn call(&mut self, now: Now) -> Step {
        let paused = now.monotonic < self.not_before;
        let held = self.held.clone();
        let under_way = self.under_way(now);
        let verdict = held.as_ref().map(|held| (held, held.verdict(now)));
        match verdict {
            Some((held, Verdict::UseAndRefresh)) if under_way.is_none() && !paused => {
                let (_, ticket) = self.start(Reason::Expiring, now);
                Step::TakeAndStart(held.token.clone(), ticket)
            }
            Some((held, Verdict::Use | Verdict::UseAndRefresh)) => Step::Take(held.token.clone()),
            Some((held, Verdict::WaitWithFallback)) if under_way.is_none() && paused => {
                Step::Take(held.token.clone())
            }
            Some((held, Verdict::WaitWithFallback)) => {
                let (flight, start) = self.join_or_start(under_way, Reason::Expiring, now);
                Step::Wait { flight, start, fallback: Some(held.clone()) }
            }
            Some((_, Verdict::Wait)) | None => match self.failure_of_now(now) {
                Some(error) if under_way.is_none() => Step::Fail(error),
                _ => {
                    let (flight, start) = self.join_or_start(under_way, Reason::Missing, now);
                    Step::Wait { flight, start, fallback: None }
                }
            },
        }
    }

    fn refused(&mut self, refused: &Token, now: Now) -> RenewStep {
        match &self.held {
            Some(held) if held.token.same_secret(refused) => match self.same_again {
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
        let under_way = self.under_way(now);
        if under_way.is_none() {
            // The last failure may be that of a background refresh.
            let paused = now.monotonic < self.not_before.min(self.unasked_not_before);
            if let Some((until, error)) = &self.last_failure
                && (paused || now.monotonic < *until)
            {
                return RenewStep::Fail(error.clone());
            }
        }
        let (flight, start) = self.join_or_start(under_way, Reason::Rejected, now);
        RenewStep::Wait { flight, start }
    }

    fn join_or_start(
        &mut self,
        under_way: Option<Flight>,
        reason: Reason,
        now: Now,
    ) -> (Flight, Option<Ticket>) {
        if let Some(flight) = under_way {
            return (flight, None);
        }
        let (flight, ticket) = self.start(reason, now);
        (flight, Some(ticket))
    }

    fn start(&mut self, reason: Reason, now: Now) -> (Flight, Ticket) {
        self.flights += 1;
        self.counts.requests += 1;
        let (sender, receiver) = watch::channel(None);
        let flight = Flight { outcome: receiver, reason, id: self.flights, started: now.monotonic };
        self.flight = Some(flight.clone());
        (flight, Ticket { reason, id: self.flights, outcome: sender })
    }

    /// The running request, unless it is lost or has exceeded its time limit.
    fn under_way(&mut self, now: Now) -> Option<Flight> {
        let flight = self.flight.as_ref()?;
        let lost = flight.outcome.has_changed().is_err() && flight.outcome.borrow().is_none();
        if lost || now.monotonic.saturating_sub(flight.started) >= GIVEN_UP_AFTER {
            self.flight = None;
        }
        self.flight.clone()
    }

    /// Stores the token of a request.
    fn token(
        &mut self,
        token: &Token,
        reason: Reason,
        asked: Now,
        now: Now,
        jitter: f64,
    ) -> Change {
        self.last_failure = None;
        let (expires_on, hint) = (token.expires_on(), token.refresh_on());
        let schedule = Schedule::new(asked.wall, now.wall, expires_on, hint, jitter);
        let usable = self.held.clone().filter(|held| held.verdict(now) != Verdict::Wait);
        let same = self.held.clone().filter(|held| held.token.same_secret(token));
        if let (Some(held), Reason::Rejected) = (&same, reason) {
            self.same_again = Some((held.generation, now.monotonic + SAME_AGAIN_HOLDS));
            self.suspect = None;
        }
        let suspect = usable.as_ref().is_some_and(|held| self.suspect == Some(held.generation));
        let change = match usable {
            // An older token helps as little as the same one, unless the server refused the
            // cached token.
            Some(held) if same.is_some() || (!suspect && expires_on < held.token.expires_on()) => {
                if let Some(schedule) = held.schedule.again(held.arrived.wall, held.now(now)) {
                    self.held = Some(Arc::new(Held { schedule, ..Held::clone(&held) }));
                }
                Change::NoProgress
            }
            usable => {
                // The same token may have expired by our clock but not by the provider's: use it
                // for another minute, as a token that arrives expired.
                if same.is_none() {
                    self.generations += 1;
                    self.suspect = None;
                }
                let (token, generation) = (token.clone(), self.generations);
                let held = Held { token, schedule, generation, arrived: now };
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
            self.unasked_not_before = Duration::ZERO;
        } else {
            // The provider responds, so it may have another token at any time.
            let failures = self.failures_in_a_row.saturating_add(1);
            self.pause(now, Some(policy::pause_unasked(failures, None, jitter)), jitter);
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
        let holds = policy::failure_holds(self.refusals_in_a_row, retry_after);
        self.last_failure = Some((now.monotonic + holds, error));
        self.pause(now, retry_after, jitter);
        match self.left(now) {
            Duration::ZERO => Change::FailedWithNone,
            left => Change::FailedButUsable(left),
        }
    }

    fn pause(&mut self, now: Now, retry_after: Option<Duration>, jitter: f64) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let pause = policy::pause_after(self.left(now), retry_after, jitter);
        self.not_before = now.monotonic + pause;
        let pause = policy::pause_unasked(self.failures_in_a_row, retry_after, jitter);
        self.unasked_not_before = now.monotonic + pause;
    }

    fn left(&self, now: Now) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| held.left(now))
    }

    fn failure_of_now(&self, now: Now) -> Option<TokenError> {
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
