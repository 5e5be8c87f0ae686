//! Cancelling queries.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_postgres::CancelToken;

use super::{Connector, link::Link, tls::Watched};
use crate::clock;

/// Has the server stop the query of a connection. The connection must not be used again,
/// because the cancellation may reach a later query.
///
/// The socket of the request is read to its end before it is closed: PgBouncer does not pass on
/// a request whose client has gone.
///
/// Whether the request was sent.
pub(crate) async fn cancel(connector: &Connector, query: CancelToken) -> bool {
    let clock = connector.clock();
    let link = Arc::new(Link::of_cancellation(clock.clone()));
    let tls = Watched { tls: connector.tls(), attempt: None, link };
    let limit = connector.config().connect_timeout;
    let cancelling = query.cancel_query(tls);
    match clock::timeout(&**clock, limit, cancelling).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            let error = connector.sent().excerpt_of(&error);
            tracing::warn!(error, "a query could not be cancelled");
            false
        }
        Err(clock::Elapsed) => false,
    }
}

/// A query that still runs is cancelled again after this time …
const CANCEL_AGAIN: Duration = Duration::from_millis(500);

/// … for so long, until its connection is closed.
const LONGEST: Duration = Duration::from_secs(5);

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
        // A server that goes on sending rows notices when the socket is closed.
        self.link.allowance.restrict();
        let (connector, query) = (self.connector.clone(), self.query.clone());
        self.runtime.spawn(async move {
            let clock = connector.clock();
            let until_ended = async {
                while Box::pin(cancel(&connector, query.clone())).await {
                    // It ends when the server has answered. A request to cancel has no effect on
                    // a query that PgBouncer, or the connection, has yet to send.
                    if clock::timeout(&**clock, CANCEL_AGAIN, &mut driver).await.is_ok() {
                        return;
                    }
                }
            };
            let _ = clock::timeout(&**clock, LONGEST, until_ended).await;
            driver.abort();
        });
    }
}
