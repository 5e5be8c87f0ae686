//! bb8 with the [`Manager`] of Azure SQL. Sessions are reset as in this crate's own pool. If bb8's
//! `test_on_check_out` is disabled, the manager works as with
//! [`Recycling::Fast`](crate::azure_sql::Recycling::Fast), whatever its setting: a changed
//! isolation level remains, and the next borrower's first request fails if a transaction began
//! after the first result set of the last response. A connection that is returned in a detected
//! transaction is closed, because bb8 cleans connections only at the checkout.

use bb8::ManageConnection;

use crate::azure_sql::{Connection, Error, Manager};

/// A bb8 pool of Azure SQL connections.
pub type Pool = bb8::Pool<Manager>;

/// Returns bb8's builder for a pool with `manager`. Use it to set sizes and time limits.
///
/// These settings are already made: `get` waits for as long as a connect may take (`Connect
/// Timeout`), bb8 does not retry connects, and only the manager limits the lifetime. Errors of
/// connects are logged.
#[must_use]
pub fn builder(manager: &Manager) -> bb8::Builder<Manager> {
    super::builder(manager.connector().config().connect_timeout)
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = Error;

    async fn connect(&self) -> Result<Connection, Error> {
        self.connector().connect().await.inspect_err(|error| super::log_error(error))
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Error> {
        self.make_fit(connection).await
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        !self.take_back(connection)
    }
}
