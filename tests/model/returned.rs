//! Checks returning, cleaning, checking out and closing with the model checker: the actual
//! decisions, marks and guard in a minimal pool.

use std::time::Duration;

use shuttle::{
    rand::{Rng, thread_rng},
    sync::{Arc, Mutex},
    thread,
};

#[path = "../../src/azure_sql/returned.rs"]
mod actual;

use actual::{Cleaned, Pooled, Returned, Unclean, decide};

const CALLERS: usize = 3;
const USES: usize = 3;
const SIZE: usize = 2;

/// A session and its state.
#[derive(Debug)]
struct Session {
    requests: u64,
    cleaned: Cleaned,
    dirty: bool,
    in_transaction: bool,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Session>,
    /// The number of sessions: idle, checked out, or being cleaned.
    size: usize,
    closed: bool,
    now: Duration,
}

#[derive(Debug, Clone, Default)]
struct Pool(Arc<Mutex<State>>);

/// A session that is not idle. Dropping it returns it, as with deadpool's objects.
#[derive(Debug)]
struct Object {
    pool: Pool,
    session: Option<Session>,
}

impl Drop for Object {
    fn drop(&mut self) {
        let mut state = self.pool.0.lock().unwrap();
        if let Some(session) = self.session.take() {
            if state.closed {
                state.size -= 1;
            } else {
                state.idle.push(session);
            }
        }
    }
}

impl Pooled for Object {
    fn discard(mut self) {
        self.session = None;
        self.pool.0.lock().unwrap().size -= 1;
    }
}

/// A round trip to the server, during which other threads run.
fn clean(session: &mut Session) {
    thread::yield_now();
    (session.dirty, session.in_transaction) = (false, false);
    session.requests += 1;
}

impl Pool {
    /// Returns an idle session or a new one, or `None` if all are in use or the pool is closed.
    fn get(&self, cleans: bool) -> Option<Object> {
        let (session, now) = {
            let mut state = self.0.lock().unwrap();
            state.now += Duration::from_millis(thread_rng().gen_range(0..700));
            if state.closed {
                return None;
            }
            let now = state.now;
            let session = state.idle.pop();
            if session.is_none() {
                if state.size == SIZE {
                    return None;
                }
                state.size += 1;
            }
            (session, now)
        };
        let cleaned = Cleaned { at: now, requests: 0 };
        let new = || Session { requests: 0, cleaned, dirty: false, in_transaction: false };
        let mut session = session.unwrap_or_else(new);
        if cleans && !session.cleaned.holds(session.requests, now) {
            clean(&mut session);
            session.cleaned = Cleaned { at: now, requests: session.requests };
        }
        Some(Object { pool: self.clone(), session: Some(session) })
    }

    /// Returns the session as `PooledConnection` does when it is dropped.
    fn put_back(
        &self,
        object: Object,
        cleans: bool,
        may_spawn: bool,
    ) -> Option<thread::JoinHandle<()>> {
        let session = object.session.as_ref().unwrap();
        let is_used = session.cleaned.is_used(session.requests);
        match decide(cleans && may_spawn, session.in_transaction, is_used) {
            Returned::Keep => None,
            Returned::Close => {
                object.discard();
                None
            }
            Returned::Clean => {
                let (mut unclean, pool) = (Unclean::new(object), self.clone());
                Some(thread::spawn(move || {
                    // The task or its runtime may end at any time.
                    if thread_rng().gen_bool(0.2) {
                        return;
                    }
                    let session = unclean.object().unwrap().session.as_mut().unwrap();
                    clean(session);
                    let (at, requests) = (pool.0.lock().unwrap().now, session.requests);
                    session.cleaned = Cleaned { at, requests };
                    if thread_rng().gen_bool(0.8) {
                        unclean.cleaned();
                    }
                }))
            }
        }
    }
}

fn use_sessions(pool: &Pool, cleans: bool) {
    let mut cleaning = Vec::new();
    for _ in 0..USES {
        let Some(mut object) = pool.get(cleans) else {
            thread::yield_now();
            continue;
        };
        let session = object.session.as_mut().unwrap();
        assert!(!session.in_transaction, "a caller got another caller's transaction");
        assert!(!(cleans && session.dirty), "a caller got another caller's session state");
        if thread_rng().gen_bool(0.7) {
            session.requests += 1;
            session.dirty = true;
            session.in_transaction = thread_rng().gen_bool(0.5);
        }
        thread::yield_now();
        cleaning.extend(pool.put_back(object, cleans, thread_rng().gen_bool(0.8)));
    }
    cleaning.into_iter().for_each(|cleaning| cleaning.join().unwrap());
}

fn run(cleans: bool) {
    let pool = Pool::default();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || use_sessions(&pool, cleans))
        })
        .collect();
    let closes = thread_rng().gen_bool(0.5);
    if closes {
        thread::yield_now();
        let mut state = pool.0.lock().unwrap();
        state.closed = true;
        state.size -= state.idle.len();
        state.idle.clear();
    }
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    let state = pool.0.lock().unwrap();
    assert_eq!(state.size, state.idle.len(), "the size counts exactly the idle sessions");
    assert!(!closes || state.idle.is_empty(), "a closed pool keeps no session");
    // The transaction would hold its locks until the next checkout.
    assert!(state.idle.iter().all(|session| !session.in_transaction));
}

#[test]
fn every_checkout_is_clean_and_no_session_is_lost() {
    for cleans in [true, false] {
        shuttle::check_random(move || run(cleans), 3_000);
    }
}
