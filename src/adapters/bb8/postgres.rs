//! PostgreSQL under bb8. Connections are retired at their age and cleaned
//! between borrowers as in the pool of [`postgres`](crate::postgres).
//!
//! bb8 cleans connections in its test at the checkout. With `test_on_check_out(false)`, a used
//! connection is closed when it comes back, so that each checkout logs in, except with
//! [`Recycling::Fast`].

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use bb8::ManageConnection;
use deadpool_postgres::{ClientWrapper, Metrics};

use crate::connect::RetireReason;
use crate::postgres::{Connector, Counted, Error, Recycling, make_fit, unfit};

/// A bb8 pool of PostgreSQL connections.
pub type Pool = bb8::Pool<Manager>;

/// A pool's builder for `manager`: bb8's own, so that its sizes and time limits
/// can be set.
///
/// Set already: `get` waits for as long as a connect may take
/// ([`connect_timeout`](crate::postgres::Config::connect_timeout)); connects are not
/// repeated and their errors logged; the only lifetime is
/// [`max_lifetime`](crate::postgres::Config::max_lifetime).
#[must_use]
pub fn builder(manager: &Manager) -> bb8::Builder<Manager> {
    super::builder(manager.connector.config().connect_timeout)
}

/// Makes a [`Pool`]'s connections and makes them fit for the next borrower.
#[derive(Debug, Clone)]
pub struct Manager {
    connector: Connector,
}

impl Manager {
    /// Connections of `connector`.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self { connector }
    }
}

/// What a [`Pool`] lends: dereferences to deadpool-postgres' [`ClientWrapper`], which is
/// tokio-postgres' client and a statement cache.
pub struct Connection {
    client: ClientWrapper,
    metrics: Metrics,
    /// It was made fit since it was last lent.
    fit: bool,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = Error;

    async fn connect(&self) -> Result<Connection, Error> {
        let (client, driven) = self
            .connector
            .spawn(self.connector.now())
            .await
            .inspect_err(|error| super::log_error(error))?;
        let client = ClientWrapper::new(client, driven);
        Ok(Connection { client, metrics: Metrics::default(), fit: false })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Error> {
        let config = self.connector.config();
        let mut counted =
            Counted { connector: &self.connector, reason: Some(RetireReason::Unsettled) };
        let made_fit = match unfit(config, &connection.client, &connection.metrics) {
            Some(reason) => Err(reason),
            None => make_fit(&self.connector, &connection.client).await,
        };
        connection.fit = made_fit.is_ok();
        counted.reason = made_fit.err();
        made_fit.map_err(|reason| Error::Retired { reason })
    }

    /// Also a used connection of a pool that does not test connections
    /// (`test_on_check_out(false)`): it would not be cleaned for the next borrower.
    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.metrics.recycled = Some(Metrics::default().created);
        let was_made_fit = std::mem::take(&mut connection.fit);
        let needs_no_cleaning = self.connector.config().recycling == Recycling::Fast
            || self
                .connector
                .link(&connection.client.cancel_token())
                .is_some_and(|link| link.is_unused());
        connection.client.is_closed() || !(was_made_fit || needs_no_cleaning)
    }
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}
