//! Applications and their credentials.

use std::io;

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest},
    rsa::PublicKey,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, jwk::JwkSet};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::jwt::Principal;

/// The issuer of the tokens that [`EntraEndpoint::workload_token`] makes.
///
/// [`EntraEndpoint::workload_token`]: super::EntraEndpoint::workload_token
pub const WORKLOAD_ISSUER: &str = "https://kubernetes.emulator.invalid/";

/// An application (a service principal, or a managed identity with federated credentials)
/// and its credentials.
#[derive(Clone)]
pub struct Application {
    /// The principal that tokens are for.
    pub principal: Principal,
    /// Client secrets.
    pub secrets: Vec<String>,
    /// Certificates, whose private keys stay with the client.
    pub certificates: Vec<Certificate>,
    /// Other issuers' tokens that are accepted.
    pub federated: Vec<FederatedCredential>,
}

impl Application {
    /// An application without credentials.
    pub fn new(principal: Principal) -> Self {
        let (secrets, certificates, federated) = Default::default();
        Self { principal, secrets, certificates, federated }
    }
}

opaque_debug!(Application);

/// A certificate of an application.
#[derive(Clone)]
pub struct Certificate {
    pub(super) key: DecodingKey,
    /// `x5t` and `x5t#S256` of an assertion's header.
    pub(super) thumbprints: [String; 2],
}

impl Certificate {
    /// Reads a certificate in PEM, whose key is RSA.
    ///
    /// # Errors
    ///
    /// The text is not such a certificate.
    pub fn from_pem(pem: &str) -> io::Result<Self> {
        let wrong = "not an X.509 certificate in PEM with an RSA key: a file starts with \
                     -----BEGIN CERTIFICATE-----";
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, wrong);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| wrong())?;
        let certificate = webpki::EndEntityCert::try_from(&der).map_err(|_| wrong())?;
        let key = PublicKey::from_der(&certificate.subject_public_key_info());
        let key = DecodingKey::from_rsa_der(key.map_err(|_| wrong())?.as_ref());
        let thumbprints = [&SHA1_FOR_LEGACY_USE_ONLY, &SHA256]
            .map(|hash| BASE64_URL_SAFE_NO_PAD.encode(digest(hash, &der)));
        Ok(Self { key, thumbprints })
    }
}

/// The tokens of another issuer that an application may use as its credential. Issuer, subject
/// and audience must match exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedCredential {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`; `api://AzureADTokenExchange` by default.
    pub audience: String,
    /// The issuer's public keys. Entra reads them from the issuer's site; the emulator makes
    /// no connections.
    pub keys: JwkSet,
}

impl FederatedCredential {
    /// Tokens of another issuer. `keys` are its public keys (JWKS, in JSON).
    ///
    /// # Errors
    ///
    /// `keys` is not a JWKS.
    pub fn new(
        issuer: impl Into<String>,
        subject: impl Into<String>,
        keys: &str,
    ) -> Result<Self, serde_json::Error> {
        let keys = serde_json::from_str(keys)?;
        Ok(Self { issuer: issuer.into(), keys, ..Self::of_emulator(subject) })
    }

    /// Tokens of the emulator itself ([`WORKLOAD_ISSUER`]) with this subject, such as
    /// `system:serviceaccount:NAMESPACE:NAME` of Kubernetes.
    pub fn of_emulator(subject: impl Into<String>) -> Self {
        Self {
            issuer: WORKLOAD_ISSUER.to_owned(),
            subject: subject.into(),
            audience: "api://AzureADTokenExchange".to_owned(),
            keys: JwkSet::default(),
        }
    }
}
