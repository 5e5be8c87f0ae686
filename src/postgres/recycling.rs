use std::{error::Error, pin::pin, time::Duration};

use futures_util::StreamExt;
use tokio_postgres::{
    Client,
    config::TargetSessionAttrs,
    error::{DbError, Severity, SqlState},
};

use super::{Connector, RetireReason, is_transient, link::Link};
use crate::clock;

/// The cleaning of a connection before its next borrower gets it. The names are those of
/// deadpool-postgres' [`RecyclingMethod`](deadpool_postgres::RecyclingMethod); the default is
/// different.
///
/// If a borrower drops a running query, the query is cancelled and the connection closed: by the
/// maintenance, or at the next checkout if the query does not complete within 100 ms. With
/// [`Fast`](Self::Fast), a borrower that comes before the maintenance waits for the query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Recycling {
    /// Resets the session, except for the state listed below: rolls back an open transaction, and
    /// resets role, settings, cursors, listened channels, advisory locks, temporary tables and the
    /// cached values of sequences. This takes one round trip.
    ///
    /// The driver's prepared statements remain, and with them the statement cache. Their names
    /// (`s0`, `s1`, …) can be guessed, and SQL can replace one of them (`DEALLOCATE s0; PREPARE s0
    /// AS …`). Therefore a connection on which SQL has prepared a statement is closed
    /// ([`RetireReason::Recycling`]): prepare with the driver, or take the connection out of the
    /// pool. After `PREPARE`, `DO` and `CALL`, the cleaning looks for such statements in a second
    /// round trip.
    ///
    /// These remain for the next borrower:
    ///
    /// - A custom setting that was set (`SET app.tenant = …`) becomes an empty string and not NULL:
    ///   compare with `nullif(current_setting('app.tenant', true), '')`.
    /// - The seed of `setseed`, and the state of extensions and procedural languages in the
    ///   session's memory. Connections of `dblink` stay open, with the rights of the user who
    ///   opened them: close them before the connection is returned, or in the hook below.
    /// - A statement that a function in a query prepared (`SELECT f()`, where `f` runs `EXECUTE
    ///   'PREPARE …'`), because no message of the protocol reports it. The adapters for
    ///   diesel-async and sqlx check for such statements each time.
    /// - References in the statement cache to statements that `DEALLOCATE` or `DISCARD ALL`
    ///   removed. Their next use fails (SQLSTATE 26000), and lookups of types may fail as well:
    ///   take such a connection out of the pool.
    ///
    /// `DISCARD ALL` would not reset the first two either. In PgBouncer's transaction mode, a
    /// session does not belong to one borrower: see [PgBouncer](crate::postgres#pgbouncer).
    ///
    /// This hook closes the named connections of `dblink`, with another round trip:
    ///
    /// ```no_run
    /// # fn pool(connector: entra_pool::postgres::Connector) -> Result<(), Box<dyn std::error::Error>> {
    /// use entra_pool::postgres::deadpool_postgres::{Hook, HookError};
    ///
    /// let close = "SELECT dblink_disconnect(name) FROM unnest(dblink_get_connections()) AS name";
    /// let builder = connector.pool_builder().post_recycle(Hook::async_fn(move |client, _| {
    ///     Box::pin(async move { client.batch_execute(close).await.map_err(HookError::Backend) })
    /// }));
    /// # Ok(())
    /// # }
    /// ```
    #[default]
    Clean,
    /// Does not reset the session. A round trip checks the connection.
    Verified,
    /// Neither resets the session nor sends a request: only for borrowers that leave no state in
    /// the session. The maintenance closes idle connections in a transaction.
    Fast,
    /// Runs only these statements, in one round trip.
    Custom(String),
}

/// The statements of deadpool-postgres (`DISCARD ALL` without `DEALLOCATE ALL`), and `RESET ROLE`,
/// because `RESET ALL` does not reset the role.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *; \
                     SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; ";

/// Ends a transaction if it is unknown whether one is open. Without a transaction, `ROLLBACK` alone
/// would log a warning on the server at every checkout. In a failed transaction, `BEGIN` fails.
const ROLL_BACK_ANY: &str = "BEGIN; ROLLBACK; ";

/// Fails if SQL has prepared a statement.
const CHECK: &str = "SELECT ('prepared by SQL: ' || name)::int \
                     FROM pg_catalog.pg_prepared_statement() WHERE from_sql;";

impl Recycling {
    /// The timeout of the recycling, after which the connection is closed.
    pub(crate) const LIMIT: Duration = Duration::from_secs(2);

    /// Returns the statements for one round trip, for a driver that does not track the session's
    /// state; `None` if no request is needed.
    pub(crate) fn sql(&self) -> Option<String> {
        match self {
            Self::Clean => Some([ROLL_BACK_ANY, RESET, CHECK].concat()),
            Self::Verified => Some(String::new()),
            Self::Fast => None,
            Self::Custom(sql) => Some(sql.clone()),
        }
    }

    async fn run(&self, client: &Client, link: Option<&Link>) -> Result<(), tokio_postgres::Error> {
        match self {
            Self::Clean => clean(client, link).await,
            _ => match self.sql() {
                Some(sql) => execute(client, &sql).await,
                None => Ok(()),
            },
        }
    }
}

/// Cleans a connection for its next borrower, as configured. After an error, the connection has
/// been counted as retired and must be dropped, which cancels a running query.
pub(crate) async fn make_fit(connector: &Connector, client: &Client) -> Result<(), RetireReason> {
    let link = connector.link(&client.cancel_token());
    let running = connector.config().recycling.run(client, link.as_deref());
    make_fit_by(connector, link.as_deref(), running, is_lost).await
}

/// Returns whether the connection failed, and not only a statement.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    severity != Some(Severity::Error) && is_transient(error)
}

/// Like [`make_fit`], with another cleaning.
pub(crate) async fn make_fit_by<E: Error + 'static>(
    connector: &Connector,
    link: Option<&Link>,
    cleaning: impl Future<Output = Result<(), E>>,
    is_lost: fn(&E) -> bool,
) -> Result<(), RetireReason> {
    let recycling = async {
        if let Some(link) = link {
            if connector.silent_server().includes(link.state().last_ready) {
                return Err(RetireReason::Silent);
            }
            if !link.settles().await {
                return Err(RetireReason::Unsettled);
            }
            let wanted = connector.config().session.get_target_session_attrs();
            if wanted == TargetSessionAttrs::ReadWrite && link.state().is_read_only {
                return Err(RetireReason::ReadOnly);
            }
        }
        let began = connector.clock().monotonic();
        let may_roll_back = link.is_some_and(|link| link.state().in_transaction);
        match clock::timeout(&**connector.clock(), Recycling::LIMIT, cleaning).await {
            Ok(Ok(())) => {
                if let Some(link) = link {
                    connector.silent_server().record_received(link.state().last_ready);
                    link.record_round_trip(connector.clock().monotonic().saturating_sub(began));
                }
                Ok(())
            }
            Ok(Err(error)) if is_lost(&error) => Err(RetireReason::Closed),
            Ok(Err(error)) => {
                let error = connector.sent().excerpt_of(&error);
                tracing::warn!(error, "cannot clean a connection for reuse");
                Err(RetireReason::Recycling)
            }
            Err(clock::Elapsed) => {
                // With another unanswered request, or while a large transaction is rolled back, a
                // healthy server may also take this long.
                if link.is_some_and(|link| link.state().unanswered == 1) && !may_roll_back {
                    connector.silent_server().record_unanswered(began);
                }
                Err(RetireReason::Unsettled)
            }
        }
    };
    let fit = connector.metrics().recycle(recycling).await;
    fit.inspect_err(|reason| connector.metrics().retired(*reason))
}

/// Counts the connection as retired if its caller gives up during the cleaning, because its pool
/// then drops the connection.
#[cfg(any(feature = "bb8", feature = "diesel-async"))]
pub(crate) async fn counted<T>(connector: &Connector, making_fit: impl Future<Output = T>) -> T {
    struct GivenUp<'a>(Option<&'a Connector>);

    impl Drop for GivenUp<'_> {
        fn drop(&mut self) {
            if let Some(connector) = self.0 {
                connector.metrics().retired(RetireReason::Unsettled);
            }
        }
    }

    let mut given_up = GivenUp(Some(connector));
    let fit = making_fit.await;
    given_up.0 = None;
    fit
}

/// Cleans the session. Without a link, the state of the session is unknown.
async fn clean(client: &Client, link: Option<&Link>) -> Result<(), tokio_postgres::Error> {
    // A `ROLLBACK` of the borrower may still be in progress.
    let in_transaction = || link.map(|link| link.state().in_transaction);
    let roll_back = if in_transaction() == Some(false) { "" } else { ROLL_BACK_ANY };
    let began = match execute(client, &[roll_back, RESET].concat()).await {
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => true,
        // A request that the borrower dropped may have begun a transaction in the meantime.
        done => done.map(|()| in_transaction() == Some(true))?,
    };
    if began {
        execute(client, &["ROLLBACK; ", RESET].concat()).await?;
    }
    // By now, the responses to all requests of the borrower have been read.
    if link.is_none_or(Link::take_may_have_prepared) {
        execute(client, CHECK).await?;
    }
    Ok(())
}

/// Runs `sql` like `batch_execute`, which reads all available responses within one poll, but yields
/// between them: otherwise, a time limit would never apply while responses keep arriving.
async fn execute(client: &Client, sql: &str) -> Result<(), tokio_postgres::Error> {
    let mut answers = pin!(client.simple_query_raw(sql).await?.enumerate());
    while let Some((count, answer)) = answers.next().await {
        answer?;
        if count % 64 == 63 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}
