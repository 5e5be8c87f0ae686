//! What the stand-in and the front start with.

use std::time::Duration;

/// What tokens for Azure SQL are for.
pub(crate) const AUDIENCE: &str = "https://database.windows.net/";

/// Where Entra issues tokens for the tenant of this crate's principals
/// ([`TENANT_ID`](crate::jwt::TENANT_ID)).
pub const STS_URL: &str = "https://login.microsoftonline.com/72f988bf-0000-4000-8000-2d7cd011db47";

/// Some drivers get their token from a program that takes its time, or while an identity
/// endpoint starts.
pub(crate) const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
