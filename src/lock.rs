//! A mutex for state that is consistent between any two statements.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex that a panic of its holder does not poison.
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
