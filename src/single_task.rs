//! A task that must not run twice at the same time.

use std::sync::{Arc, Weak};

use crate::lock::Lock;

/// Detects whether the task is running. The task holds the guard that [`SingleTask::begin`]
/// returned, and drops it when it completes, panics or is dropped with its runtime.
#[derive(Debug, Default)]
pub(crate) struct SingleTask(Lock<Weak<()>>);

impl SingleTask {
    /// Returns the guard that the task must hold, or `None` if the task is already running.
    pub(crate) fn begin(&self) -> Option<Arc<()>> {
        let mut running = self.0.lock();
        if running.strong_count() > 0 {
            return None;
        }
        let task = Arc::new(());
        *running = Arc::downgrade(&task);
        Some(task)
    }
}
