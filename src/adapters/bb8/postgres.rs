//! PostgreSQL with bb8. Connections are retired at their maximum age and cleaned between borrowers
//! as in the pool of [`postgres`](crate::postgres).
//!
//! If a returned connection still has an open transaction or a dropped query after half a second,
//! its query is cancelled and the connection is closed.
//!
//! bb8 cleans connections in its test at the checkout. With `test_on_check_out(false)`, a used
//! connection is closed when it is returned, so each checkout logs in. With [`Recycling::Fast`], it
//! is closed only if a transaction is open.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use bb8::ManageConnection;
use deadpool_postgres::{ClientWrapper, Metrics};
use futures_util::FutureExt;
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinHandle},
};

use crate::connect::RetireReason;
use crate::postgres::{Connector, Error, Link, Recycling, SUSPECTED_FOR, counted, make_fit, unfit};

/// A bb8 pool of PostgreSQL connections.
pub type Pool = bb8::Pool<Manager>;

/// Returns bb8's builder for a pool with `manager`. Use it to set sizes and time limits.
///
/// These settings are already made: `get` waits for as long as a connect may take
/// ([`connect_timeout`](crate::postgres::Config::connect_timeout)), bb8 does not retry connects,
/// and only [`max_lifetime`](crate::postgres::Config::max_lifetime) limits the lifetime. Errors of
/// connects are logged.
#[must_use]
pub fn builder(manager: &Manager) -> bb8::Builder<Manager> {
    super::builder(manager.connector.config().connect_timeout)
}

/// Opens the connections of a [`Pool`], and prepares them for the next borrower.
#[derive(Debug, Clone)]
pub struct Manager {
    connector: Connector,
}

impl Manager {
    /// Creates a manager for connections of `connector`.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self { connector }
    }
}

/// A connection that is checked out of a [`Pool`]. It dereferences to deadpool-postgres'
/// [`ClientWrapper`], which is tokio-postgres' client with a statement cache.
pub struct Connection {
    client: ClientWrapper,
    link: Arc<Link>,
    driver: AbortHandle,
    runtime: Handle,
    /// A task that watches the idle connection, and returns why it closed the connection.
    watch: Option<JoinHandle<Option<RetireReason>>>,
    metrics: Metrics,
    /// Whether the connection was prepared for its current borrower.
    fit: bool,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = Error;

    async fn connect(&self) -> Result<Connection, Error> {
        let (client, task, link) = self
            .connector
            .spawn(self.connector.now())
            .await
            .inspect_err(|error| super::log_error(error))?;
        let driver = task.abort_handle();
        let client = ClientWrapper::new(client, task);
        link.clears(&client);
        let (runtime, metrics) = (Handle::current(), Metrics::default());
        Ok(Connection { client, link, driver, runtime, watch: None, metrics, fit: false })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Error> {
        let watched = connection.watch.take().and_then(|watch| {
            watch.abort();
            watch.now_or_never()?.ok()?
        });
        let config = self.connector.config();
        let unfit = || unfit(config, &connection.client, &connection.metrics);
        let made_fit = match watched.or_else(unfit) {
            Some(reason) => {
                self.connector.metrics().retired(reason);
                Err(reason)
            }
            None => counted(&self.connector, make_fit(&self.connector, &connection.client)).await,
        };
        connection.fit = made_fit.is_ok();
        made_fit.map_err(|reason| Error::Retired { reason })
    }

    /// Also closes a used connection of a pool that does not test connections
    /// (`test_on_check_out(false)`), because it would not be cleaned for the next borrower.
    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.metrics.recycled = Some(Metrics::default().created);
        connection.metrics.recycle_count += 1;
        let state = connection.link.state();
        let is_tested = std::mem::take(&mut connection.fit);
        let needs_no_cleaning = match self.connector.config().recycling {
            Recycling::Fast => !state.in_transaction,
            _ => !state.is_used,
        };
        if is_tested && (state.in_transaction || !state.is_settled()) {
            let (link, driver) = (connection.link.clone(), connection.driver.clone());
            let (clock, lent) = (self.connector.clock().clone(), connection.metrics.recycle_count);
            connection.watch = Some(connection.runtime.spawn(async move {
                link.look_at_idle(lent);
                clock.sleep(SUSPECTED_FOR).await;
                let reason = link.look_at_idle(lent)?;
                // This cancels the query.
                driver.abort();
                Some(reason)
            }));
        }
        connection.client.is_closed() || !(is_tested || needs_no_cleaning)
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
