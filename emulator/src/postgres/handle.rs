//! A session in the hands of its connection: it blocks, the connection must not.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pgwire::{
    api::ClientInfo,
    error::{PgWireError, PgWireResult},
    messages::response::TransactionStatus,
};
use rusqlite::InterruptHandle;

use super::{
    Shared,
    error::SqlError,
    session::{Session, Status},
    waiting::Interrupt,
};

/// A session, shared with the thread that its statement runs on.
#[derive(Clone)]
pub(super) struct SessionHandle(Arc<Inner>);

struct Inner {
    session: Mutex<Session>,
    shared: Arc<Shared>,
    sqlite: InterruptHandle,
    statements: Mutex<BTreeSet<String>>,
}

impl SessionHandle {
    pub(super) fn new(session: Session) -> PgWireResult<Self> {
        let shared = Arc::clone(&session.reach.shared);
        shared.opened();
        let sqlite = session.sqlite.get_interrupt_handle();
        Ok(Self(Arc::new(Inner {
            session: Mutex::new(session),
            shared,
            sqlite,
            statements: Mutex::default(),
        })))
    }

    pub(super) fn of(client: &impl ClientInfo) -> PgWireResult<Self> {
        let handle = client.session_extensions().get::<Self>();
        let handle = handle.map(|handle| Self::clone(&handle));
        handle.ok_or(PgWireError::NotReadyForQuery)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Session> {
        self.0.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn statements(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the transaction stands, for the client to be told.
    pub(super) fn status(&self) -> TransactionStatus {
        match self.lock().status {
            Status::Idle => TransactionStatus::Idle,
            Status::Transaction => TransactionStatus::Transaction,
            Status::Failed => TransactionStatus::Error,
        }
    }

    /// Does `work` where it may block; given up half-way, it is interrupted.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let interrupt = Arc::new(Interrupt::new(false));
        let mut guard = GivenUp { handle: self, interrupt: Arc::clone(&interrupt), ended: false };
        let handle = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut session = handle.lock();
            session.start(Arc::clone(&interrupt));
            if interrupt.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(SqlError::cancelled());
            }
            work(&mut session)
        });
        let result = task.await;
        guard.ended = true;
        result.unwrap_or_else(|error| Err(SqlError::new("XX000", error.to_string())))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.closed();
    }
}

struct GivenUp<'a> {
    handle: &'a SessionHandle,
    interrupt: Arc<Interrupt>,
    ended: bool,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.handle.0.shared.waiting.interrupt(&self.interrupt);
        self.handle.0.sqlite.interrupt();
    }
}
