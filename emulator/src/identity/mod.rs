//! The identity endpoint, which issues the tokens of managed identities to an application in
//! Azure.
//!
//! One port serves the protocols of App Service, IMDS, the Azure Arc agent, Azure Machine
//! Learning and Cloud Shell over plain HTTP, as in Azure. Service Fabric's is on another
//! port, over TLS. `/health` answers 200, or 503 until the endpoint is set ready.
//!
//! A test can change the answers, delay them or suppress them at run time, and read which
//! requests arrived. Unlike the real endpoints, it issues tokens for every resource that is
//! a URI or a GUID.

mod control;
mod hosts;
mod protocol;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

pub use control::{Fault, Received, TokenSettings};
pub(crate) use hosts::is_resource;

use crate::{
    certificates::ServerCertificate,
    http,
    jwt::{Issuer, Principal},
    listener::Listener,
};
use control::State;
use hosts::Host;

/// The options of an [`IdentityEndpoint`].
#[derive(Debug, Clone, Default)]
pub struct IdentityOptions {
    /// The address to listen on; `None`, the default, is 127.0.0.1.
    pub bind: Option<IpAddr>,
    /// The name or address in URLs; `None`, the default, is the address that it listens on.
    pub host_name: Option<String>,
    /// The port; 0, the default, takes a free one. Service Fabric always has a free one.
    pub port: u16,
    /// The secret that applications send (`IDENTITY_HEADER`); `None`, the default, generates
    /// a random secret.
    pub secret: Option<String>,
    /// The system-assigned identity, if there is one.
    pub system_assigned: Option<Principal>,
    /// User-assigned identities.
    pub user_assigned: Vec<Principal>,
}

/// A running identity endpoint. Clones are handles to the same endpoint, which stops when
/// the last handle is dropped.
#[derive(Clone)]
pub struct IdentityEndpoint {
    listener: Arc<Listener>,
    /// For Service Fabric.
    tls_listener: Arc<Listener>,
    host_name: Option<String>,
    thumbprint: String,
    state: Arc<State>,
}

impl IdentityEndpoint {
    /// Starts the endpoint, in the current tokio runtime.
    ///
    /// # Errors
    ///
    /// The port is in use, or the temporary folder cannot be written.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(issuer: Arc<Issuer>, options: IdentityOptions) -> io::Result<Self> {
        let state = Arc::new(State::new(issuer, &options)?);
        let answer = |over_tls| {
            let state = Arc::clone(&state);
            move |request| protocol::answer(Arc::clone(&state), request, over_tls)
        };
        let bind = options.bind.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let listener = http::listen((bind, options.port), None, answer(false))?;
        let certificate = ServerCertificate::self_signed(&["localhost"])?;
        let tls = Some(certificate.server_config()?);
        let tls_listener = http::listen((bind, 0), tls, answer(true))?;
        Ok(Self {
            listener: Arc::new(listener),
            tls_listener: Arc::new(tls_listener),
            host_name: options.host_name,
            thumbprint: certificate.thumbprint(),
            state,
        })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`, as App Service sets them.
    pub fn app_service_env(&self) -> [(&'static str, String); 2] {
        [
            ("IDENTITY_ENDPOINT", self.url(Host::AppService.path())),
            ("IDENTITY_HEADER", self.state.secret.clone()),
        ]
    }

    /// `IDENTITY_ENDPOINT`, `IDENTITY_HEADER` and `IDENTITY_SERVER_THUMBPRINT`,
    /// as Service Fabric sets them.
    pub fn service_fabric_env(&self) -> [(&'static str, String); 3] {
        let url =
            format!("https://{}{}", self.authority(&self.tls_listener), Host::ServiceFabric.path());
        [
            ("IDENTITY_ENDPOINT", url),
            ("IDENTITY_HEADER", self.state.secret.clone()),
            ("IDENTITY_SERVER_THUMBPRINT", self.thumbprint.clone()),
        ]
    }

    /// `IDENTITY_ENDPOINT` and `IMDS_ENDPOINT`, as the Azure Arc agent sets
    /// them.
    pub fn azure_arc_env(&self) -> [(&'static str, String); 2] {
        [
            ("IDENTITY_ENDPOINT", self.url(Host::AzureArc.path())),
            ("IMDS_ENDPOINT", self.imds_endpoint()),
        ]
    }

    /// The folder that replaces the root directory of the Azure Arc agent's machine: the
    /// agent writes its keys below it. It is removed with the endpoint.
    pub fn azure_arc_root(&self) -> &Path {
        self.state.arc_root.path()
    }

    /// `MSI_ENDPOINT` and `MSI_SECRET`, as Azure Machine Learning sets them.
    pub fn azure_ml_env(&self) -> [(&'static str, String); 2] {
        [
            ("MSI_ENDPOINT", self.url(Host::AzureMl.path())),
            ("MSI_SECRET", self.state.secret.clone()),
        ]
    }

    /// `MSI_ENDPOINT`, as Cloud Shell sets it.
    pub fn cloud_shell_env(&self) -> [(&'static str, String); 1] {
        [("MSI_ENDPOINT", self.url(Host::CloudShell.path()))]
    }

    /// The user of Cloud Shell.
    pub fn cloud_shell_user(&self) -> Principal {
        hosts::cloud_shell_user()
    }

    /// `HOST:PORT`.
    fn authority(&self, listener: &Listener) -> String {
        let addr = listener.addr();
        match &self.host_name {
            Some(name) => format!("{name}:{}", addr.port()),
            // Clients cannot connect to the wildcard address.
            None if addr.ip().is_unspecified() => format!("127.0.0.1:{}", addr.port()),
            None => addr.to_string(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority(&self.listener))
    }

    /// The URL that replaces `http://169.254.169.254`, without a slash at the end.
    pub fn imds_endpoint(&self) -> String {
        self.url("")
    }

    /// Sets the system-assigned identity; `None` removes it.
    pub fn set_system_assigned(&self, principal: Option<Principal>) {
        self.state.lock().system_assigned = principal;
    }

    /// Assigns a user-assigned identity.
    pub fn assign(&self, principal: Principal) {
        self.state.lock().user_assigned.push(principal);
    }

    /// Removes every user-assigned identity with this name.
    pub fn unassign(&self, name: &str) {
        self.state.lock().user_assigned.retain(|p| p.name != name);
    }

    /// Signs a token with the current settings, without a request.
    pub fn issue(&self, principal: &Principal, resource: &str) -> String {
        self.state.sign(principal, resource).token
    }

    /// Closes the listener and every connection. New connections are refused once this has
    /// returned; the port stays reserved.
    ///
    /// # Errors
    ///
    /// The port cannot be reserved.
    pub async fn go_away(&self) -> io::Result<()> {
        self.tls_listener.go_away().await?;
        self.listener.go_away().await
    }

    /// Listens again, on the same port, after [`go_away`](Self::go_away).
    ///
    /// # Errors
    ///
    /// The port is in use.
    pub fn come_back(&self) -> io::Result<()> {
        self.tls_listener.come_back()?;
        self.listener.come_back()
    }
}

opaque_debug!(IdentityEndpoint);
