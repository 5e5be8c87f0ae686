//! What statements wait for: advisory locks and `pg_sleep`, both to be
//! interrupted.

use std::{
    collections::BTreeMap,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::error::SqlError;

/// Set when the statement under way is to end.
pub(super) type Interrupt = AtomicBool;

/// The advisory locks of all sessions, by key.
#[derive(Default)]
pub(super) struct Waiting {
    locks: Mutex<BTreeMap<i64, Held>>,
    changed: Condvar,
}

struct Held {
    by: i32,
    times: u32,
}

impl Waiting {
    /// Ends whatever waits with this interrupt.
    pub(super) fn interrupt(&self, interrupt: &Interrupt) {
        let _locks = self.guard();
        interrupt.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    pub(super) fn sleep(&self, time: Duration, interrupt: &Interrupt) -> Result<(), SqlError> {
        let end = Instant::now() + time;
        let mut locks = self.guard();
        loop {
            check(interrupt)?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let woken = self.changed.wait_timeout(locks, left);
            locks = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn lock(&self, key: i64, by: i32, interrupt: &Interrupt) -> Result<(), SqlError> {
        let mut locks = self.guard();
        while !take(&mut locks, key, by) {
            check(interrupt)?;
            locks = self.changed.wait(locks).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    pub(super) fn try_lock(&self, key: i64, by: i32) -> bool {
        take(&mut self.guard(), key, by)
    }

    pub(super) fn unlock(&self, key: i64, by: i32) -> bool {
        let mut locks = self.guard();
        let Some(held) = locks.get_mut(&key).filter(|held| held.by == by) else {
            return false;
        };
        held.times -= 1;
        if held.times == 0 {
            locks.remove(&key);
            self.changed.notify_all();
        }
        true
    }

    pub(super) fn unlock_all(&self, by: i32) {
        self.guard().retain(|_, held| held.by != by);
        self.changed.notify_all();
    }

    fn guard(&self) -> MutexGuard<'_, BTreeMap<i64, Held>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(locks: &mut BTreeMap<i64, Held>, key: i64, by: i32) -> bool {
    let held = locks.entry(key).or_insert(Held { by, times: 0 });
    let mine = held.by == by;
    held.times += u32::from(mine);
    mine
}

fn check(interrupt: &Interrupt) -> Result<(), SqlError> {
    if interrupt.load(Ordering::SeqCst) {
        return Err(SqlError::cancelled());
    }
    Ok(())
}
