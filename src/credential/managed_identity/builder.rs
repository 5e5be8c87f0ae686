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
/// // An emulator's endpoint; nothing of this process' environment.
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
    /// it has given a token before: the ID may be set for other software.
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

    /// Asks IMDS, at this URL (`http://169.254.169.254`), whatever the
    /// environment says. A path is kept if there is one.
    #[cfg(any(test, feature = "test-util"))]
    pub fn imds_endpoint(mut self, url: impl Into<String>) -> Self {
        self.imds_endpoint = Some(url.into());
        self
    }

    /// The directory under which the Azure Arc agent is looked for, in place of
    /// the root directory (on Windows: in place of `%ProgramFiles%` and
    /// `%ProgramData%`), for tests. The key files that the agent names must lie there:
    /// in a container, mount the agent's directories where the machine has them.
    #[cfg(any(test, feature = "test-util"))]
    pub fn azure_arc_root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.azure_arc_root = Some(directory.into());
        self
    }

    /// The variables by which the host is found. Default:
    /// [`Environment::from_process`], read when the builder is made.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// What waits and measures. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Whether IMDS is probed before it is asked for the first token. Without IMDS the credential
    /// is [unavailable](crate::token::CredentialErrorKind::Unavailable), so that a
    /// [`Chain`](crate::credential::Chain) goes on to its next member. Default: no. Other hosts
    /// need no probe and get none.
    ///
    /// | what the probe finds | result |
    /// |---|---|
    /// | JSON with any status, 410, or an answer that names IMDS as its `Server` | IMDS: it is asked for a token, and a failure from then on does not make a chain go on, unless IMDS reports that the machine has no identity, or does not have the one of `AZURE_CLIENT_ID` |
    /// | any other answer, such as HTML | unavailable at once: a proxy, or another service at that address. The same goes for the answer to a request for a token, until IMDS has returned one |
    /// | the connection is refused | unavailable at once |
    /// | no connection within 1 s (packets are dropped) | unavailable |
    /// | a connection, but no answer | repeated for 3 s in all, then unavailable; a chain that chooses another credential after that logs a warning |
    pub fn probe(mut self, probe: bool) -> Self {
        self.probe = probe;
        self
    }

    /// Where the ID came from, for an error.
    pub(crate) fn id_setting(mut self, setting: &'static str) -> Self {
        self.id_setting = setting;
        self
    }

    /// Finds the host and checks the settings. Nothing is requested.
    ///
    /// # Errors
    ///
    /// An ID that cannot be one, or that the host would ignore; a variable that
    /// should be a URL and is not.
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
