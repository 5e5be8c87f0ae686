//! diesel-async's pools, on PostgreSQL: feature `diesel-async`.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::{
//!     adapters::diesel::{self, diesel_async::{RunQueryDsl, pooled_connection}},
//!     postgres,
//! };
//!
//! let connector = postgres::connector(
//!     "postgres://shop.postgres.database.azure.com/restaurant",
//! )?;
//! let pool = pooled_connection::deadpool::Pool::builder(diesel::manager(connector))
//!     .max_size(16)
//!     .build()?;
//! let mut conn = pool.get().await?;
//! ::diesel::sql_query("SELECT 1").execute(&mut conn).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`manager`] fits into diesel-async's bb8 pool as well, and [`connect`] is there
//! without a pool. Connections are cleaned between borrowers as
//! [`Config::recycling`](crate::postgres::Config::recycling) says; how old they may
//! become, and how many there may be, is the pool's to say.
//!
//! **Do not turn off bb8's `test_on_check_out` here.** The pool cleans connections in that
//! test, so that without it the next borrower finds what the last one left, whatever the
//! configuration says. diesel-async gives the manager no way to see that the test is off. The
//! [bb8 adapter](crate::adapters::bb8) closes such connections instead.
//!
//! During the cleaning, the server may send 64 KB. A connection is closed instead of cleaned
//! where its server gives the same key for cancellations to several connections, or none: that
//! key identifies the connection.
//!
//! diesel shows errors of a connect as text; [`Connector::connect`] has them typed.

pub use diesel;
pub use diesel_async;

use diesel::{
    ConnectionError, ConnectionResult, QueryResult,
    result::{DatabaseErrorKind, Error},
};
use diesel_async::{
    AsyncPgConnection, SimpleAsyncConnection,
    pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod},
};

use crate::{
    clock,
    connect::RetireReason,
    postgres::{Connector, Recycling, cancel},
    token::with_causes,
};

/// diesel-async's manager, whose connections `connector` makes.
#[must_use]
pub fn manager(connector: Connector) -> AsyncDieselConnectionManager<AsyncPgConnection> {
    let mut config = ManagerConfig::default();
    let recycler = connector.clone();
    config.recycling_method = RecyclingMethod::CustomFunction(Box::new(move |connection| {
        let connector = recycler.clone();
        Box::pin(async move { recycle(&connector, connection).await })
    }));
    config.custom_setup = Box::new(move |_| {
        let connector = connector.clone();
        Box::pin(async move { connect(&connector).await })
    });
    // The connector knows where to.
    AsyncDieselConnectionManager::new_with_config("", config)
}

/// One connection. Its driver is a task that ends with it.
///
/// # Errors
///
/// [`ConnectionError::BadConnection`] with what the connector says, and why; or that
/// what diesel-async sets on a new connection took longer than `connect_timeout`, once
/// more.
pub async fn connect(connector: &Connector) -> ConnectionResult<AsyncPgConnection> {
    let connected = connector.log_in(connector.now()).await;
    let (client, connection, link) =
        connected.map_err(|error| ConnectionError::BadConnection(with_causes(&error)))?;
    // It sets two things, which a server that hangs would never confirm.
    let limit = connector.config().connect_timeout;
    link.allowance.restrict();
    let set_up = AsyncPgConnection::try_from_client_and_connection(client, connection);
    let set_up = clock::timeout(&**connector.clock(), limit, set_up).await;
    let problem = match set_up {
        Ok(Ok(connection)) => {
            link.allowance.lift();
            return Ok(connection);
        }
        // The server knows the token.
        Ok(Err(error)) => connector.sent().excerpt_of(&error),
        Err(clock::Elapsed) => {
            format!("the session's settings took longer than {limit:?} (connect_timeout)")
        }
    };
    Err(ConnectionError::BadConnection(problem))
}

/// What diesel-async has set on a new connection, and cleaning undoes.
const DIESELS_SETTINGS: &str = "SET TIME ZONE 'UTC'; SET CLIENT_ENCODING TO 'UTF8';";

/// Makes the connection fit for its next borrower. diesel-async has seen already that no
/// transaction of its own is open.
async fn recycle(connector: &Connector, connection: &mut AsyncPgConnection) -> QueryResult<()> {
    let Some(sql) = connector.config().recycling.sql() else { return Ok(()) };
    let sql = format!("{sql}; {DIESELS_SETTINGS}");
    let query = connection.cancel_token();
    let Some(link) = connector.link(&query) else {
        connector.metrics().retired(RetireReason::Recycling);
        return Err(Error::BrokenTransactionManager);
    };
    let retired = |reason| connector.metrics().retired(reason);
    let cancelled = |query| {
        let connector = connector.clone();
        tokio::spawn(async move {
            cancel(&connector, query).await;
        });
        (RetireReason::Unsettled, Error::BrokenTransactionManager)
    };
    if connector.silent_server().includes(link.heard()) {
        retired(RetireReason::Silent);
        return Err(Error::BrokenTransactionManager);
    }
    if !link.settles().await {
        let (reason, error) = cancelled(query);
        retired(reason);
        return Err(error);
    }
    let rolls_back = link.in_transaction();
    let began = connector.clock().monotonic();
    // diesel-async reads all responses that are there within one poll, so that a time
    // limit does not end a flood.
    link.allowance.restrict();
    let recycling = connection.batch_execute(&sql);
    let recycled = clock::timeout(&**connector.clock(), Recycling::LIMIT, recycling).await;
    link.allowance.lift();
    let (reason, error) = match recycled {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error @ Error::DatabaseError(DatabaseErrorKind::ClosedConnection, _))) => {
            (RetireReason::Closed, error)
        }
        Ok(Err(error)) => (RetireReason::Recycling, error),
        Err(clock::Elapsed) => {
            if link.awaits_one_response() && !rolls_back {
                connector.silent_server().silent(began);
            }
            cancelled(query)
        }
    };
    retired(reason);
    Err(error)
}
