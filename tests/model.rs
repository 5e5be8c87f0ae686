//! Checks the token cache's actual state machine with a model checker: shuttle runs it in
//! thousands of random schedules of its threads.
//!
//! `state.rs` and `policy.rs` are compiled unchanged, with shuttle's primitives instead of those
//! of `sync.rs`. The patches in `tests/model/` show that these checks can fail:
//! `tests/model/mutants` applies each patch and expects a failure.
#![allow(dead_code, clippy::pedantic)]

#[path = "model/abandoned.rs"]
mod abandoned;
#[path = "model/returned.rs"]
mod returned;

#[path = "../src/token/policy.rs"]
mod policy;
#[path = "../src/token/state.rs"]
mod state;

/// The items of `src/token/sync.rs`, implemented with shuttle.
mod sync {
    pub(super) use shuttle::sync::{Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;

    use shuttle::sync::Arc as SharedArc;
    use std::sync::Arc;

    #[derive(Debug)]
    pub(super) struct Cell<T>(Mutex<Option<Arc<T>>>);

    impl<T> Cell<T> {
        pub(super) fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub(super) fn store(&self, value: Option<Arc<T>>) {
            *self.0.lock().unwrap() = value;
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(Option<&T>) -> R) -> R {
            let held = self.0.lock().unwrap().clone();
            read(held.as_deref())
        }
    }

    /// The part of tokio's `watch` that the cache uses, for threads.
    pub(super) mod watch {
        use super::SharedArc;
        use shuttle::sync::{Condvar, Mutex, MutexGuard};

        #[derive(Debug)]
        struct Shared<T> {
            value: Mutex<(T, bool)>,
            changed: Condvar,
        }

        #[derive(Debug)]
        pub(in super::super) struct Sender<T>(SharedArc<Shared<T>>);

        #[derive(Debug)]
        pub(in super::super) struct Receiver<T>(SharedArc<Shared<T>>);

        impl<T> Clone for Receiver<T> {
            fn clone(&self) -> Self {
                Self(self.0.clone())
            }
        }

        pub(in super::super) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
            let shared = SharedArc::new(Shared {
                value: Mutex::new((value, false)),
                changed: Condvar::new(),
            });
            (Sender(shared.clone()), Receiver(shared))
        }

        impl<T> Sender<T> {
            pub(in super::super) fn send_replace(&self, value: T) {
                self.0.value.lock().unwrap().0 = value;
                self.0.changed.notify_all();
            }
        }

        impl<T> Drop for Sender<T> {
            fn drop(&mut self) {
                self.0.value.lock().unwrap().1 = true;
                self.0.changed.notify_all();
            }
        }

        pub(in super::super) struct Ref<'a, T>(MutexGuard<'a, (T, bool)>);

        impl<T> std::ops::Deref for Ref<'_, T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.0.0
            }
        }

        impl<T> Receiver<T> {
            pub(in super::super) fn borrow(&self) -> Ref<'_, T> {
                Ref(self.0.value.lock().unwrap())
            }

            /// Returns an error if the sender was dropped.
            pub(in super::super) fn has_changed(&self) -> Result<bool, ()> {
                if self.0.value.lock().unwrap().1 { Err(()) } else { Ok(false) }
            }
        }

        impl<T: Clone> Receiver<Option<T>> {
            /// Waits for a value; returns `None` if the sender is dropped without sending one.
            pub(in super::super) fn wait(&self) -> Option<T> {
                let mut shared = self.0.value.lock().unwrap();
                while shared.0.is_none() && !shared.1 {
                    shared = self.0.changed.wait(shared).unwrap();
                }
                shared.0.clone()
            }
        }
    }
}

use std::time::{Duration, SystemTime};

use entra_pool::token::{Reason, Token, TokenError}; // `state.rs` also uses them.
use policy::Now;
use shuttle::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use state::{Core, RenewStep, Step, Ticket};

const SCHEDULES: usize = 3_000;
const HOUR: u64 = 3_600;

fn at(seconds: u64) -> Now {
    Now {
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds),
        monotonic: Duration::from_secs(seconds),
    }
}

fn token(name: &str, expires: u64) -> Token {
    Token::new(name, at(expires).wall)
}

/// A cache and a provider, with threads instead of the tasks of `cache.rs`.
#[derive(Clone)]
struct World {
    core: Arc<Core>,
    in_flight: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        Self { core: Arc::new(Core::new()), in_flight: Arc::default(), requests: Arc::default() }
    }

    /// Makes the request of a ticket in a separate thread, as the cache does in a task. The
    /// provider numbers its tokens.
    fn start(&self, ticket: Option<Ticket>, now: Now, expires: u64) {
        let Some(ticket) = ticket else { return };
        let world = self.clone();
        thread::spawn(move || {
            assert_eq!(world.in_flight.fetch_add(1, Ordering::SeqCst), 0, "two requests at a time");
            let number = world.requests.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            assert_eq!(world.in_flight.fetch_sub(1, Ordering::SeqCst), 1);
            let token = token(&format!("token {number}"), expires + number as u64);
            let (_, outcome) = world.core.finish(ticket, Ok(token), None, now, now, 0.0);
            outcome.unwrap();
        });
    }

    /// Does the same as `TokenCache::token`; returns `None` if the request was lost.
    fn token(&self, now: Now, expires: u64) -> Option<Token> {
        if let Some(token) = self.core.fresh(now.wall) {
            return Some(token);
        }
        match self.core.call(now).0 {
            Step::Take(token) => Some(token),
            Step::TakeAndStart(token, ticket) => {
                self.start(Some(ticket), now, expires);
                Some(token)
            }
            Step::Wait { pending, start, .. } => {
                self.start(start, now, expires);
                pending.outcome.wait().map(|outcome| outcome.expect("this provider never fails"))
            }
            Step::Fail(error) => panic!("this provider never fails: {error}"),
        }
    }

    /// Does the same as `TokenCache::renew`.
    fn renew(&self, refused: &Token, now: Now, expires: u64) -> Option<Token> {
        for _ in 0..2 {
            let pending = match self.core.refused(refused, now).0 {
                RenewStep::Take(token) => return Some(token),
                RenewStep::NoOther => return None,
                RenewStep::Fail(error) => panic!("this provider never fails: {error}"),
                RenewStep::Wait { pending, start } => {
                    self.start(start, now, expires);
                    pending
                }
            };
            let token = pending.outcome.wait().expect("no request is lost").expect("never fails");
            if !token.same_secret(refused) {
                return Some(token);
            }
        }
        None
    }
}

fn check(scenario: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(scenario, SCHEDULES);
}

fn join<T>(threads: Vec<thread::JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn cold_callers_share_one_request_and_all_wake() {
    check(|| {
        let world = World::new();
        let callers = (0..3).map(|_| {
            let world = world.clone();
            thread::spawn(move || world.token(at(0), HOUR).unwrap())
        });
        let tokens = join(callers.collect());
        assert!(tokens.iter().all(|token| token.secret() == "token 0"));
        assert_eq!(world.requests.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn one_request_refreshes_a_token_that_expires_soon() {
    check(|| {
        let world = World::new();
        world.token(at(0), HOUR).unwrap();
        let near_expiry = at(HOUR - 200);
        let callers = (0..3).map(|_| {
            let world = world.clone();
            thread::spawn(move || world.token(near_expiry, 2 * HOUR).unwrap())
        });
        for token in join(callers.collect()) {
            assert!(["token 0", "token 1"].contains(&token.secret()));
        }
        assert!(world.requests.load(Ordering::SeqCst) <= 2);
    });
}

#[test]
fn a_rejected_token_is_not_returned_to_the_caller_that_rejected_it() {
    check(|| {
        let world = World::new();
        let first = world.token(at(0), HOUR).unwrap();
        let near_expiry = at(HOUR - 200);
        // A refresh that started before the refusals may be in progress.
        let refreshing = {
            let world = world.clone();
            thread::spawn(move || world.token(near_expiry, 2 * HOUR).unwrap())
        };
        let refused = (0..2).map(|_| {
            let (world, first) = (world.clone(), first.clone());
            thread::spawn(move || {
                let other =
                    world.renew(&first, near_expiry, 2 * HOUR).expect("there is another token");
                assert_ne!(other.secret(), first.secret());
            })
        });
        join(refused.collect());
        refreshing.join().unwrap();
        // Later callers do not get the refused token.
        assert_ne!(world.token(near_expiry, 2 * HOUR).unwrap().secret(), first.secret());
    });
}

#[test]
fn a_lost_request_wakes_its_waiters_and_the_next_caller_starts_another_one() {
    check(|| {
        let world = World::new();
        let Step::Wait { pending, start: Some(ticket), .. } = world.core.call(at(0)).0 else {
            panic!("the first caller starts");
        };
        let waiter = {
            let world = world.clone();
            // It joins the request that is about to be lost, or starts another one.
            thread::spawn(move || world.token(at(0), HOUR))
        };
        let loser = thread::spawn(move || drop(ticket));
        assert!(pending.outcome.wait().is_none());
        loser.join().unwrap();
        waiter.join().unwrap();
        assert!(world.token(at(0), HOUR).is_some());
    });
}

#[test]
fn a_late_response_to_an_abandoned_request_is_harmless() {
    check(|| {
        let world = World::new();
        let Step::Wait { start: Some(old), .. } = world.core.call(at(0)).0 else {
            panic!("the first caller starts");
        };
        let late = at(10 * 60);
        let landing = {
            let world = world.clone();
            thread::spawn(move || {
                let (_, outcome) =
                    world.core.finish(old, Ok(token("old", HOUR)), None, at(0), late, 0.0);
                outcome.unwrap();
            })
        };
        let callers = (0..2).map(|_| {
            let world = world.clone();
            thread::spawn(move || world.token(late, 2 * HOUR).unwrap())
        });
        join(callers.collect());
        landing.join().unwrap();
        // Whichever request completes first, `start` asserts that only one runs at a time.
        assert!(world.requests.load(Ordering::SeqCst) <= 1);
    });
}
