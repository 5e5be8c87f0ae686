use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{runtime::Handle, sync::watch};

use super::{
    Reason, Scope, Token, TokenCredential, TokenError,
    policy::{Now, Verdict},
    request::LastTry,
    state::{Core, Flight, Notice, Outcome, RenewStep, Step},
    utc,
};
use crate::{
    clock::{self, Clock},
    single_task::SingleTask,
};

/// One token for one identity and scope, kept fresh.
///
/// Cheap to clone; clones share. Got from [`Identity::tokens`](super::Identity::tokens).
///
/// * A fresh token is given out without a lock or an allocation.
/// * An ageing token is also returned, and one request for the next starts in the background.
///   The refresh point is the provider's hint, or up to a tenth earlier. Without a hint it is
///   drawn for each token, at half to three quarters of its life (four fifths of a life of
///   less than 10 minutes), so that processes that started together do not refresh together.
/// * Nobody waits while a usable token exists, whatever the provider does. In
///   its last 30 s (or tenth of its life, if that is less) a caller does wait for
///   the next one, up to half of what is left; then it gets the old one.
/// * Where there is none, all callers wait for one request. It is a task of its
///   own, in the runtime of the caller that began it: one that gives up cancels
///   nothing. (A runtime that is not driven, as a `current_thread` one between two
///   calls of `block_on`, has the others wait in vain; after 3 min the next caller
///   makes another.)
/// * Errors are not kept: the provider is asked again for the first caller later than 1 s after a
///   failure. While the credential is unavailable or refuses, this pause doubles to 30 s.
///
/// Expiry is judged by the wall clock when the token is asked for, so that a
/// machine's sleep or a throttled container does no harm. [The
/// manual](crate::manual::tokens) has all the numbers.
#[derive(Clone)]
pub struct TokenCache(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) credential: Arc<dyn TokenCredential>,
    pub(super) scope: Scope,
    pub(super) clock: Arc<dyn Clock>,
    wait_timeout: Duration,
    pub(super) core: Core,
    pub(super) last_try: LastTry,
    /// Gone when this cache is: ends the task of [`TokenCache::keep_fresh`].
    alive: watch::Sender<()>,
    keeping_fresh: SingleTask,
}

/// A sleeping machine, or a wall clock that is set, moves a token's times past
/// a timer's: the background task looks again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl TokenCache {
    pub(super) fn new(
        credential: Arc<dyn TokenCredential>,
        scope: Scope,
        clock: Arc<dyn Clock>,
        wait_timeout: Duration,
    ) -> Self {
        let (alive, _) = watch::channel(());
        Self(Arc::new(Inner {
            credential,
            scope,
            clock,
            wait_timeout,
            core: Core::new(),
            last_try: LastTry::default(),
            alive,
            keeping_fresh: SingleTask::default(),
        }))
    }

    /// A token that is good now.
    ///
    /// # Errors
    ///
    /// [`TokenError`], if there is none and none could be had within the
    /// identity's [`wait_timeout`](super::IdentityBuilder::wait_timeout).
    pub async fn token(&self) -> Result<Token, TokenError> {
        match self.0.core.fresh(self.0.clock.wall()) {
            Some(token) => Ok(token),
            None => self.0.token_not_fresh().await,
        }
    }

    /// Another token than `instead_of`, which a server has refused; `None` if
    /// the provider has no other.
    ///
    /// The refused token becomes suspect, but is not taken from those for whom
    /// it works: it is still given out until another arrives or it expires.
    /// Callers join one forced renewal. If the provider answers with the same
    /// token again, it is not asked again for that reason for 1 second.
    ///
    /// # Errors
    ///
    /// [`TokenError`], if the provider could not be asked.
    pub async fn renew(&self, instead_of: &Token) -> Result<Option<Token>, TokenError> {
        self.renew_within(instead_of, self.0.wait_timeout).await
    }

    /// [`renew`](Self::renew) with a limit of its own.
    pub(crate) async fn renew_within(
        &self,
        instead_of: &Token,
        limit: Duration,
    ) -> Result<Option<Token>, TokenError> {
        let inner = &self.0;
        let began = inner.clock.monotonic();
        // A request that was started before the refusal may bring the same
        // token again; the one after it has been told.
        for _ in 0..2 {
            let (step, notice) = inner.core.refused(instead_of, inner.now());
            inner.log_notice(notice);
            let flight = match step {
                RenewStep::Take(token) => return Ok(Some(token)),
                RenewStep::NoOther => return Ok(None),
                RenewStep::Fail(error) => return Err(error),
                RenewStep::Wait { flight, start } => {
                    inner.start(start);
                    flight
                }
            };
            let told = flight.reason == Reason::Rejected;
            let left = limit.saturating_sub(inner.clock.monotonic().saturating_sub(began));
            let token = match inner.wait(flight, left).await {
                Err(TokenError::TimedOut { .. }) => return Err(inner.timed_out(limit)),
                outcome => outcome?,
            };
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

    /// Has the token replaced when its time comes even if nobody asks for it,
    /// so that the first caller after a quiet night need not wait.
    ///
    /// That is done by a task, in the runtime of the caller; it ends when the
    /// last clone of this cache goes (pools have clones). Pools do the same while they are
    /// maintained. Without either, tokens are refreshed when they are used. While that task
    /// runs, a second call does nothing.
    ///
    /// Where no token can be had, it asks again after 30 s, 1 min, 2 min, 4 min, then
    /// every 5 min, each shortened by up to a fifth by chance, or when the provider
    /// says (5 min at most). Who needs a token need not wait for that.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn keep_fresh(&self) {
        let runtime = Handle::current();
        let Some(task) = self.0.keeping_fresh.begin() else { return };
        let (inner, mut alive) = (Arc::downgrade(&self.0), self.0.alive.subscribe());
        let clock = self.0.clock.clone();
        runtime.spawn(async move {
            loop {
                let pause = {
                    let Some(inner) = inner.upgrade() else { break };
                    if inner.core.next_refresh(inner.now()).is_zero() {
                        // It is logged where it happens, and tried again below.
                        let _ = inner.token_not_fresh().await;
                    }
                    inner.core.next_refresh(inner.now()).clamp(Duration::from_secs(1), LOOK_AGAIN)
                };
                tokio::select! {
                    () = clock.sleep(pause) => {}
                    // Nothing is ever sent: this is the sender's end.
                    _ = alive.changed() => break,
                }
            }
            drop(task);
        });
    }

    /// What the tokens are for.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// How things stand.
    #[must_use]
    pub fn report(&self) -> TokenReport {
        let core = &self.0.core;
        let (token, refresh_at) = core
            .peek(|held| held.map(|held| (held.token.clone(), held.schedule.refresh_at)))
            .unzip();
        let claims = token.as_ref().and_then(Token::claims);
        let counts = core.counts();
        TokenReport {
            scope: self.0.scope.clone(),
            credential: self.0.credential.name(),
            expires_on: token.as_ref().map(Token::expires_on),
            refresh_at,
            principal: claims
                .and_then(|claims| claims.principal_name().map(str::to_owned).or(claims.object_id)),
            requests: counts.requests,
            failures: counts.failures,
            suspect: core.is_suspect(),
            last_error: core.last_failure(),
        }
    }

    /// Whether a token is held that ends later than `expires_on`.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn has_newer_than(&self, expires_on: SystemTime) -> bool {
        self.0.core.peek(|held| held.is_some_and(|held| held.token.expires_on() > expires_on))
    }

    /// Has a refresh begin beside, if it is time for one, and waits for nothing.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn refresh_if_due(&self) {
        let inner = &self.0;
        if !inner.core.next_refresh(inner.now()).is_zero() {
            return;
        }
        let (step, notice) = inner.core.call(inner.now());
        inner.log_notice(notice);
        if let Step::TakeAndStart(_, ticket) | Step::Wait { start: Some(ticket), .. } = step {
            inner.start(Some(ticket));
        }
    }

    /// The error of one who has waited so long for a token, by a limit of its own.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn timed_out(&self, waited: Duration) -> TokenError {
        self.0.timed_out(waited)
    }

    /// Whether `token` is the one held, and came after `since` (monotonic).
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn came_since(&self, token: &Token, since: Duration) -> bool {
        self.0.core.peek(|held| {
            held.is_some_and(|held| held.arrived.monotonic > since && held.token.same_secret(token))
        })
    }

    /// What is given out in place of `token`, if that has ended on its way to a server,
    /// by whichever clock says so; `None` if it has not, or there is nothing else.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) async fn successor_of(&self, token: &Token) -> Result<Option<Token>, TokenError> {
        let now = self.0.now();
        let is_out = self.0.core.peek(|held| {
            held.is_some_and(|held| held.token.same_secret(token) && held.left(now).is_zero())
        });
        if token.expires_on() > now.wall && !is_out {
            return Ok(None);
        }
        let other = self.token().await?;
        Ok((!other.same_secret(token)).then_some(other))
    }

    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }
}

impl Inner {
    pub(super) fn now(&self) -> Now {
        Now { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
    }

    async fn token_not_fresh(self: &Arc<Self>) -> Outcome {
        let (step, notice) = self.core.call(self.now());
        self.log_notice(notice);
        match step {
            Step::Take(token) => Ok(token),
            Step::TakeAndStart(token, ticket) => {
                self.start(Some(ticket));
                Ok(token)
            }
            Step::Fail(error) => Err(error),
            Step::Wait { flight, start, fallback: None } => {
                self.start(start);
                self.wait(flight, self.wait_timeout).await
            }
            Step::Wait { flight, start, fallback: Some(held) } => {
                self.start(start);
                // Half of what is left, so that the old token is still of use then.
                let limit = self.wait_timeout.min(held.left(self.now()) / 2);
                match self.wait(flight, limit).await {
                    Err(_) if held.verdict(self.now()) != Verdict::Wait => Ok(held.token.clone()),
                    outcome => outcome,
                }
            }
        }
    }

    async fn wait(&self, mut flight: Flight, limit: Duration) -> Outcome {
        // There, nobody could make the request, and there are no timers.
        if Handle::try_current().is_err() {
            return Err(self.lost());
        }
        let landed = flight.outcome.wait_for(Option::is_some);
        let outcome = match clock::timeout(&*self.clock, limit, landed).await {
            Ok(outcome) => outcome.ok().and_then(|outcome| outcome.clone()),
            Err(clock::Elapsed) => {
                return Err(self.timed_out(limit));
            }
        };
        outcome.unwrap_or_else(|| Err(self.lost()))
    }

    fn lost(&self) -> TokenError {
        TokenError::Cancelled { scope: self.scope.clone(), credential: self.credential.name() }
    }

    fn timed_out(&self, waited: Duration) -> TokenError {
        let last_try = self.last_try.lock().clone();
        let before = || match self.core.last_failure()? {
            TokenError::Credential { source, .. } => Some(source),
            _ => None,
        };
        TokenError::TimedOut {
            scope: self.scope.clone(),
            credential: self.credential.name(),
            waited,
            source: last_try.or_else(before),
        }
    }

    fn log_notice(&self, notice: Option<Notice>) {
        let scope = &self.scope;
        match notice {
            Some(Notice::Suspected) => {
                tracing::warn!(%scope, "a login with the token was refused, another is asked for");
            }
            Some(Notice::Expired) => {
                tracing::error!(%scope, "the token has expired and no other has come");
            }
            None => {}
        }
    }
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

impl fmt::Display for TokenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, credential, .. } = self;
        match self.expires_on {
            Some(end) => {
                let principal = self.principal.as_deref().unwrap_or("an unnamed principal");
                write!(
                    f,
                    "a token of {principal} for {scope} until {}, from {credential}",
                    utc(end)
                )
            }
            None => write!(f, "no token for {scope} yet, from {credential}"),
        }
    }
}
