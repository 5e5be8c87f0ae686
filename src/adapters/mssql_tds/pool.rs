//! The pool's manager, which cleans connections between two borrowers.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, SystemTime},
};

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use mssql_tds::{
    connection::tds_client::{ResultSet, TdsClient},
    datatypes::column_values::ColumnValues,
    error::Error as DriverError,
};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::Connector;
use crate::{
    azure_sql::{
        Cleaned, Error, PROBE, PROBE_TIMEOUT, Pooled, Returned, Times, Unclean, decide,
        impl_pooled_connection, quietly,
    },
    clock,
    connect::{PoolState, RetireReason, SilentServer},
};

/// A logged-in connection. It dereferences to the driver's [`TdsClient`].
pub struct Connection {
    /// Boxed, because it has kilobytes, which a pool would copy at every checkout.
    client: Box<TdsClient>,
    /// How often the client was borrowed mutably. Each borrow allows at most one request.
    uses: u64,
    times: Times,
    cleaned: Cleaned,
}

impl Connection {
    pub(super) fn new(client: TdsClient, now: Duration, token_expires_on: SystemTime) -> Self {
        let (created, last_received, jitter) = (now, now, fastrand::f64());
        Self {
            client: Box::new(client),
            uses: 0,
            times: Times { created, last_received, token_expires_on, jitter },
            cleaned: Cleaned { at: now, requests: 0 },
        }
    }

    fn is_used(&self) -> bool {
        self.cleaned.is_used(self.uses)
    }
}

impl Deref for Connection {
    type Target = TdsClient;

    fn deref(&self) -> &TdsClient {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut TdsClient {
        self.uses += 1;
        &mut self.client
    }
}

/// Omits the driver's client, whose `Debug` shows the settings of the login.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("uses", &self.uses).finish_non_exhaustive()
    }
}

/// Opens and cleans the connections of a [`Pool`](super::Pool).
#[derive(Debug)]
pub struct Manager {
    connector: Connector,
    silent: SilentServer,
    pub(super) state: Arc<PoolState<Self, Connection>>,
    /// A random value that only the response to the probe contains.
    mark: String,
    probe: String,
}

impl Manager {
    pub(super) fn new(connector: Connector) -> Self {
        // The same for all connections, so that the server caches one plan for the probe.
        let mark = format!("{:032x}", fastrand::u128(..));
        Self {
            state: Arc::new(PoolState::new(&connector.0)),
            connector,
            silent: SilentServer::default(),
            probe: format!("{}, '{mark}'", PROBE.concat()),
            mark,
        }
    }

    fn now(&self) -> Duration {
        self.connector.0.clock().monotonic()
    }

    fn retire(&self, _: &mut Connection, reason: RetireReason) {
        self.connector.0.metrics.retired(reason);
    }

    /// Returns why the connection must not be used again, as far as is known without a request.
    fn unfit(&self, connection: &Connection) -> Option<RetireReason> {
        if connection.client.is_connection_dead() {
            return Some(RetireReason::Closed);
        }
        if connection.client.has_open_batch() {
            return Some(RetireReason::Unsettled);
        }
        self.connector.0.outlived(&connection.times, &self.silent)
    }

    /// Whether an idle connection may be used again, without a request to the server.
    fn is_fit(&self, connection: &Connection) -> bool {
        let reason = self.unfit(connection);
        reason.inspect(|reason| self.connector.0.metrics.retired(*reason)).is_none()
    }

    /// Decides about a returned connection, and retires it if it must be closed.
    fn returned(&self, connection: &mut Connection, may_clean: bool) -> Returned {
        if connection.is_used() {
            connection.times.last_received = self.now();
        }
        if let Some(reason) = self.unfit(connection) {
            self.retire(connection, reason);
            return Returned::Close;
        }
        let in_transaction = connection.client.has_active_transaction();
        let returned = decide(may_clean, in_transaction, connection.is_used());
        if returned == Returned::Close {
            self.retire(connection, RetireReason::TransactionOpen);
        }
        returned
    }

    /// Resets the session. The response also shows that no earlier response is pending.
    async fn clean(&self, connection: &mut Connection) -> Result<(), RetireReason> {
        let (clock, began) = (self.connector.0.clock(), self.now());
        let probing = Box::pin(quietly(self.probe(&mut connection.client)));
        let cleaning = async {
            match clock::timeout(&**clock, PROBE_TIMEOUT, probing).await {
                Ok(probed) => probed.map_err(|error| self.reason(&error)),
                Err(clock::Elapsed) => Ok(None),
            }
        };
        match self.connector.0.metrics.recycle(cleaning).await? {
            Some(true) => {}
            // The driver has read the response to a request that the borrower dropped.
            Some(false) => return Err(RetireReason::Unsettled),
            None if connection.is_used() => return Err(RetireReason::Unsettled),
            // No request was pending, so the server is silent.
            None => {
                self.silent.record_unanswered(began);
                return Err(RetireReason::Recycling);
            }
        }
        let now = self.now();
        self.silent.record_received(now);
        connection.times.last_received = now;
        connection.cleaned = Cleaned { at: now, requests: connection.uses };
        Ok(())
    }

    /// Returns whether the response belongs to the probe and no transaction is open.
    async fn probe(&self, client: &mut TdsClient) -> Result<Option<bool>, DriverError> {
        // A request within a transaction contains its descriptor, and such a request cannot reset
        // the session.
        if client.has_active_transaction() {
            client.rollback_transaction(None, None).await?;
        }
        client.prepare_reset_connection(false);
        client.execute(self.probe.clone(), ()).await?;
        let mut found = None;
        if client.on_rows() || client.advance_to_rows().await? {
            found = client.next_row().await?;
        }
        client.close_query().await?;
        let is_clean = match found.as_deref() {
            Some([ColumnValues::Int(0), ColumnValues::String(mark)]) => {
                mark.to_utf8_string() == self.mark
            }
            _ => false,
        };
        Ok(Some(is_clean && !client.reset_pending() && !client.is_connection_dead()))
    }

    fn reason(&self, error: &DriverError) -> RetireReason {
        let text = self.connector.0.sent.excerpt_of(error);
        tracing::debug!(error = text, "the health check of an idle connection failed");
        match error {
            DriverError::ConnectionResetNotAcknowledged => RetireReason::ResetNotAcknowledged,
            DriverError::Io(_) | DriverError::ConnectionClosed(_) => RetireReason::Closed,
            _ => RetireReason::Recycling,
        }
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection, Error> {
        let config = &self.connector.0.driver.config;
        if config.maintenance {
            let is_fit = |manager: &Self, idle: &Connection, _: &Metrics| manager.is_fit(idle);
            self.state.maintain(config.min_size, is_fit);
        }
        let login = |began| {
            let connector = self.connector.clone();
            async move { connector.0.connect(began).await }
        };
        let is_alive = |connection: &Connection| !connection.client.is_connection_dead();
        self.state.connect(login, is_alive).await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Error> {
        let made_fit = match self.unfit(connection) {
            Some(reason) => Err(reason),
            None if connection.cleaned.holds(connection.uses, self.now()) => Ok(()),
            None => self.clean(connection).await,
        };
        made_fit.map_err(|reason| {
            self.retire(connection, reason);
            RecycleError::Backend(Error::Retired { reason })
        })
    }
}

/// A connection that is checked out of a [`Pool`](super::Pool). It dereferences to [`Connection`],
/// and so to the driver's [`TdsClient`]. When it is dropped, the connection is cleaned and returned
/// to the pool, or closed.
#[derive(Debug)]
pub struct PooledConnection(Option<Object<Manager>>);

impl PooledConnection {
    /// Removes the connection from its pool permanently.
    #[must_use]
    pub fn take(mut this: Self) -> Connection {
        this.0.take().map_or_else(|| already_taken(), Object::take)
    }
}

impl_pooled_connection!(PooledConnection, Manager, Connection);
