//! A mutex for state that is consistent after each statement, even if the next one panics.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex that is not poisoned by a panic.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
