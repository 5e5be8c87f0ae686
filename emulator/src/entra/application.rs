//! What an application can prove itself with.

use std::fmt;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::jwt::Principal;

/// The issuer of the tokens that [`EntraEndpoint::workload_token`] makes.
///
/// [`EntraEndpoint::workload_token`]: super::EntraEndpoint::workload_token
pub const WORKLOAD_ISSUER: &str = "https://kubernetes.emulator.invalid/";

/// An application (a service principal, or a managed identity with federated
/// credentials) and its credentials.
#[derive(Clone)]
pub struct Application {
    pub(super) principal: Principal,
    pub(super) secrets: Vec<String>,
    pub(super) certificates: Vec<Certificate>,
    pub(super) federated: Vec<FederatedCredential>,
}

/// Says nothing of the secrets.
impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// Not a certificate in PEM.
#[derive(Debug, thiserror::Error)]
#[error("not an X.509 certificate in PEM: a file starts with -----BEGIN CERTIFICATE-----")]
pub struct CertificateError;

#[derive(Clone)]
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    /// `x5t` and `x5t#S256` of an assertion's header.
    pub(super) thumbprints: [String; 2],
}

impl Application {
    /// An application without credentials.
    pub fn new(principal: Principal) -> Self {
        let (secrets, certificates, federated) = Default::default();
        Self { principal, secrets, certificates, federated }
    }

    /// Who it is.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Adds a client secret.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Adds a certificate in PEM, whose key is RSA; the key stays with the client.
    ///
    /// # Errors
    ///
    /// It is not a certificate.
    pub fn certificate(mut self, pem: &str) -> Result<Self, CertificateError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError)?;
        webpki::EndEntityCert::try_from(&der).map_err(|_| CertificateError)?;
        let thumbprints = [&SHA1_FOR_LEGACY_USE_ONLY, &SHA256]
            .map(|hash| BASE64_URL_SAFE_NO_PAD.encode(digest(hash, &der)));
        self.certificates.push(Certificate { der, thumbprints });
        Ok(self)
    }

    /// Adds a federated credential.
    #[must_use]
    pub fn federated(mut self, credential: FederatedCredential) -> Self {
        self.federated.push(credential);
        self
    }
}

/// Whose tokens an application accepts as its own proof: all three are compared
/// letter by letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedCredential {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`.
    pub audience: String,
}

impl FederatedCredential {
    /// Of another issuer; see
    /// [`EntraEndpoint::trust_issuer`](super::EntraEndpoint::trust_issuer).
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>) -> Self {
        let audience = "api://AzureADTokenExchange".to_owned();
        Self { issuer: issuer.into(), subject: subject.into(), audience }
    }

    /// A service account of the emulated Kubernetes ([`WORKLOAD_ISSUER`]).
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::new(WORKLOAD_ISSUER, format!("system:serviceaccount:{namespace}:{name}"))
    }
}
