//! What the front has in common with the stand-in, which is not built: the feature
//! `embedded` is off.

pub(crate) mod refusals;

pub use crate::tenant::POSTGRES_AUDIENCE as AUDIENCE;
