//! What a token cache knows and what follows from it: a state machine that
//! neither waits nor asks anybody. `cache.rs` does that around it.
//!
//! One lock guards the state; a fresh token is read past it. At most one
//! request is under way: whoever holds its [`Ticket`] must [land](Core::land)
//! it, and a ticket that is dropped is a request that was lost.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Reason, Token, TokenError,
    policy::{self, Now, Schedule, Verdict},
    sync::{Cell, Mutex, MutexGuard, PoisonError, watch},
};

/// How long a token is not renewed by force again after the provider has
/// answered with the same one. Connectors ask less often while that does not help.
const SAME_AGAIN_HOLDS: Duration = Duration::from_secs(1);

/// A request is given so long (the longest that a provider is known to take is
/// 70 s, an update of IMDS). One that is older is lost: its runtime, which would
/// have ended it, no longer runs.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(3 * 60);

/// A token and its times. Generations count up: a later one is a newer token.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) schedule: Schedule,
    generation: u64,
    pub(super) arrived: Now,
}

/// The result of a request, for all who wait for it.
pub(super) type Outcome = Result<Token, TokenError>;

/// The request under way, for those who wait for it. It is lost if the sender
/// is gone and nothing was sent.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) outcome: watch::Receiver<Option<Outcome>>,
    pub(super) reason: Reason,
    id: u64,
    started: Duration,
}

/// The right to make the one request, and the duty to land it.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) reason: Reason,
    id: u64,
    outcome: watch::Sender<Option<Outcome>>,
}

/// What a caller shall do.
#[derive(Debug)]
pub(super) enum Step {
    /// Take this token.
    Take(Token),
    /// Take this token, and make the request beside it.
    TakeAndStart(Token, Ticket),
    /// Wait for the flight, having started it if there is a ticket. Should none
    /// come in time, the fallback may do.
    Wait { flight: Flight, start: Option<Ticket>, fallback: Option<Arc<Held>> },
    /// Take this failure.
    Fail(TokenError),
}

/// What one whose token was refused shall do.
#[derive(Debug)]
pub(super) enum RenewStep {
    /// There is another already.
    Take(Token),
    /// Wait for the flight, having started it if there is a ticket; then look again.
    Wait { flight: Flight, start: Option<Ticket> },
    /// The provider has no other one, as it has said lately.
    NoOther,
    /// The provider could not be asked lately.
    Fail(TokenError),
}

/// What an arrived token, or the lack of one, has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The first token, or one after a time without.
    Fetched,
    /// A newer one has replaced the one there was.
    Refreshed,
    /// The provider gave the same token again, or one that ends no later.
    NoProgress,
    /// None came, and the one there was can still be given out for so long.
    FailedButUsable(Duration),
    /// None came, and there is none to give out.
    FailedWithNone,
}

/// Something to tell the log, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// A login with the token was refused for the first time.
    Suspected,
    /// The token is out, and no other has come.
    Expired,
}

/// Counts, for reports.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) failures: u64,
}

/// The state of one cache, shared.
#[derive(Debug)]
pub(super) struct Core {
    /// What `state.held` has, to be read without the lock.
    current: Cell<Held>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Arc<Held>>,
    flight: Option<Flight>,
    flights: u64,
    generations: u64,
    /// A login with this generation was refused, and nothing has come of it yet.
    suspect: Option<u64>,
    /// This generation is not renewed by force before that (monotonic) time.
    same_again: Option<(u64, Duration)>,
    /// This generation has been reported as out.
    told_expired: u64,
    failures_in_a_row: u32,
    /// Those since the last one that was transient.
    refusals_in_a_row: u32,
    /// No request while a token is usable before that (monotonic) time.
    not_before: Duration,
    /// Where no token is usable, none that nobody waits for before that (monotonic) time.
    unasked_not_before: Duration,
    /// What failed last, and until when callers get it (monotonic).
    last_failure: Option<(Duration, TokenError)>,
    counts: Counts,
}

impl Core {
    pub(super) fn new() -> Self {
        Self { current: Cell::empty(), state: Mutex::new(State::default()) }
    }

    /// The token, if it is fresh. No lock, no allocation.
    pub(super) fn fresh(&self, wall: SystemTime) -> Option<Token> {
        self.current.with(|held| {
            // Before its arrival: the wall clock was set back, and what it says
            // of this token's age cannot be trusted.
            let held =
                held.filter(|held| wall < held.schedule.refresh_at && held.arrived.wall <= wall)?;
            Some(held.token.clone())
        })
    }

    /// Reads the token there is, fresh or not.
    pub(super) fn peek<R>(&self, read: impl FnOnce(Option<&Held>) -> R) -> R {
        self.current.with(read)
    }

    /// A caller wants a token, and there is no fresh one.
    pub(super) fn call(&self, now: Now) -> (Step, Option<Notice>) {
        let mut state = self.lock();
        let notice = state.notice_expiry(now);
        (state.call(now), notice)
    }

    /// A server has refused `refused`.
    pub(super) fn refused(&self, refused: &Token, now: Now) -> (RenewStep, Option<Notice>) {
        let mut state = self.lock();
        let before = state.suspect;
        let step = state.refused(refused, now);
        let notice =
            (state.suspect.is_some() && state.suspect != before).then_some(Notice::Suspected);
        (step, notice)
    }

    /// The request has ended: takes its answer in and tells all who wait.
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
        // Under the lock still: whoever finds no flight finds the cell filled.
        waiters.send_replace(Some(outcome.clone()));
        (change, outcome)
    }

    /// When a request should be made next though nobody asks: how long from now.
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
        // Nothing in here leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// What to do with it.
    pub(super) fn verdict(&self, now: Now) -> Verdict {
        self.schedule.verdict(self.now(now))
    }

    /// How long it can still be given out.
    pub(super) fn left(&self, now: Now) -> Duration {
        self.schedule.out_at.duration_since(self.now(now)).unwrap_or_default()
    }

    /// The later of what the two clocks make of it: the wall clock may have been
    /// set back, the monotonic one stands still while the machine sleeps.
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
            // The last failure may be of a refresh that nobody waited for.
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

    /// The request under way, unless it is lost or takes too long to be alive.
    fn under_way(&mut self, now: Now) -> Option<Flight> {
        let flight = self.flight.as_ref()?;
        let lost = flight.outcome.has_changed().is_err() && flight.outcome.borrow().is_none();
        if lost || now.monotonic.saturating_sub(flight.started) >= GIVEN_UP_AFTER {
            self.flight = None;
        }
        self.flight.clone()
    }

    /// A request has ended with a token.
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
            // An older token is of no more use than the same one, unless the server refused
            // the token there is.
            Some(held) if same.is_some() || (!suspect && expires_on < held.token.expires_on()) => {
                if let Some(schedule) = held.schedule.again(held.arrived.wall, held.now(now)) {
                    self.held = Some(Arc::new(Held { schedule, ..Held::clone(&held) }));
                }
                Change::NoProgress
            }
            usable => {
                // By our clock the same one may be out, but the provider thinks otherwise:
                // another minute, as for one that is expired when it comes.
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
            // The provider responds, and can have another token at any moment.
            let failures = self.failures_in_a_row.saturating_add(1);
            self.pause(now, Some(policy::pause_unasked(failures, None, jitter)), jitter);
        }
        change
    }

    /// A request has ended with none.
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
        let out = held.verdict(now) == Verdict::Wait && self.told_expired != held.generation;
        self.told_expired = if out { held.generation } else { self.told_expired };
        out.then_some(Notice::Expired)
    }
}
