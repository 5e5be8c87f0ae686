use std::sync::{Mutex, PoisonError};

use super::{Error, Stage};
use crate::telemetry;

/// How far a connect has come, for the error of one that takes too long.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    stage: Stage,
    /// Where it is at: not where it began, if the server has sent it elsewhere.
    server: String,
    /// Why the try before this one failed.
    failed: Option<Error>,
}

impl Progress {
    pub(super) fn new(server: String) -> Self {
        Self(Mutex::new(State { stage: Stage::Token, server, failed: None }))
    }

    pub(super) fn reached(&self, stage: Stage) {
        self.state(|state| {
            state.stage = stage;
            telemetry::reached(stage, &state.server);
        });
    }

    pub(super) fn stage(&self) -> Stage {
        self.state(|state| state.stage)
    }

    pub(super) fn turned_to(&self, server: &str) {
        self.state(|state| server.clone_into(&mut state.server));
    }

    /// Whether the login was sent elsewhere than `first`.
    pub(super) fn is_elsewhere(&self, first: &str) -> bool {
        self.state(|state| state.server != first)
    }

    pub(super) fn failed(&self, error: Error) {
        self.state(|state| state.failed = Some(error));
    }

    /// The stage, the server, and the last failure, which is no longer kept.
    pub(super) fn take(&self) -> (Stage, String, Option<Error>) {
        self.state(|state| (state.stage, state.server.clone(), state.failed.take()))
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
