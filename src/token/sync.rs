//! The synchronization primitives of `state.rs`. The model checker (`tests/model.rs`) compiles the
//! same `state.rs` with its own primitives instead of these.

pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use tokio::sync::watch;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// A shared value that is read without a lock.
#[derive(Debug)]
pub(super) struct Cell<T>(ArcSwapOption<T>);

impl<T> Cell<T> {
    pub(super) fn empty() -> Self {
        Self(ArcSwapOption::empty())
    }

    pub(super) fn store(&self, value: Option<Arc<T>>) {
        self.0.store(value);
    }

    pub(super) fn with<R>(&self, read: impl FnOnce(Option<&T>) -> R) -> R {
        read(self.0.load().as_deref())
    }
}
