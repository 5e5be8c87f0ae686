//! The login's protocol, which the front has in common with the stand-in. The
//! stand-in is not built: the feature `embedded` is off.
#![allow(dead_code)] // The stand-in has uses for the rest.

pub(crate) mod behaviour;
mod borders;
pub(crate) mod bytes;
mod defaults;
mod error;
pub(crate) mod fault;
pub(crate) mod gate;
pub(crate) mod login;
pub(crate) mod packets;
pub(crate) mod prelogin;
pub(crate) mod tokens;
mod types;

pub use behaviour::{Acknowledgement, Behaviour, Counters};
pub use borders::packet_borders;
pub use defaults::STS_URL;
pub use error::ServerError;
pub use fault::{Fault, Stage};

pub(crate) use defaults::{AUDIENCE, LOGIN_TIMEOUT};
