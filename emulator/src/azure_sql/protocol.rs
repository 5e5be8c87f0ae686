//! The login protocol for the front, without the stand-in: the feature `embedded` is off.
#![allow(dead_code)] // Only the stand-in uses the rest.

pub(crate) mod bytes;
mod error;
pub(crate) mod gate;
pub(crate) mod login;
pub(crate) mod packets;
pub(crate) mod prelogin;
pub(crate) mod server;
pub(crate) mod tokens;
mod types;

pub use crate::front::{Behaviour, Counters, Fault, Stage};
pub use error::ServerError;
pub use server::{AzureSqlEndpoint, AzureSqlServer, STS_URL};
