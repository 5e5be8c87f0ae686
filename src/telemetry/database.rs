use std::{error::Error, sync::Arc};

use tracing::{Span, field::Empty};

/// The fields that describe a database in telemetry. They come from the configuration alone, so
/// servers cannot add values to labels.
#[derive(Debug)]
pub(crate) struct Database {
    /// `db.system.name`.
    pub(crate) system: &'static str,
    /// `server.address`.
    address: String,
    /// `server.port`, if it is the same for all servers.
    port: Option<u16>,
    /// `db.namespace`.
    namespace: Option<String>,
    /// `db.client.connection.pool.name`.
    pub(crate) pool: Arc<str>,
}

/// Creates a span for a request to `$database`.
macro_rules! client_span {
    ($database:expr, $name:literal) => {
        tracing::debug_span!(
            $name,
            "otel.kind" = "client",
            "otel.status_code" = Empty,
            "db.system.name" = $database.system,
            "db.namespace" = $database.namespace.as_deref(),
            "server.address" = $database.address,
            "server.port" = $database.port,
            "db.client.connection.pool.name" = &*$database.pool,
            "error.type" = Empty,
            "db.response.status_code" = Empty,
        )
    };
}

impl Database {
    /// Creates the fields of the database `namespace` at these servers.
    pub(crate) fn new<'a>(
        system: &'static str,
        servers: impl IntoIterator<Item = (&'a str, u16)>,
        namespace: Option<&str>,
    ) -> Self {
        let servers: Vec<_> = servers.into_iter().collect();
        let joined = |each: &dyn Fn(&(&str, u16)) -> String| {
            servers.iter().map(each).collect::<Vec<_>>().join(",")
        };
        let mut pool = joined(&|(host, port)| format!("{host}:{port}"));
        if let Some(namespace) = namespace {
            pool = format!("{pool}/{namespace}");
        }
        let port = servers.first().map(|(_, port)| *port);
        Self {
            system,
            address: joined(&|(host, _)| (*host).to_owned()),
            port: port.filter(|port| servers.iter().all(|(_, other)| other == port)),
            namespace: namespace.map(str::to_owned),
            pool: pool.into(),
        }
    }

    pub(crate) fn connect_span(&self) -> Span {
        client_span!(self, "connect")
    }

    pub(crate) fn recycle_span(&self) -> Span {
        client_span!(self, "recycle")
    }
}

/// The `error.type` of a timeout.
pub(crate) const TIMEOUT: &str = "timeout";

/// The error of a connect.
pub(crate) trait Failure: Error + 'static {
    /// Returns the `error.type`, one of few words.
    fn error_type(&self) -> &'static str;

    /// Returns the `db.response.status_code`: the server's code, if there is one.
    fn status_code(&self) -> Option<String>;
}

/// The `error.type` of a connect that failed because the login was refused.
pub(crate) const LOGIN_REFUSED: &str = "login_refused";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_named_after_its_servers_and_database() {
        let named = |servers: &[(&str, u16)], namespace| {
            let database = Database::new("postgresql", servers.iter().copied(), namespace);
            (database.pool.to_string(), database.address, database.port)
        };
        assert_eq!(named(&[("a", 1)], Some("shop")), ("a:1/shop".into(), "a".into(), Some(1)));
        assert_eq!(named(&[("a", 1)], None), ("a:1".into(), "a".into(), Some(1)));
        let two = named(&[("a", 1), ("b", 1)], Some("shop"));
        assert_eq!(two, ("a:1,b:1/shop".into(), "a,b".into(), Some(1)));
        assert_eq!(named(&[("a", 1), ("b", 2)], None).2, None, "the ports differ");
    }
}
