//! Tests of the documented behaviour of the cache, on a manual clock: no test waits in real time.
#![allow(clippy::unchecked_time_subtraction)] // Only constant times are subtracted.

mod fleet;
mod state;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::*;
use crate::clock::{Clock, ManualClock};

const S: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// The smallest difference between two wall-clock times on Windows.
const MOMENT: Duration = Duration::from_nanos(100);

/// A credential whose every request waits until the test answers it.
#[derive(Debug, Clone, Default)]
struct Provider(Arc<Mutex<Requests>>);

type Answer = Result<Token, CredentialError>;

#[derive(Debug, Default)]
struct Requests {
    waiting: VecDeque<(TokenRequest, oneshot::Sender<Answer>)>,
    total: usize,
}

#[async_trait]
impl TokenCredential for Provider {
    fn name(&self) -> String {
        "the test".into()
    }

    async fn get_token(&self, request: TokenRequest) -> Answer {
        let (answer, answered) = oneshot::channel();
        {
            let mut asked = self.0.lock().unwrap();
            asked.total += 1;
            asked.waiting.push_back((request, answer));
        }
        answered.await.expect("the test answers every request")
    }
}

impl Provider {
    fn total(&self) -> usize {
        self.0.lock().unwrap().total
    }

    /// Answers the oldest open request, and returns the request's reason.
    async fn answer(&self, answer: Answer) -> Reason {
        let mut turns = 0;
        let (request, sender) = loop {
            if let Some(open) = self.0.lock().unwrap().waiting.pop_front() {
                break open;
            }
            turns += 1;
            assert!(turns < 100_000, "no request was made");
            tokio::task::yield_now().await;
        };
        sender.send(answer).expect("the request is still waiting");
        settle().await;
        request.reason
    }
}

/// Runs all other tasks until they wait: the runtime has one thread.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

struct Setting {
    clock: ManualClock,
    provider: Provider,
    cache: TokenCache,
}

fn setting() -> Setting {
    let (clock, provider) = (ManualClock::new(), Provider::default());
    let identity = Identity::builder(provider.clone()).clock(clock.clone()).build();
    Setting { cache: identity.tokens(Scope::AZURE_SQL), clock, provider }
}

impl Setting {
    #[allow(clippy::unnecessary_wraps)] // The provider's answer is a `Result`.
    fn token(&self, secret: &str, lifetime: Duration) -> Answer {
        Ok(Token::new(secret, self.clock.wall() + lifetime))
    }

    fn failure(kind: CredentialErrorKind) -> Answer {
        Err(CredentialError::new(kind, "down"))
    }

    /// Fills the empty cache with this token.
    async fn filled_with(self, secret: &str, lifetime: Duration) -> Self {
        let caller = self.call();
        assert_eq!(self.provider.answer(self.token(secret, lifetime)).await, Reason::Missing);
        caller.await.unwrap().unwrap();
        self
    }

    fn call(&self) -> tokio::task::JoinHandle<Result<Token, TokenError>> {
        let cache = self.cache.clone();
        tokio::spawn(async move { cache.token().await })
    }

    fn renew(&self, refused: &str) -> tokio::task::JoinHandle<Result<Option<Token>, TokenError>> {
        let (cache, refused) = (self.cache.clone(), Token::new(refused, self.clock.wall()));
        tokio::spawn(async move { cache.renew(&refused).await })
    }

    /// Returns the token that a caller gets without waiting.
    async fn now(&self) -> String {
        let call = self.call();
        settle().await;
        assert!(call.is_finished(), "a caller waits although a token is usable");
        call.await.unwrap().unwrap().secret().to_owned()
    }
}

#[tokio::test]
async fn a_thousand_callers_cause_one_request() {
    let setting = setting();
    let calls: Vec<_> = (0..1_000).map(|_| setting.call()).collect();
    settle().await;
    setting.provider.answer(setting.token("a", HOUR)).await;
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().secret(), "a");
    }
    assert_eq!(setting.now().await, "a");
    assert_eq!(setting.provider.total(), 1);
}

#[tokio::test]
async fn each_scope_has_one_cache() {
    let provider = Provider::default();
    let identity = Identity::new(provider.clone());
    let clones = [identity.tokens(Scope::AZURE_SQL), identity.clone().tokens(Scope::AZURE_SQL)];
    let other = identity.tokens(Scope::AZURE_POSTGRESQL);
    let calls: Vec<_> = clones
        .into_iter()
        .chain([other])
        .map(|cache| tokio::spawn(async move { cache.token().await }))
        .collect();
    settle().await;
    for secret in ["a", "b"] {
        let expiry = crate::clock::SystemClock::new().wall() + HOUR;
        provider.answer(Ok(Token::new(secret, expiry))).await;
    }
    let mut secrets = Vec::new();
    for call in calls {
        secrets.push(call.await.unwrap().unwrap().secret().to_owned());
    }
    assert_eq!((secrets, provider.total()), (vec!["a".into(), "a".into(), "b".into()], 2));
}

#[tokio::test]
async fn a_token_past_its_refresh_point_is_returned_while_one_request_runs() {
    let setting = setting().filled_with("a", 24 * HOUR).await;
    setting.clock.advance((12 * HOUR).saturating_sub(S));
    assert_eq!((setting.now().await.as_str(), setting.provider.total()), ("a", 1));
    // Between half and three quarters of the token's lifetime.
    setting.clock.advance(6 * HOUR + S);
    for _ in 0..10 {
        assert_eq!(setting.now().await, "a");
    }
    assert_eq!(setting.provider.total(), 2);
    assert_eq!(setting.provider.answer(setting.token("b", 24 * HOUR)).await, Reason::Expiring);
    assert_eq!(setting.now().await, "b");
}

#[tokio::test]
async fn a_failed_refresh_keeps_the_token_and_backs_off() {
    let setting = setting().filled_with("a", HOUR).await;
    setting.clock.advance(HOUR * 11 / 12);
    assert_eq!(setting.now().await, "a");
    setting.provider.answer(Setting::failure(CredentialErrorKind::Refused)).await;
    assert!(setting.cache.report().last_error.is_some());
    assert_eq!(setting.now().await, "a");
    assert_eq!(setting.provider.total(), 2, "no second request immediately");
    // Between half and three quarters of the remaining 298 s.
    setting.clock.advance(148 * S);
    assert_eq!(setting.now().await, "a");
    settle().await;
    assert_eq!(setting.provider.total(), 2);
    setting.clock.advance(76 * S);
    assert_eq!(setting.now().await, "a");
    settle().await;
    assert_eq!(setting.provider.total(), 3, "a second request after the pause");
    setting.provider.answer(setting.token("b", HOUR)).await;
    assert_eq!(setting.now().await, "b");
    assert!(setting.cache.report().last_error.is_none());
}

#[tokio::test]
async fn a_token_is_returned_until_it_expires_even_if_the_endpoint_never_responds() {
    let setting = setting().filled_with("a", HOUR).await;
    setting.clock.advance(HOUR.saturating_sub(240 * S));
    assert_eq!(setting.now().await, "a");
    // The first request times out after three minutes.
    setting.clock.advance(180 * S);
    settle().await;
    // After the pause, within the margin, a caller waits for the second request, but only until the
    // token is no longer usable.
    setting.clock.advance(44 * S);
    let call = setting.call();
    settle().await;
    assert!(!call.is_finished());
    setting.clock.advance(7 * S);
    assert_eq!(call.await.unwrap().unwrap().secret(), "a");
    setting.clock.advance(9 * S);
    let late = setting.call();
    settle().await;
    setting.clock.advance(30 * S);
    assert!(
        matches!(late.await.unwrap(), Err(TokenError::TimedOut { waited, .. }) if waited == 30 * S)
    );
    // The second request is still running: the next caller gets its token.
    assert_eq!(setting.provider.total(), 3);
    setting.provider.0.lock().unwrap().waiting.remove(0);
    let next = setting.call();
    setting.provider.answer(setting.token("b", HOUR)).await;
    assert_eq!(next.await.unwrap().unwrap().secret(), "b");
}

#[tokio::test]
async fn callers_that_give_up_do_not_cancel_the_request() {
    let setting = setting();
    let impatient = setting.call();
    settle().await;
    impatient.abort();
    settle().await;
    setting.provider.answer(setting.token("a", HOUR)).await;
    assert_eq!((setting.now().await.as_str(), setting.provider.total()), ("a", 1));
}

#[tokio::test]
async fn all_waiting_callers_get_a_failure_and_it_is_not_cached() {
    let setting = setting();
    let calls: Vec<_> = (0..100).map(|_| setting.call()).collect();
    settle().await;
    setting.provider.answer(Setting::failure(CredentialErrorKind::Transient)).await;
    for call in calls {
        assert!(call.await.unwrap().unwrap_err().is_transient());
    }
    // Within a second, callers get the same failure. Afterwards, a new request starts.
    assert!(setting.call().await.unwrap().is_err());
    assert_eq!(setting.provider.total(), 1);
    setting.clock.advance(S);
    let call = setting.call();
    setting.provider.answer(setting.token("a", HOUR)).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "a");
}

#[tokio::test]
async fn a_permanent_failure_is_retried_with_growing_pauses_but_is_not_cached() {
    use CredentialErrorKind::{Refused, Transient, Unavailable};
    let setting = setting();
    // A missing login or a wrong secret: with a call each second, requests are 1, 2, 4, 8, 16 and
    // 30 s apart.
    for (kind, pause) in [
        (Unavailable, 1),
        (Unavailable, 2),
        (Refused, 4),
        (Unavailable, 8),
        (Refused, 16),
        (Refused, 30),
        (Refused, 30),
        // An outage is transient: the next request follows after 1 s, also for a refusal after it.
        (Transient, 1),
        (Transient, 1),
        (Unavailable, 1),
        (Unavailable, 2),
    ] {
        let call = setting.call();
        setting.provider.answer(Setting::failure(kind)).await;
        let first = call.await.unwrap().unwrap_err();
        let requests = setting.provider.total();
        for _ in 0..pause {
            let again = setting.call().await.unwrap().unwrap_err();
            assert_eq!(format!("{again:?}"), format!("{first:?}"));
            setting.clock.advance(S);
        }
        assert_eq!(setting.provider.total(), requests, "{kind:?}: {pause} s");
    }
    let call = setting.call();
    setting.provider.answer(setting.token("a", HOUR)).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "a");
    // After a token, the pauses start with 1 s again.
    setting.clock.advance(HOUR);
    for pause in [1, 2] {
        let call = setting.call();
        setting.provider.answer(Setting::failure(Refused)).await;
        call.await.unwrap().unwrap_err();
        setting.clock.advance(pause * S);
    }
    let call = setting.call();
    setting.provider.answer(setting.token("b", HOUR)).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "b");
}

#[tokio::test]
async fn a_refused_token_is_replaced_by_one_forced_request_and_remains_usable() {
    let setting = setting().filled_with("a", HOUR).await;
    let renewals: Vec<_> = (0..10).map(|_| setting.renew("a")).collect();
    settle().await;
    assert_eq!(setting.now().await, "a", "other callers do not wait");
    assert!(setting.cache.report().suspect);
    assert_eq!(setting.provider.answer(setting.token("b", HOUR)).await, Reason::Rejected);
    for renewal in renewals {
        assert_eq!(renewal.await.unwrap().unwrap().unwrap().secret(), "b");
    }
    assert_eq!(setting.provider.total(), 2);
    // A caller that is refused with the old token later gets the new one immediately.
    assert_eq!(setting.renew("a").await.unwrap().unwrap().unwrap().secret(), "b");
    assert_eq!(setting.provider.total(), 2);
}

#[tokio::test]
async fn after_the_same_token_was_returned_again_no_request_follows_within_a_second() {
    let setting = setting().filled_with("a", HOUR).await;
    let renewal = setting.renew("a");
    setting.provider.answer(setting.token("a", HOUR)).await;
    assert!(renewal.await.unwrap().unwrap().is_none());
    assert!(!setting.cache.report().suspect);
    setting.clock.advance(S - Duration::from_nanos(1));
    assert!(setting.renew("a").await.unwrap().unwrap().is_none());
    assert_eq!(setting.provider.total(), 2);
    setting.clock.advance(Duration::from_nanos(1));
    let renewal = setting.renew("a");
    assert_eq!(setting.provider.answer(setting.token("b", HOUR)).await, Reason::Rejected);
    assert_eq!(renewal.await.unwrap().unwrap().unwrap().secret(), "b");
}

#[tokio::test]
async fn a_request_that_started_before_the_refusal_does_not_count_as_a_renewal() {
    let setting = setting().filled_with("a", HOUR).await;
    setting.clock.advance(HOUR * 11 / 12);
    assert_eq!(setting.now().await, "a");
    let renewal = setting.renew("a");
    settle().await;
    assert_eq!(setting.provider.answer(setting.token("a", 300 * S)).await, Reason::Expiring);
    // The next request states that the token was rejected.
    assert_eq!(setting.provider.answer(setting.token("b", HOUR)).await, Reason::Rejected);
    assert_eq!(renewal.await.unwrap().unwrap().unwrap().secret(), "b");
}

#[tokio::test]
async fn a_refusal_while_the_endpoint_is_down_does_not_affect_other_callers() {
    let setting = setting().filled_with("a", HOUR).await;
    for _ in 0..20 {
        let renewal = setting.renew("a");
        settle().await;
        if !renewal.is_finished() {
            setting.provider.answer(Setting::failure(CredentialErrorKind::Unavailable)).await;
        }
        assert!(renewal.await.unwrap().is_err());
        assert_eq!(setting.now().await, "a");
        setting.clock.advance(5 * S);
    }
    assert!(setting.provider.total() <= 4, "{} requests in 100 s", setting.provider.total());
}

#[tokio::test]
async fn a_renewal_keeps_its_time_limit_over_two_requests() {
    let setting = setting().filled_with("a", HOUR).await;
    setting.clock.advance(HOUR * 11 / 12);
    assert_eq!(setting.now().await, "a");
    let renewal = tokio::spawn({
        let (cache, refused) = (setting.cache.clone(), Token::new("a", setting.clock.wall()));
        async move { cache.renew_within(&refused, 10 * S).await }
    });
    settle().await;
    setting.clock.advance(6 * S);
    assert_eq!(setting.provider.answer(setting.token("a", 300 * S)).await, Reason::Expiring);
    setting.clock.advance(4 * S);
    let error = renewal.await.unwrap().unwrap_err();
    assert!(matches!(error, TokenError::TimedOut { waited, .. } if waited == 10 * S), "{error:?}");
}

/// A credential that panics and counts the requests.
#[derive(Debug, Clone, Default)]
struct Panicking(Arc<AtomicUsize>);

#[async_trait]
impl TokenCredential for Panicking {
    fn name(&self) -> String {
        "the test".into()
    }

    async fn get_token(&self, _: TokenRequest) -> Answer {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("panic of the test");
    }
}

#[tokio::test]
async fn a_panic_of_a_credential_is_a_failure_for_all_waiting_callers() {
    let (clock, credential) = (ManualClock::new(), Panicking::default());
    let identity = Identity::builder(credential.clone()).clock(clock.clone()).build();
    let cache = identity.tokens(Scope::AZURE_SQL);
    for _ in 0..3 {
        let error = cache.token().await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("panicked"), "{cause}");
    }
    assert_eq!(credential.0.load(Ordering::Relaxed), 1);
    assert_eq!((cache.report().failures, cache.report().last_error.is_some()), (1, true));
    clock.advance(S);
    cache.token().await.unwrap_err();
    assert_eq!(credential.0.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_request_times_out_after_three_minutes() {
    let setting = setting();
    let call = setting.call();
    settle().await;
    setting.clock.advance(180 * S - Duration::from_nanos(1));
    assert!(matches!(call.await.unwrap(), Err(TokenError::TimedOut { .. })));
    assert_eq!(setting.cache.report().failures, 0, "the request is still running");
    let call = setting.call();
    settle().await;
    setting.clock.advance(Duration::from_nanos(1));
    let error = call.await.unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "the credential did not respond within 180s");
    assert!(error.is_transient());
}

#[tokio::test]
async fn warm_up_requests_a_token_or_returns_the_error() {
    let setting = setting();
    let warming = |setting: &Setting| {
        let cache = setting.cache.clone();
        tokio::spawn(async move { cache.warm_up().await })
    };
    let warm = warming(&setting);
    setting.provider.answer(Setting::failure(CredentialErrorKind::Refused)).await;
    assert!(warm.await.unwrap().is_err());
    setting.clock.advance(S);
    let warm = warming(&setting);
    setting.provider.answer(setting.token("a", HOUR)).await;
    warm.await.unwrap().unwrap();
    assert_eq!((setting.now().await.as_str(), setting.provider.total()), ("a", 2));
}

#[tokio::test]
async fn during_a_pause_shortly_before_expiry_the_token_is_returned_immediately() {
    let setting = setting().filled_with("a", HOUR).await;
    setting.clock.advance(HOUR - 20 * S);
    let call = setting.call();
    setting.provider.answer(Setting::failure(CredentialErrorKind::Transient)).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "a");
    // The pause is at least half of the remaining time.
    setting.clock.advance(8 * S);
    assert_eq!((setting.now().await.as_str(), setting.provider.total()), ("a", 2));
}

#[tokio::test]
async fn a_token_that_expires_while_a_request_fails_is_not_returned() {
    let setting = setting().filled_with("a", HOUR).await;
    setting.clock.advance(HOUR - 20 * S);
    let call = setting.call();
    settle().await;
    // The machine was suspended.
    setting.clock.set_wall(setting.clock.wall() + HOUR);
    setting.provider.answer(Setting::failure(CredentialErrorKind::Transient)).await;
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn an_expired_token_does_not_replace_a_refused_one() {
    let setting = setting().filled_with("a", HOUR).await;
    let renewal = setting.renew("a");
    setting.provider.answer(setting.token("b", 2 * HOUR)).await;
    renewal.await.unwrap().unwrap();
    setting.clock.advance(2 * HOUR);
    let renewal = setting.renew("a");
    assert_eq!(setting.provider.answer(setting.token("c", HOUR)).await, Reason::Rejected);
    assert_eq!(renewal.await.unwrap().unwrap().unwrap().secret(), "c");
}

#[tokio::test]
async fn keep_fresh_checks_the_token_every_minute_and_at_its_refresh_point() {
    let Setting { clock, provider, cache } = setting();
    cache.keep_fresh();
    let token = Token::new("a", clock.wall() + 100 * S);
    settle().await;
    provider.answer(Ok(token)).await;
    assert_eq!(clock.next_wake(), Some(60 * S));
    clock.advance(60 * S);
    settle().await;
    assert_eq!(clock.next_wake(), Some(20 * S), "four fifths of the lifetime");
}

#[test]
fn scopes_reasons_and_tokens_are_displayed_without_secrets() {
    let scope = Scope::AZURE_SQL;
    assert_eq!(scope.as_str(), "https://database.windows.net/.default");
    assert_eq!(scope.to_string(), scope.as_str());
    assert_eq!(scope.resource(), "https://database.windows.net");
    assert_eq!(Scope::new("api://shop").unwrap().resource(), "api://shop");
    let labels = [Reason::Missing, Reason::Expiring, Reason::Rejected].map(Reason::label);
    assert_eq!(labels, ["missing", "expiring", "rejected"]);
    let kinds = [
        CredentialErrorKind::Unavailable,
        CredentialErrorKind::Refused,
        CredentialErrorKind::Transient,
    ];
    let labels = kinds.map(CredentialErrorKind::label);
    assert_eq!(labels, ["unavailable", "refused", "transient"]);
    let now = ManualClock::new().wall();
    let token = Token::new("a", now + HOUR);
    assert_eq!((token.remaining(now), token.remaining(now + 2 * HOUR)), (HOUR, Duration::ZERO));
    let shown = format!("{token:?}");
    assert!(shown.contains("[redacted]") && shown.contains("expires_on"), "{shown}");
}

#[tokio::test]
async fn an_empty_token_is_refused() {
    let setting = setting();
    let call = setting.call();
    setting.provider.answer(setting.token("", HOUR)).await;
    let error = call.await.unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("empty"), "{cause}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_token_that_is_expired_on_arrival_does_not_cause_a_loop_of_requests() {
    let setting = setting();
    let call = setting.call();
    let past = Token::new("a", setting.clock.wall() - S);
    setting.provider.answer(Ok(past.clone())).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "a");
    for _ in 0..20 {
        assert_eq!(setting.now().await, "a");
    }
    assert_eq!(setting.provider.total(), 1);
    // The provider keeps returning the same token: it is used for another minute each time.
    for minute in 1..10 {
        setting.clock.advance(60 * S);
        let call = setting.call();
        setting.provider.answer(Ok(past.clone())).await;
        assert_eq!(call.await.unwrap().unwrap().secret(), "a");
        for _ in 0..20 {
            assert_eq!(setting.now().await, "a");
        }
        assert_eq!(setting.provider.total(), 1 + minute);
    }
}

#[tokio::test]
async fn extreme_times_do_not_panic() {
    let forever = CredentialError::new(CredentialErrorKind::Transient, "throttled")
        .with_retry_after(Some(Duration::MAX));
    let setting = setting();
    setting.clock.advance(S);
    let call = setting.call();
    setting.provider.answer(Err(forever)).await;
    assert!(matches!(call.await.unwrap(), Err(TokenError::Credential { .. })));
    setting.clock.advance(30 * S);
    let call = setting.call();
    // Windows does not support later times.
    let seconds = if cfg!(windows) { 1 << 39 } else { i64::MAX as u64 / 2 };
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    setting.provider.answer(Ok(Token::new("a", far))).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "a");
    assert!(setting.cache.report().to_string().contains("until an unknown time"));
    let old = Token::new("b", SystemTime::UNIX_EPOCH - S);
    assert_eq!(utc(old.expires_on()), "an unknown time");
}

#[test]
fn a_request_lost_with_its_runtime_does_not_block_the_cache() {
    let setting = setting();
    let first = tokio::runtime::Builder::new_current_thread().build().unwrap();
    first.block_on(async {
        setting.call();
        settle().await;
        assert_eq!(setting.provider.total(), 1);
    });
    drop(first);
    let second = tokio::runtime::Builder::new_current_thread().build().unwrap();
    second.block_on(async {
        let call = setting.call();
        settle().await;
        // The answer to the first request is lost; the second request is a new one.
        setting.provider.0.lock().unwrap().waiting.pop_front();
        setting.provider.answer(setting.token("a", HOUR)).await;
        assert_eq!(call.await.unwrap().unwrap().secret(), "a");
    });
}

#[test]
fn a_caller_that_waits_for_a_request_lost_with_its_runtime_gets_an_error() {
    let setting = setting();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        setting.call();
        settle().await;
    });
    second.block_on(async {
        let call = setting.call();
        settle().await;
        assert_eq!(setting.provider.total(), 1, "the caller waits for the first request");
        drop(std::thread::spawn(|| drop(first)).join());
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, TokenError::Cancelled { .. }) && error.is_transient(), "{error:?}");
    });
}

#[tokio::test]
async fn an_identity_has_its_credentials_name_and_waits_for_its_timeout() {
    let (clock, provider) = (ManualClock::new(), Provider::default());
    let builder = Identity::builder(provider.clone()).clock(clock.clone());
    let identity = builder.wait_timeout(5 * S).build();
    assert_eq!(identity.name(), "the test");
    assert!(format!("{identity:?}").contains("Provider"));
    let cache = identity.tokens(Scope::AZURE_SQL);
    assert!(cache.report().to_string().starts_with("no token for https://database.windows.net"));
    let call = tokio::spawn(async move { cache.token().await });
    settle().await;
    clock.advance(5 * S);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, TokenError::TimedOut { waited, .. } if waited == 5 * S), "{error:?}");
}

#[tokio::test]
async fn keep_fresh_retries_while_no_token_is_available() {
    let Setting { clock, provider, cache } = setting();
    cache.keep_fresh();
    cache.keep_fresh();
    settle().await;
    assert_eq!(clock.sleepers(), 2, "one pause and one request timeout");
    provider.answer(Setting::failure(CredentialErrorKind::Transient)).await;
    let mut asked_after = vec![];
    for second in 1..=2_000 {
        clock.advance(S);
        settle().await;
        if provider.total() > 1 + asked_after.len() {
            asked_after.push(second);
            provider.answer(Setting::failure(CredentialErrorKind::Refused)).await;
        }
    }
    let pauses: Vec<_> = asked_after.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((24..=30).contains(&asked_after[0]), "{asked_after:?}");
    let expected = [48..=60, 96..=120, 192..=240, 240..=300, 240..=300];
    for (pause, expected) in pauses.iter().zip(&expected) {
        assert!(expected.contains(pause), "{asked_after:?}");
    }
    assert!(pauses.len() >= expected.len(), "{asked_after:?}");
    // A caller starts a request immediately, except for 30 s after a permanent failure.
    let total = provider.total();
    clock.advance(31 * S);
    let call = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.token().await })
    };
    settle().await;
    assert_eq!(provider.total(), total + 1);
    provider.answer(Ok(Token::new("a", clock.wall() + HOUR))).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "a");
}

#[tokio::test]
async fn keep_fresh_respects_the_pause_that_a_provider_requests() {
    let Setting { clock, provider, cache } = setting();
    cache.keep_fresh();
    settle().await;
    let error = CredentialError::new(CredentialErrorKind::Transient, "throttled");
    provider.answer(Err(error.with_retry_after(Some(200 * S)))).await;
    for (advanced, total) in [(60, 1), (60, 1), (60, 1), (19, 1), (1, 2)] {
        clock.advance(advanced * S);
        settle().await;
        assert_eq!(provider.total(), total);
    }
}

#[test]
fn keep_fresh_can_start_again_after_its_runtime_has_ended() {
    let setting = setting();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    for total in [1, 2] {
        runtime().block_on(async {
            setting.cache.keep_fresh();
            settle().await;
            assert_eq!(setting.provider.total(), total);
        });
    }
}

#[test]
fn requesting_a_token_outside_of_a_runtime_is_an_error() {
    // This test uses tokio's timers.
    let cache = Identity::new(Provider::default()).tokens(Scope::AZURE_SQL);
    let mut call = std::pin::pin!(cache.token());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match call.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Err(error @ TokenError::Cancelled { .. })) => {
            assert!(error.to_string().contains("the tokio runtime is missing"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    #[cfg(feature = "azure-sql")]
    cache.refresh_if_due();
}

#[tokio::test]
async fn debug_output_contains_no_secret() {
    let setting = setting().filled_with("hunter2", HOUR).await;
    let token = setting.cache.token().await.unwrap();
    let shown = format!("{token:?} {:?} {:?}", setting.cache, setting.cache.report());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("TokenCache") && shown.contains("TokenReport"), "{shown}");
}

#[tokio::test]
async fn setting_the_wall_clock_back_does_not_extend_a_token() {
    let setting = setting().filled_with("a", HOUR).await;
    let right = setting.clock.wall();
    setting.clock.set_wall(right - 24 * HOUR);
    assert_eq!(setting.now().await, "a");
    // By the monotonic clock, the refresh is due.
    setting.clock.advance(HOUR * 11 / 12);
    assert_eq!(setting.now().await, "a");
    let next = Token::new("b", right + 2 * HOUR);
    assert_eq!(setting.provider.answer(Ok(next)).await, Reason::Expiring);
    assert_eq!(setting.now().await, "b");
}

#[tokio::test]
async fn setting_the_wall_clock_forward_causes_one_request() {
    let setting = setting().filled_with("a", HOUR).await;
    let right = setting.clock.wall();
    setting.clock.set_wall(right + 24 * HOUR);
    let call = setting.call();
    // The provider's clock is correct: by the cache's clock, the token expired long ago.
    setting.provider.answer(Ok(Token::new("b", right + HOUR))).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "b");
    for _ in 0..100 {
        assert_eq!(setting.now().await, "b");
    }
    assert_eq!(setting.provider.total(), 2);
    // The clock is corrected. The cache requests a token to replace the one that arrived meanwhile.
    setting.clock.set_wall(right);
    setting.clock.advance(61 * S);
    let call = setting.call();
    setting.provider.answer(Ok(Token::new("c", setting.clock.wall() + HOUR))).await;
    assert_eq!(call.await.unwrap().unwrap().secret(), "c");
    setting.clock.advance(HOUR / 2);
    assert_eq!((setting.now().await.as_str(), setting.provider.total()), ("c", 3));
}

#[tokio::test]
async fn an_expired_token_is_not_used_after_the_machine_was_suspended() {
    let setting = setting().filled_with("a", HOUR).await;
    // The wall clock advances, but the monotonic clock does not.
    setting.clock.set_wall(setting.clock.wall() + 8 * HOUR);
    let call = setting.call();
    settle().await;
    assert!(!call.is_finished());
    assert_eq!(setting.provider.answer(setting.token("b", HOUR)).await, Reason::Missing);
    assert_eq!(call.await.unwrap().unwrap().secret(), "b");
}

#[tokio::test]
async fn the_pause_that_a_provider_requests_is_respected() {
    let throttled = |seconds: u32| {
        let error = CredentialError::new(CredentialErrorKind::Transient, "throttled");
        Err(error.with_retry_after(Some(seconds * S)))
    };
    let setting = setting();
    let call = setting.call();
    setting.provider.answer(throttled(20)).await;
    assert!(call.await.unwrap().is_err());
    setting.clock.advance(19 * S);
    assert!(setting.call().await.unwrap().is_err());
    assert_eq!(setting.provider.total(), 1);
    setting.clock.advance(S);
    let setting = setting.filled_with("a", HOUR).await;

    setting.clock.advance(HOUR * 11 / 12);
    setting.now().await;
    setting.provider.answer(throttled(100)).await;
    setting.clock.advance(99 * S);
    setting.now().await;
    assert_eq!(setting.provider.total(), 3);
    setting.clock.advance(S);
    setting.now().await;
    settle().await;
    assert_eq!(setting.provider.total(), 4);
}

#[tokio::test]
async fn with_keep_fresh_no_caller_waits_and_the_task_ends_with_the_last_clone() {
    let Setting { clock, provider, cache } = setting();
    cache.keep_fresh();
    settle().await;
    let later = |clock: &ManualClock| clock.wall() + HOUR;
    assert_eq!(provider.answer(Ok(Token::new("a", later(&clock)))).await, Reason::Missing);
    let refresh_at = cache.report().refresh_at.unwrap();
    for minute in 1..=45 {
        clock.advance(60 * S);
        settle().await;
        let is_due = clock.wall() >= refresh_at;
        assert_eq!(provider.total(), 1 + usize::from(is_due), "minute {minute}");
        if is_due {
            assert!(minute > 30, "before half of the lifetime");
            let answer = Ok(Token::new("b", later(&clock)));
            assert_eq!(provider.answer(answer).await, Reason::Expiring);
            break;
        }
    }
    assert_eq!(cache.token().await.unwrap().secret(), "b");
    let clone = cache.clone();
    drop(cache);
    settle().await;
    assert_eq!(clock.sleepers(), 1);
    drop(clone);
    settle().await;
    assert_eq!(clock.sleepers(), 0, "the task is still waiting");
}

/// Simulates 30 days with outages, slow answers and callers that give up.
///
/// No caller may fail while a token is usable, no request may be earlier than the policy allows,
/// and no task may be left.
async fn thirty_days(lifetime: Duration, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let setting = setting();
    let (clock, provider) = (setting.clock.clone(), setting.provider.clone());
    let start = clock.wall();
    let mut outage_until = start;
    // The time at which the open request is answered.
    let mut answer_at = None;
    let mut usable_until = start;
    let mut refresh_at = start;
    let mut asked = start;
    let mut last_failed_at = None;
    let mut serial = 0;
    let mut failed_calls = 0;
    let mut requests = 0;
    while clock.wall() < start + 30 * 24 * HOUR {
        clock.advance(Duration::from_millis(random.u64(100..240_000)));
        let now = clock.wall();
        if random.u32(..500) == 0 {
            outage_until = now + Duration::from_secs(random.u64(1..3 * 3_600));
        }
        if answer_at.is_some_and(|at| at <= now) && provider.0.lock().unwrap().waiting.is_empty() {
            answer_at = None; // The request timed out, so it failed.
            last_failed_at = Some(now);
        }
        if answer_at.is_some_and(|at| at <= now) {
            answer_at = None;
            let timed_out = provider.0.lock().unwrap().waiting[0].1.is_closed();
            if timed_out {
                provider.0.lock().unwrap().waiting.pop_front();
                last_failed_at = Some(now);
            } else if now < outage_until {
                provider.answer(Setting::failure(CredentialErrorKind::Transient)).await;
                last_failed_at = Some(now);
            } else {
                serial += 1;
                provider.answer(setting.token(&format!("{serial}"), lifetime)).await;
                usable_until = now + lifetime.saturating_sub(30 * S);
                refresh_at = setting.cache.report().refresh_at.unwrap();
                let lifetime = (now + lifetime).duration_since(asked).unwrap();
                assert!((asked + lifetime / 2..=asked + lifetime * 3 / 4).contains(&refresh_at));
                last_failed_at = None;
            }
        }
        let calls: Vec<_> = (0..random.usize(1..4)).map(|_| setting.call()).collect();
        settle().await;
        if random.u32(..3) == 0 {
            calls[0].abort();
            settle().await;
        }
        for call in calls {
            let usable = now < usable_until;
            assert!(call.is_finished() || !usable, "a caller waits although a token is usable");
            if !call.is_finished() {
                continue; // The caller waits for the running request, as it should.
            }
            if let Ok(Err(error)) = call.await {
                assert!(!usable, "a caller fails though a token is usable: {error}");
                failed_calls += 1;
            }
        }
        let total = provider.total();
        if total > requests {
            assert_eq!(total, requests + 1, "one request at a time");
            assert!(now >= refresh_at, "a request before it was due");
            if let Some(failed) = last_failed_at
                && now < usable_until
            {
                let since = now.duration_since(failed).unwrap();
                let left = usable_until.duration_since(failed).unwrap();
                assert!(since >= (left / 2).min(799 * S), "again after {since:?}, {left:?} left");
            }
            requests = total;
            asked = now;
            answer_at = Some(now + Duration::from_millis(random.u64(1..90_000)));
        }
    }
    let tokens = u64::try_from(serial).unwrap();
    // The provider is unavailable for a fifth of the time.
    assert!(tokens >= 30 * 24 * 2_700 / lifetime.as_secs(), "{tokens} tokens");
    assert!(
        failed_calls > 0 || lifetime > 2 * HOUR,
        "no outage was longer than a token's lifetime"
    );
    // At most one request and its time limit remain.
    assert!(clock.sleepers() <= 8, "{} sleepers left", clock.sleepers());
    assert!(provider.0.lock().unwrap().waiting.len() <= 1);
}

#[tokio::test]
async fn thirty_days_of_one_hour_tokens() {
    for seed in 0..2 {
        thirty_days(HOUR, seed).await;
    }
}

#[tokio::test]
async fn thirty_days_of_24_hour_tokens() {
    for seed in 0..2 {
        thirty_days(24 * HOUR, seed).await;
    }
}

/// The events that the thread of the test logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logged {
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        // With only one subscriber in the process, tracing would cache the interest of the first
        // thread that reaches an event, and the threads of other tests have no subscriber.
        std::mem::forget(tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()));
        let logged = Self::default();
        let writer = logged.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        (logged, tracing::subscriber::set_default(subscriber))
    }

    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

#[tokio::test]
async fn each_event_is_logged_once_and_without_the_secret() {
    let (logged, _guard) = Logged::begin();
    let logs = |expected: &str| {
        let text = logged.take();
        assert!(text.lines().count() == 1 && text.contains(expected), "{expected}: {text}");
        assert!(!text.contains("hunter"), "{text}");
    };
    let setting = setting().filled_with("hunter2", HOUR).await;
    logs("token fetched");

    setting.clock.advance(HOUR * 11 / 12);
    for _ in 0..3 {
        setting.now().await;
    }
    setting.provider.answer(setting.token("hunter3", HOUR)).await;
    setting.now().await;
    logs("token refreshed");

    setting.clock.advance(HOUR * 11 / 12);
    setting.now().await;
    setting.provider.answer(Setting::failure(CredentialErrorKind::Transient)).await;
    for _ in 0..3 {
        setting.now().await;
    }
    // 2 seconds less than 5 minutes.
    logs("usable_for=298s");

    setting.clock.advance(100 * S);
    let refusals: Vec<_> = (0..3).map(|_| setting.renew("hunter3")).collect();
    settle().await;
    logs("a login with the token was refused");
    setting.provider.answer(Setting::failure(CredentialErrorKind::Transient)).await;
    for refusal in refusals {
        assert!(refusal.await.unwrap().is_err());
    }
    logs("token refresh failed; the current token remains usable");

    setting.clock.advance(HOUR);
    let calls: Vec<_> = (0..3).map(|_| setting.call()).collect();
    settle().await;
    logs("the token has expired, and no other token is available");
    setting.provider.answer(Setting::failure(CredentialErrorKind::Transient)).await;
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    logs("token request failed; no usable token is left");
}

#[cfg(any(feature = "azure-sql", feature = "postgres"))]
#[tokio::test]
async fn the_successor_of_a_token_that_expired_during_the_login_is_the_cached_token() {
    let setting = setting().filled_with("a", HOUR).await;
    let began = setting.clock.wall();
    let successor = async |cache: &TokenCache, token: Token| {
        let other = cache.successor_of(&token).await.unwrap();
        other.map(|token| token.secret().to_owned())
    };
    let other = |end| Token::new("x", began + end);
    assert_eq!(successor(&setting.cache, setting.cache.token().await.unwrap()).await, None);
    setting.clock.advance(S);
    assert_eq!(
        successor(&setting.cache, other(S + MOMENT)).await,
        None,
        "the token has not expired"
    );
    assert_eq!(successor(&setting.cache, other(S)).await.as_deref(), Some("a"));
    assert_eq!(setting.provider.total(), 1);

    // The wall clock was set back to before the token arrived, but by the monotonic clock, the
    // token has expired.
    setting.clock.advance(HOUR);
    setting.clock.set_wall(began - S);
    assert_eq!(successor(&setting.cache, other(S)).await, None, "a token of another cache");
    let (cache, ended) = (setting.cache.clone(), Token::new("a", began + HOUR));
    let asking = {
        let ended = ended.clone();
        tokio::spawn(async move { cache.successor_of(&ended).await })
    };
    assert_eq!(setting.provider.answer(setting.token("a", HOUR)).await, Reason::Missing);
    assert!(asking.await.unwrap().unwrap().is_none(), "no other token exists");
}

#[cfg(feature = "azure-sql")]
#[tokio::test]
async fn only_a_refresh_that_is_due_starts_in_the_background() {
    let setting = setting().filled_with("a", HOUR).await;
    setting.cache.refresh_if_due();
    settle().await;
    assert_eq!(setting.provider.total(), 1, "the token is fresh");
    setting.clock.advance(HOUR * 11 / 12);
    setting.cache.refresh_if_due();
    assert_eq!(
        setting.provider.answer(Setting::failure(CredentialErrorKind::Transient)).await,
        Reason::Expiring
    );
    setting.cache.refresh_if_due();
    settle().await;
    assert_eq!(setting.provider.total(), 2, "the refresh pauses after a failure");
    setting.clock.advance(224 * S);
    setting.cache.refresh_if_due();
    assert_eq!(setting.provider.answer(setting.token("b", HOUR)).await, Reason::Expiring);
    assert_eq!(setting.now().await, "b");
}
