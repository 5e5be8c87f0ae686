//! Azure Database for PostgreSQL: a pool of deadpool-postgres' that logs in
//! with tokens.
//!
//! [`connect_with`] makes a [`Pool`] of a URL and an identity. What it lends
//! are [`deadpool_postgres::Client`]s: all that is written for
//! deadpool-postgres and tokio-postgres works, statement cache,
//! transactions, `GenericClient` and [`cancel_token`] included.
//!
//! In layers, each of use without the ones above: [`Config`], [`Connector`]
//! (dials and logs in), [`builder`] and [`Pool`].
//!
//! The token is the password. It goes over TLS to a server whose certificate
//! and name have been verified, or nowhere. See "Use Microsoft Entra ID for
//! authentication with Azure Database for PostgreSQL" on Microsoft Learn for
//! how to make roles for principals.
//!
//! [`cancel_token`]: tokio_postgres::Client::cancel_token

mod advice;
mod config;
mod connector;
mod dial;
mod error;
mod keywords;
mod pool;
mod replay;
mod tls;

pub use config::{Config, ConfigError};
pub use connector::{Connector, Report};
pub use error::Error;
pub use pool::{Pool, Recycling, builder};
pub use tls::{Connection, Stage, TlsStream};

pub use deadpool_postgres;
pub use tokio_postgres;
pub use tokio_postgres_rustls::MakeRustlsConnect;

use crate::token::Identity;

/// A pool for the database that `config` (a URL or a libpq string, see
/// [`Config`]) names, with an identity that other pools may share.
///
/// Nothing is dialled and no token asked for yet. Sizes: deadpool's defaults;
/// [`builder`] sets others.
///
/// # Errors
///
/// [`Error::Config`] or [`Error::TlsConfig`], if `config` cannot be used.
pub fn connect_with(identity: &Identity, config: &str) -> Result<Pool, Error> {
    pool(identity, config.parse()?)
}

fn pool(identity: &Identity, config: Config) -> Result<Pool, Error> {
    let tokens = identity.tokens(config.token_scope()?);
    let connector = Connector::new(config, tokens)?;
    // Fails where a time limit has no runtime, which builder has set.
    builder(connector)
        .build()
        .map_err(|_| Error::Pool(deadpool_postgres::PoolError::NoRuntimeSpecified))
}
