use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use tokio::{runtime::Handle, sync::watch};

use super::{
    CredentialError, CredentialErrorKind, Reason, Scope, Token, TokenCredential, TokenError,
    TokenRequest,
    policy::Verdict,
    state::{Change, Flight, Held, Now, Outcome, RenewStep, State, Step},
};
use crate::clock::{self, Clock};

/// One token for one identity and scope, kept fresh.
///
/// Cheap to clone; clones share. Got from [`Identity::tokens`](super::Identity::tokens).
///
/// * A fresh token is given out without a lock or an allocation.
/// * One that ages (past half of its life, or the provider's hint) is given
///   out too, and one request for the next starts beside it.
/// * Nobody waits while a usable token exists, whatever the provider does.
/// * Where there is none, all callers wait for one request. It is a task of its
///   own: a caller that gives up cancels nothing.
/// * No error sticks: after one, the next caller has the provider asked again,
///   though not within a second.
///
/// Expiry is judged by the wall clock when the token is asked for, so that a
/// machine's sleep or a throttled container does no harm.
#[derive(Clone)]
pub struct TokenCache(Arc<Inner>);

struct Inner {
    credential: Arc<dyn TokenCredential>,
    scope: Scope,
    clock: Arc<dyn Clock>,
    wait_timeout: Duration,
    /// What `state.held` has, to be read without the lock.
    current: ArcSwapOption<Held>,
    state: Mutex<State>,
}

impl TokenCache {
    pub(super) fn new(
        credential: Arc<dyn TokenCredential>,
        scope: Scope,
        clock: Arc<dyn Clock>,
        wait_timeout: Duration,
    ) -> Self {
        Self(Arc::new(Inner {
            credential,
            scope,
            clock,
            wait_timeout,
            current: ArcSwapOption::empty(),
            state: Mutex::default(),
        }))
    }

    /// A token that is good now.
    ///
    /// # Errors
    ///
    /// [`TokenError`], if there is none and none could be had within the
    /// identity's [`wait_timeout`](super::IdentityBuilder::wait_timeout).
    pub async fn token(&self) -> Result<Token, TokenError> {
        if let Some(held) = &*self.0.current.load()
            && self.0.clock.wall() < held.schedule.refresh_at
        {
            return Ok(held.token.clone());
        }
        self.token_not_fresh().await
    }

    async fn token_not_fresh(&self) -> Result<Token, TokenError> {
        let (flight, fallback) = {
            let mut state = self.0.lock();
            match state.on_call(self.0.now()) {
                Step::Take(token) => return Ok(token),
                Step::TakeAndStart(token) => {
                    // Not to be had without a runtime; the token is good all the same.
                    let _ = self.0.start(&mut state, Reason::Expiring);
                    return Ok(token);
                }
                Step::Join { flight, fallback } => (flight, fallback),
                Step::Start { fallback } => {
                    let reason = match fallback {
                        Some(_) => Reason::Expiring,
                        None => Reason::Missing,
                    };
                    (self.0.start(&mut state, reason)?, fallback)
                }
                Step::Fail(error) => return Err(error),
            }
        };
        match fallback {
            None => self.0.wait(flight, self.0.wait_timeout).await,
            Some(held) => {
                // Half of what is left, so that the old token is still of use then.
                let left = held.schedule.out_at.duration_since(self.0.clock.wall());
                let limit = self.0.wait_timeout.min(left.unwrap_or_default() / 2);
                let outcome = self.0.wait(flight, limit).await;
                match outcome {
                    Err(_) if held.schedule.verdict(self.0.clock.wall()) != Verdict::Wait => {
                        Ok(held.token.clone())
                    }
                    outcome => outcome,
                }
            }
        }
    }

    /// Another token than `instead_of`, which a server has refused; `None` if
    /// the provider has no other.
    ///
    /// The refused token becomes suspect, but is not taken from those for whom
    /// it works: it is still given out until another arrives or it expires.
    /// Callers join one forced renewal. If the provider answers with the same
    /// token again, it is not asked again for that reason for 5 minutes.
    ///
    /// # Errors
    ///
    /// [`TokenError`], if the provider could not be asked.
    pub async fn renew(&self, instead_of: &Token) -> Result<Option<Token>, TokenError> {
        // A flight that was started before the refusal may bring the same token
        // again; the one after it has been told.
        for _ in 0..2 {
            let flight = {
                let mut state = self.0.lock();
                let known = state.is_suspect();
                let step = state.on_refused(instead_of, self.0.now());
                if !known && state.is_suspect() {
                    tracing::info!(scope = %self.0.scope, "a login with the token was refused; asking for another");
                }
                match step {
                    RenewStep::Take(token) => return Ok(Some(token)),
                    RenewStep::NoOther => return Ok(None),
                    RenewStep::Fail(error) => return Err(error),
                    RenewStep::Join(flight) => flight,
                    RenewStep::Start => self.0.start(&mut state, Reason::Rejected)?,
                }
            };
            let told = flight.reason == Reason::Rejected;
            let token = self.0.wait(flight, self.0.wait_timeout).await?;
            if !token.same_secret(instead_of) {
                return Ok(Some(token));
            }
            if told {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Fetches a token now if there is none, so that the first connect need not
    /// wait, and a wrong set-up shows at start.
    ///
    /// # Errors
    ///
    /// As [`token`](Self::token).
    pub async fn warm_up(&self) -> Result<(), TokenError> {
        self.token().await.map(drop)
    }

    /// What the tokens are for.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// How things stand.
    #[must_use]
    pub fn report(&self) -> TokenReport {
        let state = self.0.lock();
        let token = state.held().map(|held| &held.token);
        TokenReport {
            scope: self.0.scope.clone(),
            credential: self.0.credential.name(),
            expires_on: token.map(Token::expires_on),
            refresh_at: state.held().map(|held| held.schedule.refresh_at),
            principal: token
                .and_then(Token::claims)
                .and_then(|claims| claims.principal_name().map(str::to_owned).or(claims.object_id)),
            requests: state.requests,
            failures: state.failures,
            suspect: state.is_suspect(),
            last_error: state.last_failure().cloned(),
        }
    }

    /// Whether a token other than `token` is held, and will outlive it.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn has_newer_than(&self, token: &Token) -> bool {
        self.0.current.load().as_ref().is_some_and(|held| {
            !held.token.same_secret(token) && held.token.expires_on() > token.expires_on()
        })
    }

    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
    }

    /// Starts the one request, as a task of its own.
    fn start(self: &Arc<Self>, state: &mut State, reason: Reason) -> Result<Flight, TokenError> {
        let Ok(runtime) = Handle::try_current() else {
            return Err(self.lost());
        };
        let (sender, outcome) = watch::channel(None);
        let flight = Flight { outcome, reason };
        state.on_start(flight.clone());
        let inner = self.clone();
        runtime.spawn(async move {
            let requested = inner.clock.wall();
            let request = TokenRequest::new(inner.scope.clone(), reason);
            let answer = inner.credential.get_token(request).await.and_then(not_empty);
            inner.land(answer, reason, requested, &sender);
        });
        Ok(flight)
    }

    /// The request has ended: takes its answer in and tells all who wait.
    fn land(
        &self,
        answer: Result<Token, CredentialError>,
        reason: Reason,
        requested: SystemTime,
        waiters: &watch::Sender<Option<Outcome>>,
    ) {
        let (now, jitter) = (self.now(), fastrand::f64());
        let mut state = self.lock();
        let (change, outcome) = match answer {
            Ok(token) => {
                let late = token.expires_on() <= now.wall;
                let change = state.on_token(token.clone(), reason, requested, now, jitter);
                if late {
                    tracing::warn!(scope = %self.scope, "the token is already expired by this machine's clock: is the clock right?");
                }
                (change, Ok(state.held().map_or(token, |held| held.token.clone())))
            }
            Err(error) => {
                let retry_after = error.retry_after();
                let error = TokenError::Credential {
                    scope: self.scope.clone(),
                    credential: self.credential.name(),
                    source: Arc::new(error),
                };
                (state.on_failure(error.clone(), retry_after, now, jitter), Err(error))
            }
        };
        self.current.store(state.held().cloned());
        // Under the lock still: whoever finds no flight in the state finds the cell filled.
        waiters.send_replace(Some(outcome.clone()));
        drop(state);
        self.tell(change, &outcome, now);
    }

    fn tell(&self, change: Change, outcome: &Outcome, now: Now) {
        let (scope, credential) = (&self.scope, self.credential.name());
        match (change, outcome) {
            (Change::Fetched, Ok(token)) => {
                tracing::info!(%scope, credential, lives = ?token.remaining(now.wall), "token fetched");
            }
            (Change::Refreshed, Ok(token)) => {
                tracing::info!(%scope, credential, lives = ?token.remaining(now.wall), "token refreshed");
            }
            (Change::NoProgress, Ok(token)) => {
                tracing::debug!(%scope, credential, lives = ?token.remaining(now.wall), "the provider has no newer token yet");
            }
            (Change::FailedButUsable(left), Err(error)) => {
                tracing::warn!(%scope, credential, usable_for = ?left, error = error as &dyn std::error::Error, "token refresh failed; the token is still usable");
            }
            (_, Err(error)) => {
                tracing::error!(%scope, credential, error = error as &dyn std::error::Error, "no token");
            }
            (_, Ok(_)) => {}
        }
    }

    async fn wait(&self, mut flight: Flight, limit: Duration) -> Outcome {
        let landed = flight.outcome.wait_for(Option::is_some);
        match clock::timeout(&*self.clock, limit, landed).await {
            Ok(Ok(outcome)) => match &*outcome {
                Some(outcome) => outcome.clone(),
                None => Err(self.lost()),
            },
            Ok(Err(_sender_gone)) => Err(self.lost()),
            Err(clock::Elapsed) => Err(TokenError::TimedOut {
                scope: self.scope.clone(),
                credential: self.credential.name(),
                waited: limit,
            }),
        }
    }

    fn lost(&self) -> TokenError {
        TokenError::Lost { scope: self.scope.clone(), credential: self.credential.name() }
    }
}

/// An empty secret would be sent as a password, and refused there with less to say.
fn not_empty(token: Token) -> Result<Token, CredentialError> {
    if token.secret().is_empty() {
        return Err(CredentialError::new(
            CredentialErrorKind::Refused,
            "the credential answered with an empty token",
        ));
    }
    Ok(token)
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("credential", &self.0.credential)
            .field("scope", &self.0.scope)
            .finish_non_exhaustive()
    }
}

/// How a token cache stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenReport {
    /// What the tokens are for.
    pub scope: Scope,
    /// Who gives them: [`TokenCredential::name`].
    pub credential: String,
    /// When the token there is ends; `None` if there is none.
    pub expires_on: Option<SystemTime>,
    /// From when on it is replaced.
    pub refresh_at: Option<SystemTime>,
    /// For whom it stands, as it says itself: a name, else an object ID.
    pub principal: Option<String>,
    /// Requests to the credential so far.
    pub requests: u64,
    /// How many of them failed.
    pub failures: u64,
    /// Whether a login with it was refused and no answer has come yet.
    pub suspect: bool,
    /// Why the last request failed; `None` after one that did not.
    pub last_error: Option<TokenError>,
}
