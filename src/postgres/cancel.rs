//! Cancelling queries.

use std::sync::Arc;

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_postgres::CancelToken;

use super::{Connector, link::Link, tls::Watched};
use crate::clock;

/// Has the server stop the query of a connection. The connection must not be used again,
/// because the cancellation may reach a later query.
///
/// The socket of the request is read to its end before it is closed: PgBouncer does not pass on
/// a request whose client has gone.
pub(crate) async fn cancel(connector: &Connector, query: CancelToken) {
    let clock = connector.clock();
    let link = Arc::new(Link::of_cancellation(clock.clone()));
    let tls = Watched { tls: connector.tls(), attempt: None, link };
    let limit = connector.config().connect_timeout;
    let cancelling = query.cancel_query(tls);
    if let Ok(Err(error)) = clock::timeout(&**clock, limit, cancelling).await {
        let error = connector.sent().excerpt_of(&error);
        tracing::warn!(error, "a query could not be cancelled");
    }
}

/// A connection's task, and what is to be done when the client of the connection is dropped
/// before its requests are answered.
///
/// A pool drops clients without asking: at its end, on `retain`, or when a caller gives up. If
/// the socket was closed then, the query would run on: PgBouncer forgets whose it is, and the
/// server notices only when it has rows to send.
pub(super) struct Supervised {
    pub(super) connector: Connector,
    pub(super) link: Arc<Link>,
    pub(super) query: CancelToken,
    /// `None` once it was dropped.
    pub(super) driver: Option<JoinHandle<()>>,
    pub(super) runtime: Handle,
}

impl Supervised {
    /// Until the connection ends.
    pub(super) async fn run(mut self) {
        if let Some(driver) = &mut self.driver {
            // The driver logs its errors.
            let _ = driver.await;
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let Some(mut driver) = self.driver.take().filter(|driver| !driver.is_finished()) else {
            return;
        };
        if self.link.is_settled() {
            driver.abort();
            return;
        }
        let (connector, query) = (self.connector.clone(), self.query.clone());
        self.runtime.spawn(async move {
            cancel(&connector, query).await;
            // It ends when the server has answered.
            let limit = connector.config().connect_timeout;
            if clock::timeout(&**connector.clock(), limit, &mut driver).await.is_err() {
                driver.abort();
            }
        });
    }
}
