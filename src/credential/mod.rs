//! Who asks for the token.

mod config_error;
mod environment;
mod excerpt;
mod managed_identity;

pub use config_error::ConfigError;
pub use environment::Environment;
pub use managed_identity::{
    InvalidAnswer, ManagedIdentity, ManagedIdentityBuilder, ManagedIdentityHost, UserAssignedId,
};
