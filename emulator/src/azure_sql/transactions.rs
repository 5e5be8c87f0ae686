//! Transactions: T-SQL counts them, and SQLite has one.

use super::{
    error::ServerError,
    options::READ_COMMITTED,
    session::Session,
    tokens::Change,
    tsql::{Writes, names::quoted},
};

impl Session {
    /// Whether SQLite has a transaction open. It begins later than the client's: see
    /// [`Self::before_statement`].
    pub(crate) fn in_sqlite_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Begins SQLite's transaction, if this statement needs one.
    ///
    /// With READ COMMITTED, a statement in Azure SQL reads what was committed when it began. So
    /// do SQLite's statements outside of a transaction. Reads under READ COMMITTED therefore do
    /// not open a transaction, and the first change waits for the write lock and takes it.
    /// Higher levels read one snapshot.
    pub(crate) fn before_statement(&self, writes: Writes) -> Result<(), ServerError> {
        if self.transaction_count == 0 || self.in_sqlite_transaction() {
            return Ok(());
        }
        match writes {
            Writes::Nothing if self.options.isolation <= READ_COMMITTED => {}
            Writes::Nothing | Writes::Temporary => self.connection.execute_batch("BEGIN")?,
            Writes::Shared => self.connection.execute_batch("BEGIN IMMEDIATE")?,
        }
        Ok(())
    }

    /// SQLite rolls a whole transaction back after some errors, and so must the session.
    pub(crate) fn after_error(
        &mut self,
        error: &ServerError,
        had_transaction: bool,
    ) -> Option<Change> {
        let lost = had_transaction && !self.in_sqlite_transaction();
        let doomed = error.number == 1205 || self.options.xact_abort;
        if self.transaction_count > 0 && (lost || doomed) {
            self.end_transaction("ROLLBACK").ok()?
        } else {
            None
        }
    }

    pub(crate) fn begin(&mut self, name: &str) -> Option<Change> {
        self.transaction_count += 1;
        if self.transaction_count > 1 {
            return None;
        }
        self.last_descriptor += 1;
        self.descriptor = self.last_descriptor;
        name.clone_into(&mut self.transaction_name);
        Some(Change::Begin(self.descriptor))
    }

    pub(crate) fn commit(&mut self) -> Result<Option<Change>, ServerError> {
        match self.transaction_count {
            0 => Err(ServerError::new(
                3902,
                16,
                "The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION.",
            )),
            1 => {
                let descriptor = self.descriptor;
                self.end_transaction("COMMIT")?;
                Ok(Some(Change::Commit(descriptor)))
            }
            _ => {
                self.transaction_count -= 1;
                Ok(None)
            }
        }
    }

    /// Rolls the transaction back, or to the savepoint of this name.
    pub(crate) fn rollback(&mut self, name: &str) -> Result<Option<Change>, ServerError> {
        if self.transaction_count == 0 {
            return Err(ServerError::new(
                3903,
                16,
                "The ROLLBACK TRANSACTION request has no corresponding BEGIN TRANSACTION.",
            ));
        }
        if name.is_empty() || name == self.transaction_name {
            return self.end_transaction("ROLLBACK");
        }
        let sql = format!("ROLLBACK TO {}", quoted(name));
        if !self.in_sqlite_transaction() || self.connection.execute_batch(&sql).is_err() {
            let text = format!(
                "Cannot roll back {name}. No transaction or savepoint of that name was found."
            );
            return Err(ServerError::new(6401, 16, text));
        }
        Ok(None)
    }

    pub(crate) fn save(&mut self, name: &str) -> Result<(), ServerError> {
        if self.transaction_count == 0 {
            return Err(ServerError::new(
                628,
                16,
                "Cannot issue SAVE TRANSACTION when there is no active transaction.",
            ));
        }
        self.before_statement(Writes::Shared)?;
        Ok(self.connection.execute_batch(&format!("SAVEPOINT {}", quoted(name)))?)
    }

    /// Ends the transaction, if there is one, and returns the rollback for the answer.
    pub(crate) fn end_transaction(&mut self, how: &str) -> Result<Option<Change>, ServerError> {
        if self.in_sqlite_transaction() {
            self.connection.execute_batch(how)?;
        }
        let descriptor = std::mem::take(&mut self.descriptor);
        self.transaction_name.clear();
        let had_one = std::mem::take(&mut self.transaction_count) > 0;
        Ok(had_one.then_some(Change::Rollback(descriptor)))
    }
}
