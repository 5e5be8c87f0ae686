//! Entra's token endpoint, for applications with a credential: a client secret, a
//! certificate's key, or the token of an issuer that they trust (workload identity). SDKs
//! require TLS.
//!
//! | path | |
//! |---|---|
//! | `POST /TENANT/oauth2/v2.0/token` | tokens, by `grant_type=client_credentials` |
//! | `/TENANT/v2.0/.well-known/openid-configuration` | the document that MSAL reads first |
//! | `/TENANT/discovery/v2.0/keys` | the key that tokens are verified with |
//! | `/common/discovery/instance` | the authorities that MSAL may trust |
//!
//! `AZURE_AUTHORITY_HOST` is [`EntraEndpoint::authority_host`]; a tenant is
//! [`TENANT_ID`] or [`TENANT_NAME`]. Refusals carry Entra's numbers (`AADSTS7000215`, …).
//! Users, and the grants for them, are not emulated. Keys of assertions are RSA
//! (certificates), RSA or P-256 (other issuers). An assertion may be used again until it
//! expires, as with Entra.

mod application;
mod assertion;
mod discovery;
mod error;
mod token;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use hyper::{Request, StatusCode, body::Incoming, header::HOST};
use parking_lot::RwLock;
use serde_json::json;

pub use application::{Application, Certificate, FederatedCredential, WORKLOAD_ISSUER};

use crate::{
    certificates::write_private,
    http::{self, Answer},
    jwt::{Issuer, SigningKey, TENANT_ID, seconds},
    listener::Listener,
};

/// The tenant's domain, which URLs may have instead of [`TENANT_ID`].
pub const TENANT_NAME: &str = "contoso.onmicrosoft.com";

/// A running token endpoint. Clones are handles to the same endpoint, which stops when the
/// last handle is dropped.
#[derive(Clone)]
pub struct EntraEndpoint {
    listener: Arc<Listener>,
    host_name: String,
    state: Arc<State>,
}

struct State {
    issuer: Arc<Issuer>,
    applications: RwLock<BTreeMap<String, Application>>,
    workload_key: SigningKey,
    tokens: AtomicU64,
}

impl EntraEndpoint {
    /// Starts the endpoint at this address, in the current tokio runtime. Applications
    /// reach it by `host_name`, which its certificate must have.
    ///
    /// # Errors
    ///
    /// The port is in use.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(
        issuer: Arc<Issuer>,
        tls: Arc<rustls::ServerConfig>,
        addr: impl Into<SocketAddr>,
        host_name: &str,
    ) -> io::Result<Self> {
        let state = Arc::new(State {
            issuer,
            applications: RwLock::default(),
            workload_key: SigningKey::generate("workload"),
            tokens: 0.into(),
        });
        let served = Arc::clone(&state);
        let answer = move |request| answer(Arc::clone(&served), request);
        let listener = Arc::new(http::listen(addr, Some(tls), answer)?);
        Ok(Self { listener, host_name: host_name.to_owned(), state })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// The value for `AZURE_AUTHORITY_HOST`.
    pub fn authority_host(&self) -> String {
        format!("https://{}:{}", self.host_name, self.addr().port())
    }

    /// Registers an application. It replaces an application with the same client ID.
    pub fn register(&self, application: Application) {
        let id = application.principal.client_id.to_lowercase();
        self.state.applications.write().insert(id, application);
    }

    /// A token of [`WORKLOAD_ISSUER`] with this credential's subject and audience, like the
    /// tokens that Kubernetes projects into a pod.
    pub fn workload_token(
        &self,
        credential: &FederatedCredential,
        expires_on: SystemTime,
    ) -> String {
        let now = seconds(SystemTime::now());
        self.state.workload_key.sign(&json!({
            "iss": credential.issuer,
            "sub": credential.subject,
            "aud": [credential.audience],
            "iat": now,
            "nbf": now,
            "exp": seconds(expires_on),
        }))
    }

    /// Writes [`workload_token`](Self::workload_token) to a file for
    /// `AZURE_FEDERATED_TOKEN_FILE`. It replaces an older file; only its owner can read it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_workload_token(
        &self,
        credential: &FederatedCredential,
        expires_on: SystemTime,
        path: &Path,
    ) -> io::Result<()> {
        write_private(path, self.workload_token(credential, expires_on).as_bytes())
    }

    /// The number of tokens issued so far.
    pub fn tokens_handed_out(&self) -> u64 {
        self.state.tokens.load(Ordering::Relaxed)
    }
}

opaque_debug!(EntraEndpoint);

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let host = header(HOST.as_str()).unwrap_or("localhost");
    let path = head.uri.path();
    let Some((tenant, rest)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        return http::json(StatusCode::NOT_FOUND, &json!({"error": "not_found"}));
    };
    let correlation_id = header("client-request-id").map(str::to_owned);
    let outcome = match (head.method.as_str(), rest) {
        ("GET", "discovery/instance") => Ok(discovery::instance(host)),
        ("POST", "oauth2/v2.0/token") => {
            let form = http::form(&head.headers, body).await;
            token::grant(&state, tenant, host, &form)
        }
        ("GET", _) => state.tenant(tenant).and_then(|()| {
            discovery::document(&state, tenant, host, rest).ok_or_else(error::not_found)
        }),
        _ => Err(error::not_found()),
    };
    match outcome {
        Ok(body) => http::json(StatusCode::OK, &body),
        Err(refusal) => {
            tracing::info!(path, %refusal, "token refused");
            http::json(refusal.status, &refusal.body(host, correlation_id))
        }
    }
}

impl State {
    /// Succeeds if this is the emulated tenant.
    fn tenant(&self, tenant: &str) -> Result<(), error::Refusal> {
        if [TENANT_ID, TENANT_NAME].iter().any(|name| name.eq_ignore_ascii_case(tenant)) {
            return Ok(());
        }
        let text =
            format!("Tenant '{tenant}' not found. Check that the tenant ID or domain is right.");
        Err(error::bad_request("invalid_request", 90_002, text))
    }
}
