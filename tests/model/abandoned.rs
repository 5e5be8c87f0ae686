//! Checks adopting, completing, timing out and closing with the model checker: the actual list of
//! logins without callers, in a minimal pool.

use std::collections::BTreeMap;

use shuttle::{
    rand::{Rng, thread_rng},
    sync::{Arc, Mutex},
    thread,
};

#[path = "../../src/connect/abandoned.rs"]
mod actual;

use actual::AbandonedLogins;

const CALLERS: usize = 3;
const CALLS: usize = 3;
const SIZE: usize = 2;

/// The server's state of a login, until the login or its connection ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum AtServer {
    LoggingIn,
    Connected,
}

#[derive(Debug, Default)]
struct Server {
    logins: BTreeMap<u64, AtServer>,
    started: u64,
}

/// A login. Dropping it closes its connection at the server.
#[derive(Debug)]
struct Login {
    id: u64,
    server: Arc<Mutex<Server>>,
}

impl Drop for Login {
    fn drop(&mut self) {
        self.server.lock().unwrap().logins.remove(&self.id);
    }
}

#[derive(Debug)]
struct State {
    idle: Vec<Login>,
    /// The number of callers that may get a connection now.
    permits: usize,
    closed: bool,
}

#[derive(Debug, Clone)]
struct Pool {
    state: Arc<Mutex<State>>,
    abandoned: Arc<Mutex<AbandonedLogins<Login>>>,
    server: Arc<Mutex<Server>>,
}

impl Pool {
    fn new() -> Self {
        let state = State { idle: Vec::new(), permits: SIZE, closed: false };
        Self {
            state: Arc::new(Mutex::new(state)),
            abandoned: Arc::new(Mutex::new(AbandonedLogins::new())),
            server: Arc::default(),
        }
    }

    /// Checks out as a deadpool pool does: an idle connection, or else an adopted login, or else a
    /// new login. The caller may give up while it waits.
    fn get(&self) -> Option<Login> {
        {
            let mut state = self.state.lock().unwrap();
            if state.closed || state.permits == 0 {
                return None;
            }
            state.permits -= 1;
            if let Some(idle) = state.idle.pop() {
                return Some(idle);
            }
        }
        thread::yield_now();
        let adopted = self.abandoned.lock().unwrap().adopt();
        let (id, login) = adopted.unwrap_or_else(|| self.start());
        if thread_rng().gen_bool(0.5) {
            thread::yield_now();
            self.abandoned.lock().unwrap().add(id, login);
            self.state.lock().unwrap().permits += 1;
            return None;
        }
        while self.server.lock().unwrap().logins.get(&id) == Some(&AtServer::LoggingIn) {
            thread::yield_now();
        }
        Some(login)
    }

    fn start(&self) -> (u64, Login) {
        let id = {
            let mut server = self.server.lock().unwrap();
            server.started += 1;
            let id = server.started;
            server.logins.insert(id, AtServer::LoggingIn);
            let all = server.logins.len();
            assert!(all <= SIZE, "{all} connections and logins in a pool of {SIZE}");
            id
        };
        let pool = self.clone();
        thread::spawn(move || {
            // The connection is closed if no caller adopts the login in time.
            thread::yield_now();
            if let Some(login) = pool.server.lock().unwrap().logins.get_mut(&id) {
                *login = AtServer::Connected;
            }
            if thread_rng().gen_bool(0.3) {
                thread::yield_now();
                pool.abandoned.lock().unwrap().remove(id);
            }
        });
        (id, Login { id, server: self.server.clone() })
    }

    fn put_back(&self, login: Login) {
        let mut state = self.state.lock().unwrap();
        state.permits += 1;
        if state.closed {
            drop(state);
            drop(login);
        } else {
            state.idle.push(login);
        }
    }

    fn close(&self) {
        let idle = {
            let mut state = self.state.lock().unwrap();
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        drop(idle);
        thread::yield_now();
        self.abandoned.lock().unwrap().close();
    }
}

fn call(pool: &Pool) -> usize {
    let mut checkouts = 0;
    for _ in 0..CALLS {
        if let Some(login) = pool.get() {
            let at_server = pool.server.lock().unwrap().logins.get(&login.id).copied();
            assert_eq!(
                at_server,
                Some(AtServer::Connected),
                "a caller got a login that is not connected"
            );
            checkouts += 1;
            thread::yield_now();
            pool.put_back(login);
        }
    }
    checkouts
}

fn run(closes: bool) {
    let pool = Pool::new();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || call(&pool))
        })
        .collect();
    if closes {
        thread::yield_now();
        pool.close();
    }
    for caller in callers {
        caller.join().unwrap();
    }
    if !closes {
        // Each login that lost its caller is available to the next one.
        let started = pool.server.lock().unwrap().started;
        if let Some((_, login)) = pool.abandoned.lock().unwrap().adopt() {
            assert!(login.id <= started);
            drop(login);
        }
        pool.close();
    }
    assert_eq!(pool.server.lock().unwrap().logins.len(), 0, "no connection is left after closing");
}

#[test]
fn connections_and_logins_never_exceed_the_size() {
    shuttle::check_random(|| run(false), 5_000);
}

#[test]
fn no_connection_is_left_after_closing() {
    shuttle::check_random(|| run(true), 5_000);
}

#[test]
fn the_oldest_login_is_adopted_first_and_shrinking_cancels_the_oldest() {
    let mut abandoned = AbandonedLogins::new();
    for id in 1..=4 {
        abandoned.add(id, id);
    }
    assert_eq!(abandoned.adopt(), Some((1, 1)));
    abandoned.remove(3);
    abandoned.shrink(1);
    assert_eq!(abandoned.adopt(), Some((4, 4)));
    assert_eq!(abandoned.adopt(), None);
}
