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
/// Cheap to clone. Two databases, or ten pools of one, that share an
/// `Identity` ask its credential once per scope and token life. The other Azure
/// crates take it where they want an `Arc<dyn azure_core::credentials::TokenCredential>`.
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
    /// The identity that `credential` stands for, with the defaults of
    /// [`IdentityBuilder`].
    #[must_use]
    pub fn new(credential: impl TokenCredential) -> Self {
        Self::builder(credential).build()
    }

    /// Sets what [`new`](Self::new) leaves at its default.
    pub fn builder(credential: impl TokenCredential) -> IdentityBuilder {
        IdentityBuilder {
            credential: Arc::new(credential),
            clock: Arc::new(SystemClock::new()),
            wait_timeout: Duration::from_secs(30),
        }
    }

    /// The cache of this identity's tokens for `scope`: always the same one.
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

    /// What the credential calls itself: `managed identity (App Service)`.
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
    /// The clock by which everything built on this identity lives. Default:
    /// [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How long a caller waits at most when there is no usable token. The
    /// request to the provider goes on beyond it, and the next caller joins it.
    /// Default: 30 s.
    pub fn wait_timeout(mut self, wait_timeout: Duration) -> Self {
        self.wait_timeout = wait_timeout;
        self
    }

    /// The identity. Nothing is asked for yet.
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
