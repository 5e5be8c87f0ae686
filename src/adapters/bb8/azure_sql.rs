//! [`Manager`] under bb8, with its sessions reset as in the pool that has its
//! name. Where bb8's `test_on_check_out` is turned off, they are as with
//! [`Recycling::Fast`](crate::azure_sql::Recycling::Fast), whatever the manager says: an
//! isolation level stays, and a transaction that began after the first result set of the last
//! response is an error of the next borrower's first request. A connection that comes back in a
//! transaction that shows is closed, because bb8 cleans connections only when they are checked
//! out.

use bb8::ManageConnection;

use crate::azure_sql::{Connection, Error, Manager};

/// A bb8 pool of Azure SQL connections.
pub type Pool = bb8::Pool<Manager>;

/// A pool's builder for `manager`: bb8's own, so that its sizes and time limits
/// can be set.
///
/// Set already: `get` waits for as long as a connect may take (`Connect Timeout`);
/// connects are not repeated and their errors logged; no lifetime but the manager's.
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
