//! TLS for the databases and identity endpoints, with rustls and aws-lc-rs. Certificates are
//! always verified.
//!
//! The crypto provider is always set explicitly, because an application may have another provider
//! in its dependency tree. Without a CA file, the platform verifies certificates
//! (`rustls-platform-verifier`, which reqwest already depends on), so certificates that an
//! administrator has added to the machine's store are trusted. With a CA file, only its
//! certificates are trusted.
// Without Azure SQL, some of this module is unused.
#![cfg_attr(not(feature = "azure-sql"), allow(dead_code))]

mod verifier;

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};

/// The error of TLS settings that cannot be used: a certificate file cannot be read or contains no
/// usable certificate, or the platform's certificates cannot be read.
#[cfg_attr(not(any(feature = "azure-sql", feature = "postgres")), allow(unreachable_pub))]
#[derive(thiserror::Error)]
#[error("{what} cannot be used")]
pub struct TlsConfigError {
    what: String,
    source: Box<dyn Error + Send + Sync>,
}

crate::token::debug_as_text!(TlsConfigError);

/// The certificates that are accepted from a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Trust {
    /// Certificates that the platform trusts.
    #[default]
    Platform,
    /// Only certificates of the authorities in this PEM file.
    Roots(PathBuf),
    /// Only the certificate in this file (PEM or DER), regardless of the names in it.
    Certificate(PathBuf),
    /// Any certificate, but only from a server at a loopback address.
    AnyOnLoopback,
    /// Any certificate from any server.
    AnyAnywhere,
    /// Certificates that the application's configuration accepts.
    Own(OwnConfig),
}

/// A TLS configuration that the application has set.
#[derive(Debug, Clone)]
pub(crate) struct OwnConfig(pub(crate) Arc<ClientConfig>);

impl PartialEq for OwnConfig {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for OwnConfig {}

impl Trust {
    /// Whether a connection to a server at this address is allowed.
    pub(crate) fn allows(&self, peer: std::net::IpAddr) -> bool {
        *self != Self::AnyOnLoopback || peer.to_canonical().is_loopback()
    }
}

/// Creates the TLS configuration of a connector. Its connections share a session cache.
pub(crate) fn client_config(trust: &Trust) -> Result<ClientConfig, TlsConfigError> {
    if let Trust::Own(OwnConfig(config)) = trust {
        return Ok(ClientConfig::clone(config));
    }
    verified_by(verifier(trust)?).map_err(roots)
}

/// Creates the verifier of server certificates. Fails for [`Trust::Own`].
pub(crate) fn verifier(trust: &Trust) -> Result<Arc<dyn ServerCertVerifier>, TlsConfigError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(match trust {
        Trust::Platform => {
            Arc::new(rustls_platform_verifier::Verifier::new(provider).map_err(roots)?)
        }
        Trust::Roots(path) => {
            let mut trusted = RootCertStore::empty();
            for certificate in read_certificates(path)? {
                trusted.add(certificate).map_err(roots)?;
            }
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(trusted), provider).build();
            verifier.map_err(|error| roots(rustls::Error::General(error.to_string())))?
        }
        Trust::Certificate(path) => {
            let only = read_certificate(path)?;
            accepts(move |shown| *shown == only)
        }
        Trust::AnyOnLoopback | Trust::AnyAnywhere => accepts(|_| true),
        Trust::Own(_) => {
            let what = "the verifier of the application's TLS configuration".to_owned();
            return Err(TlsConfigError { what, source: "rustls does not return it".into() });
        }
    })
}

/// Creates a configuration that accepts the certificates for which `rule` returns `true`. Names,
/// dates and issuers are not verified.
pub(crate) fn accepting(
    rule: impl Fn(&CertificateDer<'_>) -> bool + Send + Sync + 'static,
) -> Result<ClientConfig, rustls::Error> {
    verified_by(accepts(rule))
}

fn accepts(
    accepts: impl Fn(&CertificateDer<'_>) -> bool + Send + Sync + 'static,
) -> Arc<dyn ServerCertVerifier> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    Arc::new(verifier::Verifier { accepts, algorithms })
}

fn verified_by(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn roots(error: rustls::Error) -> TlsConfigError {
    TlsConfigError { what: "the trusted root certificates".to_owned(), source: error.into() }
}

fn unusable(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> TlsConfigError {
    let what = format!("the certificate file {}", path.display());
    TlsConfigError { what, source: source.into() }
}

/// Reads a file with one certificate, in PEM or DER.
fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, TlsConfigError> {
    let bytes = std::fs::read(path).map_err(|error| unusable(path, error))?;
    let whole = CertificateDer::from(bytes);
    if rustls::server::ParsedCertificate::try_from(&whole).is_ok() {
        return Ok(whole);
    }
    match &*read_certificates(path)? {
        [certificate] => Ok(certificate.clone()),
        _ => Err(unusable(path, "it has more than one certificate: keep only the server's")),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(unusable(path, pem::Error::NoItemsFound))
        }
        read => read.map_err(|error| unusable(path, error)),
    }
}

#[cfg(all(test, feature = "azure-sql"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_applications_own_configuration_has_no_verifier_to_return() {
        let own = Arc::new(client_config(&Trust::AnyAnywhere).unwrap());
        assert!(verifier(&Trust::AnyAnywhere).is_ok());
        let error = verifier(&Trust::Own(OwnConfig(own.clone()))).unwrap_err();
        assert!(error.to_string().contains("of the application's TLS configuration"), "{error}");
        assert!(client_config(&Trust::Own(OwnConfig(own))).is_ok());
    }

    #[test]
    fn any_certificate_is_accepted_from_loopback_addresses_only() {
        for (address, loopback) in [
            ("127.0.0.1", true),
            ("127.8.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("169.254.169.254", false),
            ("::ffff:10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(Trust::AnyOnLoopback.allows(address), loopback, "{address}");
            assert!(Trust::Platform.allows(address) && Trust::AnyAnywhere.allows(address));
        }
    }
}
