use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Scope, TokenCache, TokenCredential};
use crate::clock::{Clock, SystemClock};

/// A credential and one token cache per scope, shared by any number of pools.
///
/// Cloning is cheap. Pools that share an `Identity` share its tokens, so that each token is
/// requested once. An `Identity` also implements `azure_core::credentials::TokenCredential`, for
/// the clients of the Azure SDK.
///
/// ```no_run
/// # #[cfg(all(feature = "azure-sql", feature = "postgres"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use entra_pool::{azure_sql, credential::ManagedIdentity, postgres, token::Identity};
///
/// let identity = Identity::new(ManagedIdentity::system_assigned().build()?);
/// let orders = azure_sql::pool_with(
///     &identity,
///     "Server=tcp:shop.database.windows.net;Database=orders",
/// )?;
/// let menu = postgres::pool_with(
///     &identity,
///     "postgres://shop-app@shop.postgres.database.azure.com/restaurant",
/// )?;
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "azure-sql", feature = "postgres")))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    credential: Arc<dyn TokenCredential>,
    clock: Arc<dyn Clock>,
    wait_timeout: Duration,
    caches: Mutex<HashMap<Scope, TokenCache>>,
}

impl Identity {
    /// Creates an identity whose tokens come from `credential`, with the defaults of
    /// [`IdentityBuilder`].
    #[must_use]
    pub fn new(credential: impl TokenCredential) -> Self {
        Self::builder(credential).build()
    }

    /// Returns a builder, to change settings from their defaults.
    pub fn builder(credential: impl TokenCredential) -> IdentityBuilder {
        IdentityBuilder {
            credential: Arc::new(credential),
            clock: Arc::new(SystemClock::new()),
            wait_timeout: Duration::from_secs(30),
        }
    }

    /// Returns the cache of this identity's tokens for `scope`. Every call returns the same cache.
    #[must_use]
    pub fn tokens(&self, scope: Scope) -> TokenCache {
        let mut caches = self.0.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches
            .entry(scope.clone())
            .or_insert_with(|| {
                TokenCache::new(
                    self.0.credential.clone(),
                    scope,
                    self.0.clock.clone(),
                    self.0.wait_timeout,
                )
            })
            .clone()
    }

    /// Returns the name of the credential, such as `managed identity (App Service)`.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.credential.name()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("credential", &self.0.credential).finish_non_exhaustive()
    }
}

/// Builds an [`Identity`].
#[derive(Debug)]
#[must_use]
pub struct IdentityBuilder {
    credential: Arc<dyn TokenCredential>,
    clock: Arc<dyn Clock>,
    wait_timeout: Duration,
}

impl IdentityBuilder {
    /// Sets the clock of the identity's caches and of their pools. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets how long a caller waits for a token request. The request continues afterwards, and the
    /// next caller joins it. Default: 30 s.
    pub fn wait_timeout(mut self, wait_timeout: Duration) -> Self {
        self.wait_timeout = wait_timeout;
        self
    }

    /// Creates the identity. No token is requested yet.
    #[must_use]
    pub fn build(self) -> Identity {
        Identity(Arc::new(Inner {
            credential: self.credential,
            clock: self.clock,
            wait_timeout: self.wait_timeout,
            caches: Mutex::default(),
        }))
    }
}
