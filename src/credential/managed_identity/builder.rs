use std::{path::PathBuf, sync::Arc};

use super::{
    Inner, ManagedIdentity, UserAssignedId,
    endpoint::Endpoint,
    host::{self, Selector},
    http::Http,
};
use crate::{
    clock::{Clock, SystemClock},
    credential::{ConfigError, Environment},
};

/// Builds a [`ManagedIdentity`].
///
/// ```
/// use entra_pool::credential::{Environment, ManagedIdentity};
///
/// // The endpoint of an emulator, without this process's environment.
/// let identity = ManagedIdentity::system_assigned()
///     .environment(Environment::default())
///     .imds_endpoint("http://127.0.0.1:8080")
///     .build()?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct ManagedIdentityBuilder {
    id: Option<UserAssignedId>,
    id_setting: &'static str,
    /// Whether the credential is unavailable on a machine that does not have the identity, unless
    /// it has returned a token before. The ID may be set for other software.
    pub(in crate::credential) optional: bool,
    imds_endpoint: Option<String>,
    azure_arc_root: Option<PathBuf>,
    environment: Environment,
    pub(in crate::credential) clock: Arc<dyn Clock>,
    probe: bool,
}

impl ManagedIdentityBuilder {
    pub(super) fn new(id: Option<UserAssignedId>) -> Self {
        Self {
            id,
            id_setting: "user_assigned",
            optional: false,
            imds_endpoint: None,
            azure_arc_root: None,
            environment: Environment::from_process(),
            clock: Arc::new(SystemClock::new()),
            probe: false,
        }
    }

    /// Uses IMDS at this URL (`http://169.254.169.254`) instead of the endpoint that the
    /// environment describes. A path in the URL is kept.
    #[cfg(any(test, feature = "test-util"))]
    pub fn imds_endpoint(mut self, url: impl Into<String>) -> Self {
        self.imds_endpoint = Some(url.into());
        self
    }

    /// Sets the directory in which to search for the Azure Arc agent, for tests. It replaces the
    /// root directory (on Windows: `%ProgramFiles%` and `%ProgramData%`). The key files that the
    /// agent names must be below it. In a container, mount the agent's directories at the same
    /// paths as on the machine.
    #[cfg(any(test, feature = "test-util"))]
    pub fn azure_arc_root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.azure_arc_root = Some(directory.into());
        self
    }

    /// Sets the environment variables that determine the host. Default:
    /// [`Environment::from_process`], read when the builder is created.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Sets the clock for pauses and time limits. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets whether to probe IMDS before the first token request. Without IMDS, the credential is
    /// [unavailable](crate::token::CredentialErrorKind::Unavailable), so that a
    /// [`Chain`](crate::credential::Chain) tries its next member. Default: `false`. Other hosts are
    /// never probed.
    ///
    /// | result of the probe | effect |
    /// |---|---|
    /// | JSON with any status, 410, or a response that names IMDS as its `Server` | this is IMDS, and a token is requested. If that fails, a chain does not try its next member, unless IMDS reports that the machine has no identity, or does not have the identity of `AZURE_CLIENT_ID` |
    /// | any other response, such as HTML | unavailable at once: this is a proxy, or another service at that address. The same applies to the response to a token request, until IMDS has returned a token |
    /// | the connection is refused | unavailable at once |
    /// | no connection within 1 s (packets are dropped) | unavailable |
    /// | a connection without a response | the probe is repeated for 3 s in total; then unavailable. A chain that then selects another credential logs a warning |
    pub fn probe(mut self, probe: bool) -> Self {
        self.probe = probe;
        self
    }

    /// Sets the name of the setting that contains the ID, for errors.
    pub(crate) fn id_setting(mut self, setting: &'static str) -> Self {
        self.id_setting = setting;
        self
    }

    /// Builds the credential for the host that the environment describes. This sends no request.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if the ID is invalid, if the host would ignore it, or if an environment
    /// variable is not a valid URL.
    pub fn build(self) -> Result<ManagedIdentity, ConfigError> {
        let mut endpoint = match &self.imds_endpoint {
            Some(url) => Endpoint::imds("imds_endpoint", url)?,
            None => host::find(&self.environment, self.azure_arc_root.as_deref())?,
        };
        if let Some(id) = self.id {
            let selector = Selector::new(endpoint.protocol.host, id, self.id_setting)?;
            endpoint.selector = Some(Selector { optional: self.optional, ..selector });
        }
        let http = Http::new(&endpoint.url, endpoint.thumbprint.as_ref(), self.clock)?;
        Ok(ManagedIdentity(Arc::new(Inner { endpoint, http, probe: self.probe })))
    }
}
