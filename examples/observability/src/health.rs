//! The health endpoint: how the pool and its token stand. It asks nobody: a database
//! that is away is no reason to start the application anew.

use std::time::SystemTime;

use entra_pool::{
    azure_sql::{self, deadpool::Status},
    postgres,
    token::TokenReport,
};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What a health endpoint answers, as JSON.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Health {
    /// `ok`; `degraded` while the last request for a token is one that failed.
    pub(crate) status: &'static str,
    /// The connections.
    pub(crate) pool: PoolHealth,
    /// The token they log in with.
    pub(crate) token: TokenHealth,
}

/// Connections of a pool.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PoolHealth {
    /// At most.
    pub(crate) max_size: usize,
    /// Now.
    pub(crate) size: usize,
    /// Not in use now.
    pub(crate) idle: usize,
    /// Requests that wait for one.
    pub(crate) waiting: usize,
    /// Logins so far.
    pub(crate) logins: u64,
    /// Refused logins so far.
    pub(crate) refused: u64,
}

/// A token; never itself.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TokenHealth {
    /// Who gives it.
    pub(crate) credential: String,
    /// For whom.
    pub(crate) principal: Option<String>,
    /// Its end (RFC 3339, UTC); `null` if there is none.
    pub(crate) expires_on: Option<String>,
    /// When it is replaced, beside its use.
    pub(crate) refresh_at: Option<String>,
    /// Requests to the credential so far.
    pub(crate) requests: u64,
    /// Those of them that failed.
    pub(crate) failures: u64,
    /// What the last request failed with, if it did.
    pub(crate) last_error: Option<String>,
}

/// Of a pool of Azure SQL.
pub(crate) fn azure_sql(pool: &azure_sql::Pool) -> axum::Json<Health> {
    let report = pool.manager().connector().report();
    health(&pool.status(), report.logins, report.refused, report.token)
}

/// Of a pool of PostgreSQL, and the connector it was made with.
pub(crate) fn postgres(
    pool: &postgres::Pool,
    connector: &postgres::Connector,
) -> axum::Json<Health> {
    let report = connector.report();
    health(&pool.status(), report.logins, report.refused, report.token)
}

fn health(pool: &Status, logins: u64, refused: u64, token: TokenReport) -> axum::Json<Health> {
    let &Status { max_size, size, available: idle, waiting } = pool;
    axum::Json(Health {
        status: if token.last_error.is_some() { "degraded" } else { "ok" },
        pool: PoolHealth { max_size, size, idle, waiting, logins, refused },
        token: TokenHealth {
            credential: token.credential,
            principal: token.principal,
            expires_on: token.expires_on.and_then(utc),
            refresh_at: token.refresh_at.and_then(utc),
            requests: token.requests,
            failures: token.failures,
            last_error: token.last_error.map(|error| error.to_string()),
        },
    })
}

fn utc(time: SystemTime) -> Option<String> {
    OffsetDateTime::from(time).replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}
