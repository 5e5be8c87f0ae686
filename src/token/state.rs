//! What a token cache knows, and what follows from it: a synchronous state
//! machine that neither waits nor asks anybody.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{
    Reason, Token, TokenError,
    policy::{self, Schedule, Verdict},
};

/// Within this long of a failure, a caller with no usable token gets that
/// failure instead of causing another request.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// How long a token is not renewed by force again after the provider has
/// answered with the same one.
const SAME_AGAIN_HOLDS: Duration = Duration::from_secs(5 * 60);

/// A token and its times. Generations count up: a later one is a newer token.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) schedule: Schedule,
    pub(super) generation: u64,
}

/// The result of a request, for all who wait for it.
pub(super) type Outcome = Result<Token, TokenError>;

/// One request under way. Lost if the sender is gone with nothing sent.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) outcome: watch::Receiver<Option<Outcome>>,
    pub(super) reason: Reason,
}

impl Flight {
    fn is_lost(&self) -> bool {
        self.outcome.has_changed().is_err() && self.outcome.borrow().is_none()
    }
}

/// The two clocks, read once for a decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) monotonic: Duration,
}

/// What a caller shall do.
#[derive(Debug)]
pub(super) enum Step {
    /// Take this token.
    Take(Token),
    /// Take this token, and start a request beside it.
    TakeAndStart(Token),
    /// Wait for this flight.
    Join { flight: Flight, fallback: Option<Arc<Held>> },
    /// Start a request and wait for it.
    Start { fallback: Option<Arc<Held>> },
    /// Take this failure.
    Fail(TokenError),
}

/// What one whose token was refused shall do.
#[derive(Debug)]
pub(super) enum RenewStep {
    /// There is another already.
    Take(Token),
    /// Wait for this flight, then look again.
    Join(Flight),
    /// Start a request that says that the token was rejected.
    Start,
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
    /// The provider gave the same token again, or one of the same expiry.
    NoProgress,
    /// None came, and the one there was is still usable for so long.
    FailedButUsable(Duration),
    /// None came, and there is none to give out.
    FailedWithNone,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Also in the cell that callers read without this state's lock.
    held: Option<Arc<Held>>,
    flight: Option<Flight>,
    generations: u64,
    /// A login with this generation was refused, and nothing has come of it yet.
    suspect: Option<u64>,
    /// This generation is not renewed by force before that (monotonic) time.
    same_again: Option<(u64, Duration)>,
    failures_in_a_row: u32,
    /// No refresh beside use before that (monotonic) time.
    not_before: Duration,
    last_failure: Option<(Duration, TokenError)>,
    pub(super) requests: u64,
    pub(super) failures: u64,
}

impl State {
    pub(super) fn held(&self) -> Option<&Arc<Held>> {
        self.held.as_ref()
    }

    pub(super) fn last_failure(&self) -> Option<&TokenError> {
        self.last_failure.as_ref().map(|(_, error)| error)
    }

    /// A caller wants a token.
    pub(super) fn on_call(&mut self, now: Now) -> Step {
        let paused = now.monotonic < self.not_before;
        let flight = self.flight_under_way();
        let held = self.held.clone();
        let verdict = held.as_ref().map(|held| (held, held.schedule.verdict(now.wall)));
        match (verdict, flight) {
            (Some((held, Verdict::UseAndRefresh)), None) if !paused => {
                Step::TakeAndStart(held.token.clone())
            }
            (Some((held, Verdict::Use | Verdict::UseAndRefresh)), _) => {
                Step::Take(held.token.clone())
            }
            (Some((held, Verdict::WaitWithFallback)), None) if paused => {
                Step::Take(held.token.clone())
            }
            (Some((held, Verdict::WaitWithFallback)), flight) => match flight {
                Some(flight) => Step::Join { flight, fallback: Some(held.clone()) },
                None => Step::Start { fallback: Some(held.clone()) },
            },
            (_, Some(flight)) => Step::Join { flight, fallback: None },
            (_, None) => match self.fresh_failure(now) {
                Some(error) => Step::Fail(error),
                None => Step::Start { fallback: None },
            },
        }
    }

    /// A server has refused `refused`.
    pub(super) fn on_refused(&mut self, refused: &Token, now: Now) -> RenewStep {
        match &self.held {
            Some(held) if held.token.same_secret(refused) => match self.same_again {
                Some((generation, until))
                    if generation == held.generation && now.monotonic < until =>
                {
                    return RenewStep::NoOther;
                }
                _ => self.suspect = Some(held.generation),
            },
            Some(held) if held.schedule.verdict(now.wall) != Verdict::Wait => {
                return RenewStep::Take(held.token.clone());
            }
            _ => {}
        }
        if let Some(flight) = self.flight_under_way() {
            return RenewStep::Join(flight);
        }
        match self.fresh_failure(now) {
            Some(error) => RenewStep::Fail(error),
            None if now.monotonic < self.not_before => match &self.last_failure {
                Some((_, error)) => RenewStep::Fail(error.clone()),
                None => RenewStep::Start,
            },
            None => RenewStep::Start,
        }
    }

    /// Whether a login with the token there is was refused and no answer has
    /// come yet.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.is_some()
    }

    /// A request has been started.
    pub(super) fn on_start(&mut self, flight: Flight) {
        debug_assert!(self.flight_under_way().is_none(), "one flight at a time");
        self.requests += 1;
        self.flight = Some(flight);
    }

    /// A request has ended with a token.
    pub(super) fn on_token(
        &mut self,
        token: Token,
        reason: Reason,
        requested: SystemTime,
        now: Now,
        jitter: f64,
    ) -> Change {
        self.flight = None;
        self.last_failure = None;
        let before = self.held.clone();
        let same = before.as_ref().filter(|held| held.token.same_secret(&token));
        if let Some(held) = same {
            if reason == Reason::Rejected {
                self.same_again = Some((held.generation, now.monotonic + SAME_AGAIN_HOLDS));
                self.suspect = None;
            }
            self.pause(now, None, jitter);
            return Change::NoProgress;
        }

        let change = match &before {
            Some(held) if held.schedule.verdict(now.wall) != Verdict::Wait => {
                let suspect = self.suspect == Some(held.generation);
                if token.expires_on() < held.token.expires_on() && !suspect {
                    // An older one than there is: of no use.
                    self.pause(now, None, jitter);
                    return Change::NoProgress;
                }
                if token.expires_on() == held.token.expires_on() {
                    Change::NoProgress
                } else {
                    Change::Refreshed
                }
            }
            _ => Change::Fetched,
        };
        let schedule = Schedule::new(requested, now.wall, token.expires_on(), token.refresh_on());
        self.generations += 1;
        self.held = Some(Arc::new(Held { token, schedule, generation: self.generations }));
        self.suspect = None;
        if change == Change::NoProgress || schedule.verdict(now.wall) != Verdict::Use {
            self.pause(now, None, jitter);
        } else {
            self.failures_in_a_row = 0;
            self.not_before = Duration::ZERO;
        }
        change
    }

    /// A request has ended with none.
    pub(super) fn on_failure(
        &mut self,
        error: TokenError,
        retry_after: Option<Duration>,
        now: Now,
        jitter: f64,
    ) -> Change {
        self.flight = None;
        self.failures += 1;
        self.last_failure = Some((now.monotonic, error));
        self.pause(now, retry_after, jitter);
        match self.left(now) {
            Some(left) => Change::FailedButUsable(left),
            None => Change::FailedWithNone,
        }
    }

    fn pause(&mut self, now: Now, retry_after: Option<Duration>, jitter: f64) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let left = self.left(now).unwrap_or_default();
        let pause = policy::pause_after(self.failures_in_a_row, left, retry_after, jitter);
        self.not_before = now.monotonic + pause;
    }

    /// How long the token there is can still be given out.
    fn left(&self, now: Now) -> Option<Duration> {
        let left = self.held.as_ref()?.schedule.out_at.duration_since(now.wall).ok()?;
        (!left.is_zero()).then_some(left)
    }

    fn flight_under_way(&mut self) -> Option<Flight> {
        if self.flight.as_ref().is_some_and(Flight::is_lost) {
            self.flight = None;
        }
        self.flight.clone()
    }

    fn fresh_failure(&self, now: Now) -> Option<TokenError> {
        let (at, error) = self.last_failure.as_ref()?;
        (now.monotonic < *at + FAILURE_HOLDS).then(|| error.clone())
    }
}
