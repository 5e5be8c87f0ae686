use std::time::Duration;

use crate::{clock, lock::Lock};

/// Azure drops idle flows after as little as 4 minutes, the default of its load balancer
/// ("Configure TCP reset and idle timeout for Azure Load Balancer").
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long a peer may take to acknowledge what was sent.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A peer that does not answer so many keepalives is gone.
pub(crate) const KEEPALIVE_RETRIES: u32 = 3;

/// The pause between keepalives that are not answered, where the first is sent after `idle`.
pub(crate) fn keepalive_interval(idle: Duration) -> Duration {
    (idle / KEEPALIVE_RETRIES).max(Duration::from_secs(1))
}

/// The nearest time that systems accept for sockets; none for zero.
pub(crate) fn socket_time(time: impl Into<Option<Duration>>) -> Option<Duration> {
    clock::limit(time).map(|time| time.clamp(Duration::from_secs(1), Duration::from_secs(32_767)))
}

/// Whether a server has fallen silent, so that its idle connections need not each be waited
/// for. Times are those of the injected clock.
#[derive(Debug, Default)]
pub(crate) struct SilentServer(Lock<Times>);

#[derive(Debug, Default)]
struct Times {
    /// When the server was last heard from, as far as it was recorded.
    heard: Option<Duration>,
    /// Connections last heard from before this are not waited for.
    silent_since: Option<Duration>,
}

impl SilentServer {
    /// Whether a connection that was last heard from then counts as silent.
    pub(crate) fn includes(&self, last_heard: Duration) -> bool {
        self.0.lock().silent_since.is_some_and(|since| last_heard < since)
    }

    /// The server sent something then.
    pub(crate) fn heard(&self, at: Duration) {
        let mut times = self.0.lock();
        times.heard = times.heard.max(Some(at));
    }

    /// A request that was sent then was not answered, and nothing else explains it, unless the
    /// server sent something later.
    pub(crate) fn silent(&self, sent: Duration) {
        let mut times = self.0.lock();
        if times.heard <= Some(sent) {
            times.silent_since = times.silent_since.max(Some(sent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_an_answer_condemns_connections_not_heard_from_since() {
        let at = Duration::from_secs;
        let server = SilentServer::default();
        assert!(!server.includes(at(9)));
        server.silent(at(10));
        let included = || [9, 10].map(|heard| server.includes(at(heard)));
        assert_eq!(included(), [true, false]);
        // The server was heard from after these were sent, or has been silent for longer.
        server.heard(at(20));
        server.silent(at(19));
        server.silent(at(5));
        assert_eq!(included(), [true, false]);
        server.silent(at(21));
        assert!(server.includes(at(20)));
    }
}
