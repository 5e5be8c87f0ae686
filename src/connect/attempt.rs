use std::{sync::Arc, time::Duration};

use super::{Sent, Stage};
use crate::{lock::Lock, telemetry};

/// One connect while it runs: its deadline, and how far it has come. Clones share.
#[derive(Debug)]
pub(crate) struct Attempt<E> {
    state: Arc<Lock<State<E>>>,
    /// What this and earlier connects of the connector have sent.
    pub(crate) sent: Sent,
    /// When the connect began, by the monotonic clock.
    pub(super) began: Duration,
    limit: Duration,
    /// The server accepted a login before.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(crate) known: bool,
}

#[derive(Debug)]
struct State<E> {
    progress: Progress<E>,
    routed: bool,
}

/// How far a connect has come.
#[derive(Debug)]
pub(crate) struct Progress<E> {
    pub(crate) stage: Stage,
    /// The server that is being tried; all of them before the first is tried.
    pub(crate) server: String,
    /// Why the login before this one failed.
    pub(crate) failed: Option<E>,
}

impl<E> Attempt<E> {
    pub(super) fn new(
        server: String,
        sent: Sent,
        began: Duration,
        limit: Duration,
        known: bool,
    ) -> Self {
        let progress = Progress { stage: Stage::Token, server, failed: None };
        let state = Arc::new(Lock::new(State { progress, routed: false }));
        Self { state, sent, began, limit, known }
    }

    /// The time until the deadline, at `now`.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        self.limit.saturating_sub(now.saturating_sub(self.began))
    }

    pub(crate) fn reached(&self, stage: Stage) {
        let progress = &mut self.state.lock().progress;
        progress.stage = stage;
        telemetry::reached(stage, &progress.server);
    }

    /// This server is tried from now on.
    pub(crate) fn turned_to(&self, server: &str) {
        server.clone_into(&mut self.state.lock().progress.server);
        self.reached(Stage::Resolve);
    }

    /// A server has answered by routing the login elsewhere.
    #[cfg(feature = "azure-sql")]
    pub(crate) fn routed(&self) {
        self.state.lock().routed = true;
    }

    pub(super) fn was_routed(&self) -> bool {
        self.state.lock().routed
    }

    pub(crate) fn failed(&self, error: E) {
        self.state.lock().progress.failed = Some(error);
    }

    /// The stage, and the server that is being tried.
    pub(crate) fn position(&self) -> (Stage, String) {
        let progress = &self.state.lock().progress;
        (progress.stage, progress.server.clone())
    }

    /// The progress. The last failure moves out.
    pub(crate) fn take(&self) -> Progress<E> {
        let Progress { stage, server, failed } = &mut self.state.lock().progress;
        Progress { stage: *stage, server: server.clone(), failed: failed.take() }
    }
}

impl<E> Clone for Attempt<E> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), sent: self.sent.clone(), ..*self }
    }
}
