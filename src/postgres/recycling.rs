use std::{error::Error, pin::pin, time::Duration};

use futures_util::StreamExt;
use tokio_postgres::{
    Client,
    config::TargetSessionAttrs,
    error::{DbError, Severity, SqlState},
};

use super::{Connector, RetireReason, is_transient, link::Link};
use crate::clock;

/// What is done to a connection before its next borrower gets it. The names are
/// those of deadpool-postgres' [`RecyclingMethod`](deadpool_postgres::RecyclingMethod);
/// the default is not.
///
/// A connection with a query that was dropped is closed and the query cancelled: by the
/// maintenance, or at the checkout if the query does not end within 100 ms. With
/// [`Fast`](Self::Fast), a borrower that comes before the maintenance waits for the query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Recycling {
    /// Nothing of one borrower's session reaches the next, except as listed below: an open
    /// transaction is rolled back, and role, settings, cursors, listened channels, advisory
    /// locks, temporary tables and the memory of sequences are reset. One round trip.
    ///
    /// The driver's prepared statements stay, and with them the statement cache. Their names
    /// (`s0`, `s1`, …) can be guessed, and SQL can replace one of them
    /// (`DEALLOCATE s0; PREPARE s0 AS …`). So a connection on which SQL has prepared a statement
    /// is closed ([`RetireReason::Recycling`]): prepare with the driver, or take the connection
    /// out of the pool. After `PREPARE`, `DO` and `CALL`, the cleaning looks for such statements
    /// in a second round trip.
    ///
    /// The next borrower finds:
    ///
    /// - A custom setting that was set (`SET app.tenant = …`) as an empty string and not NULL:
    ///   compare with `nullif(current_setting('app.tenant', true), '')`.
    /// - The seed that `setseed` has set, and what extensions and procedural languages keep in
    ///   the session's memory. Connections of `dblink` stay open, with the rights of the user
    ///   who opened them: close them before the connection is returned, or in the hook below.
    /// - A statement that a function prepared which a query called (`SELECT f()`, where `f` runs
    ///   `EXECUTE 'PREPARE …'`): the protocol does not show it. The adapters for diesel-async and
    ///   sqlx look for it each time.
    /// - Cached statements that `DEALLOCATE` or `DISCARD ALL` took away without the driver's
    ///   knowledge. Their next use fails (SQLSTATE 26000), and so may lookups of types: take
    ///   such a connection out of the pool.
    ///
    /// The first two would also remain after `DISCARD ALL`. In PgBouncer's transaction mode, no
    /// session belongs to a borrower: see [PgBouncer](crate::postgres#pgbouncer).
    ///
    /// A hook that closes the named connections of `dblink`, with another round trip:
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
    /// Nothing is undone; but a round trip shows that the connection lives.
    Verified,
    /// Nothing is undone: only for borrowers that leave no traces. No round trip. The maintenance
    /// closes idle connections in a transaction.
    Fast,
    /// These statements, and nothing else.
    Custom(String),
}

/// What deadpool-postgres runs, which is `DISCARD ALL` without what would take the prepared
/// statements away; and `RESET ROLE`, because `RESET ALL` leaves the role alone.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *; \
                     SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; ";

/// Where it is not known whether a transaction is open. `ROLLBACK` alone would be a warning in
/// the server's log at every checkout that finds no transaction. In a failed transaction,
/// `BEGIN` fails.
const ROLL_BACK_ANY: &str = "BEGIN; ROLLBACK; ";

/// Fails where SQL has prepared a statement.
const CHECK: &str = "SELECT ('prepared by SQL: ' || name)::int \
                     FROM pg_catalog.pg_prepared_statement() WHERE from_sql;";

impl Recycling {
    /// A connection whose recycling takes longer is not worth waiting for.
    pub(crate) const LIMIT: Duration = Duration::from_secs(2);

    /// The statements, for one round trip by a driver of which nothing else is known; `None` if
    /// there are none.
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

/// Makes a connection fit for its next borrower, as the configuration says. Otherwise it must be
/// dropped, which cancels what it still runs; it is counted here.
pub(crate) async fn make_fit(connector: &Connector, client: &Client) -> Result<(), RetireReason> {
    let link = connector.link(&client.cancel_token());
    let running = connector.config().recycling.run(client, link.as_deref());
    make_fit_by(connector, link.as_deref(), running, is_lost).await
}

/// Whether the connection is lost, and not only a statement.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    severity != Some(Severity::Error) && is_transient(error)
}

/// [`make_fit`] with another cleaning.
pub(crate) async fn make_fit_by<E: Error + 'static>(
    connector: &Connector,
    link: Option<&Link>,
    cleaning: impl Future<Output = Result<(), E>>,
    is_lost: fn(&E) -> bool,
) -> Result<(), RetireReason> {
    let recycling = async {
        if let Some(link) = link {
            if connector.silent_server().includes(link.state().heard) {
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
                    connector.silent_server().heard(link.state().heard);
                    link.took(connector.clock().monotonic().saturating_sub(began));
                }
                Ok(())
            }
            Ok(Err(error)) if is_lost(&error) => Err(RetireReason::Closed),
            Ok(Err(error)) => {
                let error = connector.sent().excerpt_of(&error);
                tracing::warn!(error, "a connection could not be recycled");
                Err(RetireReason::Recycling)
            }
            Err(clock::Elapsed) => {
                // A request of the borrower may have been sent only now. A large transaction takes
                // its time to be rolled back.
                if link.is_some_and(|link| link.state().unanswered == 1) && !may_roll_back {
                    connector.silent_server().silent(began);
                }
                Err(RetireReason::Unsettled)
            }
        }
    };
    let fit = connector.metrics().recycle(recycling).await;
    fit.inspect_err(|reason| connector.metrics().retired(*reason))
}

/// Counts the connection as retired if its caller gives up while it is made fit: its pool drops
/// it then.
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

/// Cleans the session. Without a link it is not known what the borrower did.
async fn clean(client: &Client, link: Option<&Link>) -> Result<(), tokio_postgres::Error> {
    // A `ROLLBACK` of the borrower may still be on its way.
    let in_transaction = || link.map(|link| link.state().in_transaction);
    let roll_back = if in_transaction() == Some(false) { "" } else { ROLL_BACK_ANY };
    let began = match execute(client, &[roll_back, RESET].concat()).await {
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => true,
        // A request that the borrower dropped may have begun one meanwhile.
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

/// Runs `sql` as `batch_execute` does, which reads all answers that are there within one
/// poll: where they come without end, a time limit would not get its turn.
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
