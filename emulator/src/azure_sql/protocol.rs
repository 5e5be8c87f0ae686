//! The login's protocol, which the front has in common with the stand-in. The
//! stand-in is not built: the feature `embedded` is off.
#![allow(dead_code)] // The stand-in has uses for the rest.

mod behaviour;
mod borders;
mod bytes;
mod error;
pub(crate) mod fault;
mod gate;
mod login;
mod packets;
mod prelogin;
mod tokens;
mod types;

pub use behaviour::{Acknowledgement, Behaviour, Counters};
pub use borders::packet_borders;
pub use error::ServerError;
pub use fault::{Fault, Stage};
