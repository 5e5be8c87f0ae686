//! TLS for both databases: rustls with aws-lc-rs, certificates always verified.
//!
//! The provider is always named, because an application may have another one
//! in its tree. Without a CA file, certificates are judged by the platform
//! (`rustls-platform-verifier`, which reqwest has in the tree already), so that
//! what an administrator has added to the machine's store counts. With one,
//! only its certificates are trusted.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};
use rustls_platform_verifier::BuilderVerifierExt;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// The CA file could not be read or has no certificate.
    #[error("the CA file {} cannot be read as PEM certificates", path.display())]
    #[non_exhaustive]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The CA file's certificate is none that can be trusted, or the
    /// platform's certificates could not be read.
    #[error("the trusted root certificates cannot be used")]
    Roots(#[source] Box<dyn Error + Send + Sync>),
}

/// A configuration for any number of connections, which share its session
/// cache. `ca_file`: trust the certificates in this file (PEM) and no others.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, TlsConfigError> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(roots)?;
    let builder = match ca_file {
        None => builder.with_platform_verifier().map_err(roots)?,
        Some(path) => {
            let mut trusted = RootCertStore::empty();
            for certificate in read_certificates(path)? {
                trusted.add(certificate).map_err(roots)?;
            }
            builder.with_root_certificates(trusted)
        }
    };
    Ok(builder.with_no_client_auth())
}

fn roots(error: rustls::Error) -> TlsConfigError {
    TlsConfigError::Roots(error.into())
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let failed = |source: pem::Error| TlsConfigError::CaFile {
        path: path.to_owned(),
        source: source.into(),
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}
