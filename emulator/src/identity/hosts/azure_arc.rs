//! The Azure Arc agent: "Authenticate against Azure resources with Azure
//! Arc-enabled servers". Whoever asks has to show a key that the agent has
//! written to a file of its own, a new one for every request.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Host, Refusal, api_version, bad_request, entra_answer, unauthorized, wants_metadata};
use crate::{
    identity::control::{Inner, Received, Signed, State},
    jwt::Principal,
};

/// The agent has a port of its own, where the path is that of IMDS.
pub(in crate::identity) const PATH: &str = "/arc/metadata/identity/oauth2/token";

pub(super) struct AzureArc;

impl Host for AzureArc {
    fn check(&self, state: &State, request: &Received) -> Result<(), Refusal> {
        wants_metadata(request)?;
        api_version(request, "2020-06-01")?;
        match request.key_is_right {
            Some(true) => Ok(()),
            Some(false) => Err(unauthorized("the key is wrong, or has been used")),
            None => Err(Refusal {
                challenge: Some(state.agent().challenge()),
                ..unauthorized("Missing Basic Authorization header")
            }),
        }
    }

    /// There are no others; a selector is ignored.
    fn select(&self, inner: &Inner, _: &Received) -> Result<Principal, Refusal> {
        let own = inner.system_assigned.clone();
        own.ok_or_else(|| bad_request("invalid_request", "The machine is not connected"))
    }

    fn token(&self, principal: &Principal, resource: &str, signed: &Signed) -> Value {
        entra_answer(principal, resource, signed)
    }

    fn refusal(&self, refusal: &Refusal) -> Value {
        json!({"error": refusal.error, "error_description": refusal.description})
    }
}

/// The agent's part of the file system.
pub(in crate::identity) struct Agent {
    root: TempDir,
    tokens: PathBuf,
    inner: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// Not yet used.
    good: BTreeSet<String>,
    written: Vec<String>,
    challenge: Option<String>,
}

impl Agent {
    pub(in crate::identity) fn new() -> io::Result<Self> {
        let root = tempfile::Builder::new().prefix("entra-pool-arc-").tempdir()?;
        let tokens = root.path().join(if cfg!(windows) {
            "AzureConnectedMachineAgent/Tokens"
        } else {
            "var/opt/azcmagent/tokens"
        });
        fs::create_dir_all(&tokens)?;
        Ok(Self { root, tokens, inner: Mutex::default() })
    }

    pub(in crate::identity) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(in crate::identity) fn set_challenge(&self, challenge: Option<String>) {
        self.lock().challenge = challenge;
    }

    pub(in crate::identity) fn keys(&self) -> Vec<String> {
        self.lock().written.clone()
    }

    /// Whether this `Authorization` has a key that was written and not used.
    pub(in crate::identity) fn accept(&self, authorization: &str) -> bool {
        let key = authorization.strip_prefix("Basic ");
        key.is_some_and(|key| self.lock().good.remove(key))
    }

    /// Writes a key, and says where it is.
    fn challenge(&self) -> String {
        let mut keys = self.lock();
        if let Some(challenge) = &keys.challenge {
            return challenge.clone();
        }
        let key = uuid::Uuid::new_v4().simple().to_string();
        let path = self.tokens.join(format!("{}.key", uuid::Uuid::new_v4()));
        if let Err(error) = fs::write(&path, &key) {
            tracing::warn!(%error, "identity endpoint: the key cannot be written");
        }
        keys.written.push(key.clone());
        keys.good.insert(key);
        format!("Basic realm={}", path.display())
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
