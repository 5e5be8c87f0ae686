use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use entra_pool::{
    azure_sql::{self, deadpool::Status},
    connect::ConnectorReport,
    postgres, telemetry,
};
use serde::Serialize;

use crate::BoxError;

/// A pool, and the durations of its checkouts.
pub(crate) struct Pool {
    pub(crate) title: &'static str,
    database: Database,
    observed: Mutex<Observed>,
}

enum Database {
    AzureSql(azure_sql::Pool),
    Postgres(postgres::Pool, postgres::Connector),
}

/// The checkouts since the last sample.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    pub(crate) checkouts: Vec<Duration>,
    pub(crate) failures: u32,
    /// The last failure; kept until a request succeeds.
    pub(crate) error: Option<String>,
}

/// The database of a session, and its user.
#[derive(Debug, Serialize)]
pub(crate) struct Session {
    database: String,
    user: String,
}

/// A request failed; `transient` if the same request may succeed later.
#[derive(Debug)]
pub(crate) struct Failed {
    transient: bool,
    error: BoxError,
}

impl Pool {
    pub(crate) fn azure_sql(pool: azure_sql::Pool) -> Self {
        Self::new("Azure SQL", Database::AzureSql(pool))
    }

    pub(crate) fn postgres(pool: postgres::Pool, connector: postgres::Connector) -> Self {
        Self::new("PostgreSQL", Database::Postgres(pool, connector))
    }

    fn new(title: &'static str, database: Database) -> Self {
        Self { title, database, observed: Mutex::default() }
    }

    /// Queries the session's database and user, and then keeps the connection for a while, like
    /// a request with more work.
    pub(crate) async fn session(&self, keep: Duration) -> Result<Session, Failed> {
        let outcome = match &self.database {
            Database::AzureSql(pool) => self.azure_sql_session(pool, keep).await,
            Database::Postgres(pool, _) => self.postgres_session(pool, keep).await,
        };
        self.observe(|observed| match &outcome {
            Ok(_) => observed.error = None,
            Err(failed) => {
                observed.failures += 1;
                observed.error = Some(failed.error.to_string());
            }
        });
        outcome
    }

    async fn azure_sql_session(
        &self,
        pool: &azure_sql::Pool,
        keep: Duration,
    ) -> Result<Session, Failed> {
        let began = Instant::now();
        let mut connection = telemetry::checkout(self.name(), pool.get()).await?;
        self.observe(|observed| observed.checkouts.push(began.elapsed()));
        let results = connection.simple_query("SELECT DB_NAME(), USER_NAME()").await?;
        let row = results.into_row().await?;
        tokio::time::sleep(keep).await;
        let text = |column| {
            let text = row.as_ref().and_then(|row| row.get::<&str, _>(column));
            text.unwrap_or_default().to_owned()
        };
        Ok(Session { database: text(0), user: text(1) })
    }

    async fn postgres_session(
        &self,
        pool: &postgres::Pool,
        keep: Duration,
    ) -> Result<Session, Failed> {
        let began = Instant::now();
        let client = telemetry::checkout(self.name(), pool.get()).await?;
        self.observe(|observed| observed.checkouts.push(began.elapsed()));
        let query = "SELECT current_database()::text, current_user::text";
        let row = client.query_one(query, &[]).await?;
        tokio::time::sleep(keep).await;
        Ok(Session { database: row.try_get(0)?, user: row.try_get(1)? })
    }

    fn observe<T>(&self, change: impl FnOnce(&mut Observed) -> T) -> T {
        change(&mut self.observed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the observations since the last sample.
    pub(crate) fn observed(&self) -> Observed {
        self.observe(|observed| observed.clone())
    }

    /// Returns the observations since the last call, for a sample.
    pub(crate) fn take_observed(&self) -> Observed {
        self.observe(|observed| {
            let error = observed.error.clone();
            mem::replace(observed, Observed { error, ..Observed::default() })
        })
    }

    /// The name of the pool in telemetry.
    pub(crate) fn name(&self) -> &str {
        match &self.database {
            Database::AzureSql(pool) => pool.manager().connector().pool_name(),
            Database::Postgres(_, connector) => connector.pool_name(),
        }
    }

    /// Opens a connection.
    pub(crate) async fn warm_up(&self) -> Result<(), BoxError> {
        match &self.database {
            Database::AzureSql(pool) => {
                let connector = pool.manager().connector();
                connector.warm_up(pool, 1).await.map_err(azure_sql::Error::from)?;
            }
            Database::Postgres(pool, connector) => {
                connector.warm_up(pool, 1).await.map_err(postgres::Error::from)?;
            }
        }
        Ok(())
    }

    /// Checks out a connection. This is not counted as a request.
    pub(crate) async fn check(&self) -> Result<(), BoxError> {
        match &self.database {
            Database::AzureSql(pool) => drop(pool.get().await.map_err(azure_sql::Error::from)?),
            Database::Postgres(pool, _) => drop(pool.get().await.map_err(postgres::Error::from)?),
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> Status {
        match &self.database {
            Database::AzureSql(pool) => pool.status(),
            Database::Postgres(pool, _) => pool.status(),
        }
    }

    pub(crate) fn report(&self) -> ConnectorReport {
        match &self.database {
            Database::AzureSql(pool) => pool.manager().connector().report(),
            Database::Postgres(_, connector) => connector.report(),
        }
    }

    pub(crate) async fn close(&self) {
        match &self.database {
            Database::AzureSql(pool) => azure_sql::close_and_wait(pool).await,
            Database::Postgres(pool, _) => postgres::close_and_wait(pool).await,
        }
    }
}

impl From<azure_sql::PoolError> for Failed {
    fn from(error: azure_sql::PoolError) -> Self {
        match error {
            azure_sql::PoolError::Backend(error) => {
                Self { transient: error.is_transient(), error: error.into() }
            }
            error => Self { transient: true, error: error.into() },
        }
    }
}

impl From<azure_sql::tiberius::error::Error> for Failed {
    fn from(error: azure_sql::tiberius::error::Error) -> Self {
        Self { transient: azure_sql::is_transient(&error), error: error.into() }
    }
}

impl From<postgres::PoolError> for Failed {
    fn from(error: postgres::PoolError) -> Self {
        let error = postgres::Error::from(error);
        Self { transient: error.is_transient(), error: error.into() }
    }
}

impl From<postgres::tokio_postgres::Error> for Failed {
    fn from(error: postgres::tokio_postgres::Error) -> Self {
        Self { transient: postgres::is_transient(&error), error: error.into() }
    }
}

/// Logs the error with its causes.
impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let error = &*self.error as &dyn std::error::Error;
        tracing::warn!(error, "a request failed");
        match self.transient {
            true => (StatusCode::SERVICE_UNAVAILABLE, "the database is unavailable"),
            false => (StatusCode::INTERNAL_SERVER_ERROR, "the request failed: see the log"),
        }
        .into_response()
    }
}
