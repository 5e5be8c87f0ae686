use std::ops::{Deref, DerefMut};

use tiberius::IsolationLevel;

use super::{Client, Connection, response::REFUSED_AFTER_DROP};

/// A transaction, or a savepoint within a transaction. It dereferences to [`Client`].
///
/// Finish it with [`commit`](Self::commit) or [`rollback`](Self::rollback). Three events leave it
/// unfinished: it is dropped (by `?`, or because its task was cancelled), `commit` or `rollback`
/// fails, or the server rolls it back (after a deadlock). The connection then refuses every request
/// except `rollback`, because a request could unintentionally run within the transaction or outside
/// of it. [`was_dropped`](Self::was_dropped) recognizes the error. The pool rolls back when the
/// connection is returned. A connection without a pool refuses requests permanently: drop it.
///
/// ```no_run
/// # async fn run(pool: entra_pool::azure_sql::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut conn = pool.get().await?;
/// let mut transaction = conn.transaction().await?;
/// transaction.execute("UPDATE stock SET pieces -= 1 WHERE article = @P1", &[&7]).await?;
/// transaction.execute("INSERT INTO sales (article) VALUES (@P1)", &[&7]).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction that is dropped is rolled back"]
#[derive(Debug)]
pub struct Transaction<'a> {
    connection: &'a mut Connection,
    /// 0 for the transaction itself, from 1 for savepoints.
    depth: u32,
    sets_isolation: bool,
    ended: bool,
}

impl Connection {
    /// Begins a transaction, with one round trip.
    ///
    /// # Errors
    ///
    /// The server's error, or an error of the connection.
    /// [`Protocol`](tiberius::error::Error::Protocol), if a transaction is already open.
    pub async fn transaction(&mut self) -> tiberius::Result<Transaction<'_>> {
        self.transaction_with(IsolationLevel::Unspecified).await
    }

    /// Begins a transaction with an isolation level. The level applies until the transaction ends;
    /// afterwards, READ COMMITTED applies.
    ///
    /// # Errors
    ///
    /// The errors of [`transaction`](Self::transaction).
    pub async fn transaction_with(
        &mut self,
        level: IsolationLevel,
    ) -> tiberius::Result<Transaction<'_>> {
        let level = match level {
            IsolationLevel::Unspecified => None,
            IsolationLevel::ReadUncommitted => Some("READ UNCOMMITTED"),
            IsolationLevel::ReadCommitted => Some("READ COMMITTED"),
            IsolationLevel::RepeatableRead => Some("REPEATABLE READ"),
            IsolationLevel::Serializable => Some("SERIALIZABLE"),
            IsolationLevel::Snapshot => Some("SNAPSHOT"),
        };
        let begin = match level {
            None => "BEGIN TRANSACTION".to_owned(),
            Some(level) => format!("SET TRANSACTION ISOLATION LEVEL {level}; BEGIN TRANSACTION"),
        };
        Transaction::begin(self, 0, level.is_some(), &begin).await
    }
}

impl<'a> Transaction<'a> {
    async fn begin(
        connection: &'a mut Connection,
        depth: u32,
        sets_isolation: bool,
        sql: &str,
    ) -> tiberius::Result<Self> {
        let is_open = {
            let state = connection.link.state();
            state.transaction.is_some() && !state.abandoned
        };
        if depth == 0 && is_open {
            // The server would nest the transactions, and `commit` would commit nothing.
            return Err(tiberius::error::Error::Protocol(
                "a transaction is already open on this connection: commit it or roll it back first, or set a savepoint".into(),
            ));
        }
        // Created before the request: if the caller gives up, the drop refuses further requests.
        let mut transaction = Self { connection, depth, sets_isolation, ended: false };
        if let Err(error) = transaction.run(sql.to_owned()).await {
            transaction.ended = true;
            return Err(error);
        }
        transaction.connection.link.state().guarded = true;
        Ok(transaction)
    }

    /// Commits the transaction, with one round trip. A savepoint sends nothing: its changes stay in
    /// the outer transaction, which may still roll them back.
    ///
    /// # Errors
    ///
    /// The server's error, or an error of the connection. If the connection broke, it is unknown
    /// whether the transaction was committed.
    pub async fn commit(mut self) -> tiberius::Result<()> {
        if self.depth == 0 {
            self.end("COMMIT TRANSACTION").await?;
        }
        // If an inner savepoint was dropped, the connection still refuses requests.
        self.ended = true;
        Ok(())
    }

    /// Rolls back the transaction, or the changes since the savepoint, with one round trip.
    ///
    /// # Errors
    ///
    /// The server's error, or an error of the connection.
    pub async fn rollback(mut self) -> tiberius::Result<()> {
        self.connection.link.accept_requests();
        if self.depth == 0 {
            // An error may already have ended the transaction on the server.
            self.end("IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION").await?;
        } else {
            self.run(format!("ROLLBACK TRANSACTION savepoint_{}", self.depth)).await?;
        }
        self.ended = true;
        Ok(())
    }

    /// Sets a savepoint. Its [`rollback`](Self::rollback) undoes only the changes since then.
    ///
    /// # Errors
    ///
    /// The server's error, or an error of the connection.
    pub async fn savepoint(&mut self) -> tiberius::Result<Transaction<'_>> {
        let depth = self.depth + 1;
        let sql = format!("SAVE TRANSACTION savepoint_{depth}");
        Transaction::begin(self.connection, depth, false, &sql).await
    }

    /// Whether this is the error of a request that was refused because its transaction had ended
    /// without a successful `commit` or `rollback`.
    #[must_use]
    pub fn was_dropped(error: &tiberius::error::Error) -> bool {
        error.code() == Some(REFUSED_AFTER_DROP)
    }

    /// Ends the transaction and restores the isolation level.
    async fn end(&mut self, sql: &str) -> tiberius::Result<()> {
        self.connection.link.state().guarded = false;
        let restore = if self.sets_isolation {
            "; SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
        } else {
            ""
        };
        self.run(format!("{sql}{restore}")).await
    }

    async fn run(&mut self, sql: String) -> tiberius::Result<()> {
        self.connection.simple_query(sql).await?.into_results().await?;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.link.refuse_requests();
        }
    }
}

impl Deref for Transaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.connection
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        self.connection
    }
}
