//! The engine and the login tasks with an in-memory database and a manual clock.
#![allow(clippy::unchecked_time_subtraction)] // A panic fails the test.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{runtime, task::JoinHandle, task::yield_now};

use super::{login_tasks::LoginTasks, *};
use crate::{
    clock::ManualClock,
    telemetry::Database,
    token::{CredentialError, Identity, Scope, TokenCredential, TokenRequest},
};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(30);

/// Runs all tasks until they wait.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// An identity whose tokens are numbers: a new number for each request, unless it `repeats`.
#[derive(Debug, Default)]
struct Numbers {
    requests: AtomicUsize,
    repeats: bool,
    clock: Option<ManualClock>,
}

#[async_trait::async_trait]
impl TokenCredential for Arc<Numbers> {
    fn name(&self) -> String {
        "numbers".into()
    }

    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        let nth = self.requests.fetch_add(1, SeqCst) + 1;
        let number = if self.repeats { 1 } else { nth };
        let clock = self.clock.as_ref().expect("the clock is set");
        clock.sleep(10 * MS).await;
        Ok(Token::new(number.to_string(), clock.wall() + 24 * 3600 * S))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Error {
    Refused(String),
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Error {}

impl Failure for Error {
    fn error_type(&self) -> &'static str {
        "x"
    }

    fn status_code(&self) -> Option<String> {
        None
    }
}

/// A server that needs 50 ms for a login, and accepts tokens above a number.
#[derive(Debug)]
struct Server {
    clock: ManualClock,
    accepts_above: Mutex<usize>,
    /// The times at which logins were refused.
    refusals: Mutex<VecDeque<Duration>>,
    patience: Duration,
    /// Whether logins get no response.
    hangs: AtomicBool,
}

impl Driver for Arc<Server> {
    type Connection = usize;
    type Error = Error;
    type Refusal = String;

    fn patience(&self) -> Duration {
        self.patience
    }

    fn servers(&self) -> String {
        "server".into()
    }

    fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy { first: S, longest: 5 * S, count: None }
    }

    async fn log_in(&self, token: &Token, _: &Attempt<Error>) -> Result<usize, Error> {
        if self.hangs.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        self.clock.sleep(50 * MS).await;
        let number = token.secret().parse().unwrap();
        if number > *self.accepts_above.lock().unwrap() {
            return Ok(number);
        }
        self.refusals.lock().unwrap().push_back(self.clock.monotonic());
        Err(Error::Refused(String::new()))
    }

    fn refusal(&self, error: &Error) -> Option<String> {
        match error {
            Error::Refused(second_login) => Some(second_login.clone()),
            Error::Other(_) => None,
        }
    }

    async fn repeat(&self, refusal: String) -> Error {
        Error::Refused(refusal)
    }

    fn outlook(&self, error: &Error, _: bool) -> Outlook {
        match error {
            Error::Refused(_) => Outlook::TokenRefused,
            Error::Other(_) => Outlook::Final,
        }
    }

    async fn refused(&self, _: Error, _: &Token, second_login: &str) -> Error {
        Error::Refused(second_login.to_owned())
    }

    fn no_token(&self, source: TokenError) -> Error {
        Error::Other(source.to_string())
    }

    fn timed_out(&self, progress: Progress<Error>, _: Duration) -> Error {
        Error::Other(format!("timed out {}, after {:?}", progress.stage, progress.failed))
    }
}

struct Setup {
    clock: ManualClock,
    numbers: Arc<Numbers>,
    server: Arc<Server>,
    engine: Arc<Engine<Arc<Server>>>,
}

/// Creates an engine and a server that accepts tokens above `accepts_above`.
fn setup(accepts_above: usize, repeats: bool, patience: Duration) -> Setup {
    let clock = ManualClock::new();
    let (requests, accepts_above) = (AtomicUsize::new(0), Mutex::new(accepts_above));
    let numbers = Arc::new(Numbers { requests, repeats, clock: Some(clock.clone()) });
    let identity = Identity::builder(numbers.clone()).clock(clock.clone()).build();
    let refusals = Mutex::default();
    let hangs = AtomicBool::new(false);
    let server = Server { clock: clock.clone(), accepts_above, refusals, patience, hangs };
    let server = Arc::new(server);
    let database = Database::new("x", [("server", 1)], None);
    let tokens = identity.tokens(Scope::AZURE_SQL);
    let engine = Arc::new(Engine::new(server.clone(), tokens, database, LIMIT));
    Setup { clock, numbers, server, engine }
}

type Connecting = JoinHandle<(Duration, Result<usize, Error>)>;

impl Setup {
    /// Makes the server accept tokens above this number.
    fn accept_above(&self, number: usize) {
        *self.server.accepts_above.lock().unwrap() = number;
    }

    /// Connects in a task, which returns when the connect finished, and its result.
    fn connecting(&self) -> Connecting {
        let (engine, clock) = (self.engine.clone(), self.clock.clone());
        tokio::spawn(async move {
            let outcome = engine.connect(clock.monotonic()).await;
            (clock.monotonic(), outcome)
        })
    }

    /// Starts callers that connect again and again, with pauses of 100 ms.
    fn retrying_callers(&self, callers: usize) -> Vec<JoinHandle<()>> {
        let one = || {
            let (engine, clock) = (self.engine.clone(), self.clock.clone());
            tokio::spawn(async move {
                loop {
                    let _ = engine.connect(clock.monotonic()).await;
                    clock.sleep(100 * MS).await;
                }
            })
        };
        (0..callers).map(|_| one()).collect()
    }

    async fn pass(&self, time: Duration) {
        let end = self.clock.monotonic() + time;
        while self.clock.monotonic() < end {
            settle().await;
            let left = end - self.clock.monotonic();
            let step = self.clock.next_wake().unwrap_or(left).clamp(MS, left.max(MS));
            self.clock.advance(step);
        }
        settle().await;
    }

    /// The maximum number of refused logins within any second after `from`.
    fn most_refused(&self, from: Duration) -> usize {
        let refusals = self.server.refusals.lock().unwrap();
        let within =
            |at: Duration| refusals.iter().filter(|it| **it >= at && **it < at + S).count();
        refusals.iter().filter(|at| **at >= from).map(|at| within(*at)).max().unwrap_or(0)
    }

    fn refused(&self) -> usize {
        self.server.refusals.lock().unwrap().len()
    }
}

#[tokio::test]
async fn logins_of_a_missing_role_are_refused_at_most_twice_a_second_and_succeed_soon_after_the_repair()
 {
    // A missing role, and a principal that was recreated, for which older tokens stay refused.
    for recreated in [false, true] {
        for outage in [5 * S, 600 * S] {
            let setup = setup(usize::MAX, false, Duration::ZERO);
            let callers = setup.retrying_callers(50);
            // All callers log in at once before the first refusal.
            setup.pass(S).await;
            assert!(setup.refused() <= 100, "{}", setup.refused());
            let first = setup.refused();
            setup.pass(outage).await;
            let most = setup.most_refused(S + 50 * MS);
            assert!(most <= 2, "{most} refused logins a second");
            assert!(setup.refused() > first, "retries continue");
            let requests = setup.numbers.requests.load(SeqCst);
            assert!(
                requests <= 8 + usize::try_from(outage.as_secs()).unwrap() / 30,
                "{requests} tokens"
            );

            setup.accept_above(if recreated { requests } else { 0 });
            let repaired = setup.clock.monotonic();
            while setup.engine.report().logins == 0 {
                setup.pass(100 * MS).await;
                let took = setup.clock.monotonic() - repaired;
                assert!(took <= if outage < 60 * S { 15 * S } else { 31 * S }, "{took:?}");
            }
            callers.iter().for_each(JoinHandle::abort);
        }
    }
}

#[tokio::test]
async fn refused_logins_wait_if_the_server_accepted_the_identity_before() {
    for callers in [1, 50] {
        let setup = setup(0, true, Duration::MAX);
        let first = setup.connecting();
        setup.pass(S).await;
        first.await.unwrap().1.unwrap();
        // Azure refuses logins like this while it moves a database.
        setup.accept_above(usize::MAX);
        let connecting: Vec<_> = (0..callers).map(|_| setup.connecting()).collect();
        setup.pass(20 * S).await;
        let most = setup.most_refused(S + 150 * MS);
        assert!(most <= 2, "{most} refused logins a second");
        assert!((18..=25 + callers).contains(&setup.refused()), "{} refused", setup.refused());
        setup.accept_above(0);
        setup.pass(2 * S).await;
        for connected in connecting {
            assert!(connected.is_finished());
            connected.await.unwrap().1.unwrap();
        }
    }
}

#[tokio::test]
async fn a_dropped_user_delays_logins_for_one_connect_timeout_only() {
    let setup = setup(0, false, Duration::MAX);
    let first = setup.connecting();
    setup.pass(S).await;
    first.await.unwrap().1.unwrap();
    setup.accept_above(usize::MAX);
    let began = setup.clock.monotonic();
    let mut connecting = vec![setup.connecting()];
    for _ in 0..20 {
        setup.pass(S).await;
        connecting.push(setup.connecting());
    }
    setup.pass(11 * S).await;
    let mut ends = Vec::new();
    for connected in connecting {
        assert!(connected.is_finished());
        let (at, outcome) = connected.await.unwrap();
        assert!(matches!(outcome, Err(Error::Refused(_))), "{outcome:?}");
        ends.push(at - began);
    }
    let (least, most) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*least >= 28 * S && *most <= 31 * S, "{least:?} to {most:?}");
    // From now on, logins fail at once.
    for _ in 0..3 {
        let before = setup.clock.monotonic();
        let refused = setup.connecting();
        setup.pass(200 * MS).await;
        assert!(refused.await.unwrap().0 - before <= 150 * MS);
    }
}

#[tokio::test]
async fn a_hanging_login_after_a_refusal_delays_others_for_a_second() {
    for patience in [Duration::ZERO, Duration::MAX] {
        let setup = setup(0, true, patience);
        let first = setup.connecting();
        setup.pass(S).await;
        first.await.unwrap().1.unwrap();
        setup.accept_above(usize::MAX);
        let refused = setup.connecting();
        setup.pass(200 * MS).await;
        setup.server.hangs.store(true, SeqCst);
        setup.pass(2 * S).await;
        let hanging = setup.connecting();
        setup.pass(100 * MS).await;
        // The server accepts logins again, but the hanging login still gets no response.
        setup.server.hangs.store(false, SeqCst);
        setup.accept_above(0);
        let others: Vec<_> = (0..20).map(|_| setup.connecting()).collect();
        setup.pass(5 * S / 2).await;
        for other in others {
            assert!(other.is_finished(), "the login still waits, with a patience of {patience:?}");
            other.await.unwrap().1.unwrap();
        }
        refused.abort();
        hanging.abort();
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_its_turn_delays_others_for_a_second() {
    let setup = setup(0, true, Duration::MAX);
    let first = setup.connecting();
    setup.pass(S).await;
    first.await.unwrap().1.unwrap();
    setup.accept_above(usize::MAX);
    // Each caller gives up at another point of its wait.
    for after in [1, 30, 100, 500, 1_001, 1_040, 1_100, 2_020] {
        let leaving = setup.connecting();
        setup.pass(after * MS).await;
        leaving.abort();
    }
    // A future that exists but is no longer polled.
    let mut asleep = Box::pin(setup.engine.connect(setup.clock.monotonic()));
    for _ in 0..3 {
        assert!(futures_util::poll!(&mut asleep).is_pending());
        setup.pass(S).await;
    }
    setup.accept_above(0);
    let others: Vec<_> = (0..20).map(|_| setup.connecting()).collect();
    setup.pass(5 * S / 2).await;
    for other in others {
        assert!(other.is_finished(), "the login still waits");
        other.await.unwrap().1.unwrap();
    }
    drop(asleep);
}

#[tokio::test]
async fn the_timeout_after_a_refusal_contains_the_refusal() {
    let setup = setup(0, true, Duration::MAX);
    let first = setup.connecting();
    setup.pass(S).await;
    first.await.unwrap().1.unwrap();
    setup.accept_above(usize::MAX);
    let connecting = setup.connecting();
    setup.pass(S / 2).await;
    setup.server.hangs.store(true, SeqCst);
    setup.pass(LIMIT).await;
    match connecting.await.unwrap().1 {
        Err(Error::Other(text)) => assert!(text.contains("Refused"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn patience_depends_on_the_time_since_the_last_login() {
    let setup = setup(0, false, 60 * S);
    for (since, is_patient) in [(59 * S, true), (61 * S, false)] {
        setup.accept_above(0);
        setup.pass(2 * S).await;
        let accepted = setup.connecting();
        setup.pass(S).await;
        accepted.await.unwrap().1.unwrap();
        setup.pass(since - 950 * MS).await;
        setup.accept_above(usize::MAX);
        let refused = setup.connecting();
        setup.pass(2 * S).await;
        assert_eq!(refused.is_finished(), !is_patient, "{since:?} after the last login");
        refused.abort();
    }
}

#[tokio::test]
async fn a_refusal_explains_why_no_other_token_was_used() {
    let reason = async |setup: &Setup| {
        let refused = setup.connecting();
        setup.pass(200 * MS).await;
        setup.clock.advance(S);
        match refused.await.unwrap().1 {
            Err(Error::Refused(second_login)) => second_login,
            other => panic!("{other:?}"),
        }
    };
    let is_new =
        "The token is new (it was requested for this login), so no other token was requested.";
    let setup = setup(usize::MAX, false, Duration::ZERO);
    assert_eq!(reason(&setup).await, is_new);
    for _ in 0..2 {
        assert_eq!(reason(&setup).await, "Another token was refused as well.");
    }
    let paused = reason(&setup).await;
    assert!(paused.starts_with("No other token was requested"), "{paused}");

    let setup = self::setup(usize::MAX, true, Duration::ZERO);
    assert_eq!(reason(&setup).await, is_new);
    assert_eq!(reason(&setup).await, "The identity has no other token.");
}

/// Counted logins, each of which takes 1 s by default.
struct Logins {
    clock: ManualClock,
    tasks: Arc<LoginTasks<Arc<()>, Error>>,
    started: Arc<AtomicUsize>,
    /// Every connection holds a clone of this.
    alive: Arc<()>,
    fails: bool,
    takes: Duration,
}

impl Logins {
    fn new() -> Self {
        Self::with_limit(LIMIT)
    }

    fn with_limit(limit: Duration) -> Self {
        let clock = ManualClock::new();
        let tasks = Arc::new(LoginTasks::new(Arc::new(clock.clone()), limit));
        let (started, alive) = (Arc::default(), Arc::default());
        Self { clock, tasks, started, alive, fails: false, takes: S }
    }

    fn started(&self) -> usize {
        self.started.load(SeqCst)
    }

    /// The number of open connections.
    fn connections(&self) -> usize {
        Arc::strong_count(&self.alive) - 1
    }

    async fn connect(&self) -> Result<(Arc<()>, bool), Error> {
        let login = |_| {
            let (clock, alive) = (self.clock.clone(), Arc::downgrade(&self.alive));
            let (started, fails, takes) = (self.started.clone(), self.fails, self.takes);
            async move {
                started.fetch_add(1, SeqCst);
                clock.sleep(takes).await;
                if fails { Err(Error::Other("no".into())) } else { Ok(alive.upgrade().unwrap()) }
            }
        };
        self.tasks.connect(login, |_| true).await
    }

    /// A caller that gives up at once.
    async fn give_up(&self) {
        let connecting = std::pin::pin!(self.connect());
        tokio::select! {
            biased;
            _ = connecting => panic!("a login takes a second"),
            () = settle() => {}
        }
    }
}

#[tokio::test]
async fn the_next_caller_adopts_an_abandoned_login() {
    let logins = Logins::new();
    logins.give_up().await;
    logins.give_up().await;
    assert_eq!(logins.started(), 1, "the second caller adopted the login, and also gave up");
    logins.clock.advance(S);
    settle().await;
    let (connection, adopted) = logins.connect().await.unwrap();
    assert!(adopted && logins.started() == 1);
    drop(connection);
    settle().await;
    assert_eq!((logins.connections(), logins.clock.sleepers()), (0, 0));
}

#[tokio::test]
async fn an_unused_connection_is_closed_after_the_login_limit() {
    let logins = Logins::new();
    logins.give_up().await;
    logins.clock.advance(S);
    settle().await;
    assert_eq!(logins.connections(), 1);
    logins.clock.advance(LIMIT - MS);
    settle().await;
    assert_eq!(logins.connections(), 1);
    logins.clock.advance(MS);
    settle().await;
    assert_eq!((logins.connections(), logins.clock.sleepers()), (0, 0));
}

#[tokio::test]
async fn closing_and_shrinking_cancel_abandoned_logins() {
    let logins = Logins::new();
    let mut connecting: Vec<_> = (0..3).map(|_| Box::pin(logins.connect())).collect();
    for connecting in &mut connecting {
        assert!(futures_util::poll!(connecting).is_pending());
    }
    drop(connecting);
    settle().await;
    assert_eq!(logins.clock.sleepers(), 3);
    logins.tasks.shrink(2);
    settle().await;
    assert_eq!(logins.clock.sleepers(), 2);
    let waiting = Box::pin(logins.connect());
    let mut waiting = waiting;
    assert!(futures_util::poll!(&mut waiting).is_pending());
    logins.tasks.close();
    settle().await;
    // The login of the caller, and the caller's time limit.
    assert_eq!(logins.clock.sleepers(), 2);
    drop(waiting);
    settle().await;
    assert_eq!(logins.clock.sleepers(), 0);
    // Other logins continue.
    let (outcome, ()) = tokio::join!(logins.connect(), async {
        settle().await;
        logins.clock.advance(S);
    });
    assert!(!outcome.unwrap().1);
}

#[tokio::test]
async fn a_caller_starts_a_login_after_the_adopted_one_fails() {
    let mut logins = Logins::new();
    logins.fails = true;
    logins.give_up().await;
    logins.fails = false;
    let (outcome, ()) = tokio::join!(logins.connect(), async {
        for _ in 0..2 {
            settle().await;
            logins.clock.advance(S);
        }
    });
    assert!(!outcome.unwrap().1);
    assert_eq!(logins.started(), 2);
}

#[tokio::test]
async fn a_caller_that_adopts_failing_logins_waits_no_longer_than_its_own_limit() {
    let mut logins = Logins::new();
    (logins.fails, logins.takes) = (true, LIMIT - S);
    let began = logins.clock.monotonic();
    logins.give_up().await;
    let mut patient = Box::pin(logins.connect());
    assert!(futures_util::poll!(&mut patient).is_pending(), "the caller adopts the first login");
    logins.clock.advance(LIMIT - 2 * S);
    // The second login has almost all of its time left when the first one fails.
    logins.give_up().await;
    let mut took = None;
    for _ in 0..60 {
        if futures_util::poll!(&mut patient).is_ready() {
            took = Some(logins.clock.monotonic() - began);
            break;
        }
        settle().await;
        logins.clock.advance(S);
    }
    assert!(took.is_some_and(|took| took <= LIMIT + S), "{took:?}");
    // The next caller adopts the second login.
    assert_eq!(logins.started(), 2);
    assert!(futures_util::poll!(Box::pin(logins.connect())).is_pending());
    assert_eq!(logins.started(), 2);
}

#[tokio::test]
async fn an_earlier_failure_is_not_returned_when_connects_have_little_time() {
    let mut logins = Logins::with_limit(S * 9 / 10);
    (logins.fails, logins.takes) = (true, S / 2);
    {
        let mut connecting = Box::pin(logins.connect());
        assert!(futures_util::poll!(&mut connecting).is_pending());
        settle().await;
        logins.clock.advance(S / 2);
        settle().await;
        // The caller gives up at the moment its login fails.
    }
    logins.clock.advance(3_600 * S);
    logins.fails = false;
    let (outcome, ()) = tokio::join!(logins.connect(), async {
        settle().await;
        logins.clock.advance(S / 2);
    });
    outcome.unwrap();
}

#[tokio::test]
async fn logins_may_be_unlimited() {
    let logins = Logins::with_limit(Duration::MAX);
    logins.clock.advance(S);
    logins.give_up().await;
    logins.clock.advance(S);
    settle().await;
    assert!(logins.connect().await.unwrap().1);
}

#[test]
fn a_login_is_started_if_the_adopted_ones_runtime_was_shut_down_or_is_not_driven() {
    for landed in [false, true] {
        for ended in [false, true] {
            let runtime = |(): ()| runtime::Builder::new_current_thread().build().unwrap();
            let (first, second) = (runtime(()), runtime(()));
            let logins = Logins::new();
            first.block_on(async {
                logins.give_up().await;
                if landed {
                    logins.clock.advance(S);
                    settle().await;
                }
            });
            let kept = (!ended).then_some(first);
            second.block_on(async {
                let (outcome, ()) = tokio::join!(logins.connect(), async {
                    for _ in 0..LIMIT.as_secs() + 2 {
                        settle().await;
                        logins.clock.advance(S);
                    }
                });
                let (_, adopted) = outcome.unwrap();
                assert_eq!(adopted, landed && !ended);
                assert_eq!(logins.started(), if adopted { 1 } else { 2 });
            });
            drop(kept);
        }
    }
}

#[tokio::test]
async fn a_panic_of_a_login_reaches_its_caller() {
    let tasks: Arc<LoginTasks<(), Error>> =
        Arc::new(LoginTasks::new(Arc::new(ManualClock::new()), LIMIT));
    let panicking = tokio::spawn(async move {
        tasks.connect(|_| async { panic!("panic of the test") }, |()| true).await
    });
    let error = panicking.await.unwrap_err();
    assert!(error.is_panic());
}
