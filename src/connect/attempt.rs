use std::{fmt, sync::Arc, time::Duration};

use super::{SentTokens, Stage, metrics::TARGET};
use crate::lock::Lock;

/// A running connect: its deadline and its progress. Clones share both.
#[derive(Debug)]
pub(crate) struct Attempt<E> {
    progress: Arc<Lock<Progress<E>>>,
    /// The tokens that the connector has sent so far.
    pub(crate) sent: SentTokens,
    /// When the connect started, on the monotonic clock.
    pub(super) began: Duration,
    limit: Duration,
    /// Whether a server of the connector has accepted a login before.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(crate) known: bool,
}

/// The progress of a connect.
#[derive(Debug)]
pub(crate) struct Progress<E> {
    pub(crate) stage: Stage,
    /// The server of the current login; before the first login, all servers.
    pub(crate) server: String,
    /// Why the previous login failed.
    pub(crate) failed: Option<E>,
    /// Whether a server has routed the login to another one.
    routed: bool,
}

impl<E> Attempt<E> {
    pub(super) fn new(
        server: String,
        sent: SentTokens,
        began: Duration,
        limit: Duration,
        known: bool,
    ) -> Self {
        let progress = Progress { stage: Stage::Token, server, failed: None, routed: false };
        Self { progress: Arc::new(Lock::new(progress)), sent, began, limit, known }
    }

    /// Returns the time until the deadline, at `now`.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        self.limit.saturating_sub(now.saturating_sub(self.began))
    }

    pub(crate) fn reached(&self, stage: Stage) {
        let mut progress = self.progress.lock();
        progress.stage = stage;
        let server = &progress.server;
        tracing::debug!(target: TARGET, server, %stage, "connecting");
    }

    /// Logs the addresses that the server's name resolved to.
    pub(crate) fn resolved(&self, addresses: &[impl fmt::Debug]) {
        let server = &self.progress.lock().server;
        tracing::debug!(target: TARGET, server, ?addresses, "resolved");
    }

    /// Records that the connect tries this server now.
    pub(crate) fn trying(&self, server: &str) {
        server.clone_into(&mut self.progress.lock().server);
        self.reached(Stage::Resolve);
    }

    /// Records that a server has routed the login to another one.
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

    /// Returns the stage and the server of the current login.
    pub(crate) fn position(&self) -> (Stage, String) {
        let progress = self.progress.lock();
        (progress.stage, progress.server.clone())
    }

    /// Returns the progress, and moves the last failure out of it.
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
