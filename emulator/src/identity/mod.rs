//! The identity endpoint: where an application in Azure asks for the tokens of
//! its managed identities.
//!
//! Two protocols on one port, plain HTTP on 127.0.0.1 as in Azure:
//!
//! - App Service, Functions and Container Apps: `GET /msi/token`, API version
//!   `2019-08-01`, header `X-IDENTITY-HEADER` ("How to use managed identities
//!   for App Service and Azure Functions", REST endpoint reference);
//! - IMDS, of virtual machines: `GET /metadata/identity/oauth2/token`, API
//!   version `2018-02-01`, header `Metadata: true` ("How to use managed
//!   identities for Azure resources on an Azure VM to acquire an access
//!   token").
//!
//! What it answers, how late and whether at all is changed at run time, and
//! what it was asked is written down. It is not the real thing: it knows no
//! other hosts (Azure Arc, Service Fabric, …), no certificates, and gives
//! tokens for every resource that is a URI or a GUID.

mod control;
mod protocol;

use std::{fmt, io, net::SocketAddr, sync::Arc};

pub use control::{Fault, Received, TokenSettings};

use crate::{
    jwt::{Issuer, Principal},
    listener::Listener,
};
use control::State;

/// What an [`IdentityEndpoint`] starts with.
#[derive(Debug, Clone, Default)]
pub struct IdentityOptions {
    /// The port on 127.0.0.1; 0, the default, takes a free one.
    pub port: u16,
    /// The system-assigned identity, if there is one.
    pub system_assigned: Option<Principal>,
    /// User-assigned identities.
    pub user_assigned: Vec<Principal>,
}

/// A running identity endpoint. Clones are handles on the same one; it stops
/// when the last of them is dropped.
#[derive(Clone)]
pub struct IdentityEndpoint {
    listener: Arc<Listener>,
    state: Arc<State>,
}

impl IdentityEndpoint {
    /// Starts the endpoint, in the current tokio runtime.
    ///
    /// # Errors
    ///
    /// The port is taken.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(issuer: Arc<Issuer>, options: IdentityOptions) -> io::Result<Self> {
        let state = Arc::new(State::new(issuer, options.system_assigned, options.user_assigned));
        let served = Arc::clone(&state);
        let serve = move |stream| protocol::serve(Arc::clone(&served), stream);
        let listener = Arc::new(Listener::start(options.port, serve)?);
        Ok(Self { listener, state })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`, as App Service sets them.
    pub fn app_service_env(&self) -> [(&'static str, String); 2] {
        [
            ("IDENTITY_ENDPOINT", format!("http://{}{}", self.addr(), protocol::APP_SERVICE_PATH)),
            ("IDENTITY_HEADER", self.state.secret().to_owned()),
        ]
    }

    /// What stands for `http://169.254.169.254`: no slash at the end.
    pub fn imds_endpoint(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Gives the application `principal` as its system-assigned identity;
    /// `None` takes it away.
    pub fn set_system_assigned(&self, principal: Option<Principal>) {
        self.state.lock().system_assigned = principal;
    }

    /// Assigns a user-assigned identity.
    pub fn assign(&self, principal: Principal) {
        self.state.lock().user_assigned.push(principal);
    }

    /// Takes every user-assigned identity of this name away.
    pub fn unassign(&self, name: &str) {
        self.state.lock().user_assigned.retain(|p| p.name != name);
    }

    /// Signs a token with the settings of now, for tests that need one in
    /// hand. Counts as no request.
    pub fn issue(&self, principal: &Principal, resource: &str) -> String {
        self.state.sign(principal, resource).token
    }

    /// Closes the listener and every connection: from when this returns,
    /// connections are refused. The port stays reserved.
    ///
    /// # Errors
    ///
    /// The port could not be kept.
    pub async fn go_away(&self) -> io::Result<()> {
        self.listener.go_away().await
    }

    /// Listens again, on the same port, after [`go_away`](Self::go_away).
    ///
    /// # Errors
    ///
    /// The port was taken.
    pub fn come_back(&self) -> io::Result<()> {
        self.listener.come_back()
    }
}

impl fmt::Debug for IdentityEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityEndpoint")
            .field("addr", &self.addr())
            .field("requests", &self.requests())
            .finish_non_exhaustive()
    }
}
