//! A task of which there shall be one at a time.

use std::sync::{Arc, Weak};

use crate::lock::Lock;

/// Whether it runs: as long as it holds what [`SingleTask::begin`] gave it. A task that ended
/// with its runtime holds nothing.
#[derive(Debug, Default)]
pub(crate) struct SingleTask(Lock<Weak<()>>);

impl SingleTask {
    /// What the task must hold; `None` if there is one that runs.
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
