//! A task that must not run twice at the same time.

use std::sync::{Arc, Weak};

use crate::lock::Lock;

/// Knows whether the task runs: as long as the task holds the value that [`SingleTask::begin`]
/// returned. A task that ended with its runtime has dropped it.
#[derive(Debug, Default)]
pub(crate) struct SingleTask(Lock<Weak<()>>);

impl SingleTask {
    /// Returns the value that the task must hold; `None` if the task already runs.
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
