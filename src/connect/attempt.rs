use std::{fmt, sync::Arc, time::Duration};

use super::{Sent, Stage, metrics::TARGET};
use crate::lock::Lock;

/// One connect while it runs: its deadline, and how far it has come. Clones share.
#[derive(Debug)]
pub(crate) struct Attempt<E> {
    progress: Arc<Lock<Progress<E>>>,
    /// What this and earlier connects of the connector have sent.
    pub(crate) sent: Sent,
    /// When the connect began, by the monotonic clock.
    pub(super) began: Duration,
    limit: Duration,
    /// The server accepted a login before.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(crate) known: bool,
}

/// How far a connect has come.
#[derive(Debug)]
pub(crate) struct Progress<E> {
    pub(crate) stage: Stage,
    /// The server that is being tried; all of them before the first is tried.
    pub(crate) server: String,
    /// Why the login before this one failed.
    pub(crate) failed: Option<E>,
    /// A server has answered by routing the login elsewhere.
    routed: bool,
}

impl<E> Attempt<E> {
    pub(super) fn new(
        server: String,
        sent: Sent,
        began: Duration,
        limit: Duration,
        known: bool,
    ) -> Self {
        let progress = Progress { stage: Stage::Token, server, failed: None, routed: false };
        Self { progress: Arc::new(Lock::new(progress)), sent, began, limit, known }
    }

    /// The time until the deadline, at `now`.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        self.limit.saturating_sub(now.saturating_sub(self.began))
    }

    pub(crate) fn reached(&self, stage: Stage) {
        let mut progress = self.progress.lock();
        progress.stage = stage;
        let server = &progress.server;
        tracing::debug!(target: TARGET, server, %stage, "connecting");
    }

    /// The server's name has these addresses.
    pub(crate) fn resolved(&self, addresses: &[impl fmt::Debug]) {
        let server = &self.progress.lock().server;
        tracing::debug!(target: TARGET, server, ?addresses, "resolved");
    }

    /// This server is tried from now on.
    pub(crate) fn turned_to(&self, server: &str) {
        server.clone_into(&mut self.progress.lock().server);
        self.reached(Stage::Resolve);
    }

    /// A server has answered by routing the login elsewhere.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn routed(&self) {
        self.progress.lock().routed = true;
    }

    pub(super) fn was_routed(&self) -> bool {
        self.progress.lock().routed
    }

    pub(crate) fn failed(&self, error: E) {
        self.progress.lock().failed = Some(error);
    }

    /// The stage, and the server that is being tried.
    pub(crate) fn position(&self) -> (Stage, String) {
        let progress = self.progress.lock();
        (progress.stage, progress.server.clone())
    }

    /// The progress. The last failure moves out.
    pub(crate) fn take(&self) -> Progress<E> {
        let mut progress = self.progress.lock();
        let failed = progress.failed.take();
        Progress { server: progress.server.clone(), failed, ..*progress }
    }
}

impl<E> Clone for Attempt<E> {
    fn clone(&self) -> Self {
        Self { progress: self.progress.clone(), sent: self.sent.clone(), ..*self }
    }
}
