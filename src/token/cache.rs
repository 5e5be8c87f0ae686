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
    state::{Core, Notice, Outcome, PendingRequest, RenewStep, Step},
    utc,
};
use crate::{
    clock::{self, Clock},
    single_task::SingleTask,
};

/// A cache for the tokens of one identity and one scope.
///
/// Cloning is cheap, and clones share the cached token. Use
/// [`Identity::tokens`](super::Identity::tokens) to get a cache.
///
/// * [`token`](Self::token) returns a fresh token without locking or allocating.
/// * From the token's refresh point on, `token` still returns the cached token at once, and starts
///   one request for the next token in the background. If the provider recommends a time for the
///   refresh, the refresh point is that time, or up to a tenth earlier. Otherwise it is random,
///   between half and three quarters of the token's lifetime (four fifths of a lifetime below 10
///   minutes), so that processes that started together do not refresh together.
/// * Until 30 s before the expiry (or a tenth of the lifetime, if that is shorter), no caller
///   waits, even if the provider does not respond. Afterwards, a caller waits for the next token
///   for up to half of the remaining time, and then gets the old token.
/// * Without a usable token, all callers wait for the same request. The request is a separate
///   task in the runtime of the caller that started it, so a caller that gives up does not cancel
///   it. (While that runtime is not driven, such as a `current_thread` runtime between two calls
///   of `block_on`, the other callers time out; after 3 minutes the next caller starts another
///   request.)
/// * For 1 s after a failure, callers without a usable token get the same error. Then the next
///   caller starts another request. While the credential is unavailable or refuses, this time
///   doubles up to 30 s.
///
/// Every call compares the expiry with the wall clock, which also advances while the machine sleeps
/// or the container is throttled. [The manual](crate::manual::tokens) has all numbers.
#[derive(Clone)]
pub struct TokenCache(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) credential: Arc<dyn TokenCredential>,
    pub(super) scope: Scope,
    pub(super) clock: Arc<dyn Clock>,
    wait_timeout: Duration,
    pub(super) core: Core,
    pub(super) last_try: LastTry,
    /// Dropped with this cache, which ends the task of [`TokenCache::keep_fresh`].
    alive: watch::Sender<()>,
    keeping_fresh: SingleTask,
}

/// The longest time between two checks of the background task, because a timer does not notice that
/// the machine slept or that the wall clock was set.
const INTERVAL: Duration = Duration::from_secs(60);

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

    /// Returns a usable token.
    ///
    /// # Errors
    ///
    /// [`TokenError`], if no usable token is cached and the credential returns none within the
    /// identity's [`wait_timeout`](super::IdentityBuilder::wait_timeout).
    pub async fn token(&self) -> Result<Token, TokenError> {
        match self.0.core.fresh(self.0.clock.wall()) {
            Some(token) => Ok(token),
            None => self.0.token_not_fresh().await,
        }
    }

    /// Returns a token that replaces `instead_of`, which a server has refused; `None` if the
    /// provider has no other token.
    ///
    /// Other callers still get the refused token until another token arrives or it expires.
    /// Concurrent callers share one request. If the provider returns the same token again, `renew`
    /// returns `None` for 1 s without another request.
    ///
    /// # Errors
    ///
    /// [`TokenError`], if the request to the provider fails or times out, or has just failed.
    pub async fn renew(&self, instead_of: &Token) -> Result<Option<Token>, TokenError> {
        self.renew_within(instead_of, self.0.wait_timeout).await
    }

    /// [`renew`](Self::renew) with a time limit.
    pub(crate) async fn renew_within(
        &self,
        instead_of: &Token,
        limit: Duration,
    ) -> Result<Option<Token>, TokenError> {
        let inner = &self.0;
        let began = inner.clock.monotonic();
        // A request that started before the refusal may return the same token again. The second
        // iteration then starts a request with the reason `Rejected`.
        for _ in 0..2 {
            let (step, notice) = inner.core.refused(instead_of, inner.now());
            inner.log_notice(notice);
            let pending = match step {
                RenewStep::Take(token) => return Ok(Some(token)),
                RenewStep::NoOther => return Ok(None),
                RenewStep::Fail(error) => return Err(error),
                RenewStep::Wait { pending, start } => {
                    inner.start(start);
                    pending
                }
            };
            let is_forced = pending.reason == Reason::Rejected;
            let left = limit.saturating_sub(inner.clock.monotonic().saturating_sub(began));
            let token = match inner.wait(pending, left).await {
                Err(TokenError::TimedOut { .. }) => return Err(inner.timed_out(limit)),
                outcome => outcome?,
            };
            if !token.same_secret(instead_of) {
                return Ok(Some(token));
            }
            if is_forced {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Requests a token now if no usable token is cached, so that the first connect does not wait
    /// for it and a wrong configuration is reported at startup.
    ///
    /// # Errors
    ///
    /// The errors of [`token`](Self::token).
    pub async fn warm_up(&self) -> Result<(), TokenError> {
        self.token().await.map(drop)
    }

    /// Refreshes the token even while no caller uses it, so that the first caller after a quiet
    /// night does not wait.
    ///
    /// This spawns a task in the caller's runtime. The task ends when the last clone of this cache
    /// is dropped (pools have clones). While it runs, a second call has no effect. The maintenance
    /// of a pool also refreshes the token. Without either, a token is refreshed when it is used.
    ///
    /// While no token is usable, the task retries a failed request after 30 s, 1 min, 2 min, 4 min
    /// and then every 5 min, each shortened at random by up to a fifth, or after the provider's
    /// `Retry-After` (at most 5 min). A caller that needs a token does not wait for these pauses.
    ///
    /// # Panics
    ///
    /// Panics if it is called outside of a tokio runtime.
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
                        // The request logs its failure, and the loop tries again.
                        let _ = inner.token_not_fresh().await;
                    }
                    inner.core.next_refresh(inner.now()).clamp(Duration::from_secs(1), INTERVAL)
                };
                tokio::select! {
                    () = clock.sleep(pause) => {}
                    // No value is ever sent, so this means that the sender was dropped.
                    _ = alive.changed() => break,
                }
            }
            drop(task);
        });
    }

    /// The scope of the tokens.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// Returns the current status.
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

    /// Returns whether the cached token expires later than `expires_on`.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn has_newer_than(&self, expires_on: SystemTime) -> bool {
        self.0.core.peek(|held| held.is_some_and(|held| held.token.expires_on() > expires_on))
    }

    /// Starts a refresh in the background if one is due.
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

    /// Returns the error of a caller that waited this long.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn timed_out(&self, waited: Duration) -> TokenError {
        self.0.timed_out(waited)
    }

    /// Returns whether `token` is the cached token and arrived after `since` (monotonic).
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn came_since(&self, token: &Token, since: Duration) -> bool {
        self.0.core.peek(|held| {
            held.is_some_and(|held| held.arrived.monotonic > since && held.token.same_secret(token))
        })
    }

    /// Returns the next token if `token` has expired during a login, by the wall clock or the
    /// monotonic clock; `None` if it has not expired, or if no other token exists.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) async fn successor_of(&self, token: &Token) -> Result<Option<Token>, TokenError> {
        let now = self.0.now();
        let has_expired = self.0.core.peek(|held| {
            held.is_some_and(|held| held.token.same_secret(token) && held.left(now).is_zero())
        });
        if token.expires_on() > now.wall && !has_expired {
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
            Step::Wait { pending, start, fallback: None } => {
                self.start(start);
                self.wait(pending, self.wait_timeout).await
            }
            Step::Wait { pending, start, fallback: Some(held) } => {
                self.start(start);
                // Half of the remaining time, so that the old token can still be used afterwards.
                let limit = self.wait_timeout.min(held.left(self.now()) / 2);
                match self.wait(pending, limit).await {
                    Err(_) if held.verdict(self.now()) != Verdict::Wait => Ok(held.token.clone()),
                    outcome => outcome,
                }
            }
        }
    }

    async fn wait(&self, mut pending: PendingRequest, limit: Duration) -> Outcome {
        // Tasks and timers need a runtime.
        if Handle::try_current().is_err() {
            return Err(self.cancelled());
        }
        let finished = pending.outcome.wait_for(Option::is_some);
        let outcome = match clock::timeout(&*self.clock, limit, finished).await {
            Ok(outcome) => outcome.ok().and_then(|outcome| outcome.clone()),
            Err(clock::Elapsed) => {
                return Err(self.timed_out(limit));
            }
        };
        outcome.unwrap_or_else(|| Err(self.cancelled()))
    }

    fn cancelled(&self) -> TokenError {
        TokenError::Cancelled { scope: self.scope.clone(), credential: self.credential.name() }
    }

    fn timed_out(&self, waited: Duration) -> TokenError {
        let last_try = self.last_try.lock().clone();
        let last_failure = || match self.core.last_failure()? {
            TokenError::Credential { source, .. } => Some(source),
            _ => None,
        };
        TokenError::TimedOut {
            scope: self.scope.clone(),
            credential: self.credential.name(),
            waited,
            source: last_try.or_else(last_failure),
        }
    }

    fn log_notice(&self, notice: Option<Notice>) {
        let scope = &self.scope;
        match notice {
            Some(Notice::Suspected) => {
                tracing::warn!(%scope, "a login with the token was refused; requesting another token");
            }
            Some(Notice::Expired) => {
                tracing::error!(%scope, "the token has expired, and no other token is available");
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

/// The status of a token cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenReport {
    /// The scope of the tokens.
    pub scope: Scope,
    /// The name of the credential: [`TokenCredential::name`].
    pub credential: String,
    /// The expiry of the cached token; `None` if there is none.
    pub expires_on: Option<SystemTime>,
    /// The time from which the cached token is refreshed; `None` if there is none.
    pub refresh_at: Option<SystemTime>,
    /// The principal that the token identifies: its name, otherwise its object ID.
    pub principal: Option<String>,
    /// The number of requests to the credential.
    pub requests: u64,
    /// The number of failed requests.
    pub failures: u64,
    /// Whether a login with the cached token was refused, and the request for another token has not
    /// succeeded yet.
    pub suspect: bool,
    /// The error of the last request; `None` if it succeeded.
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
