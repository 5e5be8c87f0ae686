//! Adopt, land, time out and close under the model checker: the shipped list of logins without
//! callers, in a pool that is as small as possible.

use std::collections::BTreeMap;

use shuttle::{
    rand::{Rng, thread_rng},
    sync::{Arc, Mutex},
    thread,
};

#[path = "../../src/connect/orphans.rs"]
mod shipped;

use shipped::Orphans;

const CALLERS: usize = 3;
const CALLS: usize = 3;
const SIZE: usize = 2;

/// What the server sees of a login, until its connection or the login ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum AtServer {
    LoggingIn,
    Connected,
}

#[derive(Debug, Default)]
struct Server {
    logins: BTreeMap<u64, AtServer>,
    begun: u64,
}

/// A login. Its end closes what it has at the server.
#[derive(Debug)]
struct Flight {
    id: u64,
    server: Arc<Mutex<Server>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.server.lock().unwrap().logins.remove(&self.id);
    }
}

#[derive(Debug)]
struct State {
    idle: Vec<Flight>,
    /// Callers that may be served now.
    permits: usize,
    closed: bool,
}

#[derive(Debug, Clone)]
struct Pool {
    state: Arc<Mutex<State>>,
    orphans: Arc<Mutex<Orphans<Flight>>>,
    server: Arc<Mutex<Server>>,
}

impl Pool {
    fn new() -> Self {
        let state = State { idle: Vec::new(), permits: SIZE, closed: false };
        Self {
            state: Arc::new(Mutex::new(state)),
            orphans: Arc::new(Mutex::new(Orphans::new())),
            server: Arc::default(),
        }
    }

    /// As a deadpool pool whose manager connects by the flights: an idle connection, else an
    /// adopted login, else a login. The caller may give up while it waits.
    fn get(&self) -> Option<Flight> {
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
        let adopted = self.orphans.lock().unwrap().adopt();
        let (id, flight) = adopted.unwrap_or_else(|| self.start());
        if thread_rng().gen_bool(0.5) {
            thread::yield_now();
            self.orphans.lock().unwrap().leave(id, flight);
            self.state.lock().unwrap().permits += 1;
            return None;
        }
        while self.server.lock().unwrap().logins.get(&id) == Some(&AtServer::LoggingIn) {
            thread::yield_now();
        }
        Some(flight)
    }

    fn start(&self) -> (u64, Flight) {
        let id = {
            let mut server = self.server.lock().unwrap();
            server.begun += 1;
            let id = server.begun;
            server.logins.insert(id, AtServer::LoggingIn);
            let all = server.logins.len();
            assert!(all <= SIZE, "{all} connections and logins in a pool of {SIZE}");
            id
        };
        let pool = self.clone();
        thread::spawn(move || {
            // Its connection is closed if no caller wants it in time.
            thread::yield_now();
            if let Some(login) = pool.server.lock().unwrap().logins.get_mut(&id) {
                *login = AtServer::Connected;
            }
            if thread_rng().gen_bool(0.3) {
                thread::yield_now();
                pool.orphans.lock().unwrap().remove(id);
            }
        });
        (id, Flight { id, server: self.server.clone() })
    }

    fn put_back(&self, flight: Flight) {
        let mut state = self.state.lock().unwrap();
        state.permits += 1;
        if state.closed {
            drop(state);
            drop(flight);
        } else {
            state.idle.push(flight);
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
        self.orphans.lock().unwrap().close();
    }
}

fn call(pool: &Pool) -> usize {
    let mut served = 0;
    for _ in 0..CALLS {
        if let Some(flight) = pool.get() {
            let at_server = pool.server.lock().unwrap().logins.get(&flight.id).copied();
            assert_eq!(at_server, Some(AtServer::Connected), "a caller gets what is not there");
            served += 1;
            thread::yield_now();
            pool.put_back(flight);
        }
    }
    served
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
        // Each login that lost its caller is there for the next.
        let begun = pool.server.lock().unwrap().begun;
        if let Some((_, flight)) = pool.orphans.lock().unwrap().adopt() {
            assert!(flight.id <= begun);
            drop(flight);
        }
        pool.close();
    }
    assert_eq!(pool.server.lock().unwrap().logins.len(), 0, "nothing is left after the end");
}

#[test]
fn connections_and_logins_never_exceed_the_size() {
    shuttle::check_random(|| run(false), 5_000);
}

#[test]
fn nothing_is_left_after_a_close() {
    shuttle::check_random(|| run(true), 5_000);
}

#[test]
fn the_oldest_login_is_adopted_first_and_shrinking_ends_the_oldest() {
    let mut orphans = Orphans::new();
    for id in 1..=4 {
        orphans.leave(id, id);
    }
    assert_eq!(orphans.adopt(), Some((1, 1)));
    orphans.remove(3);
    orphans.shrink(1);
    assert_eq!(orphans.adopt(), Some((4, 4)));
    assert_eq!(orphans.adopt(), None);
}
