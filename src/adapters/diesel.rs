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
//! These pools do not look at a connection that comes back: a transaction that it left open, or a
//! query that was dropped, keeps its locks until the pool lends the connection again. Use
//! diesel-async's `transaction`, and let it end.
//!
//! During the cleaning, the server may send 64 KB. A connection is closed instead of cleaned
//! where its server gives the same key for cancellations to several connections, or none: that
//! key identifies the connection.
//!
//! diesel shows errors of a connect as text; [`Connector::connect`] has them typed.

pub use diesel;
pub use diesel_async;

use diesel::{
    ConnectionError, ConnectionResult,
    result::{DatabaseErrorKind, Error},
};
use diesel_async::{
    AsyncPgConnection, SimpleAsyncConnection,
    pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod},
};

use crate::{
    clock,
    connect::RetireReason,
    postgres::{Connector, counted, make_fit_by},
    token::with_causes,
};

/// diesel-async's manager, whose connections `connector` makes.
#[must_use]
pub fn manager(connector: Connector) -> AsyncDieselConnectionManager<AsyncPgConnection> {
    let mut config = ManagerConfig::default();
    let recycler = connector.clone();
    config.recycling_method = RecyclingMethod::CustomFunction(Box::new(move |connection| {
        let connector = recycler.clone();
        Box::pin(async move {
            let fit = recycle(&connector, connection).await;
            fit.map_err(|reason| Error::QueryBuilderError(reason.to_string().into()))
        })
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
async fn recycle(
    connector: &Connector,
    connection: &mut AsyncPgConnection,
) -> Result<(), RetireReason> {
    let link = connector.link(&connection.cancel_token());
    let link = link.as_deref();
    let cleaning = async {
        let refused = |why: &str| Err(Error::QueryBuilderError(why.into()));
        if link.is_some_and(|link| link.state().has_stale_plans) {
            return refused("diesel-async cannot clear its cache, in which a statement is stale");
        }
        let Some(sql) = connector.config().recycling.sql() else { return Ok(()) };
        let Some(link) = link else { return refused("the server does not identify it") };
        // diesel-async reads all responses that are there within one poll, so that a time
        // limit does not end a flood.
        link.allowance.restrict();
        connection.batch_execute(&format!("{sql}; {DIESELS_SETTINGS}")).await?;
        link.allowance.lift();
        Ok(())
    };
    let making_fit = make_fit_by(connector, link, cleaning, |error: &Error| {
        matches!(error, Error::DatabaseError(DatabaseErrorKind::ClosedConnection, _))
    });
    counted(connector, making_fit).await
}
