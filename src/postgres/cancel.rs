//! Cancels queries.

use std::{sync::Arc, time::Duration};

use tokio::runtime::Handle;
use tokio_postgres::CancelToken;

use super::{Connector, link::Link, tls::Watched, wire::Wire};
use crate::clock;

/// Asks the server to cancel the query of a connection. The connection must not be used again,
/// because the cancellation may reach a later query.
///
/// PgBouncer does not forward the request of a client that has disconnected. Therefore the socket
/// of the request is read to its end before it is closed.
///
/// Returns whether the request was sent.
async fn cancel(connector: &Connector, query: CancelToken) -> bool {
    let clock = connector.clock();
    let link = Arc::new(Link::new(clock.clone()));
    let tls = Watched { tls: connector.tls(), attempt: None, link };
    let limit = connector.config().connect_timeout;
    let cancelling = query.cancel_query(tls);
    match clock::timeout(&**clock, limit, cancelling).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            let error = connector.sent().excerpt_of(&error);
            tracing::warn!(error, "cannot cancel a query");
            false
        }
        Err(clock::Elapsed) => false,
    }
}

/// A query that is still running after this time is cancelled again.
const CANCEL_AGAIN: Duration = Duration::from_millis(500);

/// A connection whose query is still running after this time is closed.
const LONGEST: Duration = Duration::from_secs(5);

/// Cancels the pending requests of a connection that is dropped.
///
/// A pool drops clients without notice: when the pool is dropped, on `retain`, or when a caller
/// gives up.
pub(super) struct Canceller {
    pub(super) connector: Connector,
    pub(super) query: CancelToken,
    pub(super) runtime: Handle,
}

impl Canceller {
    /// Cancels in the background, and keeps the socket open until the requests are answered.
    pub(super) fn finish(self: Arc<Self>, mut rest: Wire) {
        self.runtime.clone().spawn(async move {
            let clock = self.connector.clock();
            let until_ended = async {
                while Box::pin(cancel(&self.connector, self.query.clone())).await {
                    // A cancellation has no effect on a query that PgBouncer has not sent yet.
                    if clock::timeout(&**clock, CANCEL_AGAIN, rest.drain()).await.is_ok() {
                        return;
                    }
                }
            };
            let _ = clock::timeout(&**clock, LONGEST, until_ended).await;
        });
    }
}
