//! diesel-async's pools for PostgreSQL (feature `diesel-async`).
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
//! [`manager`] also works with diesel-async's bb8 pool, and [`connect`] opens a connection without
//! a pool. Connections are cleaned between borrowers as set by
//! [`Config::recycling`](crate::postgres::Config::recycling). The pool sets the maximum lifetime
//! and number of connections.
//!
//! **Do not disable bb8's `test_on_check_out` here.** The pool cleans connections in that test.
//! Without the test, the next borrower gets the session state of the previous borrower, whatever
//! the configuration, because the manager cannot detect that the test is disabled. The [bb8
//! adapter](crate::adapters::bb8) closes such connections instead.
//!
//! These pools do not inspect a returned connection: an open transaction or a dropped query keeps
//! its locks until the connection is checked out again. Use diesel-async's `transaction`, and let
//! it complete.
//!
//! During the cleaning, the server may send at most 64 KB. The cancellation key identifies the
//! connection, so a connection is closed instead of cleaned if its server sends no key, or the same
//! key for several connections.
//!
//! diesel returns the errors of a connect as text. [`Connector::connect`] returns them typed.

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

/// Returns diesel-async's manager, with connections from `connector`.
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
    // The URL is empty, because the connector has the address of the server.
    AsyncDieselConnectionManager::new_with_config("", config)
}

/// Opens one connection. A task drives it and stops when the connection is dropped.
///
/// # Errors
///
/// [`ConnectionError::BadConnection`], with the connector's error and its causes, or if setting the
/// session's parameters for diesel-async fails or takes longer than another `connect_timeout`.
pub async fn connect(connector: &Connector) -> ConnectionResult<AsyncPgConnection> {
    let connected = connector.log_in(connector.now()).await;
    let (client, connection, link) =
        connected.map_err(|error| ConnectionError::BadConnection(with_causes(&error)))?;
    // diesel-async sets two parameters without a time limit, and the server may stop responding.
    let limit = connector.config().connect_timeout;
    link.allowance.restrict();
    let set_up = AsyncPgConnection::try_from_client_and_connection(client, connection);
    let set_up = clock::timeout(&**connector.clock(), limit, set_up).await;
    let problem = match set_up {
        Ok(Ok(connection)) => {
            link.allowance.lift();
            return Ok(connection);
        }
        // The server has received the token, and its message may contain it.
        Ok(Err(error)) => connector.sent().excerpt_of(&error),
        Err(clock::Elapsed) => {
            format!("the session's settings took longer than {limit:?} (connect_timeout)")
        }
    };
    Err(ConnectionError::BadConnection(problem))
}

/// The parameters that diesel-async sets for a new connection. Cleaning resets them.
const DIESELS_SETTINGS: &str = "SET TIME ZONE 'UTC'; SET CLIENT_ENCODING TO 'UTF8';";

/// Prepares the connection for its next borrower. diesel-async has already checked that it has no
/// open transaction.
async fn recycle(
    connector: &Connector,
    connection: &mut AsyncPgConnection,
) -> Result<(), RetireReason> {
    let link = connector.link(&connection.cancel_token());
    let link = link.as_deref();
    let cleaning = async {
        let refused = |why: &str| Err(Error::QueryBuilderError(why.into()));
        if link.is_some_and(|link| link.state().has_stale_plans) {
            return refused("a cached statement is stale, and diesel-async cannot clear its cache");
        }
        let Some(sql) = connector.config().recycling.sql() else { return Ok(()) };
        let Some(link) = link else { return refused("the connection has no unique key") };
        // diesel-async reads all available responses within one poll, so a time limit does not stop
        // a server that keeps sending.
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
