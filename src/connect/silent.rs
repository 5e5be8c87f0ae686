use std::time::Duration;

use crate::{clock, lock::Lock};

/// The default idle time before the first keepalive. Azure drops idle flows after 4 minutes or more
/// ("Configure TCP reset and idle timeout for Azure Load Balancer").
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);

/// The default time that a peer may take to acknowledge sent data.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of unanswered keepalives after which the connection is considered dead.
pub(crate) const KEEPALIVE_RETRIES: u32 = 3;

/// Returns the pause between unanswered keepalives if the first one is sent after `idle`.
pub(crate) fn keepalive_interval(idle: Duration) -> Duration {
    (idle / KEEPALIVE_RETRIES).max(Duration::from_secs(1))
}

/// Returns the nearest time that systems accept for sockets (1 s to 32,767 s); `None` for zero.
pub(crate) fn socket_time(time: impl Into<Option<Duration>>) -> Option<Duration> {
    clock::limit(time).map(|time| time.clamp(Duration::from_secs(1), Duration::from_secs(32_767)))
}

/// Whether a server stopped responding, so that checkouts need not wait for each of its idle
/// connections. Times are those of the injected clock.
#[derive(Debug, Default)]
pub(crate) struct SilentServer(Lock<Times>);

#[derive(Debug, Default)]
struct Times {
    /// When something was last received from the server, on any connection.
    last_received: Option<Duration>,
    /// Connections on which nothing was received since this time count as silent.
    silent_since: Option<Duration>,
}

impl SilentServer {
    /// Whether a connection on which something was last received at this time counts as silent.
    pub(crate) fn includes(&self, last_received: Duration) -> bool {
        self.0.lock().silent_since.is_some_and(|since| last_received < since)
    }

    /// Records that something was received from the server at this time.
    pub(crate) fn record_received(&self, at: Duration) {
        let mut times = self.0.lock();
        times.last_received = times.last_received.max(Some(at));
    }

    /// Records that a request, sent at this time, got no response, for which there is no known
    /// cause. Has no effect if something was received from the server later.
    pub(crate) fn record_unanswered(&self, sent: Duration) {
        let mut times = self.0.lock();
        if times.last_received <= Some(sent) {
            times.silent_since = times.silent_since.max(Some(sent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_request_retires_connections_that_received_nothing_since() {
        let at = Duration::from_secs;
        let server = SilentServer::default();
        assert!(!server.includes(at(9)));
        server.record_unanswered(at(10));
        let included = || [9, 10].map(|received| server.includes(at(received)));
        assert_eq!(included(), [true, false]);
        // Ignored: data was received after the first request, and the second one is older than
        // the recorded silence.
        server.record_received(at(20));
        server.record_unanswered(at(19));
        server.record_unanswered(at(5));
        assert_eq!(included(), [true, false]);
        server.record_unanswered(at(21));
        assert!(server.includes(at(20)));
    }
}
