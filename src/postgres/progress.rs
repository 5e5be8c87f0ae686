use std::sync::{Arc, Mutex, PoisonError};

use super::{Error, Stage};
use crate::telemetry;

/// How far a connect has come, for the error of one that takes too long. Clones
/// share.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    stage: Stage,
    /// The host tried last, as `host:port`; all of them before one is tried.
    server: String,
    /// Why the try before this one failed.
    failed: Option<Error>,
}

impl Progress {
    pub(super) fn new(server: String) -> Self {
        Self(Arc::new(Mutex::new(State { stage: Stage::Token, server, failed: None })))
    }

    pub(super) fn reached(&self, stage: Stage) {
        self.state(|state| {
            state.stage = stage;
            telemetry::reached(stage, &state.server);
        });
    }

    pub(super) fn turned_to(&self, server: &str) {
        self.state(|state| {
            server.clone_into(&mut state.server);
            state.stage = Stage::Resolve;
            telemetry::reached(Stage::Resolve, server);
        });
    }

    pub(super) fn get(&self) -> (Stage, String) {
        self.state(|state| (state.stage, state.server.clone()))
    }

    pub(super) fn failed(&self, error: Error) {
        self.state(|state| state.failed = Some(error));
    }

    /// The last failure, which is no longer kept.
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.state(|state| state.failed.take())
    }

    /// The stage, the server, and the last failure, which is no longer kept.
    pub(super) fn take(&self) -> (Stage, String, Option<Error>) {
        self.state(|state| (state.stage, state.server.clone(), state.failed.take()))
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
