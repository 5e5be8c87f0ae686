//! Login fronts: they accept logins with Entra tokens and relay to a real engine.
//!
//! A front speaks the database's protocol to the client and checks the token: signature,
//! audience, validity, principal. Then it logs in to the engine with a password and
//! relays all further bytes, so that the engine runs the SQL. Nothing that a client
//! sends reaches the engine before the token is checked.

pub mod azure_sql;
// Only the stand-in uses the rest.
#[cfg_attr(not(feature = "embedded"), allow(dead_code))]
mod behaviour;
mod fault;
pub mod postgres;

pub use behaviour::{Behaviour, Counters};
pub use fault::{Fault, Stage};

/// The account with which a front logs in to the engine for a principal.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineLogin {
    /// The engine's name for the account.
    pub user: String,
    /// Its password.
    pub password: String,
}

opaque_debug!(EngineLogin);
